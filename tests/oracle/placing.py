"""Writing at positions that depend on the data: a function of what was there, and of all that is written, in order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch

from .pointwise import shaped
from .registry import Context, Ids, expands, is_mask


def index_put(ctx: Context, a: SimpleNamespace) -> Ids:
    """``x[i, j] = y``, or ``x[mask] = y`` with one mask and no other index."""
    dims = [d for d, i in enumerate(a.indices) if i is not None]
    if any(is_mask(ctx, d) for d in dims):
        if len(dims) > 1 or a.accumulate:
            raise NotImplementedError(f"the oracle has no {ctx.op} with a mask and other indices, or added up")
        return _masked(ctx, a, dims[0])
    indices = [a.indices[d] for d in dims]
    shape = torch.broadcast_shapes(*(i.shape for i in indices))
    base = ctx.ids(a.self).movedim(dims, list(range(len(dims))))
    rest, rank = base.shape[len(dims) :], len(shape)
    first = dims[0] if dims == list(range(dims[0], dims[0] + len(dims))) else 0
    sizes = [*rest[:first], *shape, *rest[first:]]
    values = ctx.ids(a.values).expand(sizes).movedim(list(range(first, first + rank)), list(range(rank)))
    found = torch.empty_like(base)
    for at, there, meant in _sections(base, indices, shape):
        where = list(zip(*(i.ids.expand(shape).reshape(-1)[meant].tolist() for i in indices if isinstance(i, Ids))))
        listed = []
        for column in values.reshape(shape.numel(), -1)[meant].T.tolist():
            writes = [ctx.graph.call("write", (*place, v)) for place, v in zip(where, column)]
            listed.append(ctx.graph.bag("added", writes) if a.accumulate else ctx.graph.call("written", writes))
        found[at] = _put(ctx, there, there.numel() // max(len(listed), 1), listed) if where else there
    return Ids(found.movedim(list(range(len(dims))), dims))


def along(ctx: Context, a: SimpleNamespace, reduce: str) -> Ids:
    """``scatter_reduce``: what is written to a row along one dimension, in no order."""
    dim = a.dim % len(a.self.shape)
    base, index, source = (ctx.ids(v).movedim(dim, -1) for v in (a.self, a.index, a.src))
    source = source[tuple(slice(0, n) for n in index.shape)]
    found = base.clone()
    for at in itertools.product(*(range(n) for n in index.shape[:-1])):
        writes = [ctx.graph.call("write", pair) for pair in zip(index[at].tolist(), source[at].tolist())]
        bag = ctx.graph.bag(("reduced", reduce, getattr(a, "include_self", True)), writes)
        found[at] = _put(ctx, base[at], base.shape[-1], [bag])
    return Ids(found.movedim(-1, dim))


def _sections(base: torch.Tensor, indices: list[Any], shape: torch.Size) -> Iterator[tuple[Any, torch.Tensor, torch.Tensor]]:
    """For each place along the dimensions whose indices are constant: what is there, and the writes that are meant for it."""
    known = [k for k, index in enumerate(indices) if not isinstance(index, Ids)]
    each = [torch.where(i < 0, i + base.shape[k], i).expand(shape).reshape(-1) for k, i in enumerate(indices) if k in known]
    for place in itertools.product(*(range(base.shape[k]) for k in known)):
        at = [slice(None)] * base.dim()
        for k, p in zip(known, place):
            at[k] = p  # type: ignore[call-overload]
        meant = torch.ones(shape.numel(), dtype=torch.bool)
        for index, p in zip(each, place):
            meant &= index == p
        yield tuple(at), base[tuple(at)], meant


def _put(ctx: Context, base: torch.Tensor, places: int, written: list[int]) -> torch.Tensor:
    """``base`` (places, *rest), each entry with its place and what is written to its column."""
    rows = base.reshape(places, -1).tolist()
    flat = [ctx.graph.call(("put", p), (there, written[r])) for p, row in enumerate(rows) for r, there in enumerate(row)]
    return shaped(flat, base.shape).ids


def _masked(ctx: Context, a: SimpleNamespace, dim: int) -> Ids:
    start, mask = ctx.ids(a.self), ctx.ids(a.indices[dim])
    covered, front = list(range(dim, dim + mask.dim())), list(range(mask.dim()))
    base = start.movedim(covered, front)
    before, after = start.shape[:dim], start.shape[dim + mask.dim() :]
    values = ctx.ids(a.values)
    count = values.shape[-len(after) - 1] if values.dim() > len(after) else 1
    if not count:  # the mask marks nothing
        return Ids(start)
    columns = values.expand(*before, count, *after).movedim(dim, 0).reshape(count, -1).T.tolist()
    marks = mask.reshape(-1).tolist()
    if count == 1:  # a choice, entry by entry
        rows = base.reshape(len(marks), -1).tolist()
        flat = [ctx.graph.call("where", (m, c[0], v)) for m, row in zip(marks, rows) for c, v in zip(columns, row)]
        return Ids(shaped(flat, base.shape).ids.movedim(front, covered))
    taken = ctx.graph.call("mask", marks)
    listed = [ctx.graph.call("taken", (taken, *column)) for column in columns]
    return Ids(_put(ctx, base, len(marks), listed).movedim(front, covered))


@expands("masked_scatter")
def masked_scatter(ctx: Context, a: SimpleNamespace) -> Ids:
    """Column by column, if one mark stands for each row: then whole rows of the source are taken."""
    start, mask = torch.broadcast_tensors(ctx.ids(a.self), ctx.ids(a.mask))
    source, width = ctx.ids(a.source), 1
    for k in range(1, start.dim() + 1):
        same = bool((mask.flatten(-k) == mask.flatten(-k)[..., :1]).all())
        if not same or source.numel() % start.shape[-k:].numel():
            break
        width = start.shape[-k:].numel()
    taken = ctx.graph.call("mask", mask.reshape(-1, width)[:, 0].tolist())
    listed = [ctx.graph.call("taken", (taken, *column)) for column in source.reshape(-1, width).T.tolist()]
    return Ids(_put(ctx, start, start.numel() // width, listed))
