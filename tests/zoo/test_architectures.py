"""The architectures people prune: every chosen unit gone or refused by name, compact equal to masked.

`pytest -m slow tests/zoo/test_architectures.py` runs all of them and ends with a table; `tests/zoo/architectures.py`
has the list.
"""

import random
from collections.abc import Iterator

import attrs
import pytest
import torch
from torch import Tensor

from fprune import Masks, Model
from fprune.structure import Compacted, Structure, bisimulate, compact, trace
from fprune.structure.compact import DECIDED
from fprune.structure.outputs import leaves
from fprune.structure.trials import Trial
from fprune.structure.verify import difference
from fprune.tables import text_table
from tests.zoo.architectures import ARCHITECTURES, FAST, Architecture

pytestmark = pytest.mark.filterwarnings("ignore")  # other people's models warn about what they like


@attrs.frozen(eq=False)
class Outcome:
    """One model after surgery."""

    model: Model
    masks: Masks
    structure: Structure
    done: Compacted
    chosen: int
    difference: float

    def row(self, name: str) -> list[str]:
        """A line of the table."""
        report, gone = self.done.report, sum(self.done.report.removed.values())
        kept = sum(p.numel() for p in self.done.model.params.values()) / self.model.num_params
        forms = f"{len(report.replaced)} replaced" if report.replaced else ""
        return [name, report.style, forms, f"{gone} of {self.chosen}", f"{kept:.2f}", f"{self.difference:.1e}"]


def unit_masks(model: Model, structure: Structure, ratio: float, dims: tuple[int, ...] | None) -> tuple[Masks, int]:
    """Masks of a share of every family: everything a unit owns, or its slices along some dimensions only."""
    drawn, masks, chosen = random.Random(0), dict[str, Tensor](), 0
    for family in structure.families:
        count = int(len(family) * ratio)
        parts = [part for part in family.slices if part.tensor in model]
        if not count or not parts:
            continue
        units, chosen = drawn.sample(range(len(family)), count), chosen + count
        for part in parts:
            shape = model[part.tensor].shape
            if dims is None or (len(shape) > 1 and part.dim in dims):
                mask = masks.setdefault(part.tensor, torch.ones(shape, dtype=torch.bool))
                mask.index_fill_(part.dim, torch.from_numpy(part.index[units].reshape(-1)), False)
    return Masks(masks), chosen


def random_filters(model: Model) -> Masks:
    """A third of the rows of every weight, whatever they are coupled to."""
    drawn = torch.Generator().manual_seed(0)
    weights = {name: value for name, value in model.items() if value.ndim > 1 and len(value) > 2}
    kept = {name: torch.rand(len(value), generator=drawn) > 1 / 3 for name, value in weights.items()}
    return Masks({name: alive.view(-1, *[1] * (weights[name].ndim - 1)) for name, alive in kept.items()})


def operated(architecture: Architecture, ratio: float = 0.5, kind: str = "units") -> Outcome:
    """Trace, mask and compact a model, and compare it with the masked one in float64."""
    net, given = architecture.made()
    model = Model.from_module(net)
    structure = trace(model, given)
    masks, chosen = unit_masks(model, structure, ratio, {"units": None, "rows": (0,), "columns": (1,)}.get(kind))
    masks = random_filters(model) if kind == "filters" else masks
    done = compact(model, masks, structure)
    trial, masked = Trial("in double", given, wide=True), model.replace(masks.apply(model))
    expected, found = (leaves(trial.returned(m)) for m in (masked, done.model))
    gap = max(difference(a, b) for a, b in zip(expected, found, strict=True))
    if DECIDED in done.report.trials:  # equal scores, whose order is a matter of rounding
        gap = max(
            (call.gap for call in bisimulate(model, masks, structure, tolerance=1e-12, decided=True)), default=0.0
        )
    return Outcome(model, masks, structure, done, chosen, gap)


@pytest.mark.parametrize("ratio", [0.12, 0.5, 0.75])
@pytest.mark.parametrize("name", FAST)
def test_units(name: str, ratio: float) -> None:
    outcome = operated(ARCHITECTURES[name], ratio)
    report = outcome.done.report
    assert outcome.difference < 1e-12
    assert sum(report.removed.values()) == outcome.chosen and not report.refused
    assert report.style == "module" and outcome.done.model.ties == outcome.model.ties


@pytest.mark.parametrize("kind", ["rows", "columns", "filters"])
@pytest.mark.parametrize("name", FAST)
def test_masks_that_are_not_whole_units(name: str, kind: str) -> None:
    assert operated(ARCHITECTURES[name], kind=kind).difference < 1e-12


def test_a_detector_whose_scores_are_tied() -> None:
    outcome = operated(ARCHITECTURES["torchvision/ssdlite320_mobilenet_v3_large"])
    assert outcome.difference < 1e-12 and sum(outcome.done.report.removed.values()) == outcome.chosen


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[list[str]]]:
    """Rows of the table that the slow tests end with."""
    rows: list[list[str]] = []
    yield rows
    if rows:
        reporter = request.config.pluginmanager.get_plugin("terminalreporter")
        reporter.write_line("")
        reporter.write_line(text_table(["model", "style", "", "removed", "parameters left", "difference"], rows))
        module = sum(row[1] == "module" for row in rows)
        reporter.write_line(f"{len(rows)} models, {module} in their own class")


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_whole_zoo(name: str, table: list[list[str]]) -> None:
    outcome = operated(ARCHITECTURES[name])
    table.append(outcome.row(name))
    report = outcome.done.report
    assert outcome.difference < 1e-12
    lost = sum(int(why.split()[0]) for why in report.refused.values())
    assert sum(report.removed.values()) + lost == outcome.chosen > 0
