"""Flows that act: policies, distributions of returns, and actor-critics, in continuous actions.

`FlowPolicy` is a density over the actions in a box. `SAC` and `PPO` train one, a flow or the usual
Gaussian. `FlowCritic` learns the distribution of returns as a flow, and `FlowActorCritic` one flow
that is policy, action-value and value at once.

Environments are those of gymnasium, of the extra `rl`, with vectors in a box as observations and
actions in a bounded box; agents have `fit(steps)`, `act(observation)`, `evaluate(episodes)`, `save`
and `restore`. `multi_goal` is a world to see in what flows are better than a Gaussian.
"""

from tfp_flows.rl.actor_critic import FlowActorCritic
from tfp_flows.rl.critic import FlowCritic
from tfp_flows.rl.judging import Evaluation
from tfp_flows.rl.multi_goal import GOALS, goal_of, multi_goal
from tfp_flows.rl.policy import FlowPolicy
from tfp_flows.rl.ppo import PPO
from tfp_flows.rl.sac import SAC

__all__ = [
    "GOALS",
    "PPO",
    "SAC",
    "Evaluation",
    "FlowActorCritic",
    "FlowCritic",
    "FlowPolicy",
    "goal_of",
    "multi_goal",
]
