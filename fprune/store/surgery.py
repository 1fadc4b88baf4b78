"""The surgery of a stored run repeated on the caller's own instance: for code that no file keeps, and for couplings."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fprune.checkpoint.entry import Entry, damaged
from fprune.checkpoint.form import described
from fprune.equality import named_modules
from fprune.errors import CheckpointError, FpruneError
from fprune.inputs import Inputs
from fprune.lineage import Lineage
from fprune.model import Model
from fprune.structure import Structure, repeated, trace
from fprune.structure.forms import Form

__all__ = ["regenerated", "retraced"]


def regenerated(
    origin: Model, form: Entry, tensors: Mapping[str, Tensor], lineage: Lineage, example_inputs: Inputs | None
) -> nn.Module:
    """The code that the same surgery generates from the caller's own instance.

    Args:
        origin: the model before every surgery, in the code of the caller's own instance.
        form: what `described` said of the compact model.
        tensors: the parameters and buffers of the compact model; only names, shapes and dtypes matter.
        lineage: from the original to the compact model.
        example_inputs: what `forward` takes.

    Returns:
        The skeleton of the compact model.

    Raises:
        CheckpointError: there are no example inputs, or the surgery cannot be repeated, or generates other code.
    """
    if example_inputs is None:
        where = ", ".join(map(repr, form["replaced"].each(Entry.text))) or "the whole model"
        raise damaged(
            form.file,
            f"surgery generated code for {where}, which no file keeps",
            hint="pass what the model's forward takes, and the surgery is repeated: example_inputs=(x,)",
        )
    skeleton = _again(origin, form, tensors, lineage, example_inputs).model.skeleton
    if described(origin.skeleton, skeleton).get("code", {}) != form["code"].mapped(Entry.text):
        raise _different(form, "it generates other code")
    return skeleton


def retraced(
    origin: Model, form: Entry, tensors: Mapping[str, Tensor], lineage: Lineage, example_inputs: Inputs | None
) -> Structure | None:
    """Find the couplings of a compact model as the run carried them along.

    A new trace of the compact model finds the same units, but it sees what the layers of this library do inside, such
    as a norm over channels that are gone; a run that went on from it would round differently.

    Examples:
        >>> from fprune.tree import Flat
        >>> model = Model.from_module(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))
        >>> form = Entry(described(model.skeleton, model.skeleton), "it-000000/manifest.json")
        >>> kept = torch.tensor([0, 2])
        >>> cut = {"0.weight": (kept, None), "0.bias": (kept,), "1.weight": (None, kept)}
        >>> lineage = Lineage(Lineage.identity(model).shapes, Flat(cut))
        >>> tensors = lineage.slice(model.params)
        >>> retraced(model, form, tensors, lineage, Inputs.of(torch.ones(1, 4))).families
        (Family(0.weight, 2 units, 3 slices),)

    Args:
        origin: as for `regenerated`.
        form: as for `regenerated`.
        tensors: as for `regenerated`.
        lineage: as for `regenerated`.
        example_inputs: what `forward` takes.

    Returns:
        The couplings; None without example inputs, and for a model that was never compacted, whose trace they are.

    Raises:
        CheckpointError: the surgery that the lineage describes cannot be repeated on this model.
    """
    if example_inputs is None or lineage.is_identity:
        return None
    return _again(origin, form, tensors, lineage, example_inputs).structure


def _again(origin: Model, form: Entry, tensors: Mapping[str, Tensor], lineage: Lineage, example_inputs: Inputs) -> Form:
    style, replaced = "module", tuple[str, ...]()
    if form["kind"].text() == "traced":
        style, replaced = form["style"].text("module", "graph"), form["replaced"].each(Entry.text)
    unknown = {*replaced} - dict(named_modules(origin.skeleton)).keys()
    if unknown:
        form["replaced"].refuse(f"the model has no module {min(unknown)!r}")
    twins = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    try:
        done = repeated(origin, trace(origin, example_inputs), lineage, twins, style, replaced)
    except FpruneError as error:
        raise _different(form, error.message) from error
    except Exception as error:  # the lineage on file asks for what this model cannot do
        raise _different(form, f"{type(error).__name__}: {error}") from error
    made = {**done.model.params, **done.model.buffers}
    for name in sorted({*made, *tensors}):
        if name not in made or name not in tensors or made[name].shape != tensors[name].shape:
            raise _different(form, f"it gives another {name!r}")
    return done


def _different(form: Entry, reason: str) -> CheckpointError:
    return damaged(
        form.file,
        f"the surgery cannot be repeated on this model: {reason}",
        hint="pass an instance of the class that was pruned, and inputs like those of the run",
    )
