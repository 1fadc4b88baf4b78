"""Pruners that train, in runs: what they refuse, what they leave alone, what comes back, and with what they compose."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.optim import optimizer as hooks

from fprune import (
    Config,
    Masks,
    Model,
    admm,
    agp,
    dependency_aware,
    evaluate,
    finetune,
    l1,
    level,
    movement,
    one_shot,
    slim,
    speed_up,
)
from fprune.compose import Stage
from fprune.compose.prune import traced
from fprune.errors import CompositionError, ConfigError, ConfigTypeError, FpruneError, ScoreError, StageError
from fprune.inputs import Inputs
from fprune.records import Goal, TaskResult
from fprune.scope import Scope
from fprune.structure import Structure
from fprune.training.factors import following
from fprune.tree import digest
from tests.unit import toys

BATCHES = list(torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(0)))


def loss(module: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return (module(x) - 1).square().mean()


def noisy(module: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A loss that draws, as dropout does."""
    return (module(x + torch.randn_like(x)) - 1).square().mean()


def train(module: nn.Module) -> None:
    sgd = torch.optim.SGD(module.parameters(), lr=0.001)
    for batch in BATCHES:
        sgd.zero_grad()
        noisy(module, batch).backward()
        sgd.step()


NORMS = [{"op_names": ["1"], "sparsity": 0.5}]
HIDDEN = [{"op_names": ["0"], "sparsity": 0.5}]
STAGES: dict[str, tuple[Stage, Any]] = {
    "slim": (slim(noisy, BATCHES), NORMS),
    "slim, followed": (slim(noisy, BATCHES), HIDDEN),
    "slim, own loop": (slim(train=train), NORMS),
    "slim, learned": (slim(noisy, BATCHES, factors="learned"), 0.5),
    "slim, units": (slim(noisy, BATCHES, dependency_aware), NORMS),
    "admm": (admm(noisy, BATCHES, iterations=2), 0.5),
    "admm, own loop": (admm(train=train, iterations=2), 0.5),
    "admm, units": (admm(noisy, BATCHES, dependency_aware, iterations=2, granularity="channel"), HIDDEN),
    "movement": (movement(noisy, BATCHES), 0.5),
    "movement, soft": (movement(noisy, BATCHES, mode="soft"), 0.5),
    "movement, channels": (movement(noisy, BATCHES, granularity="channel"), HIDDEN),
    "movement, units": (movement(noisy, BATCHES, dependency_aware), HIDDEN),
}
every = pytest.mark.parametrize(("stage", "config"), STAGES.values(), ids=list(STAGES))


@every
def test_the_callers_module_and_process_stay_as_they_are(stage: Stage, config: Any) -> None:
    net = toys.net()
    net[1].eval()
    before = digest(net.state_dict()), [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]
    state, listening = torch.get_rng_state(), (len(hooks._global_optimizer_pre_hooks), len(net._forward_hooks))
    with torch.no_grad():
        result = (one_shot() | stage).run(net, config, example_inputs=toys.X)
        masks = stage.masks(Model.from_module(net), config, example_inputs=toys.X, seed=3)
        assert not torch.is_grad_enabled()
    after = digest(net.state_dict()), [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]
    assert before == after
    assert torch.equal(state, torch.get_rng_state())
    assert listening == (len(hooks._global_optimizer_pre_hooks), len(net._forward_hooks))
    assert all(p.grad is None for p in net.parameters())
    assert masks
    assert [m.training for m in result.module().modules()] == [m.training for m in net.modules()]
    assert any(result.model[name].ne(value).any() for name, value in net.named_parameters())


@every
def test_the_seed_decides_and_nothing_else(stage: Stage, config: Any) -> None:
    def run(seed: int) -> TaskResult:
        torch.rand(1)
        return (one_shot() | stage).run(toys.net(), config, example_inputs=toys.X, seed=seed)

    first, again, other = run(0), run(0), run(1)
    assert first == again
    assert first.model != other.model

    def alone(seed: int) -> Any:
        torch.rand(1)
        model = Model.from_module(toys.net())
        structure = traced(model, Inputs.of(toys.X))
        (call,) = stage.calls
        return call(Scope.of(model, structure=structure, seed=seed), Config.of(config))

    assert alone(3) == alone(3)
    assert alone(3).model != alone(4).model


@every
def test_the_count_is_exact_and_what_is_masked_is_zero(stage: Stage, config: Any) -> None:
    result = (one_shot() | stage).run(toys.net(), config, example_inputs=toys.X)
    assert result.masks.apply(result.model) == result.model.params
    named = "1.weight" if config is NORMS else "0.weight"
    removed = result.report.channels if config in (NORMS, HIDDEN) else result.report.elements
    if config == 0.5 and len(removed) > 1 and result.masks["0.weight"].numel() == 8:  # learned factors, over all layers
        assert sum(r.removed for r in result.report.channels.values()) == 6
    else:
        assert removed[named].fraction == 0.5


def test_masks_only_shrink_where_regrowth_is_not_declared() -> None:
    inherited = {"0.weight": torch.arange(48).reshape(8, 6) % 3 > 0}
    for stage in (admm(loss, BATCHES, iterations=3), slim(loss, BATCHES, factors="learned")):
        state = TaskResult.start(toys.net(), 0.5, masks=inherited).next(Goal(0.5))
        result = stage(state)
        assert result.masks.shrinks(state.masks)
        assert not result.model["0.weight"][~inherited["0.weight"]].any()


def test_what_is_masked_is_zero_at_every_step_of_the_users_loop() -> None:
    gone = torch.arange(48).reshape(8, 6) % 3 == 0
    seen = []

    def watched(module: nn.Module) -> None:
        train(module)
        seen.append(bool(module[0].weight[gone].any()))

    state = TaskResult.start(toys.net(), 0.5, masks={"0.weight": ~gone}).next(Goal(0.5))
    admm(train=watched, iterations=2)(state)
    slim(train=watched)(TaskResult.start(toys.net(), NORMS, masks={"0.weight": ~gone}).next(Goal(NORMS)))
    assert seen == [False] * 3


def grown(module: nn.Module, x: Tensor) -> Tensor:
    """Asks for large weights in the first three inputs and small ones elsewhere."""
    return ((module[0].weight[:, :3] - 9).square() + module[0].weight[:, 3:].square()).mean() + 0 * loss(module, x)


def test_what_movement_needs_comes_back_and_is_trained() -> None:
    gone = torch.arange(6).expand(8, 6) >= 3  # keeps what the loss wants to be zero
    state = TaskResult.start(toys.net(), HIDDEN, masks={"0.weight": gone}).next(Goal(HIDDEN))
    fast: Any = lambda params: torch.optim.SGD(params, lr=2.0)  # noqa: E731
    result = movement(grown, BATCHES, epochs=10, optimizer=fast)(state)
    assert not result.masks.shrinks(state.masks)
    assert result.masks["0.weight"][:, :3].all()
    assert not result.masks["0.weight"][:, 3:].any()
    assert (result.model["0.weight"][:, :3] > 4).all()
    assert result.report.elements["0.weight"].removed == 24


def last_rows(module: nn.Module, x: Tensor) -> Tensor:
    """Asks for large weights in the last four rows and small ones elsewhere."""
    return (module[0].weight[4:] - 9).square().mean() + module[0].weight[:4].square().mean() + 0 * loss(module, x)


def test_whole_units_come_back_with_all_that_belongs_to_them() -> None:
    first = (one_shot() | l1(dependency_aware)).run(toys.net(), HIDDEN, example_inputs=toys.X)
    gone = ~first.masks["0.bias"]
    assert gone[4:].any()
    fast: Any = lambda params: torch.optim.SGD(params, lr=2.0)  # noqa: E731
    state = first.next(Goal(HIDDEN))
    result = movement(last_rows, BATCHES, dependency_aware, epochs=10, optimizer=fast)(state)
    kept = torch.arange(8) > 3
    assert torch.equal(result.masks["0.weight"].flatten(), kept)
    assert torch.equal(result.masks["1.weight"], kept)
    assert torch.equal(result.masks["3.weight"].flatten(), kept)
    assert (result.model["0.weight"][4:] > 4).all()


def test_units_that_the_config_does_not_select_stay_masked() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    both = [{"op_names": ["0", "2"], "sparsity": 0.5}]
    first = (one_shot() | l1(dependency_aware)).run(net, both, example_inputs=BATCHES[0])
    second = [{"op_names": ["2"], "sparsity": 0.5}]
    result = movement(loss, BATCHES, dependency_aware)(first.next(Goal(second)))
    assert torch.equal(result.masks["0.bias"], first.masks["0.bias"])
    assert not result.masks["2.weight"][:, ~first.masks["0.bias"]].any()
    assert int(result.masks["2.bias"].sum()) == 3


def test_what_movement_does_not_name_stays_masked() -> None:
    other = {"3.weight": torch.arange(32).reshape(4, 8) % 3 == 0, "0.weight": torch.arange(8)[:, None] > 0}
    state = TaskResult.start(toys.net(), HIDDEN, masks=other, example_inputs=toys.X).next(Goal(HIDDEN))
    result = movement(loss, BATCHES)(state)
    assert torch.equal(result.masks["3.weight"], other["3.weight"])
    assert not result.model["3.weight"][~other["3.weight"]].any()
    rows = movement(loss, BATCHES, dependency_aware)(state)
    assert int((~rows.masks["1.weight"]).sum()) == 4, "rows of the feed-forward layer, with what belongs to them"
    assert not (rows.masks["3.weight"] & ~other["3.weight"])[:, 1:].any(), "single weights of others stay masked"


def test_after_a_compaction_the_rest_comes_back_and_counts_are_of_the_original() -> None:
    config = [{"op_names": ["0"], "sparsity": 0.75}]
    pipeline = agp(2) | movement(loss, BATCHES, dependency_aware, epochs=2) | speed_up()
    results = list(pipeline.stream(toys.net(), config, example_inputs=toys.X))
    assert [r.report.channels["0.weight"].removed for r in results] == [0, 5, 6]
    assert [len(r.model["0.weight"]) for r in results] == [8, 3, 2]
    grid = agp(2) | movement(loss, BATCHES)
    assert [r.report.elements["0.weight"].removed for r in grid.stream(toys.net(), config)] == [0, 31, 36]


def test_admm_composes_with_a_schedule_and_speed_up() -> None:
    config = [{"op_names": ["0"], "sparsity": 0.5}]
    pipeline = agp(2) | admm(loss, BATCHES, dependency_aware, iterations=2, granularity="channel") | speed_up()
    pipeline = pipeline | finetune(toys.train) | evaluate(negative)
    results = list(pipeline.stream(toys.net(), config, example_inputs=toys.X))
    assert [r.report.channels["0.weight"].removed for r in results] == [0, 3, 4]
    assert len(results[-1].model["0.weight"]) == 4
    assert results[-1].report.metrics["admm/residual/2"] > 0


def negative(module: nn.Module) -> float:
    return -float(loss(module, BATCHES[0]))


def test_slim_prunes_units_by_the_norms_that_the_config_selects() -> None:
    result = (one_shot() | slim(loss, BATCHES, dependency_aware) | speed_up()).run(
        toys.net(), NORMS, example_inputs=toys.X
    )
    net = toys.net()
    by_size = net[1].weight.detach().abs().argsort(stable=True)
    assert len(result.model["0.weight"]) == 4
    assert sorted(result.lineage.kept["1.weight"][0].tolist()) == sorted(by_size[4:].tolist())


class Residual(nn.Module):
    """Two layers that meet, of which only one has a norm; and one that is joined to another by `cat`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)
        self.inner, self.joined = nn.BatchNorm2d(4), nn.BatchNorm2d(6)
        self.head = nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.a(x)
        second = first + torch.relu(self.inner(self.b(first)))
        return self.head(torch.relu(self.joined(torch.cat([self.c(second), second], 1))))


def test_the_norm_that_follows_is_found_through_sums_and_joins() -> None:
    net = Residual()
    with torch.no_grad():
        net.inner.weight.copy_(torch.tensor([0.1, 0.9, 0.8, 0.2]))
        net.joined.weight.copy_(torch.tensor([0.7, 0.3, 0.4, 0.6, 0.5, 0.05]))
    images = [torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0))]
    still: Any = lambda params: torch.optim.SGD(params, lr=1e-6)  # noqa: E731

    def kept(name: str) -> list[int]:
        config = [{"op_names": [name], "sparsity": 0.5}]
        masks = slim(loss, images, optimizer=still).masks(Model.from_module(net), config, example_inputs=(images[0],))
        return masks[f"{name}.weight"].flatten().nonzero().flatten().tolist()

    assert kept("b") == [1, 2], "its own norm, and not the one after the sum"
    assert kept("c") == [0], "the first two entries of the norm after the join"
    assert kept("a") == [1, 2], "the last four"


class Between(nn.Module):
    """Outputs that nothing may remove: their labels are equal although the layers are not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(3, 4), nn.Linear(4, 4), nn.LayerNorm(4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.first(x)
        return first, self.norm(self.second(first))


def test_a_norm_behind_another_layer_is_not_the_one_that_follows() -> None:
    model = Model.from_module(Between())
    structure = cast(Structure, traced(model, Inputs.of(torch.ones(2, 3))))
    first, second, _ = model.layers
    assert following(structure, first) is None
    found = following(structure, second)
    assert found is not None
    assert (found.weight, found.index.tolist()) == ("norm.weight", [0, 1, 2, 3])


def test_a_layer_without_a_norm_is_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"no norm with a weight follows '3'.*\nhint: .*factors='learned'"):
        (one_shot() | slim(loss, BATCHES)).run(toys.net(), 0.5, example_inputs=toys.X)
    with pytest.raises(CompositionError, match=r"example_inputs are not given.*\nhint: .*op_types"):
        (one_shot() | slim(loss, BATCHES)).run(toys.net(), HIDDEN)
    frozen = toys.net()
    frozen[1].weight.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"'1\.weight', are frozen"):
        (one_shot() | slim(loss, BATCHES)).run(frozen, NORMS)
    held = toys.net()
    held[0].weight.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"the factors of '0\.weight', '0\.weight', are frozen"):
        (one_shot() | slim(loss, BATCHES, factors="learned")).run(held, 0.5)


def batches_once() -> Iterator[Tensor]:
    yield BATCHES[0]


WRONG: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: slim(), ConfigError, r"neither loss and batches nor train\nhint: slim\(loss, batches\)"),
    (lambda: admm(loss), ConfigTypeError, r"admm: batches"),
    (lambda: admm(None, BATCHES), ConfigTypeError, r"admm: loss: expected a function"),
    (lambda: slim(loss, batches_once()), ConfigTypeError, r"read only once"),
    (lambda: movement(loss, []), ConfigError, r"no batches"),
    (lambda: movement(loss, BATCHES, optimizer=3), ConfigTypeError, r"optimizer: expected a function"),
    (lambda: slim(loss, BATCHES, train=train), ConfigError, r"loss has no effect"),
    (lambda: admm(train=train, epochs=2), ConfigError, r"epochs has no effect"),
    (lambda: admm(train=train, optimizer=torch.optim.Adam), ConfigError, r"optimizer has no effect"),
    (lambda: slim(train=3), ConfigTypeError, r"train: expected a function"),
    (lambda: slim(train=train, factors="learned"), ConfigError, r"learned factors are trained by the built-in loop"),
    (lambda: slim(loss, BATCHES, factors="all"), ConfigError, r"'norm' or 'learned', got 'all'"),
    (lambda: slim(loss, BATCHES, scale=0), ConfigError, r"scale: expected a positive number"),
    (lambda: slim(loss, BATCHES, scale=float("nan")), ConfigError, r"scale"),
    (lambda: admm(loss, BATCHES, rho="big"), ConfigTypeError, r"rho: expected a number"),
    (lambda: admm(loss, BATCHES, iterations=0), ConfigError, r"iterations: expected at least 1"),
    (lambda: admm(loss, BATCHES, epochs=1.5), ConfigTypeError, r"epochs: expected a whole number"),
    (lambda: admm(loss, BATCHES, granularity="head"), ConfigError, r"granularity .*dependency_aware"),
    (lambda: movement(loss, BATCHES, mode="medium"), ConfigError, r"mode 'hard' or 'soft'"),
    (lambda: movement(loss, BATCHES, granularity="row"), ConfigError, r"granularity"),
    (lambda: movement(loss, BATCHES, warm_up=0.6, cool_down=0.4), ConfigError, r"leave nothing"),
    (lambda: movement(loss, BATCHES, warm_up=1), ConfigError, r"warm_up: expected a number in \[0, 1\)"),
    (lambda: movement(loss, BATCHES, tau="low"), ConfigTypeError, r"tau"),
    (lambda: movement(loss, BATCHES, penalty=-1.0), ConfigError, r"penalty"),
    (lambda: movement(loss), CompositionError, r"missing a required argument: 'batches'"),
]


@pytest.mark.parametrize(("write", "error", "message"), WRONG)
def test_what_makes_no_sense_is_refused_when_it_is_written(
    write: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"(?s){message}"):
        write()


def broken(module: nn.Module, x: Tensor) -> Tensor:
    return loss(module, x) * torch.tensor(float("nan"))


def cut(module: nn.Module, x: Tensor) -> Tensor:
    return loss(module, x).detach()


@pytest.mark.parametrize("make", [slim, admm, movement])
def test_a_loss_that_is_no_finite_number_is_refused_by_epoch_and_batch(make: Any) -> None:
    for wrong, message in ((broken, "the loss is nan"), (cut, "the loss does not depend on what trains"), (noisy, "")):
        options = {"factors": "learned"} if make is slim else {}
        stage = make(wrong, BATCHES, **options)
        model = Model.from_module(toys.net())
        if not message:
            assert stage.masks(model, 0.5)
            continue
        with pytest.raises(ScoreError, match=rf"{make!r}, epoch 1 of \d, batch 0: {message}"):
            stage.masks(model, 0.5)
    with pytest.raises(CompositionError, match=r"found only tensors.*\nhint: pass Model.from_module"):
        make(loss, BATCHES).masks(dict(toys.net().named_parameters()), 0.5)


def test_hooks_are_gone_after_an_error() -> None:
    with pytest.raises(FpruneError):
        admm(broken, BATCHES).masks(Model.from_module(toys.net()), 0.5)
    assert not hooks._global_optimizer_pre_hooks
    assert not hooks._global_optimizer_post_hooks


def test_training_that_diverges_or_changes_shapes_is_refused_as_in_finetune() -> None:
    def diverge(module: nn.Module) -> None:
        module[0].weight.data.fill_(float("inf"))

    def widen(module: nn.Module) -> None:
        module[0] = nn.Linear(6, 9)

    for fn, message in (
        (diverge, "non-finite values .* after training"),
        (widen, r"'0\.(weight|bias)' is"),
    ):
        for stage in (admm(train=fn), slim(train=fn)):
            with pytest.raises(StageError, match=message):
                stage.masks(Model.from_module(toys.net()), NORMS)


def test_a_frozen_network_is_refused() -> None:
    frozen = toys.net().requires_grad_(False)
    for stage in (admm(loss, BATCHES), movement(loss, BATCHES)):
        with pytest.raises(FpruneError, match="every parameter is frozen"):
            stage.masks(Model.from_module(frozen), 0.5)


def test_batches_without_a_length_are_counted() -> None:
    class Stream:
        def __iter__(self) -> Iterator[Tensor]:
            return iter(BATCHES)

    model = Model.from_module(toys.net())
    assert movement(loss, Stream()).masks(model, 0.5) == movement(loss, BATCHES).masks(model, 0.5)


def test_a_pipeline_may_hold_several() -> None:
    pipeline = one_shot() | slim(loss, BATCHES) | level() | admm(loss, BATCHES, iterations=2)
    result = pipeline.run(toys.net(), HIDDEN, example_inputs=toys.X)
    assert {"slim/loss", "admm/loss", "admm/residual/2"} <= set(result.metrics)


def test_movement_of_a_scope_leaves_the_scope_alone() -> None:
    masks = Masks({"0.weight": torch.arange(8)[:, None] > 3})
    scope = Scope.of(Model.from_module(toys.net()), masks=masks)
    before = digest(scope.params), digest(scope.masks)
    movement.fn(scope, Config.of(HIDDEN), loss, BATCHES)
    assert before == (digest(scope.params), digest(scope.masks))


def test_l1_before_movement_is_what_training_starts_from() -> None:
    pipeline = one_shot() | l1() | movement(loss, BATCHES, granularity="channel")
    assert pipeline.run(toys.net(), HIDDEN).report.channels["0.weight"].removed == 4
