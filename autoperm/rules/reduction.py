"""Reductions, softmax and scans. A reduced axis is free to move, and nothing that survives depends on it."""

from __future__ import annotations

from autoperm.inference.equation import PIN
from autoperm.inference.views import View
from autoperm.rules import choices, ties
from autoperm.rules.op import Op, dims_of, letters, moved_within
from autoperm.rules.pointwise import pointwise
from autoperm.rules.registry import rule


def reduce_over(op: Op, view: View, dims: list[int], result: int = 0) -> View:
    """The label of a symmetric function of the entries along ``dims``."""
    spec = tuple(letters(view.ndim))
    shape = op.shape(result)
    if len(shape) == view.ndim:  # keepdim
        out = tuple(() if k in dims else spec[k] for k in range(view.ndim))
    else:
        out = tuple(spec[k] for k in range(view.ndim) if k not in dims)
    return op.state([(view, spec)], [out], [shape])[0]


@rule(
    "aten.sum", "aten.mean", "aten.amax", "aten.amin", "aten.prod", "aten.std", "aten.var", "aten.logsumexp", "aten.nansum",
    "aten.nanmean", "aten.any", "aten.all", "aten.norm", "aten.linalg_vector_norm", "aten.count_nonzero",
    "aten.median", "aten.nanmedian", "aten.var_mean", "aten.std_mean", "aten.aminmax", "aten.max", "aten.min",
    "aten.frobenius_norm",
)  # fmt: skip
def reduction(op: Op) -> object:
    views_in = op.tensors()
    if len(views_in) == 2:  # max(a, b) and min(a, b)
        return pointwise(op)
    view = views_in[0]
    if op.name in ("aten.max.dim", "aten.min.dim"):
        return _extremum(op, view)
    several = isinstance(op.node.meta["val"], (tuple, list))
    found = reduce_over(op, view, dims_of(op.get("dim"), view.ndim))
    return [found] * len(op.node.meta["val"]) if several else found


def _extremum(op: Op, view: View) -> list[View]:
    """The value is symmetric; the position of it is a choice."""
    dims = dims_of(op["dim"], view.ndim)
    found = reduce_over(op, view, dims)
    return [found, _where(op, view, dims, 1) if op.uses(1) and view.ndim else found]


def _ranks(op: Op, size: int) -> int:
    """How many of the largest values have to be different for one to be found."""
    return 1 if op.name.startswith(("aten.argmax", "aten.max")) else size


def _where(op: Op, view: View, dims: list[int], result: int = 0) -> View:
    """Which position it is, is a choice, from what stays in order if values may be equal; of a whole tensor, a number."""
    reason = f"{op.name} tells where the extremum is"
    if len(dims) != 1:
        op.pin(view, reason, dims)
        return reduce_over(op, view, dims, result)
    names, (dim,) = letters(view.ndim), dims
    sure = ties.distinct(op, op["self"], dim, _ranks(op, view.shape[dim]), lambda: op.pin(view, reason, [dim]))
    chosen = names[dim] if sure else PIN
    spec = (*names[:dim], chosen, *names[dim + 1 :])
    out = tuple(PIN if k == dim else name for k, name in enumerate(spec) if op["keepdim"] or k != dim)
    shapes = [op.shape(result), (*op.shape(result), view.shape[dim])]
    # Each entry of the one-hot form depends on all values, also where only some of its positions are read.
    rest = tuple(name for k, name in enumerate(spec) if k != dim)
    return choices.made(*op.state([(view, spec)], [out, (*out, chosen)], shapes, [rest], reason=reason))


@rule("aten._is_all_true", "aten._is_any_true")
def truth(op: Op) -> View:
    """Of all entries, in any order."""
    view = op.view("self")
    return reduce_over(op, view, list(range(view.ndim)))


@rule("aten.median.dim", "aten.nanmedian.dim", "aten.kthvalue", "aten.mode")
def order_statistic(op: Op) -> list[View]:
    return _extremum(op, op.view("self"))


@rule("aten.argmax", "aten.argmin")
def position(op: Op) -> View:
    view = op.view("self")
    return _where(op, view, dims_of(op.get("dim"), view.ndim))


@rule("aten._softmax", "aten.softmax", "aten._safe_softmax", "aten._log_softmax", "aten.log_softmax")
def softmax(op: Op) -> View:
    view = op.view("self")
    return normalised(op, view, dims_of(op["dim"], view.ndim))


def normalised(op: Op, view: View, dims: list[int]) -> View:
    """Same shape; a symmetric function of the entries along ``dims`` is applied to each of them."""
    spec = tuple(letters(view.ndim))
    reduced = tuple(spec[k] for k in range(view.ndim) if k not in dims)
    return op.state([(view, spec)], [spec], [op.shape()], [reduced])[0]


@rule("aten.cumsum", "aten.cumprod", "aten.logcumsumexp", "aten.cummax", "aten.cummin")
def scan(op: Op) -> object:
    view = op.view("self")
    dims = dims_of(op["dim"], view.ndim)
    found = moved_within(op, view, dims, op.shape())
    return [found, found] if isinstance(op.node.meta["val"], (tuple, list)) else found
