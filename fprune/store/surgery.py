"""The surgery of a stored run repeated on the caller's own instance: for code that no file keeps."""

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
from fprune.structure import repeated, trace
from fprune.structure.forms import Form

__all__ = ["regenerated"]


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


def _again(origin: Model, form: Entry, tensors: Mapping[str, Tensor], lineage: Lineage, example_inputs: Inputs) -> Form:
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
