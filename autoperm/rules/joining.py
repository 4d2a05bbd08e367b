"""Ops that put tensors beside one another: the result's axis is a sequence of the operands'."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np
from torch import fx

from autoperm.inference import operands, views
from autoperm.inference.operands import operand
from autoperm.inference.system import Restriction, Tensor
from autoperm.inference.views import View
from autoperm.rules.movement import narrowed, reshaped
from autoperm.rules.op import Op, moved_within
from autoperm.rules.registry import rule
from autoperm.rules.spatial import padded


@rule("aten.cat", "aten.concat", "aten.concatenate")
def cat(op: Op) -> View:
    shape = op.shape()
    parts = [op.labels.view(node) for node in op["tensors"] if node.meta["val"].numel()]
    dim = op.get("dim", 0) % len(shape)
    if len(parts) > 1 and len(set(op["tensors"])) == 1:  # one tensor several times: its repeats are interchangeable
        return reshaped(op, views.insert(parts[0], dim, len(parts)), shape)
    return side_by_side(op, [node for node in op["tensors"] if node.meta["val"].numel()], parts, dim, shape)


def side_by_side(op: Op, nodes: Sequence[fx.Node], parts: Sequence[View], dim: int, shape: Sequence[int]) -> View:
    """Labels of nodes, or of their one-hot forms, one after the other along a dimension."""
    index, start = [], 0
    for part in parts:
        index.append(np.arange(start, start + part.shape[dim]))
        start += part.shape[dim]
    return assembled(op, shape, dim, gathered(op, dim, list(zip(map(origin, nodes), parts, index, strict=True))))


@rule("aten.stack")
def stack(op: Op) -> View:
    shape = op.shape()
    dim = op.get("dim", 0) % len(shape)
    parts = [views.insert(op.labels.view(node), dim) for node in op["tensors"]]
    if len({origin(node) for node in op["tensors"]}) == 1 and (rebuilt := _restacked(op, dim)) is not None:
        return rebuilt
    return assembled(op, shape, dim, [(part, np.array([k])) for k, part in enumerate(parts)])


def _restacked(op: Op, dim: int) -> View | None:
    """Stacked pieces of one dimension of one tensor are that dimension, reordered, and viewed as two."""
    parts = [op.labels.view(node) for node in op["tensors"]]
    for k in range(parts[0].ndim):
        size = parts[0].shape[k]
        index = [np.arange(n * size, (n + 1) * size) for n in range(len(parts))]
        joined = gathered(op, k, list(zip([None] * len(parts), parts, index, strict=True)))
        if len(joined) == 1 and len(parts) > 1:
            flat = joined[0][0]
            split = reshaped(op, flat, (*flat.shape[:k], len(parts), size, *flat.shape[k + 1 :]))
            order = [d for d in range(split.ndim) if d != k]
            return views.permute(split, [*order[:dim], k, *order[dim:]])
    return None


#: Ops whose result holds values of their first argument, at other places.
_REARRANGING = {
    "aten.view", "aten.reshape", "aten._unsafe_view", "aten.permute", "aten.transpose", "aten.t", "aten.flip", "aten.alias",
    "aten.clone", "aten.detach", "aten.contiguous", "aten.unsqueeze", "aten.squeeze", "aten.slice", "aten.narrow",
    "aten.select", "aten.split", "aten.split_with_sizes", "aten.chunk", "aten.unbind", "aten.unsafe_split",
    "aten.tensor_split", "aten.expand",
}  # fmt: skip


def origin(node: fx.Node) -> fx.Node:
    """The node whose values these are: labels may agree where values do not."""
    while node.target is operator.getitem or str(node.target).rpartition(".")[0] in _REARRANGING:
        if node.target is operator.getitem and str(node.args[0].target).rpartition(".")[0] not in _REARRANGING:  # type: ignore[union-attr]
            return node
        node = node.args[0]  # type: ignore[assignment]
    return node


def gathered(
    op: Op, dim: int, parts: Sequence[tuple[fx.Node | None, View, np.ndarray]]
) -> list[tuple[View, np.ndarray]]:
    """Parts that are pieces of one dimension of one tensor become one part: cut and put together is reordered."""
    found: dict[object, list[tuple[View, np.ndarray]]] = {}
    for k, (source, view, index) in enumerate(parts):
        axes = _axes_of(view, dim) or _axes_apart(view, dim, [v for s, v, _ in parts if s is source])
        key = (source, axes[0], *_beside(view, dim, axes[0])) if len(axes) == 1 else k
        found.setdefault(key, []).append((view, index))
    return [
        members[0] if len(members) == 1 else _one_part(op, dim, key[1], members)  # type: ignore[index]
        for key, members in found.items()
    ]


def _axes_of(view: View, dim: int) -> list[int | None]:
    """The source's dimensions that one of a view's is of, if nothing else of the view is."""
    axes = {d.dim for d in view.dims[dim]}
    return [] if None in axes or any(d.dim in axes for k, ds in enumerate(view.dims) if k != dim for d in ds) else [*axes]


def _axes_apart(view: View, dim: int, others: Sequence[View]) -> list[int | None]:
    """The source's dimensions in which a single position is elsewhere than another view."""
    if view.dims[dim]:
        return []
    axes: set[int | None] = set()
    for other in others:
        if other.source is view.source:
            axes.update(_axes_of(other, dim))
            axes.update(j for j, (a, b) in enumerate(zip(view.offsets, other.offsets, strict=True)) if a != b)
    return [*axes] if not any(d.dim in axes for ds in view.dims for d in ds) else []


def _beside(view: View, dim: int, axis: int | None) -> tuple[object, ...]:
    """What pieces of one dimension have in common."""
    offsets = tuple(0 if k == axis else o for k, o in enumerate(view.offsets))
    return view.source.id, view.dims[:dim], view.dims[dim + 1 :], offsets


def _one_part(op: Op, dim: int, axis: int, members: Sequence[tuple[View, np.ndarray]]) -> tuple[View, np.ndarray]:
    first = members[0][0]
    read = np.concatenate([views.positions(view, axis, view.dims[dim]) for view, _ in members])
    size = first.source.sizes[axis]
    offsets = tuple(0 if k == axis else o for k, o in enumerate(first.offsets))
    whole = View(first.source, (*first.dims[:dim], (views.Digit(axis, 1, size),), *first.dims[dim + 1 :]), offsets)
    shape = (*first.shape[:dim], len(read), *first.shape[dim + 1 :])
    if len(read) == size and _ascending(read):
        part = whole
    else:
        part = picked(op, whole, dim, read, shape)
    return part, np.concatenate([index for _, index in members])


def assembled(op: Op, shape: Sequence[int], dim: int, parts: Sequence[tuple[View, np.ndarray]]) -> View:
    """A tensor whose positions ``index`` along ``dim`` are those of the part, for every (part, index).

    Positions that no part claims are constants, zero padding for instance: nothing is said about them.
    """
    if len(parts) == 1 and parts[0][0].shape == tuple(shape) and _ascending(parts[0][1]):
        return parts[0][0]
    system = op.system
    solid = [(operand(system, part, op.node, plain=True), part, index) for part, index in parts]
    dims: list[int | None] = []
    for k, size in enumerate(shape):
        axes = [tensor.dims[j] for (tensor, proj), _, _ in solid for j, of in enumerate(proj) if of == (k,)]
        if size == 1 or (k != dim and not axes):
            dims.append(None)
        elif k == dim:
            dims.append(system.axis(size))
            known = [a for a in axes if a is not None]
            if known and sum(system.size[a] for a in known) == size and all(map(system.is_fixed, known)):
                system.fix(dims[-1])  # type: ignore[arg-type]
        else:
            for axis in axes[1:]:
                system.union(axes[0], axis)  # type: ignore[arg-type]
            dims.append(axes[0])
    whole = system.tensor(shape, dims, op.node)
    along = [(k,) for k, axis in enumerate(dims) if axis is not None]
    whole.quiet = sum(len(i) for _, i in parts) < shape[dim] or any(
        t.quiet or any(of not in proj for of in along) for (t, proj), _, _ in solid
    )
    for (tensor, projection), _, index in solid:
        _state_part(op, whole, dim, tensor, projection, index)
    return views.identity(whole)


def _state_part(
    op: Op, whole: Tensor, dim: int, tensor: Tensor, projection: Sequence[tuple[int, ...] | None], index: np.ndarray
) -> None:
    where = {of[0]: j for j, of in enumerate(projection) if of is not None}
    statement: list[tuple[int, int | None, np.ndarray | None]] = []
    for k, axis in enumerate(whole.dims):
        if axis is None:
            continue
        if k == dim:
            statement.append((k, where.get(k), index))
        elif k in where:
            statement.append((k, where[k], None))
    op.system.frames.append(Restriction(whole, tensor, tuple(statement), False, op.node))


#: What is read more often from one place is not followed.
MOST_REPEATS = 8


def picked(op: Op, source: View, dim: int, index: np.ndarray, shape: Sequence[int]) -> View:
    """Positions ``index`` of a dimension, known and in any order, repeats allowed."""
    tensor, projection = operand(op.system, source, op.node, plain=True)
    where = {of[0]: j for j, of in enumerate(projection) if of is not None}
    if dim not in where:  # uniform: any positions are the same
        kept = source if source.shape[dim] == len(index) else views.insert(views.drop(source, dim), dim, len(index))
        return kept
    values, times = np.unique(index, return_counts=True)
    if times.max(initial=1) > MOST_REPEATS:
        return _pinned_pick(op, source, dim, shape)
    if times.max(initial=1) == 1:
        return _restricted(op, source, tensor, where, dim, index)
    parts = []
    for count in np.unique(times).tolist():  # what is read equally often is a product (which, repeat)
        once = _in_order_of_reading(index, values[times == count])
        part = _restricted(op, source, tensor, where, dim, once)
        at = np.stack([np.nonzero(index == value)[0] for value in once])
        if count > 1 and _ascending(at.T.reshape(-1) - at.min()):  # all of them, again and again
            part, at = views.repeated(part, dim, count, inside=False), at.T
        elif count > 1:
            part = views.repeated(part, dim, count, inside=True)
        parts.append((part, at.reshape(-1)))
    return parts[0][0] if len(parts) == 1 and _ascending(parts[0][1]) else assembled(op, shape, dim, parts)


def _in_order_of_reading(index: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The values in the order in which they come first."""
    _, first = np.unique(index, return_index=True)
    kept = np.isin(index[np.sort(first)], values)
    return index[np.sort(first)][kept]


def _restricted(op: Op, source: View, tensor: Tensor, where: dict[int, int], dim: int, index: np.ndarray) -> View:
    system, j = op.system, where[dim]
    axis = tensor.dims[j]
    size = len(index)
    new = system.axis(size) if size > 1 else None
    if new is not None and system.is_fixed(axis):  # type: ignore[arg-type]
        system.fix(new)
    dims = [new if k == j else a for k, a in enumerate(tensor.dims)]
    part = system.tensor([size if k == j else n for k, n in enumerate(tensor.sizes)], dims, op.node)
    part.quiet = tensor.quiet
    statement: list[tuple[int, int | None, np.ndarray | None]] = []
    for k, a in enumerate(tensor.dims):
        if k == j:
            statement.append((k, k if new is not None else None, index))
        elif a is not None:
            statement.append((k, k, None))
    system.frames.append(Restriction(tensor, part, tuple(statement), True, op.node))
    digits: list[tuple[views.Digit, ...]] = []
    for k, old in enumerate(source.dims):
        if k == dim:
            digits.append((views.Digit(j, 1, size),) if size > 1 else ())
        else:
            digits.append((views.Digit(where[k], 1, tensor.sizes[where[k]]),) if k in where else old)
    return View(part, tuple(digits), (0,) * len(dims))


def _pinned_pick(op: Op, source: View, dim: int, shape: Sequence[int]) -> View:
    return moved_within(op, source, [dim], shape, "indexed with many repeats")


def _ascending(index: np.ndarray) -> bool:
    return bool((index == np.arange(len(index))).all())


@rule("aten.roll")
def roll(op: Op) -> View:
    """A reordering; along an axis that is pinned already it is just another pinned axis."""
    view = op.view("self")
    shifts = [op["shifts"]] if isinstance(op["shifts"], int) else list(op["shifts"])
    dims = [op["dims"]] if isinstance(op["dims"], int) else list(op["dims"])
    if not dims:
        flat = reshaped(op, view, (int(np.prod(view.shape)),))
        return reshaped(op, _rolled(op, flat, 0, shifts[0]), op.shape())
    for shift, dim in zip(shifts, dims, strict=True):
        view = _rolled(op, view, dim % view.ndim, shift)
    return view


def _rolled(op: Op, view: View, dim: int, shift: int) -> View:
    size = view.shape[dim]
    if size == 1 or shift % size == 0:
        return view
    if operands.is_fixed(op.system, view, dim):
        return moved_within(op, view, [dim], view.shape)
    return picked(op, view, dim, (np.arange(size) - shift) % size, view.shape)


@rule("aten.constant_pad_nd", "aten.pad")
def constant_pad(op: Op) -> View:
    """Padding is a concatenation with constants; negative padding is a slice."""
    view, pad = op.view("self"), list(op["pad"])
    if op.get("mode", "constant") != "constant":
        return padded(op)
    cropped = [sum(max(-n, 0) for n in pad[2 * k : 2 * k + 2]) for k in range(len(pad) // 2)]
    if any(view.shape[view.ndim - 1 - k] <= n for k, n in enumerate(cropped)):  # nothing is left of it
        return op.state([], [((),) * view.ndim], [op.shape()])[0]
    for k in range(len(pad) // 2):
        dim = view.ndim - 1 - k
        view = _pad_one(op, view, dim, pad[2 * k], pad[2 * k + 1])
    return view


def _pad_one(op: Op, view: View, dim: int, before: int, after: int) -> View:
    if before < 0 or after < 0:
        start = max(-before, 0)
        view = narrowed(op, view, dim, start, view.shape[dim] - start - max(-after, 0))
        before, after = max(before, 0), max(after, 0)
    if before == after == 0:
        return view
    size = view.shape[dim]
    shape = (*view.shape[:dim], before + size + after, *view.shape[dim + 1 :])
    if dim >= 2 and view.ndim > 3 and operands.is_fixed(op.system, view, dim):  # an image: not worth following
        return moved_within(op, view, [dim], shape)
    return assembled(op, shape, dim, [(view, np.arange(before, before + size))])
