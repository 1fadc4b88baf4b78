"""A deep deterministic policy gradient agent with one action in [0, 1], seeded, on the CPU."""

from collections import deque
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, TypeAlias

import attrs
import torch
from torch import Tensor

__all__ = ["Agent", "State", "Transition", "truncated_normal"]

State: TypeAlias = tuple[float, ...]

HIDDEN = 300
"""Units of both hidden layers of actor and critic."""


@attrs.frozen(eq=False)
class Transition:
    """One decision: the state it was made in, what was done, what it brought, and the state it led to.

    Args:
        state: one number for each feature.
        action: in [0, 1].
        reward: of the whole episode.
        following: the next state.
        last: whether the episode ended with this decision.
    """

    state: State
    action: float
    reward: float
    following: State
    last: bool


def truncated_normal(mean: float, deviation: float, low: float, high: float, draw: torch.Generator) -> float:
    """Draw from a normal distribution, given that the number lies in `[low, high]`.

    Examples:
        >>> truncated_normal(0.5, 0.1, 0.7, 0.7, torch.Generator())
        0.7

    Args:
        mean: of the normal distribution.
        deviation: its standard deviation; 0 gives the nearest legal number to the mean.
        low: the least.
        high: the most.
        draw: where the draw comes from.
    """
    if high <= low or deviation <= 0:
        return min(max(mean, low), high)
    normal = NormalDist(mean, deviation)
    ends = normal.cdf(low), normal.cdf(high)
    below = ends[0] + (ends[1] - ends[0]) * float(torch.rand((), generator=draw, dtype=torch.float64))
    # Far in a tail the two ends agree in float64, and the nearest number is all that is left of the distribution.
    found = normal.inv_cdf(min(max(below, 1e-300), 1 - 1e-16))
    return min(max(found, low), high)


def _net(inputs: int, draw: torch.Generator, last: float = 3e-3) -> list[Tensor]:
    """Weights and biases of two hidden layers and one output: U(-1, 1) / sqrt(inputs), small ones for the last."""
    sizes, bounds = (inputs, HIDDEN, HIDDEN, 1), (inputs**-0.5, HIDDEN**-0.5, last)
    return [
        torch.rand(shape, generator=draw).mul_(2 * bound).sub_(bound).requires_grad_()
        for fan_in, fan_out, bound in zip(sizes, sizes[1:], bounds, strict=False)
        for shape in ((fan_out, fan_in), (fan_out,))
    ]


def _run(net: Sequence[Tensor], x: Tensor) -> Tensor:
    """`(n, inputs)` to `(n, 1)`, hidden units rectified."""
    w1, b1, w2, b2, w3, b3 = net
    hidden = torch.relu(x @ w1.T + b1)
    return torch.relu(hidden @ w2.T + b2) @ w3.T + b3


def _follow(slow: Sequence[Tensor], fast: Sequence[Tensor], rate: float) -> None:
    """Move a slow copy: `w <- w + rate * (w' - w)`."""
    for mine, theirs in zip(slow, fast, strict=True):
        mine.lerp_(theirs.detach(), rate)


class Agent:
    """Actor and critic, their slow copies, and the memory they learn from.

    critic: minimise (r + gamma * Q'(s', pi'(s')) - Q(s, a))^2 (r alone for the last decision);
    actor: maximise Q(s, pi(s)); the copies follow with rate tau.

    Examples:
        >>> agent = Agent(3, torch.Generator().manual_seed(0))
        >>> 0 < agent.action((0.0, 0.0, 1.0)) < 1
        True

    Args:
        features: numbers in a state.
        draw: where weights and batches come from.
        gamma: discount of the next state's value.
        tau: rate of the slow copies.
        actor_rate: learning rate of the actor.
        critic_rate: learning rate of the critic.
        batch: transitions in a step.
        memory: how many transitions are remembered.
    """

    def __init__(
        self,
        features: int,
        draw: torch.Generator,
        *,
        gamma: float = 1.0,
        tau: float = 0.01,
        actor_rate: float = 1e-4,
        critic_rate: float = 1e-3,
        batch: int = 64,
        memory: int = 2000,
    ) -> None:
        """Draw the weights; nothing is remembered."""
        self._draw, self._gamma, self._tau, self._batch = draw, gamma, tau, batch
        with torch.inference_mode(False):
            self._actor, self._critic = _net(features, draw), _net(features + 1, draw)
            self._slow_actor = [value.detach().clone() for value in self._actor]
            self._slow_critic = [value.detach().clone() for value in self._critic]
        self._actor_step: Any = torch.optim.Adam(self._actor, lr=actor_rate)
        self._critic_step: Any = torch.optim.Adam(self._critic, lr=critic_rate)
        self._memory: deque[Transition] = deque(maxlen=memory)

    def action(self, state: State) -> float:
        """What the actor would do, in (0, 1)."""
        with torch.no_grad():
            return float(torch.sigmoid(_run(self._actor, torch.tensor([state]))))

    def remember(self, episode: Sequence[Transition]) -> None:
        """Add transitions; the oldest are forgotten when there are too many."""
        self._memory.extend(episode)

    def learn(self, steps: int) -> None:
        """Improve critic and actor in some steps, each on a batch drawn from the memory."""
        with torch.inference_mode(False), torch.enable_grad():
            for _ in range(steps):
                self._learn()

    def _learn(self) -> None:
        rewards = torch.tensor([t.reward for t in self._memory])
        at = torch.randint(len(self._memory), (self._batch,), generator=self._draw)
        found = [self._memory[int(i)] for i in at]
        # Rewards relative to what episodes brought on average, in units of their spread: how good is judged, not where
        # the zero of the score lies.
        reward = ((rewards[at] - rewards.mean()) / rewards.std(correction=0).clamp_min(1e-8))[:, None]
        state, following = torch.tensor([t.state for t in found]), torch.tensor([t.following for t in found])
        action = torch.tensor([[t.action] for t in found])
        goes_on = torch.tensor([[0.0 if t.last else 1.0] for t in found])
        with torch.no_grad():
            later = torch.sigmoid(_run(self._slow_actor, following))
            value = reward + self._gamma * goes_on * _run(self._slow_critic, torch.cat([following, later], 1))
        self._critic_step.zero_grad()
        (_run(self._critic, torch.cat([state, action], 1)) - value).square().mean().backward()
        self._critic_step.step()
        self._actor_step.zero_grad()
        best = torch.sigmoid(_run(self._actor, state))
        (-_run(self._critic, torch.cat([state, best], 1)).mean()).backward()
        self._actor_step.step()
        _follow(self._slow_actor, self._actor, self._tau)
        _follow(self._slow_critic, self._critic, self._tau)
