"""Bad inputs and faults in schedules and stages: an error before anything expensive, with the name and a way out."""

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from fprune.compose import schedule
from fprune.config import Config
from fprune.errors import ConfigError, DivergenceError, FpruneError, ScheduleError, StageError
from fprune.masks import Masks
from fprune.records import Goal, TaskResult
from fprune.schedules import agp, linear, lottery, one_shot
from fprune.stages import evaluate, finetune, speed_up
from tests.unit import toys
from tests.unit.test_run import Memory
from tests.unit.toys import rows, smallest, steps, train

trained: list[int] = []


def counting(module: nn.Module) -> None:
    """Training that says it happened."""
    trained.append(1)
    train(module)


@pytest.fixture(autouse=True)
def _count_from_zero() -> None:
    trained.clear()


def start(**options: Any) -> TaskResult:
    return TaskResult.start(toys.net(), 0.5, **options).next(Goal(0.5))


@pytest.mark.parametrize("make", [agp, linear, lottery])
@pytest.mark.parametrize("rounds", [0, -3, 2.5, "2", None, True])
def test_row_13_a_schedule_without_a_whole_number_of_rounds(make: Callable[[Any], Any], rounds: Any) -> None:
    with pytest.raises(ConfigError, match="rounds: expected") as e:
        make(rounds)
    assert e.value.hint


def test_row_14_more_at_the_start_than_at_the_end() -> None:
    pipeline = steps(0.9, 0.6) | finetune(counting) | smallest()
    with pytest.raises(ScheduleError, match=r'goal 1: asks for sparsity 0\.48 after 0\.72.*\nhint: .*start="origin"'):
        pipeline.run(toys.net(), 0.8)
    assert not trained


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ((0.2, 0.5, 0.4), r"goal 2: asks for sparsity 0\.32 after 0\.4"),
        ((0.5, 1.2), r"expected a factor in \[0, 1\], got 1\.2"),
        ((0.5, float("nan")), r"expected a factor in \[0, 1\], got nan"),
        ((0.5, -0.1), r"expected a factor in \[0, 1\], got -0\.1"),
    ],
)
def test_row_15_a_schedule_that_falls_or_leaves_the_range(fractions: tuple[float, ...], message: str) -> None:
    pipeline = steps(*fractions) | finetune(counting) | smallest()
    for ask in (pipeline.stream, pipeline.run, pipeline.explain):
        with pytest.raises(FpruneError, match=message) as e:
            ask(toys.net(), 0.8)
        assert "goal" in str(e.value) + str(getattr(e.value, "__notes__", ""))
        assert e.value.hint
    assert not trained


def test_row_15_a_schedule_that_falls_on_purpose() -> None:
    results = list((steps(1.0, 0.5, start="origin") | smallest()).stream(toys.net(), 0.8))
    assert results[1].report.sparsity < results[0].report.sparsity


def test_row_15_a_schedule_that_falls_on_what_it_reads() -> None:
    @schedule
    def regret(target: Config) -> Iterator[Goal]:
        report = yield Goal(target)  # type: ignore[misc]
        yield Goal(target.scaled(0.5 if report.score < 1 else 1.0))

    pipeline = regret() | finetune(counting) | smallest() | evaluate(lambda module: 0.0)
    stream = iter(pipeline.stream(toys.net(), 0.8))
    next(stream)
    with pytest.raises(ScheduleError, match=r"regret\(\).*goal 1: asks for sparsity 0\.4 after 0\.8"):
        next(stream)
    assert len(trained) == 1


def test_row_38_example_inputs_of_a_wrong_shape() -> None:
    pipeline = one_shot() | finetune(counting) | rows() | speed_up()
    with pytest.raises(FpruneError) as e:
        pipeline.run(toys.net(), [{"op_names": ["0"], "sparsity": 0.5}], example_inputs=torch.zeros(2, 5))
    assert "(2, 5)" in str(e.value)
    assert e.value.__notes__ == ["in round 0, tracing the model"]
    assert not trained, "the model is traced before anything trains"


def test_row_39_a_function_that_raises() -> None:
    def broken(module: nn.Module) -> float:
        raise FileNotFoundError("no validation set")

    for stage in (evaluate(broken), finetune(broken)):
        pipeline = agp(2) | smallest() | stage
        with pytest.raises(StageError, match=r"round 0, \w+\(broken\): FileNotFoundError: no validation set") as e:
            pipeline.run(toys.net(), 0.5)
        assert isinstance(e.value.__cause__, FileNotFoundError)
        assert "pipeline.stream(result)" in e.value.hint


def test_row_39_a_failed_round_is_not_committed_and_can_be_resumed() -> None:
    store = Memory()
    fails = [False, True]

    def flaky(module: nn.Module) -> float:
        if fails and fails.pop(0):
            raise OSError("gone")
        return 1.0

    pipeline = agp(2) | smallest() | finetune(train) | evaluate(flaky)
    with pytest.raises(StageError, match="round 1"):
        pipeline.run(toys.net(), 0.5, store=store)
    assert [r.index for r in store.kept] == [0]
    pipeline.run(toys.net(), 0.5, store=store)
    assert store.kept == list(pipeline.stream(toys.net(), 0.5))


@pytest.mark.parametrize("value", [float("nan"), None, torch.tensor(0.5), "0.5", True, float("inf")])
def test_row_40_an_evaluation_that_is_no_number(value: Any) -> None:
    with pytest.raises(StageError, match=r"expected a (finite )?number") as e:
        (one_shot() | smallest() | evaluate(lambda module: value)).run(toys.net(), 0.5)
    assert e.value.__notes__ == ["in round 0, evaluate(<lambda>)"]
    assert e.value.hint


def test_row_40_nan_is_a_round_without_a_score_where_the_user_says_so() -> None:
    given = iter([0.5, float("nan"), float("nan")])
    pipeline = agp(2) | smallest() | evaluate(lambda module: next(given), nan="record")
    results = list(pipeline.stream(toys.net(), 0.5))
    assert [result.score for result in results] == [0.5, None, None]
    assert results[1].report.notes[0] == "<lambda> returned nan: no score"
    assert "score" not in results[1].metrics


def test_row_40_nan_recorded_is_never_the_best() -> None:
    @schedule
    def twice_final(target: Config) -> Iterator[Goal]:
        yield Goal(target, start="origin", final=True)
        yield Goal(target, start="origin", final=True)

    for scores in ([0.25, float("nan")], [float("nan"), 0.25]):
        given = iter(scores)
        found = (twice_final() | smallest() | evaluate(lambda module, of=given: next(of), nan="record")).run(
            toys.net(), 0.5
        )
        assert found.score == 0.25


@pytest.mark.parametrize("value", [None, torch.tensor(float("nan")), "nan", float("inf")])
def test_row_40_recording_nan_accepts_nothing_else(value: Any) -> None:
    with pytest.raises(StageError, match=r"expected a (finite )?number"):
        evaluate(lambda module: value, nan="record")(start())


def test_rows_40_and_41_options_that_do_not_exist() -> None:
    with pytest.raises(ConfigError, match=r"evaluate: nan: expected 'refuse' or 'record', got 'recrod'") as e:
        evaluate(toys.score, nan="recrod")  # type: ignore[arg-type]
    assert e.value.hint == "Did you mean 'record'?"
    with pytest.raises(ConfigError, match=r"finetune: on_diverge: expected 'refuse' or 'rollback', got None") as e:
        finetune(train, on_diverge=None)  # type: ignore[arg-type]
    assert e.value.hint


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_row_41_training_that_diverges(bad: float) -> None:
    def diverge(module: Any) -> None:
        with torch.no_grad():
            module[0].weight[1, 2:5] = bad

    with pytest.raises(StageError, match=r"'0\.weight' has 3 non-finite values \(first at \[1,2\]\) after training"):
        finetune(diverge)(start())


def test_row_41_statistics_that_diverge() -> None:
    def diverge(module: nn.Module) -> None:
        module.train()(torch.full((5, 6), float("inf")))

    with pytest.raises(StageError, match=r"'1\.running_mean' has 8 non-finite values"):
        finetune(diverge)(start())


def test_row_41_a_diverged_round_is_not_committed_and_the_run_goes_on_from_the_one_before() -> None:
    store, diverging = Memory(), [False, True]

    def unsteady(module: Any) -> None:
        train(module)
        if diverging and diverging.pop(0):
            with torch.no_grad():
                module[3].bias[0] = float("nan")

    pipeline = agp(2) | smallest() | finetune(unsteady)
    with pytest.raises(
        DivergenceError, match=r"'3\.bias' has 1 non-finite value \(first at \[0\]\) after training"
    ) as e:
        pipeline.run(toys.net(), 0.5, store=store)
    assert e.value.__notes__ == ["in round 1, finetune(unsteady)"]
    assert [r.index for r in store.kept] == [0]
    pipeline.run(toys.net(), 0.5, store=store)
    assert store.kept == list(pipeline.stream(toys.net(), 0.5))


def test_row_41_a_rollback_goes_on_without_the_training() -> None:
    def diverge(module: Any) -> dict[str, float]:
        with torch.no_grad():
            module[0].weight[1, 2:5] = float("nan")
        return {"loss": float("nan")}

    before = start()
    after = finetune(diverge, on_diverge="rollback")(before)
    assert after.model == before.model
    assert after.metrics == before.metrics
    assert after.notes == (
        "diverge diverged and was rolled back: '0.weight' has 3 non-finite values (first at [1,2]) after training, "
        "and had none before",
    )
    pipeline = agp(2) | smallest() | finetune(diverge, on_diverge="rollback") | finetune(train)
    reference = agp(2) | smallest() | finetune(lambda module: None) | finetune(train)
    for found, expected in zip(pipeline.stream(toys.net(), 0.5), reference.stream(toys.net(), 0.5), strict=True):
        assert (found.model, found.masks) == (expected.model, expected.masks)
        assert "was rolled back" in found.notes[0]


def test_row_41_only_divergence_is_rolled_back() -> None:
    with pytest.raises(StageError, match=r"'3\.weight' is float32\[4, 7\]"):
        finetune(resize, on_diverge="rollback")(start())


def resize(module: Any) -> None:
    module[3].weight = nn.Parameter(torch.ones(4, 7))


def drop(module: Any) -> None:
    del module[3].bias
    module[3].register_parameter("bias", None)


def add(module: Any) -> None:
    module[3].register_buffer("extra", torch.zeros(1))


def cast(module: Any) -> None:
    module.half()


def parametrize(module: Any) -> None:
    nn.utils.parametrizations.weight_norm(module[3])


def regrow(module: Any) -> None:
    with torch.no_grad():
        module[0].weight[0, 1] = 2.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (resize, r"'3\.weight' is float32\[4, 7\], expected float32\[4, 8\]"),
        (drop, r"'3\.bias' is gone"),
        (add, r"'3\.extra' was not there before"),
        (cast, r"'0\.bias' is float16\[8\], expected float32\[8\]"),
        (parametrize, r"'3\.parametrizations\.weight\.original0' was not there before"),
        (regrow, r"'0\.weight' has 1 pruned weights that are not zero \(first at \(0, 1\)\)\nhint: .*torch\.optim"),
    ],
)
def test_row_42_training_that_changes_the_model(change: Callable[[Any], None], message: str) -> None:
    masks = Masks({"0.weight": torch.arange(8)[:, None] > 0})
    with pytest.raises(StageError, match=message) as e:
        finetune(change)(start(masks=masks))
    assert e.value.hint
    assert e.value.__notes__ == [f"in round 0, finetune({change.__name__})"]


def test_row_42_a_model_returned_in_place_of_the_given_one() -> None:
    with pytest.raises(StageError, match="returned another module than it was given"):
        finetune(lambda module: toys.net(1))(start())


def test_row_43_training_that_works_in_place() -> None:
    def vandal(module: Any) -> None:
        with torch.no_grad():
            for tensor in [*module.parameters(), *module.buffers()]:
                tensor.zero_()
        module.eval().requires_grad_(False)

    def saved(net: nn.Module) -> bytes:
        file = io.BytesIO()
        torch.save(net.state_dict(), file)
        return file.getvalue()

    net = toys.net()
    before = saved(net), [t._version for t in net.state_dict().values()]
    (one_shot() | smallest() | finetune(vandal)).run(net, 0.5)
    assert (saved(net), [t._version for t in net.state_dict().values()]) == before
    assert net.training
    assert net[0].weight.requires_grad
