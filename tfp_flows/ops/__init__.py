"""What everything stands on: checks of arguments, what parts can do, and names of others."""

from tfp_flows.ops import (
    capabilities,
    checks,
    columns,
    copies,
    feature_major,
    files,
    grids,
    internals,
    limits,
    seeds,
    xla,
)

__all__ = [
    "capabilities",
    "checks",
    "columns",
    "copies",
    "feature_major",
    "files",
    "grids",
    "internals",
    "limits",
    "seeds",
    "xla",
]
