"""AutoML for model compression: an agent decides layer by layer."""

import math
from collections.abc import Generator, Sequence

import torch

from fprune.compose import schedule
from fprune.config import Config
from fprune.records import Goal, Report
from fprune.schedules.ddpg import Agent, State, Transition, truncated_normal
from fprune.schedules.groups import pools
from fprune.schedules.resource import Kind, Ledger, allocated, ledgers
from fprune.schedules.searching import counted, kind_of_resource, number, score_of
from fprune.schedules.states import FEATURES, layer_features, seen
from fprune.setting import Setting
from fprune.tree import generator


def _check(
    episodes: int,
    *,
    target: Kind = "flops",
    warmup: int = 25,
    noise: float = 0.5,
    decay: float = 0.99,
    max_sparsity: float = 0.9,
    updates: int = 1,
) -> None:
    counted("episodes", episodes, 1)
    counted("warmup", warmup, 0)
    counted("updates", updates, 1)
    kind_of_resource("target", target)
    number("noise", noise, 0, 1, open_low=True)
    number("decay", decay, 0, 1, open_low=True)
    number("max_sparsity", max_sparsity, 0, 1, open_low=True)


@schedule(setting=True, needs=("score",), check=_check)
def amc(
    config: Config,
    setting: Setting,
    episodes: int,
    *,
    target: Kind = "params",
    warmup: int = 25,
    noise: float = 0.5,
    decay: float = 0.99,
    max_sparsity: float = 0.9,
    updates: int = 1,
) -> Generator[Goal, Report, None]:
    """Search for the division of a sparsity over layers with a reinforcement learning agent.

    One episode goes through the layers in order; for each the agent sees its type, sizes, stride, kernel and weights,
    what has been saved so far and what the rest can save, and its own last action, and gives a sparsity. The round
    prunes the original model by it, and its score is the reward of every decision of the episode, relative to the mean
    of the remembered ones in units of their spread. Actions are bounded so that every episode meets the target exactly:
    from below by what the layers after it cannot save, from above by its bound and by what is left to save.

    The agent is DDPG, actor and critic of 300-300 units on the CPU, seeded by the run. Its actions are drawn from a
    truncated normal distribution around the actor's, deviation `noise * decay^(episode - warmup)`; in the first
    `warmup` episodes from U(0, 1). Layers whose channels go together are one decision. Every rule meets its own
    `total_sparsity` (or `sparsity`, taken for all its layers), counted in weights of its layers or in operations done
    with them; of pruned channels, the layers that read them shrink too.

    Examples:
        >>> from torch import nn
        >>> target, net = Config([{"total_sparsity": 0.5}]), nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 4))
        >>> (goal,) = amc(10).goals(target, setting=Setting.of(net, target))
        >>> round(sum(rule.sparsity for rule in goal.config.rules) / 2, 9)
        0.5

    Args:
        config: the caller's config; filled in by the run.
        setting: the layers of the model; filled in by the run.
        episodes: how many, and so many rounds; a few hundred.
        target: what is counted, `"params"` or `"flops"`; the latter needs the model's structure.
        warmup: episodes of random actions before the agent learns.
        noise: deviation of the first actions after that, in `(0, 1]`.
        decay: its factor from episode to episode, in `(0, 1]`.
        max_sparsity: bound of layers that have no `max_sparsity_per_layer`, in `(0, 1]`.
        updates: steps of learning for each decision.

    Returns:
        Goals, each from the original model, each final: `run` returns the best.

    Raises:
        ConfigError: an option is out of range, or the bounds of the layers do not let the target be met.
        CompositionError: operations are to be counted, and nothing traces the model.
        ScheduleError: a round has no score.

    References:
        He et al, `AMC <https://arxiv.org/abs/1802.03494>`_, 2018;
        Lillicrap et al, `Continuous control <https://arxiv.org/abs/1509.02971>`_, 2016
    """
    found = pools(setting, cap=max_sparsity)
    books = ledgers(setting, found, target, "amc")
    features = layer_features([group for pool in found for group in pool.groups], setting.structure)
    draw = generator(setting.seed, "amc")
    agent = Agent(FEATURES, draw)
    for episode in range(episodes):
        spread = math.inf if episode < warmup else noise * decay ** (episode - warmup)
        counts, states, actions = _episode(books, features, agent, spread, draw)
        report = yield Goal(allocated(setting, books, counts), start="origin", final=True)
        agent.remember(_transitions(states, actions, score_of(report)))
        if episode + 1 >= warmup:
            agent.learn(updates * len(actions))


def _episode(
    books: Sequence[Ledger], features: Sequence[Sequence[float]], agent: Agent, spread: float, draw: torch.Generator
) -> tuple[list[int], list[State], list[float]]:
    """Decide for every group; the counts, the states before each decision, and what was done."""
    counts, last = list(books[0].gone), 0.0
    states: list[State] = []
    actions: list[float] = []
    for book in books:
        for at in book.mine:
            states.append(_state(book, features, counts, at, last))
            low, high = _bounds(book, counts, at)
            units = book.units[at]
            drawn = _drawn(agent, states[-1], spread, low / units, high / units, draw)
            counts[at] = min(max(round(drawn * units), low), high)
            last = counts[at] / units
            actions.append(last)
    return counts, states, actions


def _drawn(agent: Agent, state: State, spread: float, low: float, high: float, draw: torch.Generator) -> float:
    if math.isinf(spread):
        return low + (high - low) * float(torch.rand((), generator=draw))
    return truncated_normal(agent.action(state), spread, low, high, draw)


def _bounds(book: Ledger, counts: Sequence[int], at: int) -> tuple[int, int]:
    """The fewest units of a group that leave the target in reach of those after it, and the most that it takes."""
    rest = [book.most[i] if i in book.mine and i > at else count for i, count in enumerate(counts)]
    return book.least(rest, at, book.need), book.least(counts, at, book.need)


def _state(book: Ledger, features: Sequence[Sequence[float]], counts: Sequence[int], at: int, last: float) -> State:
    saved = book.saved(counts)
    most = book.saved([book.most[i] if i in book.mine and i >= at else count for i, count in enumerate(counts)])
    need = max(book.need, 1e-12)
    return seen(features[at], min(saved / need, 1.0), min((most - saved) / need, 1.0), last)


def _transitions(states: Sequence[State], actions: Sequence[float], score: float) -> list[Transition]:
    """The decisions of an episode; the state that follows one is that of the next layer."""
    following = [*states[1:], (0.0,) * len(states[0])]
    last = [*[False] * (len(states) - 1), True]
    parts = zip(states, actions, following, last, strict=True)
    return [Transition(state, action, score, after, end) for state, action, after, end in parts]
