"""Whole units: everything that the model's couplings tie together goes or stays together."""

from fprune.allocate.structural import Units, structural
from fprune.allocate.taking import Floats, channels_of, in_order, take_each, take_shared

__all__ = ["dependency_aware"]


@structural
def dependency_aware(units: Units, scores: Floats) -> None:
    """Remove whole units: a filter with its bias, the norm's entries, the filters added to it, the weights reading it.

    The units come from the structure of the model. A unit's score is the mean over the weights whose output channels it
    owns of `score of those channels / mean absolute score of the weight's channels`, so that a large kernel does not
    decide for the layers it is added to. Of each family of units `floor(s * n)` go, n counted before any compaction; of
    a layer whose channels fall into several families `floor(s * n)` go in total, and each family keeps one unit. With
    `total_sparsity` the units of the rule compete, and their channels in the rule's layers are counted.

    With a `budget`, such as `{"flops": 0.5}`, the units of the rule compete too: the fewest of them go, lowest scores
    first, that leave the whole model at most half of the original's FLOPs, as `fprune.count` counts them.

    Where a layer is made of attention heads, heads go and their width stays; a rule's `granularity` says otherwise.
    With `round_to=r` the count that is kept goes up to the next multiple of r, so that no more is lost than asked for;
    a family that has no multiple left loses nothing. `min_kept` bounds the count of every family from below.
    With `keep_class` units come back where the model's code ties sizes together, such as `width // num_heads`.

    A layer that the rules exclude keeps its channels and everything coupled to them. A layer that no rule selects
    follows the layers it is coupled to.

    Examples:
        >>> import torch
        >>> from fprune import Config, Model, inputs
        >>> from fprune.scope import Scope
        >>> from fprune.criteria import channel_norm
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
        >>> model = Model.from_module(net).replace({"0.weight": torch.tensor([[1.0, 1.0], [2.0, 2.0]])})
        >>> scope = Scope.of(model, example_inputs=inputs(torch.ones(1, 2)))
        >>> masks = dependency_aware(channel_norm(p=1), scope, Config([{"op_names": ["0"], "sparsity": 0.5}]))
        >>> masks["0.weight"].tolist(), masks["2.weight"].tolist()
        ([[False], [True]], [[False, True]])

    How the scores of a unit's layers become one is an option:

        >>> dependency_aware, dependency_aware(reduction="max"), dependency_aware(normalisation="none")
        (dependency_aware, dependency_aware(reduction='max'), dependency_aware(normalisation='none'))

    Args:
        units: the families that a config prunes; filled in by the pruner, as are the scores.
        scores: a score for each label. With options, `dependency_aware(reduction="max")`, it is made in another way:
            `reduction` over the layers of a unit is their `"mean"`, `"sum"`, `"max"`, or the `"first"` of them;
            `normalisation` of the scores of a layer is by the `"mean"` or the `"max"` of its channels, or `"none"`.

    Raises:
        ConfigError: coupled layers ask for different amounts, a named layer cannot lose channels, or nothing can; a
            granularity names nothing; a family cannot be kept in multiples of `round_to`; an amount or a budget is
            out of reach.
        StructureError: the structure is not that of a model.
    """
    each = [axis for axis in units.found if axis.sparsity is not None]
    take_each(units.structure, each, units.rows, units.scope, scores, units.removed)
    for rule in units.without_budget():
        shared = [axis for axis in rule if axis.sparsity is None]
        rows = [row for row in units.rows if row.rule == rule[0].rule]
        if shared:
            total = sum(channels_of(row, shared, units.scope) for row in rows)
            take_shared(shared, rows[0].total or 0.0, total, scores, units.removed)
    units.meet(scores, in_order)
