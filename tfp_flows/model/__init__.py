"""FlowModel: any TFP distribution as a Keras 3 model."""

from tfp_flows.model.flow_model import FlowModel
from tfp_flows.model.ties import TiedValuesWarning

__all__ = ["FlowModel", "TiedValuesWarning"]
