"""Where the turns of a loop over slices are put together: by ``cat`` and ``stack``, slice by slice, or by sums and the like."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from autoperm.inference.forms import Forms
from autoperm.inference.lanes import Lane, lane
from autoperm.inference.slices import Slice, written_to

_aten = torch.ops.aten

#: Ops that put operands together in any order, how they do so along a dimension, and the operand that changes nothing.
_FOLDS: dict[Any, tuple[Callable[[Tensor], Tensor], float | None]] = {
    _aten.add.Tensor: (lambda t: t.sum(0), 0),
    _aten.mul.Tensor: (lambda t: t.prod(0), 1),
    _aten.maximum.default: (lambda t: t.amax(0), None),
    _aten.minimum.default: (lambda t: t.amin(0), None),
}


@dataclass(frozen=True)
class Loop:
    """Lanes that a node puts together.

    Attributes:
        sink: the node.
        lane: what the lanes are.
        join: from the values of the lanes along a first dimension to the node's, as far as they go.
        rest: operands of the node that are no lanes.
        finish: from that value and those of the rest to the node's.
    """

    sink: fx.Node
    lane: Lane
    join: Callable[[Tensor], Tensor]
    rest: tuple[fx.Node, ...] = ()
    finish: Callable[[Tensor, Sequence[Tensor]], Tensor] = lambda found, rest: found

    def run(self, sources: Sequence[fx.Node], values: Sequence[Tensor]) -> Tensor:
        """The sink's value from those of the lane's sources and of the rest."""
        of = dict(zip(sources, values, strict=True))
        found = self.finish(self.join(self.lane.run(of)), [of[node] for node in self.rest])
        return _laid_out(found, self.sink.meta["val"])


def _laid_out(value: Tensor, like: Tensor) -> Tensor:
    """A value in memory as another one is: what follows may view it."""
    forms = {4: torch.channels_last, 5: torch.channels_last_3d}
    for form in (torch.contiguous_format, forms.get(like.ndim)):
        if form is not None and value.stride() != like.stride() and like.is_contiguous(memory_format=form):
            return value.contiguous(memory_format=form)
    return value


def loops(node: fx.Node, forms: Forms) -> Iterator[Loop]:
    """The loops whose turns a node puts together; ``forms`` are the graph's."""
    if node.op != "call_function":
        return
    if node.target in (_aten.cat.default, _aten.stack.default):
        yield from _joined(node, forms)
    elif node.target in _FOLDS:
        yield from _folded(node, forms)
    elif written_to(node) is not None:
        yield from _written(node, forms)


# -- side by side ----------------------------------------------------------------------------------------------------------


def _joined(node: fx.Node, forms: Forms) -> Iterator[Loop]:
    dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    if isinstance(dim, int):
        parts: Sequence[fx.Node] = node.args[0]  # type: ignore[assignment]
        yield from _side_by_side(node, parts, forms, dim % node.meta["val"].ndim, new=node.target is _aten.stack.default)


def _side_by_side(node: fx.Node, parts: Sequence[fx.Node], forms: Forms, dim: int, *, new: bool) -> Iterator[Loop]:
    """Parts that are one after the other along a dimension, or along a new one; or, if not all are alike, a run of them."""
    if _are_turns(parts) and (found := lane(tuple(parts))) is not None and found.is_even:
        yield Loop(node, found, _joining(found, dim, new=new))
        return
    for start, stop in _runs(parts, forms):
        some, rest = parts[start:stop], (*parts[:start], *parts[stop:])
        if len(rest) and _are_turns(some) and (found := lane(tuple(some))) is not None:
            finish = functools.partial(_put_between, start, dim, new)
            yield Loop(node, found, _joining(found, dim, new=new), rest, finish)


def _are_turns(parts: Sequence[fx.Node]) -> bool:
    return len(parts) > 1 and len({part.meta["val"].shape for part in parts}) == 1


def _runs(parts: Sequence[fx.Node], forms: Forms) -> list[tuple[int, int]]:
    """Where parts that are made alike follow one another, the longest run first."""
    if len(parts) < 3:
        return []
    own, found, start = list(map(forms.of, parts)), [], 0
    for k in range(1, len(parts) + 1):
        if k == len(parts) or own[k] != own[start]:
            found.append((start, k))
            start = k
    return sorted((run for run in found if run[1] - run[0] > 1), key=lambda run: run[0] - run[1])


def _joining(found: Lane, dim: int, *, new: bool) -> Callable[[Tensor], Tensor]:
    """Puts lanes one after the other along a dimension, in the order in which they were given."""
    order = [found.order.index(k) for k in range(len(found.lanes))]

    def join(t: Tensor) -> Tensor:
        if order == sorted(order, reverse=True):
            t = t.flip(0)
        elif order != sorted(order):
            t = torch.stack([t[k] for k in order])
        t = t.movedim(0, dim)
        return t if new else t.flatten(dim, dim + 1)

    return join


def _put_between(before: int, dim: int, new: bool, found: Tensor, rest: Sequence[Tensor]) -> Tensor:
    """A run of parts behind so many of the rest, and before the others."""
    others = [part.unsqueeze(dim) if new else part for part in rest]
    return torch.cat([*others[:before], found, *others[before:]], dim)


def _written(node: fx.Node, forms: Forms) -> Iterator[Loop]:
    """The last of writes to slices of a tensor, each to its own, until there is none left."""
    if any(written_to(user) is not None and user.args[0] is node for user in node.users):
        return
    last: Slice = written_to(node)  # type: ignore[assignment]
    writes: dict[int, fx.Node] = {}
    here, place = node, written_to(node)
    while place is not None and replace(place, base=last.base, start=last.start) == last:
        writes.setdefault(place.start, _copied(here.args[1]))  # type: ignore[arg-type]
        here = place.base
        place = written_to(here)
    starts = sorted(writes)
    size = node.meta["val"].shape[last.dim]
    if last.step == 1 and starts == list(range(0, size, last.length)) and size % last.length == 0:
        yield from _side_by_side(node, [writes[start] for start in starts], forms, last.dim, new=not last.keeps)


def _copied(node: fx.Node) -> fx.Node:
    """What a node is a copy of, where a value was put into a slice."""
    if node.target is not _aten.copy.default:
        return node
    source: fx.Node = node.args[1]  # type: ignore[assignment]
    one, other = node.meta["val"], source.meta["val"]
    return source if (one.shape, one.dtype) == (other.shape, other.dtype) else node


# -- in any order ----------------------------------------------------------------------------------------------------------


def _is_fold(node: fx.Node, target: Any) -> bool:
    """Whether a node puts two operands together by an op, as numbers with fractions."""
    value = node.meta.get("val")
    if node.op != "call_function" or node.target is not target or not isinstance(value, Tensor) or len(node.args) != 2:
        return False
    return not node.kwargs and value.is_floating_point()


def _folded(node: fx.Node, forms: Forms) -> Iterator[Loop]:
    users = list(node.users)
    if not _is_fold(node, node.target) or (len(users) == 1 and _is_fold(users[0], node.target)):
        return  # the last of a chain speaks for it
    join, neutral = _FOLDS[node.target]

    def fold(found: Tensor, rest: Sequence[Tensor]) -> Tensor:
        return functools.reduce(node.target, rest, found)  # type: ignore[arg-type]

    terms = _terms(node, neutral)
    for some in _alike(terms, lambda term: (term.target if term.op == "call_function" else term, _shape(term))):
        found = _turns(some)
        if found is not None and found.is_even:
            yield Loop(node, found, join, tuple(term for term in terms if term not in some), fold)
        elif len(some) > 2:  # some of them may be turns without the others
            for few in _alike(some, forms.of):
                if len(few) < len(some) and (found := _turns(few)) is not None:
                    yield Loop(node, found, join, tuple(term for term in terms if term not in few), fold)


def _turns(terms: Sequence[fx.Node]) -> Lane | None:
    return lane(tuple(terms)) if len(terms) > 1 and len(set(terms)) == len(terms) else None


def _shape(node: fx.Node) -> tuple[torch.Size, torch.dtype]:
    return node.meta["val"].shape, node.meta["val"].dtype


def _alike(terms: Sequence[fx.Node], key: Callable[[fx.Node], Hashable]) -> list[list[fx.Node]]:
    found: dict[Hashable, list[fx.Node]] = defaultdict(list)
    for term in terms:
        found[key(term)].append(term)
    return list(found.values())


def _terms(node: fx.Node, neutral: float | None) -> list[fx.Node]:
    """What a chain of equal ops puts together, in order."""
    found: list[fx.Node] = []
    waiting = [node]
    while waiting:
        here = waiting.pop()
        if here is node or (_is_fold(here, node.target) and len(here.users) == 1):
            one, other = here.args
            if all(isinstance(x, fx.Node) and x.meta["val"].is_floating_point() for x in (one, other)):
                waiting += [other, one]  # type: ignore[list-item]
                continue
            same = isinstance(one, fx.Node) and one.meta["val"].dtype == here.meta["val"].dtype
            if same and neutral is not None and not isinstance(other, fx.Node) and other == neutral:
                waiting.append(one)  # type: ignore[arg-type]
                continue
        found.append(here)
    return found
