"""Record a model's forward pass, on the meta device when it can run there."""

import copy

import torch

from fprune.inputs import Inputs
from fprune.model import Model
from fprune.structure.capture import NeedsData, Recording
from fprune.structure.graph import Graph


def record(model: Model, inputs: Inputs) -> Graph:
    """Record the evaluation-mode forward pass of a model.

    Args:
        model: any model; it is not changed.
        inputs: example inputs; their shapes matter, their values only for models that cannot run without data.

    Returns:
        The program, dead calls removed. If the model reads values computed from its inputs, `reads` says where.

    Raises:
        ModelError: the forward pass fails on the inputs.
    """
    model = model.eval()
    try:
        return Recording().run(copy.deepcopy(model.skeleton), model.skeleton, inputs, torch.device("meta"))
    except NeedsData:
        return Recording().run(model.to_module(), model.skeleton, inputs, model.device)
