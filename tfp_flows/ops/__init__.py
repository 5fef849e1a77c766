"""What everything stands on: checks of arguments, what parts can do, and names of others."""

from tfp_flows.ops import capabilities, checks, columns, feature_major, internals, seeds, xla

__all__ = ["capabilities", "checks", "columns", "feature_major", "internals", "seeds", "xla"]
