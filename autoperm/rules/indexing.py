"""Lookups: with constant indices they are resolved exactly, with data-dependent ones the indexed axis is pinned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from autoperm.capture.clean import is_mask
from autoperm.inference.equation import PIN
from autoperm.inference.views import View
from autoperm.rules.joining import picked
from autoperm.rules.movement import reshaped
from autoperm.rules.op import Op, letters
from autoperm.rules.registry import rule

_WHY = "indexed by position"

T = TypeVar("T")


@rule("aten.embedding")
def embedding(op: Op) -> View:
    """Rows of a table; which row is data, so rows cannot move."""
    return op.equation("_ d, ... -> ... d", op.view("weight"), op.view("indices"), reason="rows are looked up by index")


@rule("aten._embedding_bag", "aten._embedding_bag_forward_only", "aten.embedding_bag")
def embedding_bag(op: Op) -> object:
    op.only(0)
    weight = op.view("weight")
    for name in ("indices", "offsets", "per_sample_weights"):
        view = op.optional(name)
        if view is not None:
            op.pin(view, "bags are cut by position")
    found = op.equation("_ d -> _ d", weight, shapes=[op.shape()], reason="rows are looked up by index")
    return [found, None, None, None]


@rule("aten.index_select")
def index_select(op: Op) -> View:
    view = op.view("self")
    dim = op["dim"] % max(view.ndim, 1)
    value = op.value("index")
    if value is not None:
        index = np.asarray(value.reshape(-1).cpu()) % view.shape[dim]
        return picked(op, view, dim, index, op.shape())
    names: list[tuple[str, ...]] = [(f"l{k}",) for k in range(view.ndim)]
    inner, names[dim] = list(names), ("i",)
    inner[dim] = PIN
    return op.state([(view, tuple(inner)), (op.view("index"), (("i",),))], [tuple(names)], [op.shape()], reason=_WHY)[0]


@rule("aten.index", "aten._unsafe_index")
def index(op: Op) -> View:
    """Advanced indexing. One constant index vector picks positions; otherwise the indexed axes are pinned."""
    view, indices = op.view("self"), list(op["indices"])
    indices += [None] * (view.ndim - len(indices))
    used = [k for k, i in enumerate(indices) if i is not None]
    if any(is_mask(indices[k]) for k in used):
        return _masked(op, view, indices, used)
    if len(used) == 1:
        value = op.labels.value(indices[used[0]])
        if value is not None and value.ndim == 1:
            position = np.asarray(value.cpu()) % view.shape[used[0]]
            return picked(op, view, used[0], position, op.shape())
    return _looked_up(op, view, indices, used)


def _masked(op: Op, view: View, indices: list[Any], used: list[int]) -> View:
    """One mask picks positions of the dimensions that it covers: known ones, or by values, and then nothing moves there."""
    if len(used) > 1:
        return _masked_and_indexed(op, view, indices, used)
    dim, mask = used[0], op.labels.view(indices[used[0]])
    known = op.labels.value(indices[dim])
    if known is None:
        names = letters(view.ndim)
        names[dim : dim + mask.ndim] = [PIN] * mask.ndim
        result = [*names[:dim], PIN, *names[dim + mask.ndim :]]
        op.pin(mask, _WHY)
        return op.state([(view, tuple(names)), (mask, (PIN,) * mask.ndim)], [tuple(result)], [op.shape()], reason=_WHY)[0]
    count = int(np.prod(view.shape[dim : dim + known.ndim]))
    flat = reshaped(op, view, (*view.shape[:dim], count, *view.shape[dim + known.ndim :]))
    return picked(op, flat, dim, np.nonzero(np.asarray(known.reshape(-1).cpu()))[0], op.shape())


def _masked_and_indexed(op: Op, view: View, indices: list[Any], used: list[int]) -> View:
    """Masks beside other indices: what is found by them is in order, and nothing moves along it."""
    names, at = letters(view.ndim), 0
    taken: list[int] = []
    looked: list[View] = []
    for index in indices:  # a mask stands for as many dimensions as it has
        covers = 1 if index is None else index.meta["val"].ndim if is_mask(index) else 1
        if index is not None:
            taken += range(at, at + covers)
            looked.append(op.labels.view(index))
            op.pin(looked[-1], _WHY)
        at += covers
        if at >= view.ndim:
            break
    found = [PIN] * (len(op.shape()) - view.ndim + len(taken))
    source = tuple(PIN if k in taken else name for k, name in enumerate(names))
    terms = [(view, source), *((v, (PIN,) * v.ndim) for v in looked)]
    return op.state(terms, [tuple(beside(names, taken, found))], [op.shape()], reason=_WHY)[0]


def _looked_up(op: Op, view: View, indices: list[Any], used: list[int]) -> View:
    """Indices that vary together; one that is known and varies along a dimension of its own picks positions there."""
    shape = np.broadcast_shapes(*(tuple(indices[k].meta["val"].shape) for k in used))
    rank, own = len(shape), own_dimensions(op, indices, used)
    shared = letters(rank, "i")
    names = [PIN if k in used else name for k, name in enumerate(letters(view.ndim))]
    for k, (dim, index) in own.items():
        sizes = (*view.shape[:k], len(index), *view.shape[k + 1 :])
        view = picked(op, view, k, np.where(index < 0, index + view.shape[k], index), sizes)
        names[k] = shared[dim]
    result = beside(names, used, shared)
    looked = [op.labels.view(indices[k]) for k in used if k not in own]
    terms = [(v, tuple(shared[rank - v.ndim :])) for v in looked]
    return op.state([(view, tuple(names)), *terms], [tuple(result)], [op.shape()], reason=_WHY)[0]


def beside(each: Sequence[T], taken: Sequence[int], found: Sequence[T]) -> list[T]:
    """What is kept of each dimension, with what is found by indices in place of those taken: first where these are apart."""
    kept = [one for k, one in enumerate(each) if k not in taken]
    at = taken[0] if list(taken) == list(range(taken[0], taken[-1] + 1)) else 0
    return [*kept[:at], *found, *kept[at:]]


def own_dimensions(op: Op, indices: Sequence[Any], used: Sequence[int]) -> dict[int, tuple[int, np.ndarray]]:
    """Which of several indices are known and vary along one dimension, that no other such index has: (dimension, positions)."""
    rank = max(indices[k].meta["val"].ndim for k in used)
    found: dict[int, tuple[int, np.ndarray]] = {}
    for k in used:
        value = op.labels.value(indices[k])
        wide = [] if value is None else [d for d, n in enumerate(value.shape, start=rank - value.ndim) if n > 1]
        if value is not None and len(wide) == 1 and wide[0] not in (dim for dim, _ in found.values()):
            found[k] = wide[0], np.asarray(value.reshape(-1).cpu())
    return found


@rule("aten.repeat_interleave.Tensor")
def repeated_by_data(op: Op) -> View:
    """Positions of ``repeats``, each as often as is written there: which one comes where depends on all that come before.

    Where ``repeats`` is known the result is a constant, and no rule is asked.
    """
    reason = "each position is repeated as often as data says"
    op.pin(op.view("repeats"), reason)
    return op.pinned(op.shape(), reason)


@rule("aten.gather", "aten.take_along_dim")
def gather(op: Op) -> View:
    """``out[i, j] = x[index[i, j], j]``: the gathered dimension is pinned, the others go along."""
    x, indices = op.view("self"), op.view("index" if "index" in op.args else "indices")
    if not x.ndim:
        return indices
    dim = op["dim"] % x.ndim
    names = tuple((f"l{k}",) for k in range(x.ndim))
    shorter = any(a != b for k, (a, b) in enumerate(zip(x.shape, indices.shape, strict=True)) if k != dim)
    if shorter:  # gather reads a corner of x: its other axes are cut by position
        op.pin(x, _WHY)
        op.pin(indices, _WHY)
        return op.pinned(op.shape(), _WHY)
    source = tuple(PIN if k == dim else names[k] for k in range(x.ndim))
    return op.state([(x, source), (indices, names)], [names], [op.shape()], reason=_WHY)[0]


@rule("aten.take")
def take(op: Op) -> View:
    return op.equation("_..., ... -> ...", op.view("self"), op.view("index"), reason=_WHY)


@rule("aten.one_hot")
def one_hot(op: Op) -> View:
    return op.equation("... -> ... _", op.view("self"), reason=_WHY)


@rule("aten.tril", "aten.triu")
def triangle(op: Op) -> View:
    return op.equation("... _ _ -> ... _ _", op.view("self"), reason="a triangular mask depends on the order")
