"""Tensors of numbers that say positions: which entry of a row is the largest.

Renumbering the row changes the numbers but not what they mean. So each scalar has a one-hot form besides: for every
position of the row whether it is the one, a function of that entry and of the row's multiset. Looking something up is a
function of the multiset of (whether it is this one, what is there). Where an op reads the numbers as numbers they are a
function of the ordered row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from .picking import Picked, picked
from .pointwise import shaped
from .registry import Context, Ids, invoke


@dataclass(frozen=True)
class Choice(Ids):
    """Numbers, and for each the vertices of its one-hot form: the same shape and one more dimension."""

    onehot: torch.Tensor


RULES: dict[str, Callable[[Context, SimpleNamespace], Any]] = {}


def choosing(*names: str) -> Callable[[Any], Any]:
    def register(rule: Any) -> Any:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


def chosen(ctx: Context, numbers: Ids, rows: torch.Tensor, dim: int, label: Any) -> Choice:
    """The choice of the entries at ranks 0, 1, ... of each row along ``dim``; ``numbers`` has the ranks there."""
    moved = rows.movedim(dim, -1)
    count = numbers.ids.shape[dim]
    flat = []
    for row in moved.reshape(-1, moved.shape[-1]).tolist():
        bag = ctx.graph.bag("row", row)
        flat += [ctx.graph.call(("chosen", label, p), (bag, v)) for p in range(count) for v in row]
    onehot = shaped(flat, (*moved.shape[:-1], count, moved.shape[-1])).ids
    return Choice(numbers.ids, onehot.movedim(-2, dim % rows.dim()))


@choosing("view", "reshape", "_unsafe_view", "squeeze", "unsqueeze", "flatten", "permute", "transpose", "t", "select",
          "slice", "expand", "clone", "detach", "alias")  # fmt: skip
def move(ctx: Context, a: SimpleNamespace) -> Any:
    """The numbers of the entries of the choice, moved about; the one-hot form follows them."""
    if not isinstance(a.self, Choice):
        return None
    numbers = torch.arange(a.self.ids.numel()).reshape(a.self.ids.shape)
    at = invoke(ctx.op, {**vars(a), "self": numbers})
    return Choice(a.self.ids.reshape(-1)[at], a.self.onehot.reshape(numbers.numel(), -1)[at])


@choosing("cat")
def joined(ctx: Context, a: SimpleNamespace) -> Any:
    """Choices side by side, if all are among as many."""
    if not all(isinstance(t, Choice) for t in a.tensors) or len({t.onehot.shape[-1] for t in a.tensors}) > 1:
        return None
    dim = a.dim % a.tensors[0].ids.dim()
    return Choice(torch.cat([t.ids for t in a.tensors], dim), torch.cat([t.onehot for t in a.tensors], dim))


@choosing("_to_copy")
def same(ctx: Context, a: SimpleNamespace) -> Any:
    return a.self if a.dtype is None or not a.dtype.is_floating_point else None


@choosing("eq")
def equals(ctx: Context, a: SimpleNamespace) -> Any:
    choice, other = (a.self, a.other) if isinstance(a.self, Choice) else (a.other, a.self)
    if isinstance(other, Ids):
        return None
    value = torch.as_tensor(other)
    shape = torch.broadcast_shapes(choice.ids.shape, value.shape)
    count = choice.onehot.shape[-1]
    value = value.broadcast_to(shape).long()
    if int(value.min()) < 0 or int(value.max()) >= count:
        return None
    return Ids(choice.onehot.broadcast_to((*shape, count)).gather(-1, value[..., None])[..., 0])


@choosing("one_hot")
def one_hot(ctx: Context, a: SimpleNamespace) -> Any:
    return Ids(a.self.onehot) if a.num_classes == a.self.onehot.shape[-1] else None


def read(ctx: Context, columns: torch.Tensor, onehot: torch.Tensor) -> Picked:
    """``columns`` (n, *rest) read at choices (*B, n): (*B, *rest)."""
    rest, batch = columns.shape[1:], onehot.shape[:-1]
    options = columns.movedim(0, -1).expand(*batch, *rest, columns.shape[0])
    marks = onehot.reshape(*batch, *[1] * len(rest), -1).expand(options.shape)
    return picked(ctx, options, marks)


@choosing("embedding", "index_select", "index", "_unsafe_index")
def looked_up(ctx: Context, a: SimpleNamespace) -> Any:
    if ctx.name == "embedding":
        dim, index, table = 0, a.indices, a.weight
    elif ctx.name == "index_select":
        dim, index, table = a.dim, a.index, a.self
    else:
        used = [k for k, i in enumerate(a.indices) if i is not None]
        if len(used) != 1:
            return None
        dim, index, table = used[0], a.indices[used[0]], a.self
    ids = ctx.ids(table)
    if not isinstance(index, Choice) or index.onehot.shape[-1] != ids.shape[dim]:
        return None
    out = read(ctx, ids.movedim(dim, 0), index.onehot)
    n = index.ids.dim()
    there = [list(range(n)), list(range(dim, dim + n))]
    return Picked(*(t.movedim(*there) for t in (out.ids, out.options, out.onehot)))


@choosing("gather", "take_along_dim")
def gather(ctx: Context, a: SimpleNamespace) -> Any:
    ids, index = ctx.ids(a.self), a.index
    if not isinstance(index, Choice) or index.onehot.shape[-1] != ids.shape[a.dim]:
        return None
    dim = a.dim % ids.dim()
    source, target = ids.movedim(dim, -1), index.onehot.movedim(dim, -2)
    if source.shape[:-1] != target.shape[:-2]:
        return None
    rows = zip(source.reshape(-1, source.shape[-1]), target.reshape(-1, *target.shape[-2:]))
    flat = [read(ctx, row, onehots).ids for row, onehots in rows]
    return Ids(torch.stack(flat).reshape(target.shape[:-1]).movedim(-1, dim))


@choosing("scatter", "scatter_add", "index_add")
def scatter(ctx: Context, a: SimpleNamespace) -> Any:
    """Each position with what was there and the multiset of (whether it is meant, what is written)."""
    base = ctx.ids(a.self)
    dim = a.dim % base.dim()
    index, source = a.index, ctx.ids(getattr(a, "source", getattr(a, "src", getattr(a, "value", None))))
    if not isinstance(index, Choice) or index.onehot.shape[-1] != base.shape[dim] or getattr(a, "reduce", None):
        return None
    into = base.movedim(dim, -1)
    if ctx.name == "index_add":
        onehot = index.onehot.expand(*into.shape[:-1], *index.onehot.shape)
    else:
        onehot = index.onehot.movedim(dim, -2)
    what = source.broadcast_to(index.ids.shape) if source.dim() == 0 else source
    what = what.movedim(dim, -1)
    flat = []
    for row, marks, values in zip(into.reshape(-1, into.shape[-1]).tolist(), onehot.reshape(-1, *onehot.shape[-2:]),
                                  what.reshape(-1, what.shape[-1]).tolist()):
        for e, before in enumerate(row):
            members = [ctx.graph.call("if", (o, v)) for o, v in zip(marks[:, e].tolist(), values)]
            order = members if ctx.name == "scatter" else [ctx.graph.bag("sum", members)]
            flat.append(ctx.graph.call(ctx.name, (before, *order)))
    return Ids(shaped(flat, into.shape).ids.movedim(-1, dim))
