"""What everything stands on: checks of arguments and columns, files, pieces for XLA, internals."""

from tfp_flows.ops import checks, columns, feature_major, files, internals, limits, xla

__all__ = ["checks", "columns", "feature_major", "files", "internals", "limits", "xla"]
