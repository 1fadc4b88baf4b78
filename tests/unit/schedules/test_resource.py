"""What removed units save: compared with counting the parameters and operations of the compact model."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fprune import Model, count, dependency_aware, l1
from fprune.errors import CompositionError, ConfigError
from fprune.schedules.groups import pools
from fprune.schedules.resource import Kind, Ledger, allocated, ledgers
from fprune.setting import Setting
from tests.unit.schedules.playing import IMAGES, Residual, setting_of
from tests.unit.structure.test_cost import NETS as NETWORKS

torch.manual_seed(0)
NET = Residual()
CONFIG = [{"total_sparsity": 0.3}]
SETTING = Setting.of(NET, CONFIG, example_inputs=(IMAGES,))
MODEL = Model.from_module(NET)


def ledger(kind: Kind) -> Ledger:
    (found,) = ledgers(SETTING, pools(SETTING), kind, "test")
    return found


@given(st.tuples(*(st.integers(0, n - 1) for n in (8, 12, 8))))
def test_savings_are_those_of_the_compact_model(counts: tuple[int, ...]) -> None:
    """All layers are under the rule, so that its operations are those of the model; weights are without biases."""
    operations, weights = ledger("flops"), ledger("params")
    config = allocated(SETTING, [operations], counts)
    masks = l1(dependency_aware).masks(MODEL, config, structure=SETTING.structure)
    dense, compact = count(MODEL, (IMAGES,)), count(MODEL, (IMAGES,), masks)
    assert operations.whole == dense.flops
    assert operations.saved(counts) == dense.flops - compact.flops
    outs = dict(zip(("stem", "inner", "outer"), counts, strict=True))
    fewer_biases = outs["stem"] + outs["inner"] + 2 * outs["outer"]
    assert weights.saved(counts) == dense.params - compact.params - fewer_biases


class Viewed(nn.Module):
    """A weight that is read through a view, and a product that reads none."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 10, bias=False), nn.Linear(10, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x @ self.first.weight.t()
        return self.second((x @ x.t()).softmax(1) @ x)


NETS = {"resnet18": (NETWORKS["resnet18"], 0), "grouped": (NETWORKS["grouped"], 0)}
NETS["viewed"] = ((Viewed, torch.ones(5, 6)), 2 * 2 * 5 * 5)  # two products of five rows, for each channel


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_operations_of_layers_are_those_that_counting_the_smaller_model_finds(name: str, share: float) -> None:
    (make, x), unread = NETS[name]
    model = Model.from_module(make())
    setting = Setting.of(model, [{"total_sparsity": 0.1}], example_inputs=(x,))
    (book,) = ledgers(setting, pools(setting), "flops", "test")
    counts = [int(share * most) for most in book.most]
    masks = l1(dependency_aware).masks(model, allocated(setting, [book], counts), structure=setting.structure)
    fewer = count(model, (x,)).flops - count(model, (x,), masks).flops
    assert book.saved(counts) == fewer - unread * sum(counts)
    assert fewer > 0 or share == 0


def test_units_that_stay_for_the_sake_of_a_multiple_save_nothing() -> None:
    setting = Setting.of(NET, [{"total_sparsity": 0.3, "round_to": 4}], example_inputs=(IMAGES,))
    (book,) = ledgers(setting, pools(setting), "flops", "test")
    for counts in ((3, 3, 3), (5, 6, 7), (4, 8, 4)):
        masks = l1(dependency_aware).masks(MODEL, allocated(setting, [book], counts), structure=setting.structure)
        assert book.saved(counts) == count(MODEL, (IMAGES,)).flops - count(MODEL, (IMAGES,), masks).flops
    assert book.saved((3, 3, 3)) == 0 < book.saved((4, 4, 4))


def test_without_couplings_weights_are_counted() -> None:
    setting = setting_of([10, 20], [{"total_sparsity": 0.5}])
    (book,) = ledgers(setting, pools(setting), "params", "test")
    assert book.need == 15 and book.saved([3, 5]) == 8
    assert book.met([5, 10]) and not book.met([4, 10])
    assert book.least([0, 10], 0, 15) == 5
    assert book.least([0, 0], 0, 15) == book.most[0] == 9


def test_two_rules_have_books_of_their_own_and_know_of_each_other() -> None:
    config = [{"op_names": ["stem", "inner"], "total_sparsity": 0.2}, {"op_names": ["outer", "down"], "sparsity": 0.5}]
    setting = Setting.of(NET, config, example_inputs=(IMAGES,))
    first, second = ledgers(setting, pools(setting), "params", "test")
    assert (first.mine, second.mine) == ((0, 1), (2,))
    assert (first.whole, second.whole) == (72 + 864, 96 + 64)
    assert second.saved([0, 6, 0]) == pytest.approx(48), "half of the inputs of `outer` are gone"
    assert first.saved([0, 6, 0]) == first.saved([0, 6, 7]) == pytest.approx(432)


def test_operations_need_whole_units() -> None:
    with pytest.raises(CompositionError, match="amc: operations are counted where whole units go"):
        ledgers(setting_of([10], CONFIG), pools(setting_of([10], CONFIG)), "flops", "amc")


def test_what_cannot_be_saved_is_refused() -> None:
    caps = {"stem": 0.2, "inner": 0.2, "outer": 0.2, "down": 0.2, "fc": 0.9}
    reachable = {kind: ledger(kind).saved([1, 2, 1]) / ledger(kind).whole for kind in ("params", "flops")}
    for kind, most in reachable.items():
        for total, fits in ((most - 1e-6, True), (most + 1e-6, False)):
            setting = Setting.of(
                NET, [{"total_sparsity": total, "max_sparsity_per_layer": caps}], example_inputs=(IMAGES,)
            )
            if fits:
                ledgers(setting, pools(setting), kind, "test")
                continue
            with pytest.raises(ConfigError, match=f"of the {kind} of its layers is out of reach") as caught:
                ledgers(setting, pools(setting), kind, "test")
            assert f"ask for at most {int(most * 1e4) / 1e4:g}" in caught.value.hint
