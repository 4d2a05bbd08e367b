"""Writing at constant positions, with and without accumulation; `placing` has those that depend on the data."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from . import placing
from .movement import move
from .pointwise import shaped
from .registry import Context, Ids, expands, has_ids


def accumulate(
    ctx: Context, start: torch.Tensor, targets: torch.Tensor, source: torch.Tensor, label: str, include_self: bool = True
) -> Ids:
    """Each entry of the start with the multiset of what is written to it; what was there may be left out of that."""
    members = [[v] for v in start.reshape(-1).tolist()]
    targets, source = torch.broadcast_tensors(targets, source)
    if not include_self:
        for target in targets.reshape(-1).tolist():
            members[target] = []
    for target, v in zip(targets.reshape(-1).tolist(), source.reshape(-1).tolist()):
        members[target].append(v)
    return shaped([ctx.graph.bag(label, m) if len(m) > 1 else m[0] for m in members], start.shape)


def places(ctx: Context, a: SimpleNamespace) -> tuple[torch.Tensor, torch.Tensor]:
    """The vertices that are written to, and their positions in the flattened tensor, in the tensor's
    shape.
    """
    if has_ids(getattr(a, "indices", None)) or has_ids(getattr(a, "index", None)):
        raise NotImplementedError(f"the oracle has no {ctx.op} with positions that depend on the data")
    start = ctx.ids(a.self)
    return start, torch.arange(start.numel()).reshape(start.shape)


@expands("scatter", "scatter_add", "scatter_reduce")
def scatter(ctx: Context, a: SimpleNamespace) -> Ids:
    reduce = "sum" if ctx.name == "scatter_add" else getattr(a, "reduce", None)
    if reduce is None:
        return move(ctx, a)
    if isinstance(a.index, Ids) and ctx.name == "scatter_reduce":
        return placing.along(ctx, a, reduce)
    start, positions = places(ctx, a)
    index, source = a.index, ctx.ids(a.src)
    inside = tuple(
        slice(0, size) if d != a.dim % start.dim() else slice(None) for d, size in enumerate(index.shape)
    )
    targets = positions[inside].gather(a.dim, index)
    source = source[tuple(slice(0, size) for size in index.shape)]
    label = "sum" if reduce in ("sum", "add") else f"scatter {reduce}"
    return accumulate(ctx, start, targets, source, label, getattr(a, "include_self", True))


@expands("index_add")
def index_add(ctx: Context, a: SimpleNamespace) -> Ids:
    if a.alpha != 1:
        raise NotImplementedError(f"the oracle expands {ctx.op} with alpha=1 only")
    start, positions = places(ctx, a)
    return accumulate(ctx, start, positions.index_select(a.dim, a.index), ctx.ids(a.source), "sum")


@expands("index_put", "_unsafe_index_put")
def index_put(ctx: Context, a: SimpleNamespace) -> Ids:
    if has_ids(a.indices):
        return placing.index_put(ctx, a)
    if not a.accumulate:
        return move(ctx, a)
    start, positions = places(ctx, a)
    targets = torch.ops.aten.index.Tensor(positions, a.indices)
    return accumulate(ctx, start, targets, ctx.ids(a.values), "sum")
