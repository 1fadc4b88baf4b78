"""The stage: a smaller model in the record, with the lineage, the masks that are left, and notes."""

import pytest
import torch
from torch import nn

from fprune import Masks, dependency_aware, l1, level, linear, one_shot, per_layer, speed_up, verify
from fprune.errors import StageError, StructureError
from fprune.structure import trace
from fprune.tree import same
from tests.unit.allocate.test_axes import X, residual
from tests.unit.allocate.test_dependency_aware import CONVS, seeded
from tests.unit.structure.test_compact import IMAGE, Literal
from tests.unit.structure.test_rewrite import families

INPUTS = (X.double(),)
START = one_shot() | l1(dependency_aware)


def masked(config: object = CONVS, **known: object) -> object:
    return START.run(seeded(residual(), 6).double(), config, example_inputs=INPUTS, **known)  # type: ignore[arg-type]


def test_the_record_after_a_speed_up() -> None:
    before = masked()
    after = speed_up()(before)
    assert after.model["conv1.weight"].shape == (4, 3, 3, 3) and not after.masks
    assert after.lineage.masks == before.masks and not after.notes
    assert after.report == before.report and after.score is before.score
    other = torch.randn(3, 3, 6, 6, dtype=torch.float64)
    assert max(verify(before.model, after.model, (other,))) < 1e-12
    assert families(after.structure) == families(trace(after.model, INPUTS))


def test_the_lineage_names_the_original_indices() -> None:
    before = masked()
    after = speed_up()(before)
    alive = before.masks["conv1.bias"].nonzero().flatten()
    assert torch.equal(after.lineage.kept["conv1.bias"][0], alive)
    assert same(dict(after.lineage.slice(before.model)), dict(after.model))
    assert after.lineage.expand_masks(Masks()) == before.masks & after.lineage.expand_masks(Masks())


def test_a_second_speed_up_changes_nothing() -> None:
    once = speed_up()(masked())
    assert speed_up()(once) == once


def test_in_several_rounds() -> None:
    config = [{"op_types": ["Conv2d"], "sparsity": 0.75}]
    net = seeded(residual(), 6).double()
    each = linear(3) | l1(dependency_aware) | speed_up()
    for result in each.stream(net, config, example_inputs=INPUTS):
        sizes = {name: tuple(value.shape) for name, value in result.model.items()}
        assert all(result.lineage.compact_shape(name) == shape for name, shape in sizes.items())
        fraction = 0.75 * (result.index / 3 if result.index else 0)
        assert result.lineage.shapes["conv1.weight"][0] == 8
        assert 8 - sizes["conv1.weight"][0] >= int(fraction * 8) - 1
        assert families(result.structure) == families(trace(result.model, INPUTS))
    assert sizes["conv1.weight"][0] == 2 and sizes["conv2.weight"][0] == 2  # 6 - floor(0.75 * 6)
    direct = (one_shot() | l1(dependency_aware) | speed_up()).run(net, config, example_inputs=INPUTS)
    assert sizes == {name: tuple(value.shape) for name, value in direct.model.items()}


def test_what_has_to_stay_is_noted() -> None:
    """Filters without their biases: a constant meets a padded convolution."""
    net = seeded(residual(), 6).double()
    with torch.no_grad():
        net.conv2.bias.fill_(1)
    result = (one_shot() | l1(per_layer) | tap_unbiased() | speed_up()).run(
        net, [{"op_names": ["conv2"], "sparsity": 0.5}], example_inputs=INPUTS
    )
    (note,) = result.notes
    assert note.startswith("conv2.weight: 1 kept: it stands in for the constants that enter conv2d in conv3")
    assert result.model["conv2.weight"].shape[0] == 4  # 6, less 3 masked, and one for all three constants
    masked = result.origin.replace(result.lineage.masks.apply(result.origin))
    assert max(verify(masked, result.model, INPUTS)) < 1e-12


def tap_unbiased() -> object:
    from fprune import TaskResult, stage

    @stage(gives=("masks",))
    def unbiased(result: TaskResult) -> TaskResult:
        """Only the weights stay masked."""
        masks = result.masks.without(["conv2.bias"])
        return result.replace(model=result.origin.replace(masks.apply(result.origin)), masks=masks)

    return unbiased()


def test_masks_that_are_no_units_stay() -> None:
    result = (one_shot() | level() | speed_up()).run(seeded(residual(), 6).double(), 0.5, example_inputs=INPUTS)
    assert result.masks and result.model["conv1.weight"].shape[0] in (7, 8)


def test_a_style_is_passed_on() -> None:
    net = Literal().double().eval()
    config = [{"op_names": ["a"], "sparsity": 0.5}]
    pipeline = one_shot() | l1(dependency_aware)
    graph = (pipeline | speed_up()).run(net, config, example_inputs=(IMAGE,))
    assert type(graph.model.to_module()) is not Literal
    with pytest.raises(StructureError, match="style 'module'"):
        (pipeline | speed_up(style="module")).run(net, config, example_inputs=(IMAGE,))
    with pytest.raises(StructureError, match="style='both'"):
        (pipeline | speed_up(style="both")).run(net, config, example_inputs=(IMAGE,))


def test_repr_and_needs() -> None:
    assert repr(speed_up()) == "speed_up()" and repr(speed_up(style="graph")) == "speed_up(style='graph')"
    assert {"masks", "structure"} <= speed_up().needs


def test_a_structure_of_another_kind_is_refused() -> None:
    result = masked()
    with pytest.raises(StageError, match=r"expected a fprune.structure.Structure, found str"):
        speed_up()(result.replace(structure="of sand"))


def test_the_callers_module_is_left_alone() -> None:
    net = seeded(residual(), 6).double()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    speed_up()(START.run(net, CONVS, example_inputs=INPUTS))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert isinstance(net.conv1, nn.Conv2d) and net.conv1.out_channels == 8
