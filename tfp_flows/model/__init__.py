"""FlowModel: any TFP distribution as a Keras 3 model."""

from tfp_flows.model.flow_model import FlowModel
from tfp_flows.model.solver_check import SolverErrorWarning
from tfp_flows.model.stacking import stack, unstack
from tfp_flows.model.standardizer import ConstantColumnWarning, OutlierWarning
from tfp_flows.model.ties import TiedValuesWarning

__all__ = [
    "ConstantColumnWarning",
    "FlowModel",
    "OutlierWarning",
    "SolverErrorWarning",
    "TiedValuesWarning",
    "stack",
    "unstack",
]
