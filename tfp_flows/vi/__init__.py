"""Inference with flows: from a joint distribution to a diagnosed posterior."""

from tfp_flows.vi.diagnosis import Diagnosis, diagnose, inference_data, resample
from tfp_flows.vi.neutra import neutra
from tfp_flows.vi.surrogate import Surrogate, surrogate
from tfp_flows.vi.training import fit
from tfp_flows.vi.vae import FlowVAE

__all__ = [
    "Diagnosis",
    "FlowVAE",
    "Surrogate",
    "diagnose",
    "fit",
    "inference_data",
    "neutra",
    "resample",
    "surrogate",
]
