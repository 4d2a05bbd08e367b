"""Reading at positions that depend on the data: a function of the ordered entries and of the index."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import torch

from .movement import run_moving
from .pointwise import combine, shaped
from .registry import Context, Ids, expands, has_ids, is_mask
from .scalars import ZERO


def read(ctx: Context, columns: torch.Tensor, *indices: torch.Tensor) -> Ids:
    """`columns` (n, *rest) read at each index of shape B: (*B, *rest). Columns are vertices shared by all
    reads.
    """
    graph = ctx.graph
    rest = columns.shape[1:]
    tables = [graph.call("column", column) for column in columns.reshape(columns.shape[0], -1).T.tolist()]
    indices = torch.broadcast_tensors(*indices)
    places = list(zip(*(index.reshape(-1).tolist() for index in indices)))
    flat = [graph.call("read", (table, *place)) for place in places for table in tables]
    return shaped(flat, (*indices[0].shape, *rest))


@expands("embedding")
def embedding(ctx: Context, a: SimpleNamespace) -> Ids:
    table = ctx.ids(a.weight)
    if isinstance(a.indices, Ids):
        return read(ctx, table, a.indices.ids)
    return Ids(table[a.indices])


@expands("_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(ctx: Context, a: SimpleNamespace) -> tuple[Any, ...]:
    """Each bag is a function of the multiset of its rows, with their weights if they have any."""
    if isinstance(a.offsets, Ids) or a.padding_idx >= 0:
        raise NotImplementedError(f"the oracle has no {ctx.op} with offsets that depend on the data, or with padding")
    rows = embedding(ctx, a).ids
    label = ("sum", "mean", "amax")[a.mode]
    if a.per_sample_weights is not None:
        label, rows = "dot", combine(ctx, "mul", Ids(rows), Ids(ctx.ids(a.per_sample_weights)[:, None])).ids
    starts = a.offsets.tolist() if a.include_last_offset else [*a.offsets.tolist(), len(rows)]
    bags = [rows[start:end].T.tolist() for start, end in itertools.pairwise(starts)]
    flat = [ctx.graph.bag(label, column) if column else ZERO for bag in bags for column in bag]
    rest = torch.zeros(0, dtype=torch.int64)  # for the backward pass
    return shaped(flat, (len(bags), rows.shape[1])), rest, rest, rest


@expands("index_select")
def index_select(ctx: Context, a: SimpleNamespace) -> Ids:
    ids = ctx.ids(a.self)
    if not isinstance(a.index, Ids):
        return Ids(ids.index_select(a.dim, a.index))
    return Ids(read(ctx, ids.movedim(a.dim, 0), a.index.ids).ids.movedim(0, a.dim))


@expands("index")
def index(ctx: Context, a: SimpleNamespace) -> Ids:
    ids = ctx.ids(a.self)
    if not has_ids(a.indices):
        return run_moving(ctx, {"self": ids, "indices": a.indices})
    indices = positions(ctx, a.indices, ids)
    dims = [d for d, i in enumerate(indices) if i is not None]
    out = looked_up(ctx, ids.movedim(dims, list(range(len(dims)))), [indices[d] for d in dims])
    count = out.dim() - (ids.dim() - len(dims))
    adjacent = dims == list(range(dims[0], dims[0] + len(dims)))
    first = dims[0] if adjacent else 0
    return Ids(out.movedim(list(range(count)), list(range(first, first + count))))


def positions(ctx: Context, indices: list[Any], ids: torch.Tensor) -> list[Any]:
    """Indices whose masks became positions along each dimension that they cover, as many as were found in the trace."""
    masks = [k for k, i in enumerate(indices) if i is not None and is_mask(ctx, k)]
    if not masks:
        return indices
    if len([i for i in indices if i is not None]) > 1:
        raise NotImplementedError(f"the oracle has no {ctx.op} with a mask that depends on the data and other indices")
    (k,) = masks
    mask = indices[k].ids
    rest = torch.Size([*ids.shape[:k], *ids.shape[k + mask.dim() :]])
    assert ctx.node is not None
    count = ctx.node.meta["val"].numel() // max(rest.numel(), 1)
    table = ctx.graph.call("nonzero", mask.reshape(-1).tolist())
    flat = [ctx.graph.unary(("entry", p), table) for p in range(count * mask.dim())]
    return [*indices[:k], *(Ids(column) for column in shaped(flat, (count, mask.dim())).ids.unbind(1))]


def looked_up(ctx: Context, base: torch.Tensor, indices: list[Ids | torch.Tensor]) -> torch.Tensor:
    """`base` (one dimension per index, *rest) at the indices, of shape B: (*B, *rest). Of what constant ones
    leave out nothing is read.
    """
    shape = torch.broadcast_shapes(*(i.shape for i in indices))
    each = [(i.ids if isinstance(i, Ids) else i).expand(shape).reshape(-1).tolist() for i in indices]
    known = [isinstance(i, torch.Tensor) for i in indices]
    found, tables = [], {}
    for place in zip(*each):
        at = tuple(p if k else slice(None) for p, k in zip(place, known))
        key = tuple(p for p, k in zip(place, known) if k)
        if key not in tables:
            tables[key] = base[at].flatten(0, known.count(False) - 1)
        data = [torch.tensor(p) for p, k in zip(place, known) if not k]
        found.append(read(ctx, tables[key], *data).ids)
    sizes = (*shape, *base.shape[len(indices) :])
    return torch.stack(found).reshape(sizes) if found else base.new_empty(sizes)


@expands("gather", "take_along_dim")
def gather(ctx: Context, a: SimpleNamespace) -> Ids:
    ids = ctx.ids(a.self)
    if not isinstance(a.index, Ids):
        return Ids(ids.gather(a.dim, a.index))
    source, target = ids.movedim(a.dim, -1), a.index.ids.movedim(a.dim, -1)
    source = source[tuple(slice(0, size) for size in target.shape[:-1])]
    flat: list[int] = []
    for row, places in zip(
        source.reshape(-1, source.shape[-1]).tolist(), target.reshape(-1, target.shape[-1]).tolist()
    ):
        table = ctx.graph.call("column", row)
        flat.extend(ctx.graph.call("read", (table, place)) for place in places)
    return Ids(shaped(flat, target.shape).ids.movedim(-1, a.dim))


@expands("isin")
def isin(ctx: Context, a: SimpleNamespace) -> Ids:
    """Each element is looked for among all the others."""
    among = ctx.graph.bag(("isin", a.invert), ctx.ids(a.test_elements).reshape(-1).tolist())
    elements = ctx.ids(a.elements)
    return shaped([ctx.graph.call("isin", (x, among)) for x in elements.reshape(-1).tolist()], elements.shape)


@expands("searchsorted", "bucketize")
def among(ctx: Context, a: SimpleNamespace) -> Ids:
    """A function of the value and of the boundaries in order, which may be others for each row of values."""
    if getattr(a, "sorter", None) is not None:
        raise NotImplementedError(f"the oracle has no {ctx.op} with another order of the boundaries")
    bounds, values = ctx.ids(a.boundaries if ctx.name == "bucketize" else a.sorted_sequence), ctx.ids(a.self)
    right = a.right or getattr(a, "side", None) == "right"
    rows = bounds.expand(*values.shape[:-1], bounds.shape[-1]) if values.dim() else bounds
    tables = [ctx.graph.call(("boundaries", right), row) for row in rows.reshape(-1, bounds.shape[-1]).tolist()]
    each = values.shape[-1] if values.dim() else 1
    flat = [ctx.graph.call("among", (v, tables[k // each])) for k, v in enumerate(values.reshape(-1).tolist())]
    return shaped(flat, values.shape)


@expands("_fft_r2c", "_fft_c2c", "_fft_c2r")
def fourier(ctx: Context, a: SimpleNamespace) -> Any:
    """Every frequency is a function of the ordered entries of the transformed dimensions."""
    ids, dims = a.self.ids, [d % a.self.ids.dim() for d in a.dim]
    last = list(range(-len(dims), 0))
    moved = ids.movedim(dims, last)
    sizes = list(moved.shape[-len(dims) :])
    if ctx.name == "_fft_c2r":
        sizes[-1] = a.last_dim_size
    elif ctx.name == "_fft_r2c" and a.onesided:
        sizes[-1] = sizes[-1] // 2 + 1
    lead = moved.shape[: -len(dims)]
    rows = moved.reshape(*lead, -1).flatten(0, -2) if lead else moved.reshape(1, -1)
    label = (ctx.name, repr(a.normalization), repr(getattr(a, "forward", None)))
    tables = [ctx.graph.call(label, row) for row in rows.tolist()]
    count = torch.Size(sizes).numel()
    flat = [ctx.graph.unary(("frequency", p), table) for table in tables for p in range(count)]
    return Ids(shaped(flat, (*lead, *sizes)).ids.movedim(last, dims))
