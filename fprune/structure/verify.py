"""Check that two models compute the same."""

from collections.abc import Mapping
from functools import cached_property

import attrs
import torch
from torch import Tensor, nn

from fprune.inputs import Inputs
from fprune.model import Model
from fprune.structure.capture import BRANCHES
from fprune.structure.outputs import leaves, positions
from fprune.structure.trace import Structure
from fprune.structure.trials import Trial, cheap, drawn, example, turned

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
_WIDE_TOLERANCE = 1e-11  # float64 throughout, on both sides


@attrs.frozen(eq=False)
class Answer:
    """What the masked model returns in a trial."""

    trial: Trial
    outputs: list[Tensor]


@attrs.frozen(eq=False)
class Reference:
    """The masked model's answers, each computed once and only when it is asked for.

    Args:
        masked: the masked model.
        structure: its couplings, for the example inputs and which outputs matter.
    """

    masked: Model
    structure: Structure

    @property
    def batch(self) -> int:
        """The first dimension of the first input; 0 when there is none."""
        graph = self.structure.graph
        first = graph.shapes[graph.inputs[0]] if graph.inputs else ()
        return first[0] if first else 0

    def outputs(self, trial: Trial, model: Model) -> list[Tensor]:
        """Those of a model's outputs that have to stay as they are."""
        return self.structure.graph.picked(leaves(trial.returned(model)))

    @cached_property
    def rounding(self) -> float:
        """What the model's own casts to narrower types forgive: many a norm computes in float32."""
        nodes = self.structure.graph.nodes
        casts = [node.bound.get("dtype") for node in nodes if node.inputs]
        return max((_TOLERANCE.get(dtype, 0.0) for dtype in casts if isinstance(dtype, torch.dtype)), default=0.0)

    @cached_property
    def example(self) -> Answer:
        """On the example inputs, in the model's own precision."""
        trial = example(self.structure.inputs)
        return Answer(trial, self.outputs(trial, self.masked))

    @cached_property
    def branches(self) -> list[Answer]:
        """On the example inputs, each choice the model makes from them turned, where it can go on from there."""
        lines = dict.fromkeys(read.site for read in self.structure.graph.reads if read.operator in BRANCHES)
        answers = (self._first([turned(self.structure.inputs, line)]) for line in lines)
        return [answer for answer in answers if answer is not None]

    @cached_property
    def cheap(self) -> Answer | None:
        """On one sample and small images, if the model takes them."""
        return self._first(cheap(self.structure.inputs, self.batch))

    @cached_property
    def other(self) -> Answer | None:
        """On other inputs of another batch size in float64, or what the masked model can do of that."""
        return self._first(drawn(self.structure.inputs, self.batch))

    def _first(self, trials: list[Trial]) -> Answer | None:
        for trial in trials:
            try:
                outputs = self.outputs(trial, self.masked)
            except Exception:  # the masked model itself has no float64 kernel, or takes no other batch: try less
                continue
            if all(x.isfinite().any() for x in outputs if x.numel()):
                return Answer(trial, outputs)
        return None


@attrs.frozen(eq=False)
class Verdict:
    """How a model compares with the masked one.

    Args:
        difference: the largest over all outputs and trials, relative to the output's largest entry.
        trials: what was tried, in order; the last one is the one that failed, if any did.
        failed: the trial in which the models differ, or None.
    """

    difference: float
    trials: tuple[str, ...]
    failed: Trial | None

    @property
    def ok(self) -> bool:
        """Whether the models compute the same."""
        return self.failed is None


def agree(candidate: Model, reference: Reference, exact: Mapping[str, Tensor]) -> Verdict:
    """Compare a model with the masked one: on the example inputs, and on other inputs in float64.

    Args:
        candidate: the model to check.
        reference: what the masked model computes.
        exact: tensors before they were rounded to the model's own precision, for the trials in float64: those that
            took up constants.

    Raises:
        Exception: whatever the candidate's forward pass raises.
    """
    verdict = _compared(candidate, reference, reference.example, exact)
    for answer in reference.branches:
        if verdict.ok:
            verdict = _joined(verdict, _compared(candidate, reference, answer, exact))
    if not verdict.ok:
        return verdict
    if reference.cheap is not None:
        try:
            small = _compared(candidate, reference, reference.cheap, exact)
        except Exception:  # a program with its sizes written out: only the full size counts
            small = None
        if small is not None and small.ok:
            return _joined(verdict, small)
    if reference.other is None:
        return verdict
    return _joined(verdict, _compared(candidate, reference, reference.other, exact))


def _joined(a: Verdict, b: Verdict) -> Verdict:
    return Verdict(max(a.difference, b.difference), (*a.trials, *b.trials), a.failed or b.failed)


def _compared(candidate: Model, reference: Reference, answer: Answer, exact: Mapping[str, Tensor]) -> Verdict:
    trial = answer.trial
    if trial.wide:
        params, buffers = ({n: x for n, x in exact.items() if n in held} for held in (candidate, candidate.buffers))
        candidate = candidate.replace(params, buffers)
    outputs = reference.outputs(trial, candidate)
    own = [max(_TOLERANCE.get(x.dtype, 0.0), reference.rounding) for x in answer.outputs]
    limits = [_WIDE_TOLERANCE] * len(own) if trial.wide else own
    if len(outputs) != len(limits):
        return Verdict(float("inf"), (trial.name,), trial)
    gaps = [difference(a, b) for a, b in zip(answer.outputs, outputs, strict=True)]
    ok = all(gap <= limit for gap, limit in zip(gaps, limits, strict=True))
    return Verdict(max(gaps, default=0.0), (trial.name,), None if ok else trial)


def difference(a: Tensor, b: Tensor, scale: float = 0.0) -> float:
    """Largest difference relative to the largest entry of `a`; infinite when shapes or non-finite entries differ.

    Args:
        a: the reference.
        b: the tensor to compare.
        scale: differences are relative to this where it is larger than every entry of `a`.
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if not a.numel():
        return 0.0
    if a.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    if not a.is_floating_point():
        return 0.0 if torch.equal(a, b) else float("inf")
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()) or not torch.equal(a[~finite].nan_to_num(), b[~finite].nan_to_num()):
        return float("inf")
    a, b = a[finite].double(), b[finite].double()
    scale = max(scale, a.abs().max().item() if a.numel() else 0.0)
    gap = (a - b).abs().max().item() if a.numel() else 0.0
    return gap / scale if scale else (0.0 if gap == 0 else float("inf"))


def verify(masked: Model | nn.Module, compacted: Model | nn.Module, inputs: Inputs) -> tuple[float, ...]:
    """Compare two models on given inputs.

    Examples:
        >>> import torch
        >>> from fprune import Model, inputs
        >>> from fprune.structure import verify
        >>> net = torch.nn.Linear(3, 2)
        >>> verify(net, net, inputs(torch.ones(1, 3)))
        (0.0,)

    Args:
        masked: the reference, run in evaluation mode.
        compacted: the model to check, likewise.
        inputs: arguments of the forward pass; with `outputs=`, which of the outputs to compare.

    Returns:
        One number per output: the largest difference relative to the largest entry of the reference.
    """
    given = Inputs.of(inputs) or Inputs()
    results = [example(given).returned(Model.of(net)) for net in (masked, compacted)]
    pairs = list(zip(*map(leaves, results), strict=True))
    picked = range(len(pairs)) if given.outputs is None else positions(given.outputs, results[0])
    return tuple(difference(*pairs[position]) for position in picked)
