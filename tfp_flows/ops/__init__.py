"""What everything stands on: checks of arguments, pieces for XLA, and private names of others."""

from tfp_flows.ops import checks, feature_major, internals, xla

__all__ = ["checks", "feature_major", "internals", "xla"]
