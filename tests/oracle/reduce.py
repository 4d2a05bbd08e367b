"""Reductions, softmax, scans and sorting."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from .choices import Choice, chosen
from .pointwise import IGNORED, MINUS_INFINITY, combine, elementwise, shaped
from .registry import Context, Ids, expands
from .scalars import NOTHING


def rows_last(ids: torch.Tensor, dims: list[int]) -> tuple[list[list[int]], list[int]]:
    """What is reduced, one list per element that survives, and the shape of the survivors."""
    dims = [d % max(ids.dim(), 1) for d in dims]
    kept = [d for d in range(ids.dim()) if d not in dims]
    shape = [ids.shape[d] for d in kept]
    count, width = (torch.Size(ids.shape[d] for d in group if d < ids.dim()).numel() for group in (kept, dims))
    return ids.permute([*kept, *[d for d in dims if d < ids.dim()]]).reshape(count, width).tolist(), shape


def reduced_dims(ids: torch.Tensor, dim: Any) -> list[int]:
    """A `dim` argument as a list; none given means all."""
    if dim is None or (isinstance(dim, (list, tuple)) and not dim):
        return list(range(ids.dim()))
    return [d % max(ids.dim(), 1) for d in ([dim] if isinstance(dim, int) else dim)]


def reduction(
    ctx: Context, label: Any, ids: torch.Tensor, dim: Any, keepdim: bool, ordered: bool = False
) -> Ids:
    """One vertex per surviving element over what was reduced into it."""
    dims = reduced_dims(ids, dim)
    rows, shape = rows_last(ids, dims)
    join = ctx.graph.call if ordered else ctx.graph.bag
    if keepdim:
        shape = [1 if d in dims else size for d, size in enumerate(ids.shape)]
    return shaped([join(label, row) for row in rows], shape)


def label_of(ctx: Context, a: SimpleNamespace) -> tuple[Any, ...]:
    """The op and its numeric arguments, less those that say what is reduced."""
    skip = ("self", "dim", "keepdim", *IGNORED)
    return (ctx.name, *((k, repr(v)) for k, v in vars(a).items() if k not in skip and v is not None))


@expands(
    "sum", "mean", "nansum", "nanmean", "amax", "amin", "prod", "var", "std", "norm", "linalg_vector_norm",
    "logsumexp", "any", "all", "count_nonzero",
)  # fmt: skip
def reduce(ctx: Context, a: SimpleNamespace) -> Ids:
    return reduction(ctx, label_of(ctx, a), a.self.ids, getattr(a, "dim", None), getattr(a, "keepdim", False))


@expands("_is_all_true", "_is_any_true")
def reduce_all(ctx: Context, a: SimpleNamespace) -> Ids:
    return reduction(ctx, ctx.name, a.self.ids, None, False)


@expands("var_mean", "std_mean", "aminmax")
def reduce_twice(ctx: Context, a: SimpleNamespace) -> tuple[Ids, Ids]:
    label = label_of(ctx, a)
    first, second = [reduction(ctx, (label, i), a.self.ids, a.dim, a.keepdim) for i in range(2)]
    return first, second


@expands("max", "min", "median", "nanmedian", "mode", "kthvalue")
def extremum(ctx: Context, a: SimpleNamespace) -> Any:
    """The values are symmetric in the reduced entries, the positions are not."""
    if hasattr(a, "other"):
        return combine(ctx, ctx.name, a.self, a.other)
    label = label_of(ctx, a)
    if not hasattr(a, "dim"):
        return reduction(ctx, label, a.self.ids, None, False)
    values = reduction(ctx, label, a.self.ids, a.dim, a.keepdim)
    position = reduction(ctx, (label, "position"), a.self.ids, a.dim, a.keepdim, ordered=True)
    return values, (choice_of(ctx, a, position, label) if ctx.name in ("max", "min") else position)


@expands("trace")
def trace(ctx: Context, a: SimpleNamespace) -> Ids:
    return reduction(ctx, "sum", a.self.ids.diagonal(), None, False)


@expands("argmax", "argmin")
def position(ctx: Context, a: SimpleNamespace) -> Ids:
    """A number that depends on the order of the row, and the choice that it is."""
    found = reduction(ctx, label_of(ctx, a), a.self.ids, a.dim, a.keepdim, ordered=True)
    if a.dim is None:
        return found
    return choice_of(ctx, a, found, label_of(ctx, a))


def choice_of(ctx: Context, a: SimpleNamespace, found: Ids, label: Any) -> Ids:
    """The one position that an op found along its dimension, as a choice among the entries there."""
    ids = a.self.ids
    if not ids.dim():
        return found
    choice = chosen(ctx, Ids(found.ids if a.keepdim else found.ids.unsqueeze(a.dim)), ids, a.dim, label)
    return choice if a.keepdim else Choice(found.ids, choice.onehot.squeeze(a.dim % ids.dim()))


@expands("_softmax", "softmax", "_safe_softmax", "_log_softmax", "log_softmax")
def softmax(ctx: Context, a: SimpleNamespace) -> Ids:
    """An entry and the multiset of its row."""
    return softmax_along(ctx, a.self.ids, a.dim, "log" if "log" in ctx.name else "exp")


def softmax_along(ctx: Context, ids: torch.Tensor, dim: int, kind: str = "exp") -> Ids:
    """Entries of minus infinity have no weight: they leave the normalizer, and sums of products."""
    graph, hidden = ctx.graph, ctx.graph.constant(MINUS_INFINITY)
    moved = ids.movedim(dim, -1)
    out: list[int] = []
    for row in moved.reshape(-1, moved.shape[-1]).tolist():
        normalizer = graph.bag("normalizer", [v for v in row if v != hidden])
        masked = NOTHING if kind == "exp" else hidden
        out.extend(masked if v == hidden else graph.call(("softmax", kind), (v, normalizer)) for v in row)
    return Ids(shaped(out, moved.shape).ids.movedim(-1, dim))


@expands("cumsum", "cumprod", "logcumsumexp")
def scan(ctx: Context, a: SimpleNamespace) -> Ids:
    return scan_along(ctx, a.self.ids, a.dim, ctx.name)


@expands("cummax", "cummin")
def scan_extremum(ctx: Context, a: SimpleNamespace) -> tuple[Ids, Ids]:
    """The positions are another function of the same prefixes."""
    values = scan_along(ctx, a.self.ids, a.dim, ctx.name)
    return values, elementwise(ctx, "position", values)


def scan_along(ctx: Context, ids: torch.Tensor, dim: int, label: str) -> Ids:
    """Each result is a function of the one before it and the next entry."""
    slices = list(ids.unbind(dim))
    out = [elementwise(ctx, label, Ids(slices[0]))]
    for entry in slices[1:]:
        out.append(elementwise(ctx, label, out[-1], Ids(entry)))
    return Ids(torch.stack([o.ids for o in out], dim))


@expands("sort", "topk", "argsort", "msort")
def sort(ctx: Context, a: SimpleNamespace) -> Any:
    """The input may move: value p is a function of the row's multiset. The positions depend on its order."""
    dim = getattr(a, "dim", 0)
    count = getattr(a, "k", a.self.shape[dim])
    flags = (repr(getattr(a, "descending", None)), repr(getattr(a, "largest", None)))
    ranked = []
    for ordered in (False, True):
        row = reduction(ctx, ("sort", ordered, flags), a.self.ids, dim, False, ordered)
        ranked.append(Ids(torch.stack([elementwise(ctx, ("rank", p), row).ids for p in range(count)], dim)))
    if a.self.ids.dim():
        ranked[1] = chosen(ctx, ranked[1], a.self.ids, dim, ("sort", flags))
    return {"msort": ranked[0], "argsort": ranked[1]}.get(ctx.name, tuple(ranked))


@expands("_unique2")
def unique(ctx: Context, a: SimpleNamespace) -> tuple[Ids, ...]:
    """The values in order are those of a multiset, and so are their counts; where a value went is a function of it too."""
    if not a.sorted:
        raise NotImplementedError(f"the oracle has no {ctx.op} in the order of the input")
    assert ctx.node is not None
    entries = a.self.ids.reshape(-1).tolist()
    row, found = ctx.graph.bag("unique", entries), ctx.node.meta["val"][0].numel()
    values, counts = ([ctx.graph.unary((label, p), row) for p in range(found)] for label in ("rank", "count"))
    places = [ctx.graph.call("place", (v, row)) for v in entries] if a.return_inverse else []
    return (shaped(values, (found,)), shaped(places, a.self.ids.shape if places else (0,)),
            shaped(counts if a.return_counts else [], (found if a.return_counts else 0,)))  # fmt: skip
