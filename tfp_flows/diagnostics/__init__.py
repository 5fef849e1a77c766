"""Is a density right? Calibration, scores and two-sample tests, of draws and truths.

Everything takes `draws` `(s, n, D)`, s of each of n densities, as `flow.sample(s, context=c)` and
`FlowModel.sample` give them, and the `truth` `(n, D)`.
"""

from tfp_flows.diagnostics.calibration import coverage, pit, sbc, tarp
from tfp_flows.diagnostics.scores import TwoSample, c2st, crps, energy_score
from tfp_flows.diagnostics.uniformity import Uniformity

__all__ = [
    "TwoSample",
    "Uniformity",
    "c2st",
    "coverage",
    "crps",
    "energy_score",
    "pit",
    "sbc",
    "tarp",
]
