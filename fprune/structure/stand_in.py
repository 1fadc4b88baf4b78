"""Constants that enter a padded convolution: one channel stands in for all of them.

Zero padding makes the contribution of a constant smaller at the border, so that no bias can take it over. But two
constant channels differ by a factor only: with c_j the constant of channel j, removing all channels of a set R but j0
and giving j0 the weights

    w'[:, j0] = w[:, j0] + sum over the other j in R of (c_j / c_j0) w[:, j]

changes nothing, whatever the padding, stride and dilation. In a grouped convolution every group has its own j0.
"""

from collections import Counter
from collections.abc import Callable, Mapping

import attrs
import torch
from torch import Tensor

from fprune.structure.arguments import listed
from fprune.structure.flow import Sink
from fprune.structure.known import Along, Known
from fprune.structure.labels import Bools, Ints
from fprune.structure.trace import Structure

_SMALL = 2.0**-10  # a constant smaller than this beside another has lost too many digits to stand in for it


@attrs.frozen(eq=False)
class StandIn:
    """Which channels take the place of which.

    Args:
        place: per group, the channel within the group that stands in; shape `(groups,)`.
        ratios: per channel, `c_j / c_j0` for those that go and 0 for the others; `(groups, channels of a group)`.
    """

    place: Tensor
    ratios: Tensor

    def folded(self, weight: Tensor) -> Tensor:
        """The weight of the convolution, `(out, channels of a group, *kernel)`, the stand-ins carrying the others."""
        groups = len(self.place)
        w = weight.to(self.ratios.dtype).reshape(groups, -1, *weight.shape[1:]).clone()
        w[torch.arange(groups), :, self.place] += torch.einsum("gi,goi...->go...", self.ratios, w)
        return w.reshape(weight.shape)


def has_stand_ins(structure: Structure) -> frozenset[int]:
    """The sinks whose weights may be changed: zero-padded convolutions with a parameter that nothing else reads."""
    graph = structure.graph
    uses = Counter([*(index for node in graph.nodes for index in node.inputs), *graph.outputs])
    return frozenset(
        number
        for number, sink in enumerate(structure.sinks)
        if sink.kind == "conv"
        and _is_padded(sink)
        and (weight := sink.weight or -1) in graph.tensors
        and uses[weight] == 1
    )


def _is_padded(sink: Sink) -> bool:
    padding = sink.node.bound["padding"]
    return padding == "same" if isinstance(padding, str) else any(listed(padding))


def standing(along: Along, groups: int, lost: Bools, kept: Bools) -> tuple[Bools, Bools]:
    """Of the channels that a convolution cannot lose, those that may go if others stand in for them.

    Args:
        along: what is known of each channel.
        groups: groups of the convolution.
        lost: channels to remove that are not 0 and are read.
        kept: channels that stay.

    Returns:
        Those of `lost` that may go, and those of `lost` that have to stay for that; none where one that stays anyway
        is large enough.
    """
    size = _sizes(along)
    gone, stays = (torch.from_numpy(which).to(size.device) & (size > 0) for which in (lost, kept))
    largest, place = torch.where(gone, size, 0).view(groups, -1).max(1)
    found = torch.where(stays, size, 0).view(groups, -1).amax(1) >= largest * _SMALL
    chosen = torch.zeros_like(gone).view(groups, -1)
    chosen[torch.arange(groups), place] = ~found
    chosen = chosen.flatten() & gone
    return (gone & ~chosen).cpu().numpy(), chosen.cpu().numpy()


def stand_ins(structure: Structure, kept: Callable[[Ints], Bools], values: Mapping[int, Known]) -> dict[int, StandIn]:
    """Constants that removal would lose, as weights of the channels that stand in for them.

    Args:
        structure: the couplings.
        kept: which indices of a dimension, given its label rows, stay.
        values: what is known of each value of the masked model.

    Returns:
        Sink number -> what takes the place of what, in the coordinates before the removal.
    """
    out: dict[int, StandIn] = {}
    for number in has_stand_ins(structure):
        sink = structure.sinks[number]
        stays = kept(sink.rows)
        if stays.all():
            continue
        along = values[sink.value].along(sink.dim)
        groups, size = sink.node.bound["groups"], _sizes(along)
        here = torch.from_numpy(stays).to(size.device)
        place = torch.where(here, size, 0).view(groups, -1).argmax(1)
        value = along.value.view(groups, -1)
        own = value[torch.arange(groups), place]
        gone = (~here & (size > 0)).view(groups, -1) & (own != 0)[:, None]
        ratios = torch.where(gone, value / torch.where(own != 0, own, 1)[:, None], 0)
        if ratios.any():
            out[number] = StandIn(place, ratios)
    return out


def _sizes(along: Along) -> Tensor:
    """The magnitude of each channel that is one constant everywhere, 0 for the others."""
    return torch.where(~along.taint & along.constant, along.value.abs(), 0)
