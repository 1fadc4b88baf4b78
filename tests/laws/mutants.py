"""Small pruners, schedules, stages and pipelines as users write them, each right, and each with one mistake in it."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from operator import mul
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from fprune import (
    Config,
    Goal,
    Masks,
    TaskResult,
    dependency_aware,
    evaluate,
    finetune,
    l1,
    level,
    linear,
    pruner,
    schedule,
    stage,
)
from fprune.compose import Stage
from fprune.errors import ModelError
from fprune.layers import unit_mask, unit_view
from fprune.strategies import score, step


@attrs.frozen(eq=False)
class Mutant:
    """A mistake: the piece that makes it, the same piece without it, and the law that tells them apart.

    `make` builds a piece anew, because some mistakes are in what a piece remembers.
    """

    name: str
    law: str
    make: Callable[[], Any]
    twin: Callable[[], Any]
    options: dict[str, Any] = attrs.field(factory=dict)


# Pruners of single weights.


def floor(sparsity: float, size: int) -> int:
    return math.floor(sparsity * size + 1e-9)


def by_index(scores: Tensor, k: int) -> Tensor:
    """Keep all but the `k` lowest; of equal ones the first go."""
    order = scores.flatten().argsort(stable=True)
    return torch.ones(scores.numel(), dtype=torch.bool).index_fill(0, order[:k], False).reshape(scores.shape)


def finite(name: str, weight: Tensor) -> None:
    if not weight.isfinite().all():
        raise ModelError(f"{name!r} is not finite")


def gone_first(params: Any, layer: Any, scores: Tensor) -> Tensor:
    return scores.masked_fill(~params.alive(layer).expand(scores.shape), -math.inf)


def elements(
    *,
    number: Callable[[float, int], int] = floor,
    scores: Callable[[Tensor], Tensor] = Tensor.abs,
    choose: Callable[[Tensor, int], Tensor] = by_index,
    look: Callable[[str, Tensor], Any] = finite,
    remember: Callable[[Any, Any, Tensor], Tensor] = gone_first,
    finish: Callable[[Any, dict[str, Tensor]], Any] = lambda params, found: Masks(found),
) -> Stage:
    """Remove the smallest weights of every layer."""

    @pruner
    def mine(params: Any, config: Config) -> Masks:
        found: dict[str, Tensor] = {}
        for row in params.plan(config).selected:
            name, amount = row.layer.weight, row.sparsity if row.sparsity is not None else row.total
            weight = params[name]
            look(name, weight)
            scored = remember(params, row.layer, scores(weight))
            found[name] = choose(scored, number(amount, weight.numel()))
        return finish(params, found)

    return mine()


def threshold(scores: Tensor, k: int) -> Tensor:
    return scores > scores.flatten().sort().values[k - 1] if k else torch.ones(scores.shape, dtype=torch.bool)


def top_k(scores: Tensor, k: int) -> Tensor:
    lowest = scores.flatten().topk(k, largest=False).indices
    return torch.ones(scores.numel(), dtype=torch.bool).index_fill(0, lowest, False).reshape(scores.shape)


def elsewhere(scores: Tensor, k: int) -> Tensor:
    """Removes `k` places after the first `k`, whatever was removed before."""
    place = (torch.arange(scores.numel()) - k) % scores.numel()
    return (place >= k).reshape(scores.shape)


def in_place(name: str, weight: Tensor) -> None:
    finite(name, weight)
    weight.abs_()


def written_back(params: Any, found: dict[str, Tensor]) -> Masks:
    for name, mask in params.masks.items():
        mask.logical_and_(found[name].reshape(mask.shape) if name in found else mask)
    return Masks(found)


def handed_back(params: Any, found: dict[str, Tensor]) -> Masks:
    return Masks({**found, **{name: mask for name, mask in params.masks.items() if name in found}})


def of_what_is_left() -> Stage:
    """Removes the fraction of what is still there, on top of what is gone."""

    @pruner
    def mine(params: Any, config: Config) -> Masks:
        found = {}
        for row in params.plan(config).selected:
            weight, alive = params[row.layer.weight], params.alive(row.layer).expand(row.layer.shape)
            finite(row.layer.weight, weight)
            left = int(alive.sum())
            amount = row.sparsity if row.sparsity is not None else row.total
            scored = weight.abs().masked_fill(~alive, -math.inf)
            found[row.layer.weight] = by_index(scored, weight.numel() - left + floor(amount, left))
        return Masks(found)

    return mine()


def every_layer() -> Stage:
    """Takes no notice of what the config leaves out."""

    @pruner
    def mine(params: Any, config: Config) -> Masks:
        found: dict[str, Tensor] = {}
        for row in params.plan(config).rows:
            weight, amount = params[row.layer.weight], row.sparsity if row.sparsity is not None else row.total
            finite(row.layer.weight, weight)
            found[row.layer.weight] = by_index(weight.abs(), floor(0.5 if amount is None else amount, weight.numel()))
        return Masks(found)

    return mine()


def forgetful() -> Stage:
    """Counts its calls, and every other one goes by the largest."""
    calls = [0]

    def scores(weight: Tensor) -> Tensor:
        calls[0] += 1
        return weight.abs() if calls[0] % 2 else -weight.abs()

    return elements(scores=scores)


def empties(sparsity: float, size: int) -> int:
    return size if sparsity > 0.95 else floor(sparsity, size)


# Pruners that compare all layers.


def shared(*, order: Callable[[Any], Any] = sorted, level: Callable[[str, Tensor], Tensor] = lambda _, w: w) -> Stage:
    """Remove the smallest weights of all layers of a rule together."""

    @pruner
    def mine(params: Any, config: Config) -> Masks:
        rules: dict[Any, dict[str, Any]] = {}
        for row in params.plan(config).selected:
            rules.setdefault(row.rule, {})[row.layer.weight] = row
        found: dict[str, Tensor] = {}
        for rows in rules.values():
            names = list(order([name for name in params if name in rows]))
            for name in names:
                finite(name, params[name])
            parts = [gone_first(params, rows[n].layer, level(n, params[n].abs())).flatten() for n in names]
            row = rows[names[0]]
            amount = row.sparsity if row.sparsity is not None else row.total
            for part in parts:  # the best of each layer stays
                part[part.argsort(stable=True)[-1]] = math.inf
            every = torch.cat(parts)
            kept = by_index(
                every, min(floor(amount, len(every)), int(every.isfinite().sum() + (every == -math.inf).sum()))
            )
            pieces = kept.split([len(part) for part in parts])
            found |= {name: piece.reshape(params[name].shape) for name, piece in zip(names, pieces, strict=True)}
        return Masks(found)

    return mine()


# Pruners of filters.


def row_norms(matrix: Tensor) -> Tensor:
    return matrix.double().abs().sum(1)


def filters(
    *, norms: Callable[[Tensor], Tensor] = row_norms, number: Callable[[float, int], int] = floor, bias: bool = True
) -> Stage:
    """Remove the filters with the smallest norm of every layer, with their biases."""

    @pruner
    def mine(params: Any, config: Config) -> Masks:
        found: dict[str, Tensor] = {}
        for row in params.plan(config).selected:
            layer, amount = row.layer, row.sparsity if row.sparsity is not None else row.total
            finite(layer.weight, params[layer.weight])
            scores = norms(unit_view(params[layer.weight], layer)).masked_fill(~params.alive_units(layer), -math.inf)
            keep = by_index(scores, number(amount, layer.units))
            found[layer.weight] = unit_mask(keep, layer)
            if layer.bias is not None and bias:
                found[layer.bias] = keep
        return Masks(found)

    return mine()


def column_norms(matrix: Tensor) -> Tensor:
    found = matrix.double().abs().sum(0)
    return found.repeat(len(matrix))[: len(matrix)]


PADDED = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))

ON_PADDED = {
    "model": PADDED,
    "config": [{"op_names": ["0"], "sparsity": 0.5}],
    "example_inputs": (torch.ones(1, 2, 4, 4),),
}


@pruner(needs=("structure",))
def weights_only(params: Any, config: Config) -> Masks:
    """Masks the filters' weights, and forgets the biases and norms that fill their outputs again."""
    found = l1().masks(params.model, config, masks=params.masks)
    return Masks({name: mask for name, mask in found.items() if not name.endswith("bias")})


PRUNERS = [
    Mutant("one more", "exact count", lambda: elements(number=lambda s, n: floor(s, n) + (s > 0)), elements),
    Mutant("rounded", "exact count", lambda: elements(number=lambda s, n: round(s * n)), elements),
    Mutant("truncated product", "ties", lambda: elements(number=lambda s, n: int(s * n)), elements),
    Mutant("keeps the fraction", "exact count", lambda: elements(number=lambda s, n: n - floor(s, n)), elements),
    Mutant("a threshold", "exact count", lambda: elements(choose=threshold), elements),
    Mutant("topk", "ties", lambda: elements(choose=top_k), elements),
    Mutant("float masks", "structure", lambda: elements(choose=lambda s, k: by_index(s, k).float()), elements),
    Mutant(
        "layer names",
        "structure",
        lambda: elements(finish=lambda _, found: Masks({n.removesuffix(".weight"): m for n, m in found.items()})),
        elements,
    ),
    Mutant("weights in place", "inputs unchanged", lambda: elements(look=in_place), elements),
    Mutant("masks in place", "inputs unchanged", lambda: elements(finish=written_back), elements),
    Mutant("masks handed back", "inputs unchanged", lambda: elements(finish=handed_back), elements),
    Mutant("regrowth", "superset", lambda: elements(choose=elsewhere), elements),
    Mutant(
        "forgets what is gone", "rounds", lambda: elements(scores=Tensor.neg, remember=lambda p, layer, s: s), elements
    ),
    Mutant("compounds", "rounds", of_what_is_left, elements),
    Mutant("at least one", "zero", lambda: elements(number=lambda s, n: floor(s, n) if s else 1), elements),
    Mutant("every layer", "selection", every_layer, elements),
    Mutant("hidden state", "deterministic", forgetful, elements),
    Mutant("drawn ties", "ties", lambda: elements(scores=lambda w: w.abs() + 0.5 * torch.rand(w.shape)), elements),
    Mutant("NaN accepted", "non-finite", lambda: elements(look=lambda name, weight: None), elements),
    Mutant("signed", "signs", lambda: elements(scores=lambda w: w), elements, {"also": {"signs"}}),
    Mutant("a bias", "scale", lambda: elements(scores=lambda w: (w + 0.5).abs()), elements, {"also": {"scale"}}),
    Mutant(
        "normalised by layer",
        "scale",
        lambda: shared(level=lambda _, w: w / (w.std() + 0.5)),
        shared,
        {"also": {"scale"}},
    ),
    Mutant("dict order", "dict order", lambda: shared(order=list), shared),
    Mutant("long names first", "names", lambda: shared(level=lambda name, w: w * len(name) % 7), shared),
    Mutant(
        "rounded scores",
        "scores",
        lambda: elements(scores=lambda w: (w.abs() / 3).floor()),
        elements,
        {"scores": lambda params: {name: value.abs() for name, value in params.items()}},
    ),
    Mutant("wrong dimension", "outputs", lambda: filters(norms=column_norms), filters),
    Mutant(
        "position of outputs", "outputs", lambda: filters(norms=lambda m: row_norms(m) + torch.arange(len(m))), filters
    ),
    Mutant(
        "position of inputs",
        "inputs",
        lambda: filters(norms=lambda m: row_norms(m * torch.arange(1, m.shape[1] + 1))),
        filters,
    ),
    Mutant("all filters", "never empty", lambda: filters(number=empties), filters),
    Mutant("weights without biases", "masked == compact", weights_only, lambda: l1(dependency_aware), ON_PADDED),
]


# Schedules.


def fractions(shares: Callable[[], Iterator[tuple[float, bool]]]) -> Any:
    @schedule
    def mine(target: Config) -> Iterator[Goal]:
        for share, final in shares():
            yield Goal(target if share == 1 else target.map(partial(mul, share)), final=final)

    return mine()


def steps(
    rounds: int, share: Callable[[float], float] = lambda t: t, final: Callable[[int], bool] | None = None
) -> Any:
    last = (lambda t: t == rounds) if final is None else final
    return fractions(lambda: ((share(t / rounds), last(t)) for t in range(rounds + 1)))


def summed() -> Iterator[tuple[float, bool]]:
    share = 0.0
    for t in range(10):
        share += 0.1
        yield share, t == 9


def counting() -> Any:
    calls = [0]

    @schedule
    def mine(target: Config) -> Iterator[Goal]:
        calls[0] += 1
        yield Goal(target.scaled(0.5 if calls[0] % 2 else 0.25))
        yield Goal(target, final=True)

    return mine()


def endless() -> Iterator[tuple[float, bool]]:
    share = 0.5
    while True:
        share = (1 + share) / 2
        yield min(share, 0.999), False


SCHEDULES = [
    Mutant("stops one early", "endpoint", lambda: steps(4, lambda t: 0.8 * t), lambda: steps(4)),
    Mutant("a sum of tenths", "endpoint", lambda: fractions(summed), lambda: steps(10)),
    Mutant(
        "beyond the target",
        "range",
        lambda: steps(4, lambda t: 1.05 * t if t == 0.75 else t + (t == 1) * 0.05),
        lambda: steps(4),
    ),
    Mutant("a float beyond", "range", lambda: steps(4, lambda t: t * (1 + 2e-16)), lambda: steps(4)),
    Mutant("falls in between", "monotone", lambda: steps(4, lambda t: 0.9 if t == 0.5 else t), lambda: steps(4)),
    Mutant(
        "falls by a float", "monotone", lambda: steps(4, lambda t: 0.25 - 1e-16 if t == 0.5 else t), lambda: steps(4)
    ),
    Mutant("NaN", "goals", lambda: steps(4, lambda t: math.nan if t == 0.5 else t), lambda: steps(4)),
    Mutant("below 0", "goals", lambda: steps(4, lambda t: t - 0.1 * (t == 0)), lambda: steps(4)),
    Mutant("counts its calls", "history alone", counting, lambda: steps(2)),
    Mutant("final too early", "endpoint", lambda: steps(4, final=lambda t: t > 2), lambda: steps(4)),
    Mutant("nothing final", "endpoint", lambda: steps(4, final=lambda t: False), lambda: steps(4)),
    Mutant("endless", "ends", lambda: fractions(endless), lambda: steps(4)),
    Mutant("no goal", "goals", lambda: fractions(lambda: iter(())), lambda: steps(4)),
]


# Stages.


def moved(change: Callable[[TaskResult, dict[str, Tensor]], dict[str, Tensor]], *, mask: bool = True) -> Any:
    """Change the weights of a record."""

    @stage
    def mine(result: TaskResult) -> TaskResult:
        new = result.model.replace(params=change(result, dict(result.model)))
        return result.replace(model=new.replace(params=result.masks.apply(new)) if mask else new)

    return mine()


def plus_one(result: TaskResult, params: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value + 1 for name, value in params.items()}


def plus_one_in_place(result: TaskResult, params: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.add_(1) for name, value in params.items()}


def momentum() -> Any:
    kept = [0.0]

    def change(result: TaskResult, params: dict[str, Tensor]) -> dict[str, Tensor]:
        kept[0] = 0.5 * kept[0] + 1
        return {name: value + kept[0] for name, value in params.items()}

    return moved(change)


@stage
def regrow(result: TaskResult) -> TaskResult:
    return result.replace(masks=result.masks.map(torch.ones_like))


@stage
def regrow_late(result: TaskResult) -> TaskResult:
    return result.replace(masks=result.masks.map(torch.ones_like)) if result.index == 2 else result


@stage
def without_history(result: TaskResult) -> TaskResult:
    return result.replace(task=attrs.evolve(result.task, index=0, seed=result.task.seed + 1))


@stage
def half_precision(result: TaskResult) -> TaskResult:
    params = {name: value.half() for name, value in result.model.items()}
    return result.replace(model=result.model.replace(params=params))


@stage
def cut(result: TaskResult) -> TaskResult:
    """Makes the last bias shorter and tells nobody."""
    params = dict(result.model)
    name = [name for name in params if params[name].ndim == 1][-1]
    model = attrs.evolve(result.model, params=type(result.model.params)({**params, name: params[name][:1]}))
    return result.replace(model=model)


def plus(value: float) -> Any:
    return moved(lambda _, params: {name: p + value for name, p in params.items()})


STAGES = [
    Mutant("writes in place", "inputs unchanged", lambda: moved(plus_one_in_place), lambda: moved(plus_one)),
    Mutant("fills what is pruned", "pruned is zero", lambda: moved(plus_one, mask=False), lambda: moved(plus_one)),
    Mutant("momentum", "deterministic", momentum, lambda: moved(plus_one)),
    Mutant("opens masks", "masks only shrink", regrow, lambda: moved(plus_one)),
    Mutant("another task", "record", without_history, lambda: moved(plus_one)),
    Mutant("half precision", "shapes", half_precision, lambda: moved(plus_one)),
    Mutant("cuts in silence", "shapes", cut, lambda: moved(plus_one)),
    Mutant("diverges", "finite", lambda: plus(math.inf), lambda: moved(plus_one)),
    Mutant("another function", "same outputs", lambda: plus(1.0), lambda: plus(0.0), {"also": {"same outputs"}}),
]


# Pipelines.


def trained(train: Callable[[nn.Module], Any]) -> Any:
    return linear(2) | level() | finetune(train) | evaluate(score)


def warm(reset: Callable[[nn.Module], bool]) -> Callable[[nn.Module], Any]:
    """A loop whose step size grows with its calls, and begins anew where it is told to."""
    calls = [0]

    def train(module: nn.Module) -> dict[str, float]:
        calls[0] = 1 if reset(module) else calls[0] + 1
        step(module)
        return {"size": float(calls[0])}

    return train


def dense(module: nn.Module) -> bool:
    """Whether hardly anything of a module is pruned, as before the first round."""
    weights = torch.cat([p.detach().flatten() for p in module.parameters() if p.ndim > 1])
    return bool((weights == 0).float().mean() < 0.2)


@stage
def writes_back(result: TaskResult) -> TaskResult:
    """Writes to what the round before it handed on."""
    for value in result.task.model.values():
        value.mul_(2)
    return result


class Wide:
    """An option whose repr forgets what it is made of."""

    def __init__(self, size: int = 1) -> None:
        self.size = size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Wide) and other.size == self.size

    def __hash__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return "Wide()"


class Named(Wide):
    def __repr__(self) -> str:
        return f"Named({self.size})"


@stage
def widened(result: TaskResult, by: Wide) -> TaskResult:
    return result


@schedule
def timed(target: Config, clock: Any) -> Iterator[Goal]:
    yield Goal(target.scaled(0.5 / clock()))
    yield Goal(target, final=True)


class Clock:
    """Counts how often it is read."""

    def __init__(self, stands: bool) -> None:
        self.stands, self.reads = stands, 0

    def __call__(self) -> int:
        self.reads += not self.stands
        return self.reads + 1


PIPELINES = [
    Mutant("counts its calls", "same seed", lambda: trained(warm(lambda module: False)), lambda: trained(step)),
    Mutant("momentum over rounds", "continues", lambda: trained(warm(dense)), lambda: trained(step)),
    Mutant("writes to the past", "results stay", lambda: linear(2) | level() | writes_back(), lambda: trained(step)),
    Mutant(
        "a repr that forgets",
        "repr",
        lambda: linear(1) | level() | widened(Wide(3)),
        lambda: linear(1) | level() | widened(Named(3)),
    ),
    Mutant("opens masks", "goals", lambda: linear(2) | level() | regrow(), lambda: trained(step)),
    Mutant(
        "opens masks later", "masks only shrink", lambda: linear(2) | level() | regrow_late(), lambda: trained(step)
    ),
    Mutant(
        "fills what is pruned",
        "pruned is zero",
        lambda: linear(2) | level() | moved(plus_one, mask=False),
        lambda: linear(2) | level() | moved(plus_one),
    ),
    Mutant(
        "looks at the clock",
        "history alone",
        lambda: timed(Clock(False)) | level(),
        lambda: timed(Clock(True)) | level(),
        {"laws": {"history alone"}},
    ),
]
