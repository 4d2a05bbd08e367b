"""Slices of one tensor at equal distances, and the tensor with a dimension for them."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

_aten = torch.ops.aten
_SPLITS = (_aten.split.Tensor, _aten.split_with_sizes.default, _aten.chunk.default, _aten.tensor_split.sections)


@dataclass(frozen=True)
class Slice:
    """Positions of one dimension of a node's value.

    Attributes:
        base: the node.
        dim: the dimension.
        start, step, length: the first position, how far it is to the next one, and how many there are.
        keeps: whether the slice has the dimension; a single position may be taken without it.
    """

    base: fx.Node
    dim: int
    start: int
    step: int
    length: int
    keeps: bool = True


def slice_of(node: fx.Node) -> Slice | None:
    """What a node takes from its operand, if that is positions at equal distances along one dimension."""
    if node.target is _aten.slice.Tensor:
        return _sliced(*node.args, **node.kwargs)  # type: ignore[arg-type]
    if node.target is _aten.select.int:
        base, dim, index = node.args
        return _selected(base, dim, index)  # type: ignore[arg-type]
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        return _part(*node.args)  # type: ignore[arg-type]
    return None


def _sliced(base: fx.Node, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Slice | None:
    shape = base.meta["val"].shape
    if not all(isinstance(n, int) for n in (dim, start or 0, end or 0, step)):
        return None
    taken = range(shape[dim])[slice(start, end, step)]
    return Slice(base, dim % len(shape), taken.start, step, len(taken)) if len(taken) else None


def _selected(base: fx.Node, dim: int, index: Any) -> Slice | None:
    shape = base.meta["val"].shape
    if not isinstance(index, int):
        return None
    return Slice(base, dim % len(shape), index % shape[dim], 1, 1, keeps=False)


def _part(source: fx.Node, k: int) -> Slice | None:
    """A result of ``split`` and the like."""
    parts = source.meta.get("val")
    if source.target is _aten.unbind.int:
        return _selected(source.args[0], source.args[1] if len(source.args) > 1 else 0, k)  # type: ignore[arg-type]
    if source.target not in _SPLITS:
        return None
    base: fx.Node = source.args[0]  # type: ignore[assignment]
    dim = source.kwargs.get("dim", source.args[2] if len(source.args) > 2 else 0)
    sizes = [part.shape[dim] for part in parts]  # type: ignore[union-attr]
    if not sizes[k]:
        return None
    return Slice(base, dim % base.meta["val"].ndim, sum(sizes[:k]), 1, sizes[k])  # type: ignore[operator]


def written_to(node: fx.Node) -> Slice | None:
    """The slice of its first operand that a node puts its second one into."""
    if node.target is _aten.slice_scatter.default:
        base, _, *rest = node.args
        return _sliced(base, *rest, **node.kwargs)  # type: ignore[arg-type]
    if node.target is _aten.select_scatter.default:
        base, _, dim, index = node.args
        return _selected(base, dim, index)  # type: ignore[arg-type]
    return None


def starts_of(slices: Sequence[Slice | None]) -> list[int] | None:
    """Where slices start, if they are of one tensor and alike."""
    first = slices[0]
    if first is None or len(slices) < 2 or any(s is None or replace(s, start=first.start) != first for s in slices):
        return None
    return [s.start for s in slices if s is not None]


def distance(slices: Sequence[Slice | None]) -> int | None:
    """How far each slice is from the one before, if they are alike, in ascending order and apart."""
    first, starts = slices[0], starts_of(slices)
    if first is None or starts is None:
        return None
    steps = {b - a for a, b in itertools.pairwise(starts)}
    step = steps.pop()
    return step if not steps and step > 0 and _form(first, step, len(slices)) else None


def _form(first: Slice, step: int, count: int) -> str:
    """How slices lie: single positions, one block after the other, some blocks of many, or interleaved; empty if otherwise."""
    size = first.base.meta["val"].shape[first.dim]
    if first.length == 1:
        return "single"
    if first.step == 1 and step >= first.length and step * count <= size and _before(first, step * count) + first.length <= step:
        return "blocks"
    if first.step == 1 and step % first.length == 0:
        return "some blocks"
    if first.step >= step * count and first.step * first.length <= size:
        return "interleaved" if _before(first, first.step * first.length) + step * (count - 1) < first.step else ""
    return ""


def _before(first: Slice, extent: int) -> int:
    """How many positions before the first one to begin with, so that an extent fits."""
    return max(0, first.start + extent - first.base.meta["val"].shape[first.dim])


def stacked(base: Tensor, first: Slice, step: int, count: int) -> Tensor:
    """The slices of a value side by side along a new first dimension."""
    dim, form = first.dim, _form(first, step, count)
    if form == "single":
        found = base[(slice(None),) * dim + (slice(first.start, first.start + step * (count - 1) + 1, step),)].movedim(dim, 0)
        return found.unsqueeze(dim + 1) if first.keeps else found
    if form == "some blocks":
        every = step // first.length
        blocks = every * (count - 1) + 1
        region = base.narrow(dim, first.start, blocks * first.length).unflatten(dim, (blocks, first.length))
        return region[(slice(None),) * dim + (slice(None, None, every),)].movedim(dim, 0)
    extent = step * count if form == "blocks" else first.step * first.length
    before = _before(first, extent)
    region = base.narrow(dim, first.start - before, extent)
    if form == "blocks":
        return region.unflatten(dim, (count, step)).narrow(dim + 1, before, first.length).movedim(dim, 0)
    region = region.unflatten(dim, (first.length, first.step))
    end = before + step * (count - 1) + 1
    return region[(slice(None),) * (dim + 1) + (slice(before, end, step),)].movedim(dim + 1, 0)
