"""From statements to the solution: which leaves there are, and what each may depend on."""

from __future__ import annotations

import numpy as np

from autoperm.inference.cells import Cells
from autoperm.inference.classes import NeedsCut
from autoperm.inference.dependence import Dependence
from autoperm.inference.partition import Partition
from autoperm.inference.system import System

#: Each restart cuts an axis finer, so the number is bounded by the sizes anyway; this bounds the time.
MAX_RESTARTS = 32


def solve(system: System) -> Dependence:
    """Cut the axes, unify the classes cell by cell, and find what each leaf may depend on."""
    cuts: list[tuple[int, np.ndarray]] = []
    while True:
        cells = Cells(system, _partition(system, cuts))
        if len(cuts) >= MAX_RESTARTS:
            cells.classes.allow_cuts = False
        try:
            return Dependence(cells.solve()).solve()
        except NeedsCut as request:
            cuts.append(_as_cut(cells, request))


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
