"""`reset_weight` goes back to the first weights and keeps what is pruned, also after compaction."""

import attrs
import pytest
import torch
from torch import nn

from fprune.compose import stage
from fprune.errors import StageError
from fprune.lineage import Lineage
from fprune.masks import Masks
from fprune.model import Model
from fprune.records import Goal, TaskResult
from fprune.schedules import lottery
from fprune.stages import finetune, reset_weight, speed_up
from fprune.tree import Flat, same
from tests.unit import toys
from tests.unit.toys import rows, smallest, train


def test_weights_and_statistics_are_those_of_the_origin() -> None:
    start = TaskResult.start(toys.net(), 0.5).next(Goal(0.5))
    assert (finetune(train) | reset_weight())(start).model == start.model


def test_masks_stay_applied() -> None:
    results = list((lottery(3) | finetune(train) | smallest() | reset_weight()).stream(toys.net(), 0.7))
    origin = Model.from_module(toys.net())
    for result in results:
        assert result.model.params == result.masks.apply(origin)
        assert result.model.buffers == origin.buffers
    assert results[-1].report.sparsity > results[0].report.sparsity


def test_flags_stay() -> None:
    net = toys.net().eval()
    net[0].weight.requires_grad_(False)
    module = (finetune(train) | reset_weight())(TaskResult.start(net, 0.5)).module()
    assert not module.training
    assert not module[0].weight.requires_grad  # type: ignore[index]


@stage
def slicing(result: TaskResult) -> TaskResult:
    """A compaction by hand: the last three hidden units are masked with all that belongs to them, and dropped."""
    smaller = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4))
    index = torch.arange(5)
    names = ["0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"]
    kept = Flat({"0.weight": (index, None), "3.weight": (None, index), **dict.fromkeys(names, (index,))})
    alive = torch.arange(8) < 5
    masks = {"0.weight": alive[:, None], "3.weight": alive[None], **dict.fromkeys(names[:3], alive)}
    lineage = Lineage(result.lineage.shapes, kept, Masks(masks), result.lineage.buffers)
    return result.replace(model=Model.from_module(smaller), lineage=lineage, masks=Masks({}))


def test_a_compact_model_gets_its_slices_of_the_origin() -> None:
    net = toys.net()
    result = (finetune(train) | slicing() | reset_weight())(TaskResult.start(net, 0.5))
    assert torch.equal(result.model["0.weight"], net[0].weight[:5])
    assert torch.equal(result.model["3.weight"], net[3].weight[:, :5])
    assert torch.equal(result.model["3.bias"], net[3].bias)
    assert result.model.buffers["1.running_var"].shape == (5,)


def net() -> nn.Sequential:
    """Biases and statistics that leave constants to fold when a hidden unit goes."""
    made = toys.net().eval()
    made[1].running_mean.copy_(torch.arange(8.0) - 4)
    return made


def test_a_model_with_folded_constants_is_compacted_anew() -> None:
    config = [{"op_names": ["0"], "sparsity": 0.5}]
    word = finetune(train) | rows() | speed_up() | reset_weight()
    results = list((lottery(2) | word).stream(net(), config, example_inputs=toys.X))
    origin = Model.from_module(net())
    for result, hidden in zip(results, (6, 4), strict=True):
        masks = result.lineage.masks
        assert not result.masks
        assert result.model["0.weight"].shape == (hidden, 6)
        assert result.report.channels["0.weight"].removed == 8 - hidden
        masked = origin.replace(params=masks.apply(origin))
        assert torch.allclose(result.model(toys.X), masked(toys.X), atol=1e-5)
    pipeline = lottery(2) | word
    assert list(pipeline.stream(results[0])) == results[1:]


def test_reset_before_compaction_and_after_agree() -> None:
    config = [{"op_names": ["0"], "sparsity": 0.5}]
    early = finetune(train) | rows() | reset_weight() | speed_up()
    late = finetune(train) | rows() | speed_up() | reset_weight()
    one, other = ((lottery(1) | word).run(net(), config, example_inputs=toys.X) for word in (early, late))
    assert same(one.lineage.kept, other.lineage.kept)
    assert torch.allclose(one.model(toys.X), other.model(toys.X), atol=1e-5)


def test_constants_without_example_inputs_are_refused() -> None:
    state = TaskResult.start(net(), [{"op_names": ["0"], "sparsity": 0.5}], example_inputs=toys.X)
    compact = (rows() | speed_up())(state.next(Goal(state.task.target)))
    assert compact.lineage.folded
    task = attrs.evolve(compact.task, example_inputs=None, origin_structure=None)
    with pytest.raises(StageError, match=r"folded constants.*\nhint: .*example_inputs"):
        reset_weight()(compact.replace(task=task))


def test_element_masks_of_a_compact_model_stay() -> None:
    """Rows are compacted away, then single elements of what is left are masked, then the weights are reset."""
    config = [{"op_names": ["0"], "sparsity": 0.25}]
    last = Masks({"3.weight": torch.arange(24).reshape(4, 6) % 5 > 0})

    @stage
    def prune_last(result: TaskResult) -> TaskResult:
        params = last.apply({"3.weight": result.model["3.weight"]})
        return result.replace(masks=result.masks & last, model=result.model.replace(params=params))

    state = TaskResult.start(net(), config, example_inputs=toys.X)
    result = (rows() | speed_up() | prune_last() | reset_weight())(state.next(Goal(config)))
    assert result.masks == last
    assert result.model.params == last.apply(result.model.params)
    origin = Model.from_module(net())
    whole = torch.ones(4, 8, dtype=torch.bool)
    whole[:, result.lineage.kept["0.weight"][0]] = last["3.weight"]
    masked = origin.replace(params=(result.lineage.masks & Masks({"3.weight": whole})).apply(origin))
    assert torch.allclose(result.model(toys.X), masked(toys.X), atol=1e-4)
