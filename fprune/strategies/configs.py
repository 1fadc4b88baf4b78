"""Strategies for what to prune and how much, and for the goals of rounds."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from fprune.config import Config
from fprune.layers import layers_of
from fprune.model import Model
from fprune.records import Goal
from fprune.rule import Rule
from fprune.strategies.hypothesis import st
from fprune.strategies.networks import Network

SPARSITIES = (0.25, 0.3, 0.5, 0.65)
"""Fractions that leave a unit in each layer of three, also where layers share one amount."""


def sparsities(*, zero: bool = False) -> st.SearchStrategy[float]:
    """Generate fractions to remove.

    Examples:
        >>> from hypothesis import find
        >>> find(sparsities(), lambda s: s > 0.25)
        0.3

    Args:
        zero: whether 0, which removes nothing, is one of them.

    Returns:
        A strategy.
    """
    return st.sampled_from((0.0, *SPARSITIES) if zero else SPARSITIES)


@st.composite
def _of_families(draw: st.DrawFn, families: Sequence[tuple[str, ...]], amounts: Sequence[float]) -> Config:
    """One sparsity for every layer; sometimes a family of its own, sometimes one left out.

    Layers that meet in an addition share a rule, and one family keeps the first: no config is a mistake.
    """
    amount = st.sampled_from(amounts)
    names = tuple(name for family in families for name in family)
    rules = [Rule(op_names=names, sparsity=draw(amount))]
    others = draw(st.permutations(families[1:]))
    if others and draw(st.booleans()):
        rules.append(Rule(op_names=others[0], sparsity=draw(amount)))
    if len(others) > 1 and draw(st.booleans()):
        rules.append(Rule(op_names=others[1], exclude=True))
    return Config(rules)


_anywhere: st.SearchStrategy[Callable[[float], Config]] = st.sampled_from(
    [
        lambda s: Config(s),
        lambda s: Config(Rule(op_types=("Linear", "Conv2d"), sparsity=s)),
        lambda s: Config(Rule(op_types=("default",), total_sparsity=s)),
        lambda s: Config([Rule(sparsity=s), Rule(op_types=("Conv2d",), sparsity=s / 2)]),
    ]
)


def configs(
    of: Network | Mapping[str, Tensor] | None = None, *, amounts: Sequence[float] = SPARSITIES
) -> st.SearchStrategy[Config]:
    """Generate configs: for a network's layers, for a mapping's tensors, or for any model.

    Layers of a network that lose channels together have one rule, and its last layer keeps its outputs, so every
    pruner and every speed-up can meet what is asked.

    Examples:
        >>> import torch
        >>> from hypothesis import find
        >>> find(configs(), lambda config: True)
        Config(0.25)
        >>> find(configs({"a": torch.ones(4, 3), "b": torch.ones(3, 2)}), lambda config: len(config.rules) > 1)
        Config([Rule(op_names=('a', 'b'), sparsity=0.25), Rule(op_names=('b',), sparsity=0.25)])

    Args:
        of: a generated network, a `Model`, or a mapping of names to tensors.
        amounts: the sparsities to choose from.

    Returns:
        A strategy.
    """
    if isinstance(of, Network):
        return _of_families(of.families, amounts)
    if of is not None:
        layers = of.layers if isinstance(of, Model) else layers_of(of)
        names = [(layer.name,) for layer in layers if layer.default]
        some = [_of_families(names, amounts), _of_families(names[:1], amounts)]
        return st.one_of(st.sampled_from(amounts).map(Config), *some)
    return st.tuples(_anywhere, st.sampled_from(amounts)).map(lambda pair: pair[0](pair[1]))


def goals(target: Config | None = None) -> st.SearchStrategy[Goal]:
    """Generate goals of rounds on the way to a target.

    Examples:
        >>> from hypothesis import find
        >>> find(goals(Config(0.8)), lambda goal: goal.final)
        Goal(Config(0.8), final=True)

    Args:
        target: what the caller asked for; drawn by default.

    Returns:
        A strategy.
    """
    targets = configs() if target is None else st.just(target)
    starts = st.sampled_from(["previous", "origin"])
    partly = st.tuples(targets, st.sampled_from([0.0, 0.25, 0.5])).map(lambda pair: pair[0].scaled(pair[1]))
    return st.one_of(st.builds(Goal, partly, start=starts), st.builds(Goal, targets, start=starts, final=st.just(True)))
