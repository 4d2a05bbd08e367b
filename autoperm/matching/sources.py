"""Which activations show a group, and an activation as one row of samples per position of the group."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from autoperm.activations import Activation, Taps
from autoperm.layout import Action
from autoperm.matching.unfold import Unfolding, unfoldings

#: The most activations to look at per group: the last one after a nonlinearity, and the last one besides.
PER_GROUP = 2

#: Ops after which an activation says most about a unit: what the next layer sees of it.
_NONLINEAR = """
_prelu_kernel _softmax celu clamp clamp_min elu exp gelu gru hardsigmoid hardswish hardtanh leaky_relu log_sigmoid
log_sigmoid_forward lstm mish mkldnn_rnn_layer prelu relu relu6 rnn_relu rnn_tanh rrelu selu sigmoid silu sin softmax
softplus softsign tanh threshold
"""
_PRODUCTS = frozenset(["addmm", "baddbmm", "bmm", "einsum", "linear", "matmul", "mm"])
_SOFTMAXES = frozenset(["_softmax", "softmax", "_safe_softmax", "_log_softmax", "log_softmax"])


@dataclass(frozen=True, eq=False)
class Source:
    """One activation that shows one group.

    Attributes:
        group: the group's index.
        activation: the node.
        cells: the cells in which the group occurs exactly once, beside all its parents.
        pool: ``""``; or, where other groups move beside it, the statistic over their positions that stands for them,
            ``"mean"`` or ``"deviation"``, which no permutation of theirs changes.
    """

    group: int
    activation: Activation
    cells: tuple[Unfolding, ...]
    pool: str = ""

    @property
    def key(self) -> tuple[int, str, str]:
        """The same for the same source in a trace on other shapes."""
        return self.group, self.activation.node, self.pool


def sources(taps: Taps) -> list[Source]:
    """For every group that an activation shows, the few to look at."""
    found: dict[int, list[Source]] = {}
    for activation in taps.activations.values():
        cells = unfoldings(taps.action, activation.node, activation.layout)
        for g in {taps.action.group_of[m] for u in cells for m in u.leaves if m in taps.action.group_of}:
            clean, pooled = _showing(taps.action, g, cells)
            if clean or pooled:
                found.setdefault(g, []).append(Source(g, activation, tuple(clean or pooled), "" if clean else "mean"))
    return [source for g in sorted(found) for source in _best(found[g])]


def _showing(action: Action, g: int, cells: Sequence[Unfolding]) -> tuple[list[Unfolding], list[Unfolding]]:
    """The cells that show a group and nothing else that moves, and those in which something else moves too."""
    group = action.groups[g]
    clean: list[Unfolding] = []
    pooled: list[Unfolding] = []
    for u in cells:
        if len(u.occurrences(group.leaves)) != 1 or not set(group.parents) <= set(u.leaves):
            continue
        _, strays, _ = axes_of(action, g, u)
        beside = {action.group_of[u.leaves[k]] for k in strays}  # type: ignore[index]
        if not beside:
            clean.append(u)
        elif not any(set(group.leaves) & set(action.groups[h].parents) for h in beside):
            pooled.append(u)  # a group's own dependents show it better than any mean over their positions
    return clean, pooled


def axes_of(action: Action, g: int, u: Unfolding) -> tuple[list[int], list[int], list[int]]:
    """The axes of a cell: those of a group's parents and its own, other ones that move, and the rest."""
    group = action.groups[g]
    own = list(u.occurrences(group.leaves)[0])
    mine = [u.axis_beside(p, own[0]) for p in ordered_parents(action, g)] + own
    others = [k for k in range(len(u.shape)) if k not in mine]
    strays = [k for k in others if u.leaves[k] in action.group_of]
    return mine, strays, [k for k in others if k not in strays]


def ordered_parents(action: Action, g: int) -> list[int]:
    """The leaves that a group depends on: pinned ones, then those that move, outermost group first."""
    parents = action.groups[g].parents
    pinned = [p for p in parents if p not in action.group_of]
    return pinned + [p for h in above(action, g) for p in action.groups[h].leaves if p in parents]


def above(action: Action, g: int) -> list[int]:
    """The groups that a group depends on, outermost first."""
    found = {action.group_of[p] for p in action.groups[g].parents if p in action.group_of}
    return sorted(found, key=lambda h: (len(action.groups[h].parents), h))


def _best(candidates: list[Source]) -> Iterator[Source]:
    """The last one after a nonlinearity and the last other one; no others than clean ones where there are any."""
    clean = [s for s in candidates if not s.pool]
    if not clean:
        last = max(enumerate(candidates), key=lambda item: (_rank(item[1].activation), item[0]))[1]
        yield last
        yield Source(last.group, last.activation, last.cells, "deviation")
        return
    place = {id(s): k for k, s in enumerate(clean)}
    first = max(clean, key=lambda s: (_rank(s.activation), place[id(s)]))
    yield first
    rest = [s for s in clean if s is not first]
    yield from sorted(rest, key=lambda s: (min(_rank(s.activation), 1), place[id(s)]))[::-1][: PER_GROUP - 1]


def _rank(activation: Activation) -> int:
    """2 after a nonlinearity; 0 for what goes into a softmax, where masks have put extreme values; else 1."""
    if activation.op in _NONLINEAR.split():
        return 2
    return 0 if activation.feeds & _SOFTMAXES and activation.op not in _PRODUCTS else 1


def rows(action: Action, source: Source, value: torch.Tensor) -> torch.Tensor:
    """An activation as samples in double precision: shape (pinned parents, moving parents x size, samples).

    Complex values count as two samples each, a real and an imaginary one.
    """
    value = source.activation.arranged(value)
    value = torch.view_as_real(value) if value.is_complex() else value[..., None]
    value = value.to(torch.promote_types(value.dtype, torch.float64))
    return torch.cat([_cell_rows(action, source, u, value) for u in source.cells], dim=-1)


def _cell_rows(action: Action, source: Source, u: Unfolding, value: torch.Tensor) -> torch.Tensor:
    group = action.groups[source.group]
    mine, strays, rest = axes_of(action, source.group, u)
    pinned = math.prod(action.leaves[p].size for p in group.parents if p not in action.group_of)
    parts = [u.of(part).permute(*mine, *rest, *strays) for part in value.unbind(-1)]
    width = math.prod(u.shape[k] for k in strays)
    units = math.prod(u.shape[k] for k in mine)
    cell = torch.stack([part.reshape(pinned, units // pinned, -1, width) for part in parts], dim=2).flatten(2, 3)
    if source.pool == "mean":
        return cell.mean(dim=-1)
    return cell.std(dim=-1, correction=0) if source.pool == "deviation" else cell.squeeze(-1)
