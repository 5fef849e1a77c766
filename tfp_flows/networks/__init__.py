"""Keras 3 networks for conditioners, and the holder that makes a network part of a bijector.

A conditioner turns the part of an event that passes through unchanged, and the context if there
is one, into the parameters of a transformer. `MLP` and `ResidualMLP` compute features;
`Conditioner` puts a zero-initialised `Dense` behind any feature network, so that a fresh flow is
the identity, and shows its variables to `tf.Module`, which knows nothing of Keras 3.
"""

from tfp_flows.networks.autoregressive import AutoregressiveConditioner
from tfp_flows.networks.conditioner import Conditioner
from tfp_flows.networks.conv import ConvNet, GatedResNet
from tfp_flows.networks.dynamics import Dynamics, VelocityMLP
from tfp_flows.networks.embedding import ContextDropout, Embedding
from tfp_flows.networks.lipschitz import LipschitzNet
from tfp_flows.networks.lipschitz_conditioner import LipschitzConditioner
from tfp_flows.networks.made import MADE
from tfp_flows.networks.mlp import MLP, ResidualMLP
from tfp_flows.networks.parameters import Parameters
from tfp_flows.networks.periodic import PeriodicFeatures
from tfp_flows.networks.potential import Potential
from tfp_flows.networks.transformer import CausalConditioner, CausalTransformer
from tfp_flows.networks.wavenet import SpectrogramUpsampler, WaveNet

__all__ = [
    "MADE",
    "MLP",
    "AutoregressiveConditioner",
    "CausalConditioner",
    "CausalTransformer",
    "Conditioner",
    "ContextDropout",
    "ConvNet",
    "Dynamics",
    "Embedding",
    "GatedResNet",
    "LipschitzConditioner",
    "LipschitzNet",
    "Parameters",
    "PeriodicFeatures",
    "Potential",
    "ResidualMLP",
    "SpectrogramUpsampler",
    "VelocityMLP",
    "WaveNet",
]
