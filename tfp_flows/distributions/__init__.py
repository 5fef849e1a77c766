"""Distributions: `Flow`, bases, densities of rounded data, and the 2-D toys of `datasets`."""

from tfp_flows.distributions import bases, comparisons  # noqa: F401 (What TFP finds by class.)
from tfp_flows.distributions.censored import Censored
from tfp_flows.distributions.dequantized import Dequantized, bits_per_dim
from tfp_flows.distributions.flow import Flow
from tfp_flows.distributions.gaussian_mixture import GaussianMixture
from tfp_flows.distributions.given_columns import GivenColumns
from tfp_flows.distributions.kernel_density import KernelDensity
from tfp_flows.distributions.mixture import ConditionalMixture
from tfp_flows.distributions.resampled import Resampled
from tfp_flows.distributions.stacked import Stacked, stacking_weights
from tfp_flows.distributions.with_categories import WithCategories

__all__ = [
    "Censored",
    "ConditionalMixture",
    "Dequantized",
    "Flow",
    "GaussianMixture",
    "GivenColumns",
    "KernelDensity",
    "Resampled",
    "Stacked",
    "WithCategories",
    "bases",
    "bits_per_dim",
    "stacking_weights",
]
