"""Bijectors: every class a `tfb.Bijector`, one family a file."""

from tfp_flows.bijectors import transformers
from tfp_flows.bijectors.analytic import BimodalSoftsign, Rotation2D, ShiftAndCube
from tfp_flows.bijectors.base import Bijector
from tfp_flows.bijectors.coupling import Coupling
from tfp_flows.bijectors.elementwise import Elementwise

__all__ = [
    "Bijector",
    "BimodalSoftsign",
    "Coupling",
    "Elementwise",
    "Rotation2D",
    "ShiftAndCube",
    "transformers",
]
