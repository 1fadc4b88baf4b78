import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fprune.errors import ModelError
from fprune.layers import DEFAULT_OP_TYPES, Layer, canonical_names, layers_of, unit_mask, unit_view
from fprune.model import Model


def layers(net: nn.Module) -> dict[str, Layer]:
    return {layer.name: layer for layer in Model.from_module(net).layers}


class TestOfModules:
    def test_module_order_names_and_types(self):
        net = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2)))
        found = layers(net)
        assert list(found) == ["0", "1.0", "1.1"]
        assert found["1.0"] == Layer("1.0", "Conv2d", "1.0.weight", None, 0, 1, (2, 1, 3, 3), 2, True)
        assert found["0"].bias == "0.bias"
        assert (found["1.1"].type, found["1.1"].default) == ("BatchNorm2d", False)

    @pytest.mark.parametrize(
        ("module", "units", "axis", "groups"),
        [
            (nn.Conv1d(4, 6, 3, groups=2), 6, 0, 1),
            (nn.Conv3d(4, 6, 1), 6, 0, 1),
            (nn.ConvTranspose1d(4, 6, 3), 6, 1, 1),
            (nn.ConvTranspose2d(4, 6, 3, groups=2), 6, 1, 2),
            (nn.ConvTranspose3d(4, 4, 1, groups=4), 4, 1, 4),
            (nn.Linear(4, 6), 6, 0, 1),
            (nn.Bilinear(2, 3, 5), 5, 0, 1),
            (nn.PReLU(7), 7, 0, 1),
            (nn.Embedding(8, 2), 8, 0, 1),
            (nn.EmbeddingBag(8, 2), 8, 0, 1),
        ],
    )
    def test_default_types_and_their_units(self, module, units, axis, groups):
        layer = layers(nn.Sequential(module))["0"]
        assert layer.type in DEFAULT_OP_TYPES
        assert layer.default
        assert (layer.units, layer.axis, layer.groups) == (units, axis, groups)
        assert layer.shape == tuple(module.weight.shape)
        assert (layer.bias is not None) == (getattr(module, "bias", None) is not None)

    def test_subclasses_are_default_under_their_own_name(self):
        class Mine(nn.Linear):
            pass

        layer = layers(nn.Sequential(Mine(2, 3)))["0"]
        assert (layer.type, layer.default) == ("Mine", True)

    def test_every_default_type_exists_in_torch(self):
        assert all(hasattr(nn, name) for name in DEFAULT_OP_TYPES)
        assert len(DEFAULT_OP_TYPES) == 11

    def test_modules_without_weight_give_one_layer_for_each_float_parameter(self):
        class Raw(nn.Module):
            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(torch.ones(3))
                self.point = nn.Parameter(torch.tensor(1.0))
                self.count = nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False)

        found = layers(nn.ModuleDict({"raw": Raw(), "rnn": nn.LSTM(2, 3)}))
        assert list(found) == ["raw.scale", *(f"rnn.{k}_l0" for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))]
        assert {layer.type for layer in found.values()} == {"Raw", "LSTM"}
        assert not any(layer.default for layer in found.values())

    def test_the_root_goes_by_the_parameters_name(self):
        layer = layers(nn.Linear(2, 3))["weight"]
        assert (layer.weight, layer.bias, layer.type, layer.units) == ("weight", "bias", "Linear", 3)

    def test_shared_weights_are_one_layer_with_aliases(self):
        net = nn.ModuleDict({"embed": nn.Embedding(5, 2), "head": nn.Linear(2, 5)})
        net.head.weight = net.embed.weight
        (layer,) = Model.from_module(net).layers
        assert (layer.name, layer.weight, layer.aliases) == ("embed", "embed.weight", ("head",))

    def test_a_shared_weight_keeps_module_order_when_the_canonical_name_differs(self):
        net = nn.ModuleDict({"z": nn.Linear(2, 2, bias=False), "a": nn.Linear(2, 2, bias=False)})
        net.a.weight = net.z.weight
        (layer,) = Model.from_module(net).layers
        assert (layer.name, layer.weight, layer.aliases) == ("z", "a.weight", ("a",))

    def test_modules_called_twice_under_two_names(self):
        shared = nn.Conv2d(2, 2, 1)
        found = layers(nn.Sequential(shared, nn.ReLU(), shared))
        assert list(found) == ["0"]
        assert found["0"].aliases == ("2",)
        assert found["0"].bias == "0.bias"

    def test_a_bias_of_another_length_is_not_the_layers(self):
        class Odd(nn.Linear):
            def __init__(self):
                super().__init__(2, 3)
                self.bias = nn.Parameter(torch.zeros(1))

        assert layers(nn.Sequential(Odd()))["0"].bias is None

    def test_weights_of_other_dtypes_are_listed(self):
        # so that a plan can say why they are not pruned
        module = nn.Linear(2, 2, bias=False)
        module.weight = nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)
        assert list(layers(nn.Sequential(module))) == ["0"]

    def test_a_subset_of_the_parameters(self):
        model = Model.from_module(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)))
        (layer,) = layers_of(model.params.select(["1.weight"]), model.skeleton)
        assert (layer.name, layer.bias) == ("1", None)

    def test_no_parameters(self):
        assert layers(nn.ReLU()) == {}


class TestOfMappings:
    def test_names_biases_and_defaults(self):
        found = layers_of(
            {
                "b.weight": torch.zeros(3, 2),
                "b.bias": torch.zeros(3),
                "a.weight": torch.zeros(3, 2),
                "a.bias": torch.zeros(2),
                "v": torch.zeros(4),
                "point": torch.tensor(1.0),
                "index": torch.zeros(3, dtype=torch.int64),
            }
        )
        assert [(layer.name, layer.bias, layer.default) for layer in found] == [
            ("b", "b.bias", True),
            ("a", None, True),
            ("a.bias", None, False),
            ("v", None, False),
        ]
        assert {layer.type for layer in found} == {"Parameter"}

    def test_bare_weight_and_bias(self):
        (layer,) = layers_of({"weight": torch.zeros(3, 2), "bias": torch.zeros(3)})
        assert (layer.name, layer.bias) == ("weight", "bias")


class TestUnits:
    @given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.sampled_from([(), (2,), (2, 3)]))
    def test_the_mask_removes_exactly_the_units_rows(self, groups, ins, outs, kernel):
        net = {0: nn.Linear, 1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}[len(kernel)]
        module = net(
            ins * groups, outs * groups, *([kernel] if kernel else []), **({"groups": groups} if kernel else {})
        )
        layer = layers(module)["weight"]
        weight = torch.arange(1.0, module.weight.numel() + 1).reshape(module.weight.shape)
        rows = unit_view(weight, layer)
        assert rows.shape == (layer.units, weight.numel() // layer.units)
        assert sorted(rows.flatten().tolist()) == weight.flatten().tolist()
        keep = torch.arange(layer.units) % 2 == 0
        mask = unit_mask(keep, layer)
        masked = torch.where(mask, weight, 0.0)
        assert torch.equal(unit_view(masked, layer), rows * keep[:, None])
        assert mask.numel() == (ins * groups * outs if groups > 1 and kernel else layer.units)

    @pytest.mark.parametrize("groups", [1, 2, 3])
    def test_transposed_units_are_the_output_channels(self, groups):
        module = nn.ConvTranspose2d(6, 12, 3, groups=groups)
        layer = layers(module)["weight"]
        x = torch.rand(1, 6, 4, 4)
        for unit in range(12):
            keep = torch.arange(12) != unit
            model = Model.from_module(module)
            pruned = model.replace({"weight": model["weight"] * unit_mask(keep, layer), "bias": torch.zeros(12)})
            dead = pruned(x)[0].abs().sum((1, 2)) == 0
            assert dead.tolist() == [channel == unit for channel in range(12)]

    def test_view_shares_memory_where_it_can(self):
        (layer,) = layers_of({"w": torch.zeros(4, 3, 2, 2)})
        weight = torch.zeros(4, 3, 2, 2)
        assert unit_view(weight, layer).data_ptr() == weight.data_ptr()

    def test_empty_and_one_dimensional(self):
        empty, vector = layers_of({"e": torch.zeros(0, 3), "v": torch.zeros(4)})
        assert unit_view(torch.zeros(0, 3), empty).shape[0] == 0
        assert unit_view(torch.zeros(4), vector).shape == (4, 1)
        assert unit_mask(torch.ones(4, dtype=torch.bool), vector).shape == (4,)

    def test_wrong_shapes_are_refused_by_name(self):
        (layer,) = layers_of({"w": torch.zeros(4, 3)})
        with pytest.raises(ModelError, match=r"'w': expected shape \(4, 3\), got \(3, 4\)"):
            unit_view(torch.zeros(3, 4), layer)
        with pytest.raises(ModelError, match="'w': expected 4 bools"):
            unit_mask(torch.ones(3, dtype=torch.bool), layer)
        with pytest.raises(ModelError, match="'w': expected 4 bools"):
            unit_mask(torch.ones(4), layer)


def test_canonical_names_take_the_first_in_sorted_order():
    net = nn.ModuleDict({"b": nn.BatchNorm1d(2), "a": nn.BatchNorm1d(2)})
    net.a.weight = net.b.weight
    net.a.running_mean = net.b.running_mean
    names = canonical_names(net)
    assert names["b.weight"] == "a.weight"
    assert names["b.running_mean"] == "a.running_mean"
    assert sum(name != first for name, first in names.items()) == 2
