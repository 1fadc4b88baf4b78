import copy
import pickle
import threading
import warnings
from collections import OrderedDict

import attrs
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from fprune.errors import ModelError
from fprune.model import Model
from fprune.tree import Flat, digest, same


class Block(nn.Module):
    """Buffers of both kinds, a raw parameter, a nested module, a flag of its own."""

    def __init__(self, width: int = 3):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 1)
        self.norm = nn.BatchNorm2d(width)
        self.scale = nn.Parameter(torch.full((width, 1, 1), 2.0))
        self.register_buffer("shift", torch.ones(1), persistent=False)
        self.twice = True

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)) * self.scale + self.shift
        return self.conv(x) if self.twice else x


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.z_embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.z_embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.z_embed(x))


class Lists(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList([torch.ones(2), torch.full((2,), 3.0)])
        self.named = nn.ParameterDict({"b": torch.ones(2), "a": torch.zeros(2)})
        self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Identity()])

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = x * weight
        return self.layers[0](x + self.named["a"] - self.named["b"])


class Hidden(nn.Module):
    """Parameters that are also reached through plain attributes, and state that the forward pass writes."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.table = {"w": [self.weight]}
        self.last = None

    def forward(self, x: Tensor) -> Tensor:
        self.last = x * self.table["w"][0]
        return self.last


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0
        self.register_buffer("total", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.total += 1
        self.seen = x
        return x + self.calls + self.total


def mixed_modes() -> nn.Module:
    net = nn.Sequential(Block(), nn.Dropout(0.5), Block())
    net[0].eval()
    net[2].conv.weight.requires_grad_(False)
    return net


IMAGES = torch.linspace(-1, 1, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
TOKENS = torch.tensor([[0, 4, 2]])
SHARED = nn.Conv2d(3, 3, 1)
NETS = {
    "block": (Block, IMAGES),
    "tied": (Tied, TOKENS),
    "lists": (Lists, torch.ones(1, 2)),
    "hidden": (Hidden, torch.ones(2)),
    "counting": (Counting, torch.ones(1)),
    "mixed modes": (mixed_modes, IMAGES),
    "module used twice": (lambda: nn.Sequential(SHARED, nn.ReLU(), SHARED), IMAGES),
    "root": (lambda: nn.Linear(4, 2), IMAGES),
    "lstm": (lambda: nn.LSTM(4, 2, bidirectional=True), torch.ones(3, 4)),
    "transformer": (lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), torch.ones(1, 3, 4)),
    "no tensors": (nn.ReLU, IMAGES),
}


@pytest.fixture(params=NETS)
def net_and_input(request):
    make, x = NETS[request.param]
    torch.manual_seed(0)
    return make(), x


def storages(module: nn.Module) -> set[int]:
    tensors = [*module.parameters(), *module.buffers()]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


class TestRoundTrip:
    def test_gives_an_equal_module_that_shares_nothing(self, net_and_input):
        net, _ = net_and_input
        before = digest(net)
        model = Model.from_module(net)
        back = model.to_module()
        assert same(net, back)
        assert same(dict(net.state_dict()), dict(back.state_dict()))
        assert type(back) is type(net)
        assert list(back.state_dict()) == list(net.state_dict())
        assert Model.from_module(back) == model
        both = storages(net), storages(back), storages(model.to_module())
        assert not (both[0] & both[1] or both[0] & both[2] or both[1] & both[2])
        assert digest(net) == before

    def test_computes_the_same(self, net_and_input):
        net, x = net_and_input
        model = Model.from_module(net).eval()
        want = copy.deepcopy(net).eval()(x)
        assert same(model(x), want)
        assert same(model.to_module()(x), want)

    def test_is_untouched_by_calls_and_by_what_is_done_to_its_modules(self, net_and_input):
        net, x = net_and_input
        model = Model.from_module(net)
        twin = copy.deepcopy(model)
        state = digest(net)
        model(x)
        model(x)
        module = model.to_module()
        module(x)
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data.fill_(7)
        module.eval()
        assert model == twin
        assert all(tensor.is_meta for tensor in (*model.skeleton.parameters(), *model.skeleton.buffers()))
        assert digest(net) == state

    def test_keeps_flags_of_every_submodule(self):
        back = Model.from_module(mixed_modes()).to_module()
        assert [module.training for module in back] == [False, True, True]
        assert [module.training for module in back[0].modules()] == [False] * 3
        assert not back[2].conv.weight.requires_grad
        assert back[2].conv.bias.requires_grad
        assert all(parameter.is_leaf for parameter in back.parameters())

    def test_keeps_non_persistent_buffers_non_persistent(self):
        model = Model.from_module(Block())
        assert "shift" in model.buffers
        assert "shift" not in model.to_module().state_dict()

    def test_keeps_ties(self):
        model = Model.from_module(Tied())
        back = model.to_module()
        assert back.head.weight is back.z_embed.weight
        assert model.ties == Flat({"z_embed.weight": "head.weight"})
        assert list(model) == ["head.bias", "head.weight"]

    def test_keeps_hooks_and_points_them_at_the_copy(self):
        net = nn.Sequential(nn.Linear(2, 2))
        net.mark = 5
        net.register_forward_hook(lambda module, args, out: out * module.mark)
        net[0].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
        x = torch.ones(1, 2)
        model = Model.from_module(net)
        assert torch.equal(model(x), net(x))
        assert torch.equal(model.to_module()(x), net(x))

    def test_keeps_layout_dtype_and_attributes_of_parameters(self):
        class Special(nn.Parameter):
            pass

        net = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last).to(torch.bfloat16)
        net.bias = Special(net.bias.detach())
        net.bias.no_decay = True
        back = Model.from_module(net).to_module()
        assert back.weight.stride() == net.weight.stride()
        assert back.weight.dtype == torch.bfloat16
        assert type(back.bias) is Special
        assert back.bias.no_decay

    def test_integer_and_frozen_parameters(self):
        net = nn.Linear(2, 2)
        net.steps = nn.Parameter(torch.arange(3), requires_grad=False)
        assert Model.from_module(net).to_module().steps.tolist() == [0, 1, 2]

    def test_gradients_and_autograd_history_are_left_behind(self):
        net = Hidden()
        net(torch.ones(2)).sum().backward()
        back = Model.from_module(net).to_module()
        assert back.weight.grad is None
        assert net.weight.grad is not None
        assert torch.equal(back.last, net.last)
        assert back.last.grad_fn is None

    def test_under_inference_mode_the_module_can_still_be_trained(self):
        with torch.inference_mode():
            net = nn.Linear(2, 1)
            module = Model.from_module(net).to_module()
        module(torch.ones(2)).backward()
        assert module.weight.grad is not None

    def test_expanded_buffers_become_writable(self):
        net = nn.ReLU()
        net.register_buffer("ids", torch.zeros(1).expand(3))
        Model.from_module(net).to_module().ids.add_(torch.arange(3.0))

    def test_draws_no_random_numbers(self):
        net = mixed_modes()
        state = torch.get_rng_state()
        model = Model.from_module(net)
        model.to_module()
        model.eval()
        assert torch.equal(state, torch.get_rng_state())


class TestCall:
    def test_training_mode_uses_batch_statistics_without_keeping_them(self):
        net = Block()
        model = Model.from_module(net)
        buffers = digest(model.buffers)
        out = model(IMAGES)
        assert torch.equal(out, copy.deepcopy(net)(IMAGES))
        assert not torch.equal(out, model.eval()(IMAGES))
        assert digest(model.buffers) == buffers

    def test_replaced_buffers_of_the_caller_are_not_written(self):
        model = Model.from_module(nn.BatchNorm2d(3))
        mine = {"running_mean": torch.zeros(3)}
        model.replace(buffers=mine)(IMAGES)
        assert mine["running_mean"].tolist() == [0.0, 0.0, 0.0]

    def test_is_a_function_also_when_the_forward_pass_keeps_state(self):
        model = Model.from_module(Counting())
        assert [model(torch.zeros(1)).item() for _ in range(3)] == [2.0, 2.0, 2.0]
        assert "seen" not in vars(model.skeleton)

    def test_an_error_in_the_forward_pass_leaves_the_model_usable(self):
        model = Model.from_module(Block())
        with pytest.raises(RuntimeError):
            model(torch.ones(1, 5, 2, 2))
        assert model == Model.from_module(model.to_module())
        model(IMAGES)

    def test_embedding_with_max_norm_does_not_rescale_the_models_rows(self):
        model = Model.from_module(nn.Sequential(nn.Embedding(5, 3, max_norm=0.01)))
        before = model["0.weight"].clone()
        model(TOKENS)
        assert torch.equal(model["0.weight"], before)

    def test_gradients_reach_replaced_parameters(self):
        model = Model.from_module(nn.Linear(2, 1))

        def loss(params: dict[str, Tensor]) -> Tensor:
            return model.replace(params)(torch.tensor([3.0, 4.0])).sum()

        grads = torch.func.grad(loss)(dict(model.params))
        assert grads["weight"].tolist() == [[3.0, 4.0]]
        leaf = torch.zeros(1, 2, requires_grad=True)
        loss({"weight": leaf}).backward()
        assert leaf.grad.tolist() == [[3.0, 4.0]]
        hidden = Model.from_module(Hidden())
        grads = torch.func.grad(lambda p: hidden.replace(p)(torch.ones(2)).sum())(dict(hidden.params))
        assert grads["weight"].tolist() == [1.0, 1.0]

    def test_works_under_vmap(self):
        model = Model.from_module(nn.Linear(2, 1, bias=False))
        stack = torch.arange(6.0).reshape(3, 1, 2)
        out = torch.vmap(lambda weight: model.replace({"weight": weight})(torch.ones(2)))(stack)
        assert out.flatten().tolist() == [1.0, 5.0, 9.0]

    def test_a_tied_parameter_is_replaced_everywhere(self):
        model = Model.from_module(Tied())
        zero = model.replace({"head.weight": torch.zeros(5, 3), "head.bias": torch.zeros(5)})
        assert not zero(TOKENS).any()
        assert not zero.to_module()(TOKENS).any()

    def test_keyword_arguments_and_outputs_of_any_kind(self):
        model = Model.from_module(nn.MultiheadAttention(4, 2, batch_first=True).eval())
        x = torch.ones(1, 3, 4)
        out, weights = model(x, x, x, need_weights=True)
        assert out.shape == (1, 3, 4)
        assert weights.shape == (1, 3, 3)


class TestReplace:
    def test_partial_and_shared(self):
        model = Model.from_module(Block())
        other = model.replace({"conv.bias": torch.zeros(3)}, {"shift": torch.zeros(1)})
        assert other["conv.bias"].tolist() == [0.0] * 3
        assert other.buffers["shift"].tolist() == [0.0]
        assert other["conv.weight"] is model["conv.weight"]
        assert model["conv.bias"] is not other["conv.bias"]
        assert model.replace() == model
        assert other != model

    @pytest.mark.parametrize(
        ("params", "buffers", "message", "hint"),
        [
            ({"conv.wieght": torch.ones(1)}, None, r"params\['conv.wieght'\]: no such name", "conv.weight"),
            (None, {"conv.bias": torch.ones(3)}, r"buffers\['conv.bias'\]: no such name", ""),
            (
                {"conv.bias": torch.ones(2)},
                None,
                r"params\['conv.bias'\]: expected shape \(3,\), got \(2,\)",
                "speed_up",
            ),
            ({"conv.bias": [0.0] * 3}, None, r"params\['conv.bias'\]: expected a tensor, got list", ""),
        ],
    )
    def test_refuses(self, params, buffers, message, hint):
        with pytest.raises(ModelError, match=message) as caught:
            Model.from_module(Block()).replace(params, buffers)
        assert hint in caught.value.hint

    def test_a_tied_name_points_to_the_canonical_one(self):
        with pytest.raises(ModelError, match="z_embed") as caught:
            Model.from_module(Tied()).replace({"z_embed.weight": torch.zeros(5, 3)})
        assert "'head.weight'" in caught.value.hint


class TestModes:
    def test_eval_and_train_switch_every_submodule_of_a_copy(self):
        model = Model.from_module(mixed_modes())
        twin = copy.deepcopy(model)
        evaluated = model.eval()
        assert not any(module.training for module in evaluated.skeleton.modules())
        assert all(module.training for module in evaluated.train().skeleton.modules())
        assert (model.training, evaluated.training, evaluated.train().training) == (True, False, True)
        assert model == twin
        assert evaluated.params is model.params

    def test_nothing_changes_when_it_is_in_that_mode(self):
        model = Model.from_module(nn.Sequential(nn.Linear(2, 2), nn.Dropout()))
        assert model.train() is model
        assert model.eval().eval() == model.eval()
        assert model.eval() != model

    def test_a_root_in_training_mode_with_an_evaluating_child(self):
        model = Model.from_module(mixed_modes())
        assert model.train() is not model


class TestRecord:
    def test_is_a_sorted_mapping_of_parameters(self):
        model = Model.from_module(Block())
        assert list(model) == sorted(dict(Block().named_parameters()))
        assert len(model) == 5
        assert "conv.weight" in model
        assert "shift" not in model
        assert set(dict(model)) == set(model.params)

    def test_is_immutable_and_unhashable(self):
        model = Model.from_module(Block())
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            model.training = False
        with pytest.raises(TypeError):
            hash(model)
        with pytest.raises(TypeError):
            model["scale"] = torch.ones(3)

    def test_equality_sees_data_flags_settings_and_code(self):
        net = Block()
        model = Model.from_module(net)
        assert model == Model.from_module(net)
        assert model != net
        changes = (
            lambda net: net.conv.weight.data.add_(1),
            lambda net: net.norm.running_var.add_(1),
            lambda net: net.norm.eval(),
            lambda net: net.scale.requires_grad_(False),
            lambda net: setattr(net, "twice", False),
            lambda net: setattr(net.norm, "eps", 0.5),
            lambda net: setattr(net, "norm", nn.Identity()),
        )
        for change in changes:
            other = copy.deepcopy(net)
            change(other)
            assert model != Model.from_module(other)

    def test_of(self):
        model = Model.from_module(Block())
        assert Model.of(model) is model
        assert Model.of(model.to_module()) == model

    @pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
    @pytest.mark.parametrize("make", [Block, Tied, Lists, lambda: nn.LSTM(2, 3)])
    def test_copies_and_pickles(self, make, again):
        model = Model.from_module(make())
        assert again(model) == model
        assert same(again(model).to_module(), model.to_module())

    def test_sizes_device_and_repr(self):
        model = Model.from_module(Tied())
        assert repr(model) == "Model(Tied, 2 params, 20 elements)"
        assert (model.num_params, model.nbytes) == (20, 80)
        assert model.device == torch.device("cpu")
        assert Model.from_module(nn.ReLU()).device == torch.device("cpu")
        assert "Embedding" in model._repr_html_()
        assert Model.from_module(Block()).nbytes == Model.from_module(Block()).num_params * 4 + 3 * 4 * 2 + 8 + 4


class Wrapped(nn.Module):
    """A module with a hook-free forward pass around another."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def quiet(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def compiled(net: nn.Module) -> nn.Module:
    # the default backend imports a compiler, which takes seconds
    return torch.compile(net, backend="eager")


def with_buffer(tensor: Tensor) -> nn.Module:
    net = nn.ReLU()
    net.register_buffer("held", tensor)
    return net


def fake() -> nn.Module:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return nn.Linear(2, 2)


def sharded(name: str) -> nn.Module:
    """As FSDP2 does it: the class is swapped for one that also derives from a mixin."""
    return type(f"FSDP{nn.Linear.__name__}", (type(name, (), {}), nn.Linear), {})(2, 2)


def own_deepcopy() -> nn.Module:
    class Careless(nn.Linear):
        def __deepcopy__(self, memo):
            return Careless(2, 2)

    return Wrapped(Careless(2, 2))


def with_lock() -> nn.Module:
    net = Wrapped(nn.ReLU())
    net.inner.lock = threading.Lock()
    return net


class Subclass(Tensor):
    pass


REFUSED = {
    "not a module": (lambda: OrderedDict(), "expected a torch.nn.Module, got OrderedDict", "network"),
    "class": (lambda: nn.ReLU, "expected a module, got the class ReLU", "ReLU(...)"),
    "data parallel": (lambda: nn.DataParallel(nn.ReLU()), "DataParallel", "model.module"),
    "inner data parallel": (lambda: Wrapped(nn.DataParallel(nn.ReLU())), "'inner' (DataParallel)", "model.module"),
    "inner compiled": (lambda: Wrapped(compiled(nn.ReLU())), "'inner' (OptimizedModule)", "compile the result"),
    "fsdp 1": (lambda: sharded("FullyShardedDataParallel"), "sharded by FSDP", "prune the plain model"),
    "fsdp 2": (lambda: Wrapped(sharded("FSDPModule")), "'inner' (FSDPLinear)", "prune the plain model"),
    "meta": (lambda: Wrapped(nn.Linear(2, 2, device="meta")), "'inner.weight': it has no data", "materialise first"),
    "meta buffer": (lambda: with_buffer(torch.ones(2, device="meta")), "'held': it has no data", "materialise first"),
    "fake": (fake, "'weight': it has no data", "materialise first"),
    "lazy": (lambda: Wrapped(quiet(lambda: nn.LazyLinear(2))), "'inner.weight': its shape", "one forward pass"),
    "pruned": (lambda: prune.l1_unstructured(nn.Linear(2, 2), "bias", 0.5), "torch.nn.utils.prune", "(module, 'bias')"),
    "weight norm": (lambda: quiet(lambda: nn.utils.weight_norm(nn.Linear(2, 2))), "weight_norm", "remove_weight_norm"),
    "spectral norm": (lambda: nn.utils.spectral_norm(nn.Linear(2, 2)), "spectral_norm", "remove_spectral_norm"),
    "script": (lambda: quiet(lambda: torch.jit.script(nn.Linear(2, 2))), "scripted", "was scripted"),
    "sparse": (lambda: with_buffer(torch.eye(2).to_sparse()), "'held': it is sparse", "to_dense"),
    "quantized": (
        lambda: with_buffer(quiet(lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8))),
        "'held': it is quantized",
        "then quantize",
    ),
    "subclass": (
        lambda: with_buffer(torch.ones(2).as_subclass(Subclass)),
        "'held': it is a tensor subclass (Subclass)",
        "then",
    ),
    "no deep copy": (with_lock, "'inner.lock' cannot be copied: TypeError", "locks"),
    "own deep copy": (own_deepcopy, "'inner.weight': copying Wrapped", "memo"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_from_module_refuses_with_name_and_hint(case):
    make, message, hint = REFUSED[case]
    net = make()
    with pytest.raises(ModelError) as caught:
        Model.from_module(net)
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "wrap", [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal]
)
def test_computed_weights_stay_computed(wrap):
    net = nn.Sequential(wrap(nn.Linear(3, 3)), nn.ReLU()).eval()
    model, x = Model.from_module(net), torch.randn(2, 3)
    assert all(name == "0.bias" or name.startswith("0.parametrizations.weight.") for name in model)
    assert torch.equal(model(x), net(x)) and torch.equal(model.to_module()(x), net(x))
    zeros = model.replace({name: torch.zeros_like(value) for name, value in model.items() if name == "0.bias"})
    assert not torch.equal(zeros(x), net(x))


class DistributedDataParallel(nn.Module):
    """Stands in for torch's, which needs a process group; `from_module` goes by the class name."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module


def test_compile_and_ddp_are_unwrapped():
    net = Block()
    want = Model.from_module(net)
    assert Model.from_module(compiled(net)) == want
    assert Model.from_module(DistributedDataParallel(net)) == want
    assert Model.from_module(DistributedDataParallel(compiled(net))) == want
    assert Model.from_module(compiled(net).eval()) == want.eval()


def test_a_module_compiled_in_place():
    net = nn.Linear(2, 2)
    net.compile(backend="eager")
    assert Model.from_module(net).to_module().weight.tolist() == net.weight.tolist()


def test_pruning_leftovers_are_fine_once_removed():
    net = nn.Linear(2, 2)
    prune.remove(prune.l1_unstructured(net, "weight", 0.5), "weight")
    assert Model.from_module(net)["weight"].count_nonzero() == 2


def test_functional_batch_norm_of_raw_buffers():
    class Raw(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(3))
            self.register_buffer("var", torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return F.batch_norm(x, self.mean, self.var, training=True)

    net = Raw().eval()
    model = Model.from_module(net)
    model(IMAGES)
    assert model.buffers["mean"].tolist() == [0.0] * 3


def test_what_only_a_module_has_is_refused_with_what_a_model_has_for_it() -> None:
    model = Model.from_module(nn.Linear(2, 2))
    for name in ("parameters", "forward", "bias"):
        with pytest.raises(
            AttributeError, match=rf"a Model has no '{name}': it is called .* its device is model\.device"
        ):
            getattr(model, name)
    assert pickle.loads(pickle.dumps(model)) == copy.deepcopy(model) == model
