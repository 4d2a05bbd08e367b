"""From symbolic views to labelled tensors that a statement can name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from autoperm.inference import views
from autoperm.inference.system import Frame, Restriction, System, Tensor
from autoperm.inference.views import Digit, View

#: For each dimension of a tensor with an axis, the dimensions of the view whose product it is.
Operand = tuple[Tensor, tuple[tuple[int, ...] | None, ...]]


def operand(system: System, view: View, node: Any, *, plain: bool = False) -> Operand:
    """The tensor behind a view, and how its dimensions are products of the view's.

    With ``plain`` every dimension of the tensor is exactly one dimension of the view.
    """
    return resolved(system, view, node, plain=plain)[1]


def resolved(system: System, view: View, node: Any, *, plain: bool = False) -> tuple[View, Operand]:
    """The same, with the materialised view where the view itself is not one of a whole tensor."""
    for candidate in (view, view.solid):
        if candidate is not None and (found := _direct(candidate, plain)) is not None:
            return candidate, found
    solid = solidify(system, view.solid or view, node, flat=plain)
    if _direct(solid, plain) is None:
        solid = solidify(system, solid, node, flat=True)
    view.solid = solid
    found = _direct(solid, plain)
    if found is None:
        raise RuntimeError(f"internal error: {view} has no plain form")
    return solid, found


def pin_view(
    system: System, view: View, reason: str, node: Any, dims: Sequence[int] | None = None, *, final: bool = False
) -> None:
    """Pin every dimension of a view, or those listed; ``final`` says that all its entries matter."""
    tensor, projection = operand(system, view, node, plain=True)
    if final:
        system.roots.append(tensor)
    for j, of_view in enumerate(projection):
        if of_view is not None and (dims is None or of_view[0] in dims):
            system.pin(tensor, j, reason, node)


def pinned(system: System, shape: Sequence[int], reason: str, node: Any) -> View:
    """A new label along which nothing moves."""
    tensor = system.fresh(tuple(shape), node)
    for j, axis in enumerate(tensor.dims):
        if axis is not None:
            system.fix(axis)
            system.pin(tensor, j, reason, node)
    return views.identity(tensor)


def is_fixed(system: System, view: View, dim: int) -> bool:
    """Whether a view's dimension is already known to be pinned (say, a spatial axis of the input)."""
    axes = [None if d.dim is None else view.source.dims[d.dim] for d in view.dims[dim]]
    return bool(axes) and all(axis is not None and system.is_fixed(axis) for axis in axes)


def _direct(view: View, plain: bool) -> Operand | None:
    where: dict[Digit, int] = {}
    for k, digits in enumerate(view.dims):
        if len(digits) > 1:
            return None
        for digit in digits:
            if digit.dim is not None:
                where[digit] = k
    projection: list[tuple[int, ...] | None] = []
    for j, run in enumerate(views.source_digits(view)):
        if view.source.dims[j] is None:
            projection.append(None)
            continue
        if not views.covers(run, view.source.sizes[j], view.offsets[j]) or (plain and len(run) != 1):
            return None
        projection.append(tuple(where[d] for d in run))
    return view.source, tuple(projection)


def solidify(system: System, view: View, node: Any, *, flat: bool) -> View:
    """Give a view a tensor of its own, stating how it follows from the source."""
    part, rebased = _restrict(system, view, node)
    if all(len(d) <= 1 for d in rebased.dims) and not (flat and any(len(d) > 1 for d in views.source_digits(rebased))):
        return rebased
    return _regroup(system, part, rebased, node)


def _restrict(system: System, view: View, node: Any) -> tuple[Tensor, View]:
    """The positions of the source that the view visits, in the source's own order of dimensions.

    A run of digits that lie side by side in one dimension of the view becomes one digit: a shuffle is then a mere
    relabelling, and does not make blocks of what it shuffles.
    """
    whole = view.source
    sizes: list[int] = []
    dims: list[int | None] = []
    statement: list[tuple[int, int | None, np.ndarray | None]] = []
    renamed: dict[tuple[Digit, ...], Digit] = {}
    partial = False
    for j, runs in enumerate(views.source_runs(view)):
        axis = whole.dims[j]
        if axis is None:
            continue
        digits = [d for run in runs for d in run]
        size = math.prod(d.size for d in digits)
        if views.covers(digits, whole.sizes[j], view.offsets[j]):
            statement.append((j, len(sizes), None))
        else:
            partial = True
            statement.append((j, len(sizes) if size > 1 else None, views.positions(view, j, digits)))
            axis = _letter(system, size, system.is_fixed(axis)) if size > 1 else None
        if size > 1:
            stride = size
            for run in runs:
                stride //= math.prod(d.size for d in run)
                renamed[run] = Digit(len(sizes), stride, math.prod(d.size for d in run))
            sizes.append(size)
            dims.append(axis)
    rebased = tuple(_renamed(digits, renamed) for digits in view.dims)
    if not partial:
        return whole, view
    part = system.tensor(sizes, dims, node)
    part.quiet = whole.quiet
    system.frames.append(Restriction(whole, part, tuple(statement), True, node))
    return part, View(part, rebased, (0,) * len(sizes))


def _renamed(digits: tuple[Digit, ...], renamed: dict[tuple[Digit, ...], Digit]) -> tuple[Digit, ...]:
    """The digits of one dimension in terms of the part's axes."""
    found, start = [], 0
    while start < len(digits):
        stop = next((e for e in range(len(digits), start, -1) if digits[start:e] in renamed), start + 1)
        found.append(renamed.get(digits[start:stop], digits[start]))
        start = stop
    return tuple(found)


def _regroup(system: System, part: Tensor, view: View, node: Any) -> View:
    """A tensor with one axis per dimension of the view, tied to ``part`` digit by digit."""
    letters: list[int] = []
    letter_of: dict[Digit, int] = {}
    source_projection: list[tuple[int, ...] | None] = []
    for j, digits in enumerate(views.source_digits(view)):
        axis = part.dims[j]
        if axis is None:
            source_projection.append(None)
            continue
        for digit in digits:
            letter_of[digit] = len(letters)
            letters.append(axis if len(digits) == 1 else _letter(system, digit.size, system.is_fixed(axis)))
        source_projection.append(tuple(letter_of[d] for d in digits))
    dims: list[int | None] = []
    projection: list[tuple[int, ...] | None] = []
    for of_view in view.dims:
        if all(d.dim is None for d in of_view):
            dims.append(None)
            projection.append(None)
            continue
        run = []
        for digit in of_view:
            if digit.dim is None:  # uniform: a letter of its own, on which nothing else depends
                run.append(len(letters))
                letters.append(system.axis(digit.size))
            else:
                run.append(letter_of[digit])
        fixed = all(system.is_fixed(letters[i]) for i in run)
        dims.append(letters[run[0]] if len(run) == 1 else _letter(system, math.prod(d.size for d in of_view), fixed))
        projection.append(tuple(run))
    whole = system.tensor(view.shape, dims, node)
    whole.quiet = part.quiet or len(letters) > len(letter_of)
    members = ((part, tuple(source_projection)), (whole, tuple(projection)))
    system.add_frame(Frame(tuple(letters), members, (1,), node, movement=True))
    return views.identity(whole)


def _letter(system: System, size: int, fixed: bool) -> int:
    axis = system.axis(size)
    if fixed:
        system.fix(axis)
    return axis
