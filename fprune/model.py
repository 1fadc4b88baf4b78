"""Models as values: an immutable mapping of parameters that can be called, made from and turned into `nn.Module`."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Union, final

import attrs
import torch
from torch import Tensor, nn

from fprune import intake, skeleton, tree
from fprune.errors import ModelError, close_matches
from fprune.layers import Layer, canonical_names, layers_of
from fprune.tables import html_table
from fprune.tree import Flat


@final
@attrs.frozen(eq=False, repr=False)
class Model(Mapping[str, Tensor]):
    """A network as a value: its code, its parameters, its buffers.

    A model is a mapping from parameter names to tensors, and a function: `model(x)` computes what the module would.
    Nothing changes it; a call leaves no trace in it, not even in BatchNorm statistics.

    Examples:
        >>> net = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
        >>> model = Model.from_module(net)
        >>> model
        Model(Sequential, 2 params, 8 elements)
        >>> list(model)
        ['0.bias', '0.weight']
        >>> x = torch.ones(1, 3)
        >>> torch.equal(model(x), net(x))
        True
        >>> model.replace({"0.bias": torch.zeros(2)}).to_module()[0].bias.tolist()
        [0.0, 0.0]

    Args:
        skeleton: The module with its tensors on the meta device; never changed.
        params: Canonical name -> tensor; of the names that share a tensor the first in sorted order.
        buffers: The same for buffers, persistent or not.
        training: Whether the root module is in training mode; submodules have their own flags in the skeleton.
    """

    skeleton: nn.Module
    params: Flat[Tensor]
    buffers: Flat[Tensor]
    training: bool

    @staticmethod
    def from_module(net: nn.Module) -> "Model":
        """Copy a module into a model; neither shares anything with the other afterwards.

        Examples:
            >>> tied = nn.ModuleDict({"embed": nn.Embedding(4, 2), "head": nn.Linear(2, 4, bias=False)})
            >>> tied.head.weight = tied.embed.weight
            >>> Model.from_module(tied).ties
            Flat(head.weight='embed.weight')

        Args:
            net: Any module with materialised, dense tensors; `torch.compile` and DistributedDataParallel are unwrapped.

        Returns:
            A model with the same code, tensors, flags, hooks and ties.

        Raises:
            ModelError: The module is wrapped, sharded, lazy, quantized, on the meta device, or cannot be copied.
        """
        return _taken(net, share=False)

    @staticmethod
    def of(net: Union[nn.Module, "Model"]) -> "Model":
        """Take a model as it is, a module through `from_module`."""
        return net if isinstance(net, Model) else Model.from_module(net)

    def to_module(self) -> nn.Module:
        """Build a private, plain module with this model's tensors.

        Returns:
            A module of the original class with the same flags, hooks, requires_grad and ties, sharing no memory.
        """
        return skeleton.assemble(self.skeleton, {**self.params, **self.buffers})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the module's forward pass, hooks included, without changing anything.

        Buffers are copied first, and what the forward pass assigns to attributes is discarded afterwards.
        """
        return skeleton.call(self.skeleton, self.params, self.buffers, args, kwargs)

    def replace(
        self, params: Mapping[str, Tensor] | None = None, buffers: Mapping[str, Tensor] | None = None
    ) -> "Model":
        """Give some tensors new values.

        Args:
            params: Canonical name -> tensor of the same shape; names left out keep their value.
            buffers: The same for buffers.

        Returns:
            A model that shares every other tensor with this one.

        Raises:
            ModelError: A name is unknown, or a shape differs.
        """
        return Model(
            self.skeleton,
            self.params if params is None else self._replaced("params", self.params, params),
            self.buffers if buffers is None else self._replaced("buffers", self.buffers, buffers),
            self.training,
        )

    def eval(self) -> "Model":
        """Put every submodule in evaluation mode; the model itself if it is."""
        return self._in_mode(False)

    def train(self) -> "Model":
        """Put every submodule in training mode; the model itself if it is."""
        return self._in_mode(True)

    @property
    def ties(self) -> Flat[str]:
        """Each further name of a shared tensor -> the canonical one."""
        names = canonical_names(self.skeleton)
        return Flat({name: first for name, first in names.items() if name != first})

    @property
    def layers(self) -> tuple[Layer, ...]:
        """What rules can select, in module order."""
        return layers_of(self.params, self.skeleton)

    @property
    def nbytes(self) -> int:
        """Bytes of parameters and buffers."""
        return tree.nbytes((self.params, self.buffers))

    @property
    def num_params(self) -> int:
        """Elements of all parameters; shared ones count once."""
        return tree.count(self.params)

    @property
    def device(self) -> torch.device:
        """The device of the first parameter, or buffer; the CPU for a model without tensors."""
        return next((value.device for value in (*self.params.values(), *self.buffers.values())), torch.device("cpu"))

    def __getitem__(self, name: str) -> Tensor:
        return self.params[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.params)

    def __len__(self) -> int:
        return len(self.params)

    def __contains__(self, name: object) -> bool:
        return name in self.params

    if not TYPE_CHECKING:  # a type checker reports names that a model does not have

        def __getattr__(self, name: str) -> Any:
            """Say what a model has in the place of a module's attributes; called for names that it does not have."""
            reads = "its tensors are model['fc.weight'] and model.values(), its device is model.device"
            raise AttributeError(f"a Model has no {name!r}: it is called like its module, model(x); {reads}")

    def __eq__(self, other: object) -> bool:
        return tree.same(self, other) if isinstance(other, Model) else NotImplemented

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # holds tensors

    def __repr__(self) -> str:
        return f"Model({type(self.skeleton).__name__}, {len(self)} params, {self.num_params:,} elements)"

    def _repr_html_(self) -> str:
        rows = [(layer.name, layer.type, "x".join(map(str, layer.shape)), layer.units) for layer in self.layers]
        return html_table(["layer", "type", "shape", "units"], rows, title=repr(self))

    def _replaced(self, field: str, old: Flat[Tensor], new: Mapping[str, Tensor]) -> Flat[Tensor]:
        for name, value in new.items():
            if name not in old:
                tied = self.ties.get(name)
                hint = f"it is tied to {tied!r}; replace that" if tied else close_matches(name, old)
                raise ModelError(f"{field}[{name!r}]: no such name in {self!r}", hint=hint)
            if not isinstance(value, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ModelError(f"{field}[{name!r}]: expected a tensor, got {type(value).__name__}")
            if value.shape != old[name].shape:
                raise ModelError(
                    f"{field}[{name!r}]: expected shape {tuple(old[name].shape)}, got {tuple(value.shape)}",
                    hint="a model keeps its shapes; speed_up() makes a smaller one",
                )
        return old.merged(new)

    def _in_mode(self, training: bool) -> "Model":
        if all(module.training == training for module in self.skeleton.modules()):
            return self
        return Model(skeleton.in_mode(self.skeleton, training), self.params, self.buffers, training)


def _taken(net: nn.Module, *, share: bool) -> Model:
    net = intake.unwrapped(net)
    intake.check(net)
    code, tensors = skeleton.take(net, share=share)
    params = Flat({name: tensors[name] for name, _ in net.named_parameters(remove_duplicate=False) if name in tensors})
    return Model(code, params, Flat(tensors).without(params), net.training)


def borrowed(net: nn.Module | Model) -> Model:
    """Read a module as a model without copying its tensors, for as long as the caller's own call lasts.

    Examples:
        >>> net = nn.Linear(3, 2)
        >>> borrowed(net)["weight"].data_ptr() == net.weight.data_ptr()
        True

    Args:
        net: Any module that `Model.from_module` takes; a `Model` is given back as it is.

    Returns:
        A model that shares its tensors with the module. It must not be kept: whoever trains the module changes it.
    """
    return net if isinstance(net, Model) else _taken(net, share=True)
