"""Leaves along which a tensor is constant: the repeats of a repeated tensor, the positions of padding.

What is constant along a leaf stays the same however its positions are reordered, and so does not narrow what that
reordering may depend on: columns of a weight that all read one value can be exchanged row by row.
"""

from __future__ import annotations

from collections.abc import Callable

from autoperm.inference.cells import Cell, Cells
from autoperm.inference.system import Frame, Restriction

Key = tuple[int, Cell]


def quiet_leaves(cells: Cells, leaves: Callable[[int], tuple[int, ...]]) -> dict[Key, frozenset[int]]:
    """The quiet leaves of each cell of the tensors that have some."""
    found: dict[Key, set[int]] = {}
    if not any(tensor.quiet for tensor in cells.system.tensors):
        return {}

    def of_dim(key: Key, dim: int) -> set[int]:
        item = cells.of[key][dim]
        return set() if item is None else set(leaves(item))

    per_frame: dict[int, list[tuple[Cell, list[int | None]]]] = {}
    for frame, joint, letters, _ in cells.joint:
        if frame.movement:
            per_frame.setdefault(id(frame), []).append((joint, letters))
    per_restriction: dict[int, list[tuple[Cell, Cell, list[tuple[int, int]]]]] = {}
    for restriction, whole, part, shared in cells.shared:
        per_restriction.setdefault(id(restriction), []).append((whole, part, shared))
    _assembled(cells, found, of_dim)
    for statement in cells.system.frames:
        if isinstance(statement, Restriction):
            for whole, part, shared in per_restriction.get(id(statement), ()):
                _through_restriction(statement, whole, part, shared, found, of_dim)
        elif statement.movement:
            for joint, letters in per_frame.get(id(statement), ()):
                _through_regrouping(cells, statement, joint, letters, found, leaves)
    return {key: frozenset(value) for key, value in found.items()}


def _assembled(cells: Cells, found: dict[Key, set[int]], of_dim: Callable[[Key, int], set[int]]) -> None:
    """At first all of a joined tensor is quiet; each part then claims its own dimensions."""
    joined = {f.whole.id: f.whole for f in cells.system.frames if isinstance(f, Restriction) and not f.part_is_result}
    for tensor in joined.values():
        for cell in cells.cells(tensor) if tensor.quiet else ():
            key = (tensor.id, cell)
            if key in cells.of:
                found[key] = set().union(*(of_dim(key, d) for d in range(len(cell))))


def _through_restriction(
    r: Restriction,
    whole: Cell,
    part: Cell,
    shared: list[tuple[int, int]],
    found: dict[Key, set[int]],
    of_dim: Callable[[Key, int], set[int]],
) -> None:
    outer, inner = (r.whole.id, whole), (r.part.id, part)
    if r.part_is_result:
        if outer in found:
            found.setdefault(inner, set()).update(found[outer])
        return
    for dim, _ in shared:
        found.get(outer, set()).difference_update(of_dim(outer, dim) - found.get(inner, set()))


def _through_regrouping(
    cells: Cells,
    frame: Frame,
    joint: Cell,
    letters: list[int | None],
    found: dict[Key, set[int]],
    leaves: Callable[[int], tuple[int, ...]],
) -> None:
    (source, projection), (result, _) = frame.members
    named = {i for run in projection for i in run or ()}
    quiet = {leaf for i, c in enumerate(letters) if c is not None and i not in named for leaf in leaves(c)}
    quiet |= found.get((source.id, cells.member_cell(frame, 0, joint)), set())
    if quiet:
        found.setdefault((result.id, cells.member_cell(frame, 1, joint)), set()).update(quiet)
