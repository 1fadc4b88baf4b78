"""Operations that no rule knows: named, their operands kept whole, and the rest pruned as ever."""

import re

import pytest

from fprune import dependency_aware, l1, one_shot, speed_up
from fprune.errors import FpruneError
from tests.zoo.models import BY_NAME, CASES, WALLS
from tests.zoo.support import pruned, tensors_of, traced

walls = pytest.mark.parametrize("name", [case.name for case in WALLS if case.barriers])


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_the_barriers_are_named_and_no_others(name: str):
    structure, expected = traced(name).structure, BY_NAME[name].barriers
    found = [str(barrier) for barrier in structure.barriers]
    assert [e for e in expected if not any(re.search(e, text) for text in found)] == []
    assert [text for text in found if not any(re.search(e, text) for e in expected)] == []
    assert all(text in str(structure) for text in found)


@walls
def test_kept_whole_and_the_rest_pruned(name: str):
    made = pruned(name)
    sizes = {key: tensor.shape[0] for key, tensor in tensors_of(made.compact.module()).items()}
    assert (sizes["conv1.weight"], sizes["conv2.weight"], sizes["conv3.weight"]) == (4, 8, 4)


@walls
def test_a_layer_behind_a_wall_is_kept_and_said_so(name: str):
    """All that is asked for cannot be done: nothing is lost, and the result names the layer; never silently nothing."""
    case = BY_NAME[name]
    config = [{"op_names": ["conv2"], "sparsity": 0.5}]
    pipeline = one_shot() | l1(dependency_aware) | speed_up()
    with pytest.raises(FpruneError, match="conv2"):
        pipeline.run(case.net(), config, example_inputs=case.inputs())
