"""Nothing of the caller's changes: every public pruner, schedule and stage, with success, failure and bad manners."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fprune
from fprune import Config, Goal, Masks, Model
from fprune.compose import Stage
from fprune.criteria import criterion
from fprune.errors import FpruneError
from fprune.isolation import isolated
from fprune.testing import untouched
from tests.laws import pieces
from tests.laws.faulty import CHANGES, ERRORS, Broken, Fault, Faulty, faults, faulty

pytestmark = pytest.mark.filterwarnings("ignore::fprune.errors.TiedScores")
several = settings(max_examples=max(10, settings.default.max_examples // 10), deadline=None)
every = pytest.mark.parametrize("name", pieces.FACTORIES)
TAKES = [
    (name, option)
    for name in pieces.FACTORIES
    for option in pieces.functions(name)
    if option != "allocation" or len(pieces.functions(name)) == 1  # all pruners ask an allocation in the same way
]
EVERYTHING = Fault(tuple(CHANGES))
modes = st.sampled_from(["grad", "no_grad", "inference", "autocast"])


@pytest.fixture(autouse=True)
def _settings_of_the_process() -> Iterator[None]:
    """What one test lets slip does not fail the next."""
    with isolated():
        yield


def test_every_option_is_known() -> None:
    assert not pieces.unknown(), "give these options in tests/laws/pieces.py, so that the piece joins the laws"


@contextmanager
def called_in(mode: str) -> Iterator[None]:
    """The caller's own mode."""
    entered: Any = {
        "grad": torch.enable_grad,
        "no_grad": torch.no_grad,
        "inference": torch.inference_mode,
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16, enabled=False),
    }[mode]
    with entered():
        yield


class Owned:
    """What a caller owns: a module with gradients and hooks, its optimizer, masks, a config, inputs."""

    def __init__(self) -> None:
        self.net = pieces.network()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)
        for value in self.net.parameters():
            self.optimizer.state[value]["momentum_buffer"] = torch.full_like(value, 0.5)
        self.masks = {name: mask.clone() for name, mask in pieces.KEPT.items()}
        self.config = copy.deepcopy(pieces.CONFIG)
        self.inputs = (pieces.X.clone(),)

    @contextmanager
    def stays(self) -> Iterator[None]:
        state = self.optimizer.state_dict()
        with untouched(self.net, state["state"], state["param_groups"], self.masks, self.config, self.inputs):
            yield

    def run(self, pipeline: Any, **options: Any) -> Any:
        given = {"example_inputs": self.inputs, "masks": self.masks, "seed": 3, **options}
        return pipeline.run(self.net, self.config, **given)


@every
def test_a_run_changes_nothing(name: str) -> None:
    owned = Owned()
    pipeline = pieces.pipeline(name)
    for mode in ("grad", "inference"):
        with called_in(mode), owned.stays():
            owned.run(pipeline)


@every
def test_a_model_and_a_config_are_values(name: str) -> None:
    owned = Owned()
    model, config, masks = Model.from_module(owned.net), Config.of(owned.config), Masks(owned.masks)
    with owned.stays(), untouched(nn.Identity(), model, config, masks):
        stream = pieces.pipeline(name).stream(model, config, example_inputs=owned.inputs, masks=masks)
        first = next(iter(stream))
        kept = copy.deepcopy(first)
        list(pieces.pipeline(name).stream(first))
        assert first == kept, "going on from a result changed it"
        pieces.pipeline(name).explain(model, config, example_inputs=owned.inputs)


def survives(owned: Owned, pipeline: Any, mode: str = "grad", **options: Any) -> BaseException | None:
    """Run a pipeline whose user's functions misbehave; what it raised."""
    raised: list[BaseException] = []
    with called_in(mode), owned.stays():
        try:
            owned.run(pipeline, **options)
        except (FpruneError, KeyboardInterrupt, SystemExit) as error:  # what a function raises is named a stage's
            raised.append(error)
    return raised[0] if raised else None


def with_fault(name: str, option: str, fault: Fault) -> Any:
    return pieces.pipeline(name, **{option: faulty(pieces.functions(name)[option], fault)})


@pytest.mark.parametrize(("name", "option"), TAKES)
@pytest.mark.parametrize(
    "error", [None, Broken, KeyboardInterrupt], ids=lambda error: getattr(error, "__name__", "returns")
)
def test_every_function_may_change_everything(name: str, option: str, error: type[BaseException] | None) -> None:
    raised = survives(Owned(), with_fault(name, option, Fault(tuple(CHANGES), error is not None, error)))
    if error is not None:
        assert isinstance(raised, FpruneError if error is Broken else error)


@given(st.sampled_from(TAKES), faults, modes)
@several
def test_a_function_without_manners_changes_nothing(take: tuple[str, str], fault: Fault, mode: str) -> None:
    survives(Owned(), with_fault(*take, fault), mode)


PRUNERS = [name for name, factory in pieces.FACTORIES.items() if factory.lifts == "pruner"]


def masked(stage: Stage, mode: str = "grad", **given: Any) -> None:
    """Ask a pruner for masks outside a run."""
    owned = Owned()
    with called_in(mode), owned.stays():
        model = Model.from_module(owned.net)
        with untouched(nn.Identity(), model), suppress(Exception, KeyboardInterrupt, SystemExit):
            stage.masks(model, owned.config, example_inputs=owned.inputs, masks=Masks(owned.masks), **given)


@pytest.mark.parametrize("name", PRUNERS)
def test_the_pure_function_of_a_pruner_changes_nothing(name: str) -> None:
    for option, function in pieces.functions(name).items():
        masked(pieces.made(name, **{option: faulty(function, EVERYTHING)}))


@given(st.sampled_from(PRUNERS), faults, modes, st.data())
@several
def test_the_pure_function_of_a_pruner_bears_bad_manners(
    name: str, fault: Fault, mode: str, data: st.DataObject
) -> None:
    option = data.draw(st.sampled_from(sorted(pieces.functions(name))))
    masked(pieces.made(name, **{option: faulty(pieces.functions(name)[option], fault)}), mode)


# What users lift themselves, and functions that are no stages.


def lifted(kind: str, fault: Fault) -> Any:
    """A pipeline with a lifted function that has a fault."""
    if kind == "pruner":
        wrong = Faulty(lambda params, config: fprune.l1().masks(params, config), fault)

        @fprune.pruner
        def pruning(params: Any, config: Config) -> Any:
            return wrong(params, config)

        return fprune.linear(1) | pruning()
    if kind == "stage":
        wrong = Faulty(lambda result: result, fault)

        @fprune.stage
        def staging(result: Any) -> Any:
            return wrong(result)

        return fprune.linear(1) | fprune.l1() | staging()
    if kind == "criterion":
        wrong = Faulty(lambda rows: rows.abs().sum(dim=1), fault)

        @criterion(grain="channel")
        def scoring(rows: Tensor) -> Tensor:
            return wrong(rows)

        @fprune.pruner
        def scored(params: Any, config: Config) -> Any:
            return fprune.per_layer(scoring(), params, config)

        return fprune.linear(1) | scored()
    wrong = Faulty(lambda value: value, fault)
    if kind == "schedule":

        @fprune.schedule
        def planning(target: Config) -> Iterator[Goal]:
            report = yield Goal(target.scaled(0.5))
            yield wrong(Goal(target, final=report is not None))

        return planning() | fprune.l1()
    return fprune.linear(2).until(lambda report: bool(wrong(False))) | fprune.l1()


KINDS = ("pruner", "stage", "criterion", "schedule", "until")


@given(st.sampled_from(KINDS), faults, modes)
@example("pruner", EVERYTHING, "grad")
@example("stage", EVERYTHING, "grad")
@example("criterion", EVERYTHING, "grad")
@example("schedule", EVERYTHING, "grad")
@example("until", EVERYTHING, "grad")
@several
def test_lifted_functions_without_manners_change_nothing(kind: str, fault: Fault, mode: str) -> None:
    survives(Owned(), lifted(kind, fault), mode)
    if kind in ("pruner", "criterion"):
        masked(lifted(kind, fault).stage, mode)


@given(faults)
@example(EVERYTHING)
@several
def test_the_function_that_ranks_results_changes_nothing(fault: Fault) -> None:
    owned, best = Owned(), Faulty(lambda report: report.sparsity, fault)
    with owned.stays(), suppress(FpruneError, *ERRORS):
        owned.run(fprune.linear(2) | fprune.l1(), best=best)


class Rude(nn.Linear):
    """A layer whose forward pass misbehaves."""

    fault = Fault()

    def forward(self, input: Tensor) -> Tensor:
        Faulty(lambda: None, self.fault)()
        return super().forward(input)


RUNS = ("taylor", "apoz", "synflow", "speed_up", "finetune", "slim", "amc")


# A default device is a mode of torch's, and one that is set in the middle of another mode (tracing is one) stays.
BEARABLE = tuple(change for change in CHANGES if change != "set_default_device")


@given(st.sampled_from(RUNS), faults.filter(lambda fault: "set_default_device" not in fault.changes))
@example("speed_up", Fault(BEARABLE))
@several
def test_a_forward_pass_without_manners_changes_nothing(name: str, fault: Fault) -> None:
    owned = Owned()
    rude = Rude(6, 4)
    rude.load_state_dict(owned.net[6].state_dict())
    rude.fault = fault
    owned.net[6] = rude
    owned.optimizer = torch.optim.SGD(owned.net.parameters(), lr=0.1)
    survives(owned, pieces.pipeline(name))


def test_a_stream_that_is_left_in_the_middle_changes_nothing() -> None:
    owned = Owned()
    with owned.stays():
        rounds = iter((fprune.agp(3) | fprune.l1() | fprune.finetune(pieces.train)).stream(owned.net, owned.config))
        next(rounds)
        next(rounds)
        del rounds
