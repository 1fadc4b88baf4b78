"""Strategies for schedules, stages and pipelines."""

from collections.abc import Sequence
from typing import Literal

from fprune.allocate import dependency_aware, globally
from fprune.compose import Pipeline, Schedule, Stage
from fprune.pruners import fpgm, l1, l2, level, random
from fprune.schedules import agp, annealing, evolve, linear, lottery, netadapt, one_shot
from fprune.stages import evaluate, finetune, reset_weight, speed_up, tap
from fprune.strategies.hypothesis import st
from fprune.strategies.training import look, score, shuffle, step

Grain = Literal["element", "channel", "coupled"]
_PRUNERS: dict[Grain, tuple[Stage, ...]] = {
    "element": (level(), level(globally), random()),
    "channel": (l1(), l2(), l1(globally), fpgm(), random(granularity="channel")),
    "coupled": (l1(dependency_aware), l2(dependency_aware), fpgm(dependency_aware)),
}
GRAINS: tuple[Grain, ...] = ("element", "channel", "coupled")
"""What generated pruners remove: single weights, output channels, or channels with all that goes with them."""


def schedules(*, max_rounds: int = 3, reads_scores: bool = False) -> st.SearchStrategy[Schedule]:
    """Generate schedules.

    Examples:
        >>> from hypothesis import find
        >>> from fprune import Config
        >>> find(schedules(), lambda schedule: len(schedule.goals(Config(0.5))) > 3)
        linear(3)

    Args:
        max_rounds: the largest option of a schedule that counts rounds.
        reads_scores: generate searches instead, which need a stage that gives a score.

    Returns:
        A strategy.
    """
    if reads_scores:
        searches = [annealing(stop=60), evolve(population=3, generations=2, parents=2), netadapt(2)]
        return st.sampled_from([*searches, annealing(stop=80, magnitude=0.1).then(one_shot())])
    rounds = st.integers(1, max_rounds)
    counted = (st.builds(make, rounds) for make in (linear, agp, lottery))
    return st.one_of(st.just(one_shot()), *counted, st.just(linear(1).then(one_shot())))


def pruners(*, grains: Sequence[Grain] = GRAINS) -> st.SearchStrategy[Stage]:
    """Generate stages of one pruner that looks at no data.

    Examples:
        >>> from hypothesis import find
        >>> find(pruners(grains=["coupled"]), lambda pruner: True)
        l1(dependency_aware)

    Args:
        grains: some of `element`, `channel` and `coupled`; the last needs example inputs.

    Returns:
        A strategy.
    """
    return st.sampled_from([pruner for grain in grains for pruner in _PRUNERS[grain]])


_fillers: st.SearchStrategy[Stage] = st.sampled_from(
    [evaluate(score), finetune(step), finetune(shuffle), reset_weight(), tap(look)]
)


def stages() -> st.SearchStrategy[Stage]:
    """Generate single stages that keep the shapes: training, evaluation, rewinding, a look.

    Examples:
        >>> from hypothesis import find
        >>> find(stages(), lambda stage: "score" in stage.gives)
        evaluate(score)

    Returns:
        A strategy.
    """
    return _fillers


def joined(parts: Sequence[Stage]) -> Stage:
    """Join stages by `|`.

    Examples:
        >>> joined([level(), evaluate(score)])
        level() | evaluate(score)
        >>> joined([])
        Stage()
    """
    word = Stage()
    for part in parts:
        word = word | part
    return word


@st.composite
def _words(draw: st.DrawFn) -> Stage:
    few = st.lists(_fillers, max_size=2)
    before, pruner, after = draw(few), draw(pruners()), draw(few)
    # Where masks are of whole units with all that goes with them, the model can be made smaller.
    last = [speed_up()] if pruner in _PRUNERS["coupled"] and draw(st.booleans()) else []
    return joined([*before, pruner, *after, *last])


def words() -> st.SearchStrategy[Stage]:
    """Generate stages for one round, in a legal order, one of them a pruner; sometimes a speed-up ends them.

    Examples:
        >>> from hypothesis import find
        >>> find(words(), lambda word: word == level() | evaluate(score))
        level() | evaluate(score)

    Returns:
        A strategy.
    """
    return _words()


def pipelines(*, max_rounds: int = 3) -> st.SearchStrategy[Pipeline]:
    """Generate pipelines for generated networks, which need `example_inputs`.

    Examples:
        >>> from hypothesis import given, settings
        >>> from fprune.strategies import networks
        >>> @given(pipelines(), networks())
        ... @settings(max_examples=2, deadline=None)
        ... def law(pipeline, network):
        ...     for result in pipeline.stream(network.net, 0.25, example_inputs=network.inputs):
        ...         assert 0 <= result.report.sparsity < 1
        >>> law()

    Args:
        max_rounds: as in `schedules`.

    Returns:
        A strategy.
    """
    return st.builds(Pipeline, schedules(max_rounds=max_rounds), words())
