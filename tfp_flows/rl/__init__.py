"""Flows that act: policies, distributions of returns, and actor-critics."""

from tfp_flows.rl.agent import Evaluation
from tfp_flows.rl.policy import FlowPolicy
from tfp_flows.rl.sac import SAC

__all__ = ["SAC", "Evaluation", "FlowPolicy"]
