"""Bijectors: every class a `tfb.Bijector`, one family a file."""

from tfp_flows.bijectors import transformers
from tfp_flows.bijectors.analytic import BimodalSoftsign, Rotation2D, ShiftAndCube
from tfp_flows.bijectors.autoregressive import MaskedAutoregressive
from tfp_flows.bijectors.base import Bijector
from tfp_flows.bijectors.block_autoregressive import BlockAutoregressive
from tfp_flows.bijectors.continuous import Continuous
from tfp_flows.bijectors.coupling import Coupling
from tfp_flows.bijectors.elementwise import Elementwise
from tfp_flows.bijectors.image import MultiScale, Squeeze
from tfp_flows.bijectors.linear import LU, QR, Triangular
from tfp_flows.bijectors.normalization import ActNorm
from tfp_flows.bijectors.orthogonal import Householder, Rotation
from tfp_flows.bijectors.permutation import Permutation
from tfp_flows.bijectors.planar import Planar, Radial
from tfp_flows.bijectors.residual import Residual
from tfp_flows.bijectors.sphere import Sphere
from tfp_flows.bijectors.support import Support
from tfp_flows.bijectors.sylvester import Sylvester
from tfp_flows.bijectors.tokens import TokenAutoregressive
from tfp_flows.bijectors.whitening import Whitening

__all__ = [
    "LU",
    "QR",
    "ActNorm",
    "Bijector",
    "BimodalSoftsign",
    "BlockAutoregressive",
    "Continuous",
    "Coupling",
    "Elementwise",
    "Householder",
    "MaskedAutoregressive",
    "MultiScale",
    "Permutation",
    "Planar",
    "Radial",
    "Residual",
    "Rotation",
    "Rotation2D",
    "ShiftAndCube",
    "Sphere",
    "Squeeze",
    "Support",
    "Sylvester",
    "TokenAutoregressive",
    "Triangular",
    "Whitening",
    "transformers",
]
