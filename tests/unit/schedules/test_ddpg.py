"""The agent: bounded draws, seeded weights, learning that reaches a known best action, nothing global."""

import numpy as np
import pytest
import torch

from fprune.schedules.ddpg import Agent, Transition, truncated_normal


def test_draws_are_those_of_a_truncated_normal() -> None:
    draw = torch.Generator().manual_seed(0)
    found = np.array([truncated_normal(0.3, 0.5, 0.2, 0.9, draw) for _ in range(4000)])
    assert found.min() >= 0.2 and found.max() <= 0.9
    grid = np.linspace(0.2, 0.9, 20_001)
    density = np.exp(-((grid - 0.3) ** 2) / (2 * 0.25))
    density /= density.sum()
    mean = float(grid @ density)
    assert found.mean() == pytest.approx(mean, abs=4 * float(np.sqrt(density @ (grid - mean) ** 2 / 4000)))
    assert (found < 0.55).mean() == pytest.approx(float(density[grid < 0.55].sum()), abs=0.03)


@pytest.mark.parametrize(
    ("mean", "deviation", "low", "high", "least", "most"),
    [(0.9, 0.0, 0.1, 0.5, 0.5, 0.5), (0.0, 1e-4, 0.7, 0.9, 0.7, 0.9), (1.0, 1e-4, 0.0, 0.2, 0.0, 0.2)],
)
def test_far_from_the_mean_a_draw_stays_within_its_bounds(
    mean: float, deviation: float, low: float, high: float, least: float, most: float
) -> None:
    assert least <= truncated_normal(mean, deviation, low, high, torch.Generator()) <= most


def episode(action: float, best: float) -> Transition:
    return Transition((1.0, 0.0), action, -((action - best) ** 2), (0.0, 0.0), True)


@pytest.mark.parametrize("best", [0.2, 0.8])
def test_it_learns_the_best_action(best: float) -> None:
    agent = Agent(2, torch.Generator().manual_seed(1))
    agent.remember([episode(float(action), best) for action in np.linspace(0, 1, 101)])
    before = agent.action((1.0, 0.0))
    agent.learn(150)
    after = agent.action((1.0, 0.0))
    assert before == pytest.approx(0.5, abs=0.05)
    assert abs(after - best) < 0.1


def test_the_reward_of_a_later_state_counts_for_an_earlier_one() -> None:
    """Two decisions: the first leads to a state with a low or a high reward, and gets none of its own."""
    first, good, bad, none = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0)
    agent = Agent(3, torch.Generator().manual_seed(2), tau=0.05)
    for action in np.linspace(0, 1, 41).tolist():
        later = good if action > 0.5 else bad
        agent.remember([Transition(first, action, 0.0, later, False)])
        agent.remember([Transition(later, 0.5, 1.0 if action > 0.5 else -1.0, none, True)])
    agent.learn(150)
    assert agent.action(first) > 0.6


def test_the_seed_decides_and_nothing_global_is_drawn() -> None:
    def trained(seed: int) -> float:
        agent = Agent(2, torch.Generator().manual_seed(seed))
        agent.remember([episode(a, 0.7) for a in (0.1, 0.5, 0.9)])
        agent.learn(5)
        return agent.action((1.0, 0.0))

    state = torch.get_rng_state()
    with torch.no_grad():
        assert trained(0) == trained(0) != trained(1)
    with torch.inference_mode():
        trained(0)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_oldest_is_forgotten() -> None:
    agent = Agent(2, torch.Generator().manual_seed(0), memory=101)
    agent.remember([episode(float(a), 0.1) for a in np.linspace(0, 1, 101)])
    agent.remember([episode(float(a), 0.9) for a in np.linspace(0, 1, 101)])
    agent.learn(150)
    assert agent.action((1.0, 0.0)) > 0.75
