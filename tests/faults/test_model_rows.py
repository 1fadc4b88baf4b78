"""Rows 24 to 38 of the fault list: models that cannot be pruned, or not as they are, and inputs that do not fit."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn.utils import parametrizations, prune

from fprune import Config, Model, dependency_aware, finetune, fisher, globally, l1, level, one_shot, speed_up
from fprune.errors import ConfigError, FpruneError, ModelError, StructureError
from fprune.masks import Masks
from tests.unit import toys
from tests.unit.toys import Written

HALF = one_shot() | level()


def run(net: Any, config: Any = 0.5, **options: Any) -> Any:
    return HALF.run(net, config, **options)


def refused(net: Any, config: Any = 0.5, kind: type[FpruneError] = ModelError) -> FpruneError:
    with pytest.raises(kind) as caught:
        run(net, config)
    return caught.value


@pytest.mark.parametrize("net", [nn.ReLU(), nn.Sequential(nn.Flatten(), nn.AvgPool2d(2))])
def test_row_24_no_parameters(net: nn.Module) -> None:
    error = refused(net)
    assert error.message == "the model has no parameters to prune"
    assert error.hint


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens))


@pytest.mark.parametrize("allocation", [None, globally])
def test_row_25_tied_weights_are_one_leaf_with_one_mask(allocation: Any) -> None:
    torch.manual_seed(0)
    stage = level() if allocation is None else level(allocation)
    result = (one_shot() | stage).run(Tied(), 0.5)
    assert result.model.ties == {"head.weight": "embed.weight"}
    assert list(result.masks) == ["embed.weight"]
    assert int((~result.masks["embed.weight"]).sum()) == 12, "counted once"
    pruned = result.module()
    assert pruned.head.weight is pruned.embed.weight
    (row,) = result.task.plan.selected
    assert row.layer.aliases == ("head",)
    assert Config([{"op_names": ["head"], "sparsity": 0.5}]).resolve(result.model)["embed"].selected, "either name"


def test_row_26_leaves_that_are_not_floating_point_are_passed_over_and_shown() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4, dtype=torch.complex64), nn.Linear(4, 4))
    net[1].register_parameter("table", nn.Parameter(torch.arange(4), requires_grad=False))
    result = run(net)
    assert list(result.masks) == ["1.weight"]
    assert result.task.plan["0"].note == "not float"
    error = refused(net, [{"op_names": ["0"], "sparsity": 0.5}], ConfigError)
    assert error.message == "rule 0: '0.weight' has dtype torch.complex64; only floating point weights can be pruned"
    assert "leave the name out" in error.hint
    error = refused(nn.Linear(4, 4, dtype=torch.complex64), 0.5, ConfigError)
    assert "would prune nothing" in error.message
    assert "'weight' is not float" in error.message


def quantized() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    net = nn.Linear(2, 2)
    net.register_buffer("scale", values)
    return net


def sparse() -> nn.Module:
    net = nn.Linear(2, 2)
    net.register_buffer("adjacency", torch.eye(2).to_sparse())
    return net


@pytest.mark.parametrize(
    ("make", "message", "hint"),
    [
        (quantized, "'scale': it is quantized", "prune the float model, then quantize the result"),
        (sparse, "'adjacency': it is sparse (torch.sparse_coo)", "make it dense with .to_dense() first"),
    ],
)
def test_row_26_quantized_and_sparse_leaves(make: Callable[[], nn.Module], message: str, hint: str) -> None:
    error = refused(make())
    assert (error.message, error.hint) == (message, hint)


def test_row_27_meta_tensors() -> None:
    error = refused(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta")))
    assert error.message == "'1.weight': it has no data (meta or fake tensor)"
    assert error.hint.startswith("materialise first")


def test_row_28_frozen_weights_are_pruned_and_reported() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 2))
    result = (one_shot() | level() | finetune(lambda module: None)).run(net, 0.5)
    assert result.report.notes == ("0.weight is frozen (requires_grad=False)",)
    assert int((result.model["0.weight"] == 0).sum()) == 8
    assert not result.module()[0].weight.requires_grad


class MaskedLinear(nn.Module):
    """A wrapper as other libraries make them: the weight renamed, and a mask beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight_orig = nn.Parameter(torch.ones(2, 2))
        self.register_buffer("weight_mask", torch.ones(2, 2))


@pytest.mark.parametrize(
    "make", [MaskedLinear, lambda: prune.l1_unstructured(nn.Linear(2, 2), "weight", 0.5)], ids=["wrapper", "torch"]
)
def test_row_29_a_model_that_is_wrapped_for_pruning(make: Callable[[], nn.Module]) -> None:
    error = refused(nn.Sequential(make()))
    assert error.message.startswith("'0' (")
    assert "already wrapped by torch.nn.utils.prune" in error.message
    assert error.hint == "call torch.nn.utils.prune.remove(module, 'weight')"


def test_row_29_a_weight_that_a_parametrization_computes() -> None:
    """It runs as it is; as a layer it is refused, and what is left of the module is not pruned in its place."""
    torch.manual_seed(0)
    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4))
    assert list(run(net).masks) == ["1.weight"]
    error = refused(net, [{"op_names": ["0"], "sparsity": 0.5}], ConfigError)
    assert error.message == "rule 0: no layer '0'"
    assert "remove_parametrizations(module, 'weight')" in error.hint
    error = refused(net[:1], 0.5, ConfigError)
    assert "remove_parametrizations(module, 'weight')" in error.hint
    nn.utils.parametrize.remove_parametrizations(net[0], "weight")
    assert list(run(net).masks) == ["0.weight", "1.weight"]


def test_row_30_a_compiled_model() -> None:
    net = toys.net()
    compiled = torch.compile(net, backend="eager")
    assert run(compiled) == run(net)
    assert type(run(compiled).module()) is nn.Sequential


def test_row_31_data_parallel() -> None:
    error = refused(nn.DataParallel(toys.net()))
    assert "DataParallel" in error.message
    assert error.hint == "pass model.module"


@contextmanager
def one_process() -> Iterator[None]:
    from torch import distributed

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        try:
            yield
        finally:
            distributed.destroy_process_group()


def test_rows_32_and_33_wrappers_of_distributed_training() -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
    from torch.nn.parallel import DistributedDataParallel

    with one_process():
        alone, wrapped = run(toys.net()), DistributedDataParallel(toys.net())
        assert run(wrapped) == alone, "names have no 'module.' in front"
        shards = [fully_shard(toys.net()), FullyShardedDataParallel(toys.net(), device_id=torch.device("cpu"))]
        for sharded in shards:
            error = refused(sharded)
            assert "its parameters are sharded by FSDP" in error.message
            assert error.hint == "prune the plain model, then wrap the result with FSDP"


def choosing() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        hidden = self.a(x)
        if hidden.sum() > 0:
            hidden = self.b(hidden)
        return self.c(hidden)

    torch.manual_seed(0)
    return Written(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 4), c=nn.Linear(4, 2))


def test_row_34_control_flow_that_depends_on_data() -> None:
    """Masks suit every way through the model. A smaller model is refused, since it would suit one."""
    masked = one_shot() | l1(dependency_aware)
    assert masked.run(choosing(), 0.5, example_inputs=(torch.ones(1, 4),)).report.channels
    with pytest.raises(StructureError) as caught:
        (masked | speed_up()).run(choosing(), 0.5, example_inputs=(torch.ones(1, 4),))
    line = next(n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "if hidden.sum() > 0" in text)
    assert f"(is_nonzero at {__file__}:{line})" in caught.value.message
    assert caught.value.hint.startswith(f"the model chooses by its inputs at {__file__}:{line}: exclude the layers")
    assert "leave out speed_up()" in caught.value.hint


def test_row_35_attributes_of_compacted_modules() -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(2), nn.Linear(16, 6), nn.LayerNorm(6)
    net = nn.Sequential(*layers, nn.Linear(6, 2), nn.Flatten(), nn.Linear(16, 3))
    rules, x = [{"op_names": ["0", "3"], "sparsity": 0.5}], torch.ones(2, 3, 6, 6)
    pipeline = one_shot() | l1(dependency_aware)
    masked = pipeline.run(net, rules, example_inputs=(x,))
    small = (pipeline | speed_up()).run(net, rules, example_inputs=(x,)).module()
    assert (small[1].groups, small[1].in_channels, small[1].out_channels) == (4, 4, 4)
    assert (small[3].out_features, small[5].in_features) == (3, 3)
    assert repr(small[4]) == "GhostLayerNorm(width=6, eps=1e-05)", "three channels, with the statistics of six"
    torch.testing.assert_close(small(x), masked.module()(x))


def test_row_36_batch_normalisation_in_training_mode() -> None:
    model = Model.from_module(toys.net())
    before = {name: value.clone() for name, value in model.buffers.items()}
    slopes = grad(lambda params: model.replace(params)(toys.X).sum())(dict(model))
    assert all(slope.isfinite().all() for slope in slopes.values())
    assert all(torch.equal(model.buffers[name], value) for name, value in before.items()), "it got clones"
    with pytest.raises(ModelError, match="computes its statistics over a batch, which vmap takes apart") as caught:
        vmap(model)(toys.X[:, None].expand(5, 3, 6))
    assert caught.value.hint.startswith("call model.eval()")
    assert vmap(model.eval())(toys.X[:, None]).shape == (5, 1, 4)


def test_row_37_dropout_under_vmap() -> None:
    model = Model.from_module(nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5)))
    with pytest.raises(ModelError, match="draws random numbers, such as dropout does") as caught:
        vmap(model)(toys.X)
    assert caught.value.hint == "vmap(fn, randomness='different'), or call model.eval()"
    # The library's own use of it draws for each sample, from the run's seed.
    net = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 4))
    pipeline = one_shot() | fisher(lambda model, x: model(x).square().mean(), [toys.X], training=True)
    assert pipeline.run(net, 0.5, seed=1) == pipeline.run(net, 0.5, seed=1)


def convolutional() -> nn.Sequential:
    net = nn.Sequential()
    net.add_module("conv1", nn.Conv2d(3, 8, 3))
    net.add_module("flat", nn.Flatten())
    net.add_module("fc", nn.Linear(288, 4))
    return net


@pytest.mark.parametrize(
    ("shape", "where", "expected"),
    [
        ((1, 4, 8, 8), "in 'conv1', Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1)),", "to have 3 channels, but got 4"),
        ((1, 3, 9, 9), "in 'fc', Linear(in_features=288, out_features=4, bias=True),", "(1x392 and 288x4)"),
    ],
)
def test_row_38_example_inputs_of_a_wrong_shape(shape: tuple[int, ...], where: str, expected: str) -> None:
    with pytest.raises(ModelError) as caught:
        (one_shot() | l1(dependency_aware)).run(convolutional(), 0.5, example_inputs=(torch.ones(shape),))
    assert f"the forward pass fails {where} on example inputs of shapes [{shape}]" in caught.value.message
    assert expected in caught.value.message
    assert "pass example_inputs that the model accepts" in caught.value.hint


def test_row_38_masks_of_a_wrong_shape() -> None:
    with pytest.raises(ModelError, match=r"'0\.weight'.*\(8, 6\)") as caught:
        HALF.run(toys.net(), 0.5, masks=Masks({"0.weight": torch.ones(3, 6, dtype=torch.bool)}))
    assert caught.value.hint
