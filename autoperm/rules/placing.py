"""Ops that write where data says: ``x[i, j] = y``, ``x[mask] = y``, ``x.masked_scatter(mask, y)``.

Nothing moves along the dimensions in which the place is looked up; the others go along. Places that are known are slice
assignments (see :mod:`autoperm.rules.writing`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import fx

from autoperm.capture.clean import is_mask
from autoperm.inference import views
from autoperm.inference.equation import PIN, Spec
from autoperm.inference.views import View
from autoperm.rules.indexing import beside, own_dimensions
from autoperm.rules.movement import reshaped
from autoperm.rules.op import Op, letters
from autoperm.rules.registry import rule
from autoperm.rules.writing import WHY, is_uniform, nothing_moves, written


@rule("aten.index_put", "aten._unsafe_index_put", "aten._index_put_impl")
def index_put(op: Op) -> View:
    """One known index vector is a slice assignment; a mask and one value, a choice entry by entry; else by place."""
    base, values = op.view("self"), op.view("values")
    indices: list[Any] = list(op["indices"])
    used = [k for k, i in enumerate(indices) if i is not None]
    if any(is_mask(indices[k]) for k in used):
        return _masked(op, base, values, indices, used)
    if len(used) == 1 and not op["accumulate"]:
        dim = used[0]
        index = _distinct(op, indices[dim], base.shape[dim])
        if index is not None:
            shape = (*base.shape[:dim], len(index), *base.shape[dim + 1 :])
            return written(op, base, views.expand(values, shape), dim, index)
    return _indexed(op, base, values, indices, used)


def _distinct(op: Op, node: fx.Node, size: int) -> np.ndarray | None:
    value = op.labels.value(node)
    if value is None or value.ndim != 1:
        return None
    index = np.asarray(value.cpu()) % size
    return index if len(set(index.tolist())) == len(index) else None


def _masked(op: Op, base: View, values: View, indices: list[Any], used: list[int]) -> View:
    """``base[..., mask] = values``: which of several values comes where depends on how many come before."""
    if len(used) > 1 or op["accumulate"]:
        return nothing_moves(op)
    dim, mask = used[0], op.labels.view(indices[used[0]])
    names = letters(base.ndim)
    after = base.ndim - dim - mask.ndim
    count = values.shape[-after - 1] if values.ndim > after else 1
    if count > 1:
        names[dim : dim + mask.ndim] = [PIN] * mask.ndim
    before, covered, rest = names[:dim], names[dim : dim + mask.ndim], names[dim + mask.ndim :]
    values = views.expand(values, (*base.shape[:dim], count, *base.shape[dim + mask.ndim :]))
    each = [PIN] if count > 1 else []
    if not each:  # the same value at all places
        values = views.drop(values, dim)
    return _merged(op, base, names, [(mask, tuple(covered)), (values, (*before, *each, *rest))])


def _indexed(op: Op, base: View, values: View, indices: list[Any], used: list[int]) -> View:
    """``base[..., i, j, ...] = values``: written in any order only where values are added up."""
    looked = [op.labels.view(indices[k]) for k in used]
    names = [PIN if k in used else name for k, name in enumerate(letters(base.ndim))]
    rank = max(v.ndim for v in looked)
    shape = np.broadcast_shapes(*(v.shape for v in looked))
    shared = letters(rank, "i") if op["accumulate"] else [PIN] * rank
    for k, (dim, index) in own_dimensions(op, indices, used).items():
        if np.array_equal(index, np.arange(base.shape[k])):  # every position, each from its own
            names[k] = shared[dim] = (f"o{k}",)
    of_values, sizes = beside(names, used, shared), beside(base.shape, used, shape)
    terms = [(v, tuple(shared[rank - v.ndim :])) for v, k in zip(looked, used, strict=True) if names[k] == PIN]
    return _merged(op, base, names, [*terms, (views.expand(values, sizes), tuple(of_values))])


def _merged(op: Op, base: View, names: list[tuple[str, ...]], terms: list[tuple[View, Spec]]) -> View:
    return op.state([(base, tuple(names)), *terms], [tuple(names)], [base.shape], reason=WHY)[0]


@rule("aten.masked_scatter")
def masked_scatter(op: Op) -> View:
    """Entries of the flattened source at the places of a mask, in order: row by row where the mask takes rows whole."""
    shape = op.shape()
    base, mask = views.expand(op.view("self"), shape), views.expand(op.view("mask"), shape)
    source = op.view("source")
    count = math.prod(source.shape)
    if count == 0:  # there is nothing to write
        return base
    whole = _whole(mask, count)
    if not whole:
        return nothing_moves(op)
    rest = letters(whole)
    source = reshaped(op, source, (count // math.prod(shape[-whole:]), *shape[-whole:]))
    names = (*[PIN] * (base.ndim - whole), *rest)
    return _merged(op, base, list(names), [(mask, names), (source, (PIN, *rest))])


def _whole(mask: View, count: int) -> int:
    """How many of the last dimensions each place of the mask covers whole, where so many entries of a source are rows of them."""
    whole = 0
    while whole < mask.ndim and is_uniform(mask, mask.ndim - 1 - whole):
        if count % math.prod(mask.shape[-whole - 1 :]):
            break
        whole += 1
    return whole
