"""Ops that write into a part of a tensor: what in-place assignment becomes in a functional graph.

Where the positions are known the result is put together from the source and what is left of the operand, exactly;
where they are data nothing moves along the written dimension.
"""

from __future__ import annotations

import numpy as np

from autoperm.inference import operands, views
from autoperm.inference.equation import PIN
from autoperm.inference.views import View
from autoperm.rules.joining import assembled, picked
from autoperm.rules.op import Op, letters
from autoperm.rules.pointwise import merge
from autoperm.rules.registry import NoRule, rule

WHY = "written to by position"


def written(op: Op, base: View, part: View, dim: int, index: np.ndarray) -> View:
    """``base`` with ``part`` at the positions ``index``, all different, of ``dim``."""
    shape = base.shape
    if operands.is_fixed(op.system, part, dim) and (
        base.shape[dim] == 1 or is_uniform(base, dim) or operands.is_fixed(op.system, base, dim)
    ):
        names = letters(base.ndim)
        names[dim] = PIN
        return op.state([(base, tuple(names)), (part, tuple(names))], [tuple(names)], [shape], reason=WHY)[0]
    rest = np.setdiff1d(np.arange(shape[dim]), index)
    parts = [(part, index)]
    if len(rest):
        kept = (*shape[:dim], len(rest), *shape[dim + 1 :])
        parts.insert(0, (picked(op, base, dim, rest, kept), rest))
    return assembled(op, shape, dim, parts)


def is_uniform(view: View, dim: int) -> bool:
    return all(d.dim is None or view.source.dims[d.dim] is None for d in view.dims[dim])


@rule("aten.slice_scatter")
def slice_scatter(op: Op) -> View:
    base, part = op.view("self"), op.view("src")
    dim = op["dim"] % base.ndim
    at = np.arange(base.shape[dim])[slice(op["start"], op["end"], op["step"])]
    return written(op, base, part, dim, at) if len(at) else base


@rule("aten.select_scatter")
def select_scatter(op: Op) -> View:
    base = op.view("self")
    dim = op["dim"] % base.ndim
    return written(op, base, views.insert(op.view("src"), dim), dim, np.array([op["index"] % base.shape[dim]]))


@rule("aten.diagonal_scatter")
def diagonal_scatter(op: Op) -> View:
    """The main diagonal of a square keeps its axis; along any other nothing moves."""
    base, part = op.view("self"), op.view("src")
    a, b = op["dim1"] % base.ndim, op["dim2"] % base.ndim
    names = letters(base.ndim)
    square = base.shape[a] == base.shape[b] and not op["offset"]
    if not square:
        names[a] = names[b] = PIN
    whole = op.state([(base, tuple(names))], [tuple(names)], [base.shape], reason=WHY)[0]
    names[a] = names[b] = ("d",) if square else PIN
    of_part = (*(name for k, name in enumerate(names) if k not in (a, b)), names[a])
    return op.state([(whole, tuple(names)), (part, of_part)], [tuple(names)], [base.shape], reason=WHY)[0]


@rule("aten.fill")
def fill(op: Op) -> View:
    """One number everywhere."""
    value = op.optional("value")
    return _filled(op, value, op.shape())


def _filled(op: Op, value: View | None, shape: tuple[int, ...]) -> View:
    inputs = [] if value is None else [(value, ())]
    return op.state(inputs, [((),) * len(shape)], [shape])[0]


@rule("aten.zero")
def zero(op: Op) -> View:
    return _filled(op, None, op.shape())


@rule("aten.resize_as", "aten.resize")
def resize(op: Op) -> View:
    """Memory of another size, to be written to: only where there is nothing in it yet."""
    if op.node.args[0].meta["val"].numel():  # type: ignore[union-attr]
        raise NoRule("resized where it holds values")
    return _filled(op, None, op.shape())


@rule("aten.copy")
def copy(op: Op) -> View:
    """The source, broadcast; nothing of the operand is left."""
    return views.expand(op.view("src"), op.shape())


@rule("aten.index_copy", "aten.index_fill", "aten.index_add", "aten.index_reduce")
def index_write(op: Op) -> View:
    """Known positions, each at most once, are a slice assignment; otherwise nothing moves along the dimension."""
    base, part = op.view("self"), op.optional("source")
    dim = op["dim"] % max(base.ndim, 1)
    known = op.value("index")
    if not base.ndim:
        return nothing_moves(op)
    if known is not None and "reduce" not in op.name:
        index = np.asarray(known.reshape(-1).cpu()) % base.shape[dim]
        if len(set(index.tolist())) == len(index):
            shape = (*base.shape[:dim], len(index), *base.shape[dim + 1 :])
            if part is None:
                part = _filled(op, op.optional("value"), shape)
            elif "index_add" in op.name:
                part = merge(op, [picked(op, base, dim, index, shape), part], shape)
            return written(op, base, part, dim, index)
    names = letters(base.ndim)
    names[dim] = PIN
    spec = tuple(names)
    source = [] if part is None else [(part, spec)]
    filling = [(v, ()) for v in [op.optional("value")] if v is not None]
    return op.state([(base, spec), (op.view("index"), (PIN,)), *source, *filling], [spec], [op.shape()], reason=WHY)[0]


def nothing_moves(op: Op) -> View:
    """All that the op reads and writes stays."""
    for view in op.tensors():
        op.pin(view, WHY)
    return op.pinned(op.shape(), WHY)


@rule("aten.scatter", "aten.scatter_add", "aten.scatter_reduce")
def scatter(op: Op) -> View:
    """Nothing moves along the dimension written to; what is summed into it comes in any order."""
    base, index, part = op.view("self"), op.view("index"), op.optional("src")
    dim = op["dim"] % max(base.ndim, 1)
    everywhere = all(v is None or v.shape[:dim] + v.shape[dim + 1 :] == base.shape[:dim] + base.shape[dim + 1 :]
                     for v in (index, part))  # fmt: skip
    if not base.ndim or not everywhere or (part is not None and part.shape[dim] != index.shape[dim]):
        return nothing_moves(op)
    names = letters(base.ndim)
    of_base, of_part = list(names), list(names)
    of_base[dim] = PIN
    of_part[dim] = PIN if op.name in ("aten.scatter.src", "aten.scatter.value") else ("j",)
    terms = [(base, tuple(of_base)), (index, tuple(of_part))]
    terms += [] if part is None else [(part, tuple(of_part))]
    terms += [(v, ()) for v in [op.optional("value")] if v is not None]
    return op.state(terms, [tuple(of_base)], [base.shape], reason=WHY)[0]


@rule("aten.put", "aten.as_strided_scatter")
def by_running_count(op: Op) -> View:
    """Which entry is written depends on how many come before."""
    return nothing_moves(op)


@rule("aten.block_diag")
def block_diag(op: Op) -> View:
    """Blocks written into zeros: each beside its zeros first, then one below the other."""
    shape, rows, row, column = op.shape(), [], 0, 0
    for node in op["tensors"]:
        part = op.labels.view(node)
        while part.ndim < 2:
            part = views.insert(part, 0)
        height, width = part.shape
        wide = assembled(op, (height, shape[1]), 1, [(part, np.arange(column, column + width))])
        rows.append((wide, np.arange(row, row + height)))
        row, column = row + height, column + width
    return assembled(op, shape, 0, rows)
