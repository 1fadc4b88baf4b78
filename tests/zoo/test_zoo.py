"""Every structure, pruned at 50 % through the public pipeline: exact, of the size asked for, and still a module."""

import pytest
import torch
from torch import nn

from fprune import dependency_aware, l1, one_shot, speed_up
from fprune.tree import same
from tests.zoo.case import answer, difference
from tests.zoo.models import BY_NAME, CASES
from tests.zoo.support import disagreement, pruned, snapshot, tensors_of, traced, wrong_counts

every = pytest.mark.parametrize("name", [case.name for case in CASES])


@every
def test_compact_computes_what_the_masked_model_computes(name: str):
    made = pruned(name)
    assert disagreement(made.case, made.masked.model, made.compact.module()) == {}


@every
def test_the_masks_matter(name: str):
    made = pruned(name)
    with torch.no_grad():
        dense, masked = (answer(m, made.case.inputs()) for m in (made.net, made.masked.model))
    assert difference(dense, masked) > 1e-3
    assert all(tensor.std() > 1e-6 for tensor in masked), "a constant answer would make exactness trivial"


@every
def test_exactly_the_requested_units_are_gone(name: str):
    made = pruned(name)
    assert wrong_counts(made.case, made.compact.module(), traced(name).selected(), 0.5) == {}


@every
def test_one_pipeline_is_the_same_as_two_steps(name: str):
    made = pruned(name)
    pipeline = one_shot() | l1(dependency_aware) | speed_up()
    result = pipeline.run(made.net, made.case.config(0.5), example_inputs=made.case.inputs())
    assert same(dict(result.model), dict(made.compact.model))
    assert result.lineage == made.compact.lineage


@every
def test_lineage_slices_the_masked_parameters(name: str):
    made = pruned(name)
    sliced = made.compact.lineage.slice(made.masked.model)
    different = [
        key
        for key, tensor in made.compact.model.items()
        if key not in sliced or not torch.equal(sliced[key], tensor.detach())
    ]
    assert different == []
    assert set(sliced) == set(made.masked.model)


@every
def test_lineage_remembers_the_masks(name: str):
    made = pruned(name)
    lineage, origin = made.compact.lineage, made.masked.model
    assert all(tuple(lineage.shapes[key]) == tuple(tensor.shape) for key, tensor in origin.items())
    # Where nothing is missing, compact tensors put back into place are the masked ones, zeros included.
    expanded = lineage.expand(dict(made.compact.model))
    assert all(torch.equal(expanded[key], tensor.detach()) for key, tensor in origin.items())


@every
def test_compact_module_is_ordinary(name: str):
    made = pruned(name)
    module = made.compact.module()
    assert isinstance(module, nn.Module)
    assert not module.training
    if made.case.same_class:
        assert type(module) is type(made.net)
    assert set(tensors_of(module)) >= set(made.compact.model)
    assert set(dict(module.named_buffers())) >= set(made.compact.model.buffers)


@every
def test_compact_module_trains(name: str):
    made = pruned(name)
    module = made.compact.module().train()
    answers = answer(module, made.case.inputs(4))
    assert all(tensor.isfinite().all() for tensor in answers)
    torch.stack([tensor.square().mean() for tensor in answers]).sum().backward()
    assert [key for key, param in module.named_parameters() if param.requires_grad and param.grad is None] == []
    with torch.no_grad():
        for param in module.parameters():
            param -= 1e-3 * param.grad
    assert difference(answer(module.eval(), made.case.inputs()), answer(made.compact.module(), made.case.inputs())) > 0


@every
def test_train_mode_runs_at_another_batch_size(name: str):
    made = pruned(name)
    module = made.compact.module().train()
    with torch.no_grad():
        shapes = [a.shape for a in answer(module, made.case.inputs(3))]
        assert shapes == [a.shape for a in answer(made.masked.model, made.case.inputs(3))]


@every
def test_masked_and_compact_train_alike(name: str):
    """One train-mode answer from batch statistics: the removed channels were constant zero, so nothing differs."""
    case, made = BY_NAME[name], pruned(name)
    masked, small = made.masked.module().train(), made.compact.module().train()
    for module in (*masked.modules(), *small.modules()):
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    if case.name == "dropout":
        return  # its functional dropout draws one number per channel, and there are fewer channels
    with torch.no_grad():
        inputs = case.inputs(4, seed=5)
        assert difference(answer(masked, inputs), answer(small, inputs)) < 1e-10


@every
def test_the_callers_module_is_untouched(name: str):
    made = pruned(name)
    assert snapshot(made.net) == made.before
