"""Which tied points may be put in any order, because exchanging them changes no weight.

Massive ties are of this kind: a layer of zeros, duplicated units, heads that all start from zero. Seeing it at once
saves the search from trying orders that all come to the same.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from autoperm.layout import identity_element
from autoperm.uses.refinement import Colouring, Tie, individualised, tied
from autoperm.uses.structure import Colours, Structure


def twins(structure: Structure, colours: Colours, tie: Tie) -> list[np.ndarray]:
    """The classes whose points can be exchanged with everything but their dependents held.

    Dependents go along, matched by colour; that is only well defined where those of one colour are twins themselves.
    """
    for d in structure.below[tie.group]:
        if not all(_exchangeable(structure, colours, d, points) for points in _siblings(structure, colours, d)):
            return []
    return [points for points in tie.classes if _exchangeable(structure, colours, tie.group, points)]


def equivalent(structure: Structure, colouring: Colouring, g: int, points: np.ndarray) -> tuple[bool, bool]:
    """Whether automorphisms carry every point of a class to every other, and whether they can reorder them at will.

    A yes is certain, since what is compared are all weights in three orders. A no may be wrong: other ties are
    settled by position.
    """
    first = _digest(structure, colouring, g, points)
    if _digest(structure, colouring, g, np.roll(points, -1)) != first:
        return False, False
    return True, len(points) == 2 or _digest(structure, colouring, g, _swapped(points)) == first


def _digest(structure: Structure, colouring: Colouring, g: int, points: np.ndarray) -> bytes:
    found = individualised(structure, colouring, g, points)
    return structure.digest(structure.arranged(found.colours))


def _siblings(structure: Structure, colours: Colours, g: int) -> Iterable[np.ndarray]:
    """The tied classes of a group, each cut into points of the same parents."""
    size = structure.shape(g)[-1]
    for points in tied(colours[g]):
        for family in np.split(points, np.nonzero(np.diff(points // size))[0] + 1):
            if len(family) > 1:
                yield family


def _exchangeable(structure: Structure, colours: Colours, g: int, points: np.ndarray) -> bool:
    """Whether every reordering of sibling points leaves all weights: a cycle and a swap generate them."""
    size = structure.shape(g)[-1]
    if len(set((points // size).tolist())) > 1:
        return False
    orders = [np.roll(points, -1)] if len(points) == 2 else [np.roll(points, -1), _swapped(points)]
    return all(structure.unchanged(_moving(structure, colours, g, points, o), [g, *structure.below[g]]) for o in orders)


def _moving(structure: Structure, colours: Colours, g: int, points: np.ndarray, sources: np.ndarray) -> list[np.ndarray]:
    """The element under which points of a group read from others, their dependents matched by colour."""
    arrays = identity_element(structure.spec.leaves, structure.spec.groups)
    arrays[g].reshape(-1)[points] = sources % arrays[g].shape[-1]
    for d in structure.below[g]:
        by_colour = np.argsort(colours[d], axis=-1, kind="stable")
        np.put_along_axis(arrays[d], by_colour, by_colour[structure.parents_read(d, arrays)], axis=-1)
    return arrays


def _swapped(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points[[1, 0]], points[2:]])
