"""From statements to the solution: which leaves there are, and what each may depend on."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np

from autoperm.inference.cells import Cells
from autoperm.inference.classes import Conflict, NeedsCut
from autoperm.inference.dependence import Dependence
from autoperm.inference.exchange import MOST_BOXES
from autoperm.inference.partition import Partition
from autoperm.inference.system import System

#: Each restart cuts an axis finer, so the number is bounded by the sizes anyway; this bounds the time.
MAX_RESTARTS = 32
#: An axis is cut into at most so many pieces for views that do not fit; its exchanges are looked for afterwards.
CONFLICT_BUDGET = 48
#: Other ways are tried for systems of at most so many tensors.
MOST_TENSORS = 400


def solve(system: System) -> Dependence:
    """Cut the axes, unify the classes cell by cell, and find what each leaf may depend on.

    Where an axis meets a reordering of itself, or is cut, there are several ways to go on. All are sound: the largest
    group is taken.
    """
    found = _solve(system)
    if len(system.tensors) > MOST_TENSORS or found.cells.exhausted:
        return found
    if found.cells.classes.lossy:
        found = larger(found, _solve(system, strict=True))
    if points := _points(found.cells):
        found = larger(found, _solve(system, points, strict=True))
    return found


def larger(one: Dependence, other: Dependence) -> Dependence:
    """The larger group; the first where they are equal."""
    return other if _log_order(other) > _log_order(one) + 1e-6 else one


def _points(cells: Cells) -> list[tuple[int, np.ndarray]]:
    """Cuts of all axes that are cut at all into single positions; none where that makes too many boxes."""
    partition, system = cells.partition, cells.system
    cut = [axis for axis in partition.colors if axis not in system.fixed and axis not in system.opaque]
    coarse = [axis for axis in cut if partition.count[axis] < system.size[axis]]
    pieces = {axis: system.size[axis] for axis in cut}
    if not coarse or max(pieces.values()) > CONFLICT_BUDGET:
        return []
    boxes = 0
    for tensor in system.tensors:
        roots = [system.find(axis) for axis in tensor.dims if axis is not None]
        boxes += math.prod(pieces.get(root, partition.pieces(root)) for root in roots)
    return [] if boxes > MOST_BOXES // 4 else [(axis, np.arange(system.size[axis])) for axis in coarse]


def _log_order(solution: Dependence) -> float:
    size = solution.cells.classes.size
    total = 0.0
    for component in solution.components():
        parents = set.intersection(*(solution.of[leaf] for leaf in component)) - set(component)
        total += math.prod(size[p] for p in parents) * math.lgamma(1 + math.prod(size[leaf] for leaf in component))
    return total


def _solve(system: System, cuts: Sequence[tuple[int, np.ndarray]] = (), *, strict: bool = False) -> Dependence:
    points = apart = bool(cuts)
    cuts = list(cuts)
    for tries in itertools.count():
        cells = Cells(system, _partition(system, cuts))
        cells.classes.strict, cells.cut_apart, cells.in_points = strict, apart, points
        cells.classes.allow_cuts = tries < MAX_RESTARTS
        cells.classes.may_conflict = functools.partial(_nothing_to_cut, cells)
        try:
            return Dependence(cells.solve()).solve()
        except NeedsCut as request:
            cuts.append(_as_cut(cells, request))
        except Conflict as conflict:
            cuts += _between(cells, conflict.leaves)
            apart = True
    raise AssertionError("unreachable")


def _nothing_to_cut(cells: Cells, leaves: frozenset[int]) -> bool:
    """Whether two views of an axis that do not fit must be given up: cutting it apart would not pay."""
    return not cells.classes.allow_cuts or not _between(cells, leaves)


def _between(cells: Cells, leaves: frozenset[int]) -> list[tuple[int, np.ndarray]]:
    """Cuts between the positions along some leaves, one per axis that is a product of them and others."""
    found: dict[int, np.ndarray] = {}
    for item, (axis, piece) in cells.origin.items():
        inside = leaves & set(cells.classes.leaves((item, None)))
        if not inside or axis in found or axis in cells.system.fixed or axis in cells.system.opaque:
            continue
        positions = cells.partition.positions(axis, piece)
        key = np.zeros(cells.system.size[axis], dtype=np.int64)
        key[positions] = _digits(cells, item, inside, len(positions))
        if len(np.unique(key)) > 1:
            if len(np.unique(key)) + cells.partition.pieces(axis) > CONFLICT_BUDGET:
                return []
            found[axis] = key
    return list(found.items())


def _digits(cells: Cells, item: int, leaves: frozenset[int] | set[int], n: int) -> np.ndarray:
    """For each position of a class its position in the product of some of its leaves."""
    relabel, refs = cells.classes.describe((item, None))
    position = np.arange(n) if relabel is None else relabel
    inner, total = n, np.zeros(n, dtype=np.int64)
    for leaf, turn in refs:
        size = cells.classes.size[leaf]
        inner //= size
        if leaf in leaves:
            digit = (position // inner) % size
            total = total * size + (digit if turn is None else turn[digit])
    return total


def _partition(system: System, cuts: list[tuple[int, np.ndarray]]) -> Partition:
    """The coarsest partition; again from the start where an axis was given up, since others were cut along it."""
    while True:
        given_up = len(system.opaque)
        partition = Partition(system)
        for axis, key in cuts:
            partition.refine(axis, key)
        partition.solve()
        if len(system.opaque) == given_up:
            return partition


def _as_cut(cells: Cells, request: NeedsCut) -> tuple[int, np.ndarray]:
    """A request in terms of a class as one in terms of its axis."""
    axis, piece = cells.origin[request.leaf]
    key = np.zeros(cells.system.size[axis], dtype=np.int64)
    key[cells.partition.positions(axis, piece)] = request.key
    return axis, key
