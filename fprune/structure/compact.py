"""Make a masked model smaller without changing what it computes."""

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor

from fprune.errors import ConfigTypeError, FpruneError, StructureError
from fprune.inputs import Inputs
from fprune.lineage import Lineage
from fprune.masks import Masks
from fprune.model import Model
from fprune.structure.bisimulate import CLOSE, divergences, first_difference
from fprune.structure.capture import BRANCHES
from fprune.structure.diagnose import differing
from fprune.structure.forms import FORMS, Form
from fprune.structure.graph import Graph
from fprune.structure.hooks import lost_hooks
from fprune.structure.operation import Operation, planned, rounded, tensors_after
from fprune.structure.rewrite import Cut
from fprune.structure.trace import Structure
from fprune.structure.verify import Reference, Verdict, agree
from fprune.tables import html_table, text_table
from fprune.tree import Flat


@attrs.frozen
class Surgery:
    """What a compaction did; prints as a table of families.

    Examples:
        >>> import torch
        >>> from fprune import Masks, Model, inputs
        >>> from fprune.structure import compact, trace
        >>> model = Model.from_module(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)))
        >>> masks = Masks({"1.weight": torch.tensor([[True, False, True]])})
        >>> report = compact(model, masks, trace(model, inputs(torch.ones(1, 4)))).report
        >>> report.style, report.removed, report.refused
        ('module', Flat(0.weight=1), Flat())

    Args:
        style: `"module"` (the model's own class), `"graph"` (a `torch.fx.GraphModule`) or `"unchanged"`.
        removed: units removed, by family.
        refused: masked units that had to stay, by family, and why.
        folded: biases that took over the constants of removed channels.
        difference: the largest difference of any output from the masked model's, relative to the output's largest
            entry.
        trials: on which inputs, and in which precision, the two were compared.
        replaced: in style `"module"`, the modules whose own code could not hold the new sizes: the `forward` of each is
            now generated, and makes the calls of the program on the same parameters.
        hooks: hooks of modules that a graph has taken the place of; what they did to values is part of the graph.
    """

    style: str
    removed: Flat[int]
    refused: Flat[str]
    folded: tuple[str, ...]
    difference: float
    trials: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()

    def __str__(self) -> str:
        """A table of families, and the hooks that are lost."""
        return "\n".join([text_table(*self._table(), title=self._title()), *(f"lost: {line}" for line in self.hooks)])

    def _title(self) -> str:
        return f"{sum(self.removed.values())} units removed, style {self.style}, difference {self.difference:.1e}"

    def _table(self) -> tuple[list[str], list[list[str]]]:
        names = dict.fromkeys([*self.removed, *self.refused])
        return ["family", "removed", "kept"], [[n, str(self.removed.get(n, 0)), self.refused.get(n, "")] for n in names]

    def _repr_html_(self) -> str:
        return html_table(*self._table(), title=self._title())


@attrs.frozen(eq=False)
class Compacted:
    """A smaller model and where it comes from.

    Examples:
        >>> import torch
        >>> from fprune import Masks, Model, inputs
        >>> from fprune.structure import compact, trace
        >>> model = Model.from_module(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)))
        >>> masks = Masks({"1.weight": torch.tensor([[True, False, True]])})
        >>> done = compact(model, masks, trace(model, inputs(torch.ones(1, 4))))
        >>> done.model["0.weight"].shape, len(done.masks), done.lineage.kept["0.bias"]
        (torch.Size([2, 4]), 0, (tensor([0, 2]),))

    Args:
        model: computes what the masked model computes.
        masks: what is left of the masks, in the shapes of the smaller model.
        lineage: the kept original indices of every tensor and dimension.
        structure: the couplings of the smaller model.
        report: what was done.
    """

    model: Model
    masks: Masks
    lineage: Lineage
    structure: Structure
    report: Surgery


def compact(model: Model, masks: Masks, structure: Structure, *, style: str = "auto") -> Compacted:
    """Remove every masked unit whose removal leaves the outputs as they are.

    The removal is decided from the weights alone, exactly; constants that removed channels would have contributed are
    folded into biases, or into the weights of one channel that stands in for the others. The result is then run beside
    the masked model, on the example inputs and on others of another batch size in float64, and refused if they differ.

    Examples:
        >>> import torch
        >>> from fprune import Masks, Model, inputs
        >>> from fprune.structure import compact, trace
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> model, kept = Model.from_module(net), torch.tensor([True, False, True])
        >>> masks = Masks({"0.weight": kept[:, None], "0.bias": kept})
        >>> compact(model, masks, trace(model, inputs(torch.ones(1, 4)))).model.to_module()[0]
        Linear(in_features=4, out_features=2, bias=True)

    Args:
        model: the model; the masks need not be applied to it yet.
        masks: which of its entries are pruned.
        structure: its couplings, from `trace(model, example_inputs)`.
        style: `"module"` keeps the model's class, `"graph"` gives a `GraphModule`, `"auto"` the first of them that is
            exact.

    Returns:
        The smaller model, its lineage and a report of what was removed and what had to stay.

    Raises:
        StructureError: no form of the smaller model computes the same; names the first call that differs.
    """
    if style not in ("auto", "module", "graph"):
        raise StructureError(f"style={style!r}: expected 'auto', 'module' or 'graph'")
    for name, value, kind, made in (
        ("model", model, Model, "Model.from_module(net)"),
        ("masks", masks, Masks, "l1().masks(model, config) or Masks({...})"),
        ("structure", structure, Structure, "structure.trace(model, x)"),
    ):
        if not isinstance(value, kind):  # pyright: ignore[reportUnnecessaryIsInstance]
            found = f"compact: {name}: expected {kind.__name__}, got {type(value).__name__}"
            raise ConfigTypeError(found, hint=f"compact(model, masks, structure), with {name} from {made}")
    masks.check(model)
    with torch.no_grad():
        masked = model.replace(masks.apply(model))
        operation = planned(masked, masks, structure)
        decision = operation.cut.decision
        refused = Flat({name: f"{n} kept: {why}" for name, (n, why) in decision.refused.items()})
        if not decision.removed.any():
            report = Surgery("unchanged", Flat({}), refused, (), 0.0)
            return Compacted(masked, masks, Lineage.identity(model), structure, report)
        return _operate(masked, masks, operation, refused, style)


def _operate(masked: Model, masks: Masks, operation: Operation, refused: Flat[str], style: str) -> Compacted:
    cut = operation.cut
    structure = cut.structure
    exact = tensors_after(masked, operation)
    lineage = _lineage(masked, masks, cut, operation.folded)
    form, verdict = _exact(masked, operation, exact, style)
    left = _left(masked, masks, lineage, exact)
    left = Masks({name: mask for name, mask in left.items() if name in form.model and not mask.all()})
    removed = {f.name: int(cut.decision.removed[f.labels].sum()) for f in structure.families}
    report = Surgery(
        form.style,
        Flat({name: n for name, n in removed.items() if n}),
        refused,
        tuple(sorted(lineage.folded)),
        verdict.difference,
        verdict.trials,
        form.replaced,
        lost_hooks(masked.skeleton, form.model.skeleton),
    )
    return Compacted(form.model, left, lineage, form.structure, report)


def _left(masked: Model, masks: Masks, lineage: Lineage, exact: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The masks of what is left; an entry that took up a constant is one of the model's weights again."""
    left = dict(lineage.slice_masks(masks))
    for name in lineage.folded.intersection(left):
        left[name] = left[name] | (exact[name] != lineage.slice({name: masked[name]})[name])
    return left


def _lineage(model: Model, masks: Masks, cut: Cut, folded: frozenset[str]) -> Lineage:
    kept: dict[str, tuple[Tensor | None, ...]] = {}
    for index, name in cut.structure.graph.tensors.items():
        rows = [cut.decision.kept(row) for row in cut.structure.rows[index]]
        if not all(row.all() for row in rows):
            kept[name] = tuple(None if row.all() else torch.from_numpy(row).nonzero()[:, 0] for row in rows)
    identity = Lineage.identity(model)
    return attrs.evolve(identity, kept=Flat(kept), masks=masks, folded=folded)


DECIDED = "call by call, choices by rounding taken from the masked model"


def _more(form: Form | None, inputs: Inputs) -> set[str]:
    """Further modules to replace: those whose code does something else than the program."""
    if form is None or form.style != "module":
        return set()
    return differing(form.model, form.structure.graph, inputs, form.replaced) - {""}


def _exact(masked: Model, operation: Operation, exact: Mapping[str, Tensor], style: str) -> tuple[Form, Verdict]:
    """The first form of the smaller model that computes what the masked model does."""
    cut, graph = operation.cut, operation.structure.graph
    tensors = rounded(masked, operation, exact)
    unrounded = {name: tensor for name, tensor in exact.items() if tensor is not tensors[name]}
    reference = Reference(masked, cut.structure)
    problems: list[str] = []
    trial = reference.example.trial
    apart: set[str] = set()
    styles = [name for name in ("module", "graph") if style in ("auto", name)]
    while styles:
        name, form, verdict = styles[0], None, None
        try:
            form = FORMS[name](masked, operation, tensors, apart)
            verdict = agree(form.model, reference, unrounded)
        except FpruneError as error:
            problem = error.message
        except Exception as error:  # the class cannot run with the new sizes
            problem = f"{type(error).__name__}: {error}"
        else:
            if verdict.failed is None:
                return form, verdict
            trial = verdict.failed
            problem = f"outputs differ by {verdict.difference:.2e} (relative) on {trial.name}"
        more = _more(form, cut.structure.inputs)
        if not more and form is not None and graph.reads and verdict is not None and not trial.turned:
            same = next(divergences(cut, graph, masked, exact, trial, decided=True), None) is None
            if same:
                return form, attrs.evolve(verdict, difference=CLOSE, trials=(*verdict.trials, DECIDED), failed=None)
        if not more:
            problems.append(f"style {name!r}: {problem}")
            styles.pop(0)
        apart |= more
    where = "" if trial.turned else first_difference(cut, graph, masked, exact, trial)
    raise StructureError(
        "the smaller model would not compute the same. "
        + "; ".join(problems)
        + (f"; first difference: {where}" if where else ""),
        hint=_way_out(graph),
    )


def _way_out(graph: Graph) -> str:
    """What to do about a model of which no smaller one computes the same."""
    choices = [read.site for read in graph.reads if read.operator in BRANCHES]
    if not choices:
        return "report this model; until then exclude the layers named here"
    return (
        f"the model chooses by its inputs at {choices[0]}: exclude the layers that only one of the ways runs "
        "through, or leave out speed_up(), since masks suit both"
    )
