"""Transformers: monotone scalar maps whose parameters come from elsewhere.

A transformer says how many parameters it needs for one scalar (`parameter_count`) and maps scalars
elementwise: inputs of shape `(..., units)`, parameters of shape `(..., parameter_count, units)`.
What makes the parameters is the structure around it: `Elementwise` trains them as they are,
`Coupling` computes them with a conditioner. Batch dimensions are equal in number and broadcast.
Parameters are unconstrained, and zeros give the identity.

To add one, write a frozen dataclass derived from `Transformer`, with `parameter_count`, `forward`
and `inverse`; register it with `keras.saving.register_keras_serializable` to save flows that use
it.
"""

from tfp_flows.bijectors.transformers.affine import Additive, Affine
from tfp_flows.bijectors.transformers.base import Transformer
from tfp_flows.bijectors.transformers.circular import CircularSpline
from tfp_flows.bijectors.transformers.integral import UnconstrainedMonotonic
from tfp_flows.bijectors.transformers.inverse import Inverse
from tfp_flows.bijectors.transformers.polynomials import Bernstein, SumOfSquares
from tfp_flows.bijectors.transformers.rational_quadratic import RationalQuadraticSpline
from tfp_flows.bijectors.transformers.sigmoidal import (
    DeepDenseSigmoidal,
    DeepSigmoidal,
    MixtureOfLogistics,
)
from tfp_flows.bijectors.transformers.splines import CubicSpline, LinearSpline, QuadraticSpline

__all__ = [
    "Additive",
    "Affine",
    "Bernstein",
    "CircularSpline",
    "CubicSpline",
    "DeepDenseSigmoidal",
    "DeepSigmoidal",
    "Inverse",
    "LinearSpline",
    "MixtureOfLogistics",
    "QuadraticSpline",
    "RationalQuadraticSpline",
    "SumOfSquares",
    "Transformer",
    "UnconstrainedMonotonic",
]
