"""Distributions: `Flow`, and the 2-D toy densities that `datasets` hands out."""

from tfp_flows.distributions.flow import Flow

__all__ = ["Flow"]
