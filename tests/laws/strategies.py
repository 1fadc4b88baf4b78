"""Hypothesis strategies for the laws of the library's own pieces, on the networks of `fprune.strategies`."""

from typing import Any

import torch
from hypothesis import strategies as st

import fprune
from fprune import (
    Config,
    Goal,
    Masks,
    Pipeline,
    Report,
    Schedule,
    Stage,
    agp,
    amc,
    annealing,
    dependency_aware,
    evaluate,
    evolve,
    finetune,
    fpgm,
    globally,
    l1,
    l2,
    level,
    linear,
    lottery,
    nested,
    netadapt,
    one_shot,
    random,
    reset_weight,
    scan,
    speed_up,
    tap,
    unfold,
)
from fprune.layers import unit_mask
from fprune.scope import Scope
from fprune.strategies import Network, joined, look, score, shuffle, step
from fprune.strategies import example as example
from fprune.strategies import networks as generated_networks

Case = Network
networks = generated_networks(kinds=("mlp", "cnn", "residual"))
sparsities = st.sampled_from([0.25, 0.3, 0.5, 0.65])


@st.composite
def configs(draw: st.DrawFn, case: Case) -> list[dict[str, Any]]:
    """One sparsity for every layer but the last; sometimes a family of its own, sometimes one left out.

    Layers that meet in an addition share a rule, and one family keeps the first: no config is a mistake.
    """
    rules: list[dict[str, Any]] = [{"op_names": list(case.layers), "sparsity": draw(sparsities)}]
    others = draw(st.permutations(case.families[1:]))
    if others and draw(st.booleans()):
        rules.append({"op_names": list(others[0]), "sparsity": draw(sparsities)})
    if len(others) > 1 and draw(st.booleans()):
        rules.append({"op_names": list(others[1]), "exclude": True})
    return rules


@fprune.pruner
def fickle(params: Scope, config: Config) -> Masks:
    """Masks the first or second channel of each layer, as the sparsity has it, and forgets what it masked before."""
    rows = params.plan(config).selected
    chosen = {row.layer: torch.arange(row.layer.units) != int(100 * (row.sparsity or 0)) % 2 for row in rows}
    return Masks({layer.weight: unit_mask(keep, layer) for layer, keep in chosen.items()})


def halves(target: Config) -> tuple[Goal, ...]:
    """The state of an explicit schedule: the goals that are left."""
    return Goal(target.scaled(0.5)), Goal(target, final=True)


def following(left: tuple[Goal, ...], report: Report | None) -> tuple[Goal, tuple[Goal, ...]] | None:
    """The first of the goals that are left, and the others."""
    return (left[0], left[1:]) if left else None


rounds = st.integers(1, 3)
schedules: st.SearchStrategy[Schedule] = st.one_of(
    st.just(one_shot()),
    st.builds(linear, rounds),
    st.builds(agp, rounds),
    st.builds(lottery, rounds),
    st.sampled_from([unfold(halves, following), linear(1).then(one_shot())]),
)

element_pruners: st.SearchStrategy[Stage] = st.sampled_from([level(), level(globally), random()])
layer_pruners: st.SearchStrategy[Stage] = st.sampled_from(
    [l1(), l2(), l1(globally), fpgm(), random(granularity="channel"), fickle(), nested(linear(1) | l1())]
)
coupled_pruners: st.SearchStrategy[Stage] = st.sampled_from(
    [l1(dependency_aware), l2(dependency_aware), fpgm(dependency_aware)]
)
pruners = st.one_of(element_pruners, layer_pruners, coupled_pruners)
fillers: st.SearchStrategy[Stage] = st.sampled_from(
    [finetune(step), finetune(shuffle), evaluate(score), reset_weight(), tap(look)]
)
words = st.one_of(pruners, fillers, st.just(speed_up()), st.just(Stage()))


@st.composite
def stages(draw: st.DrawFn) -> Stage:
    """A legal order of stages: at least one pruner; a speed-up only where masks of whole units come before it."""
    before = draw(st.lists(fillers, max_size=2))
    after = draw(st.lists(fillers, max_size=2))
    if draw(st.booleans()):
        return joined([*before, draw(coupled_pruners), *after, *draw(st.sampled_from([[], [speed_up()]]))])
    return joined([*before, draw(pruners), *after])


@st.composite
def pipelines(draw: st.DrawFn) -> Pipeline:
    return draw(schedules) | draw(stages())


searches: st.SearchStrategy[Schedule] = st.sampled_from(
    [
        annealing(stop=60),
        annealing(stop=80, magnitude=0.1).then(one_shot()),
        evolve(population=3, generations=2, parents=2),
        netadapt(2),
        amc(4, warmup=2),
        scan((0.25, 0.5)),
    ]
)


@st.composite
def search_pipelines(draw: st.DrawFn) -> Pipeline:
    """A schedule that reads scores, a pruner, a score; sometimes a smaller model in between."""
    smaller = draw(st.sampled_from([Stage(), speed_up()]))
    pruner = draw(st.one_of(st.sampled_from([level(), l1()]), coupled_pruners.map(lambda word: word | smaller)))
    return draw(searches) | pruner | evaluate(score)


# What `eval(repr(pipeline))` may use.
NAMES = {**{name: getattr(fprune, name) for name in dir(fprune) if not name.startswith("_")}, **globals()}
