"""A model's weights as a coloured hypergraph on which the group acts.

A *point* is a position of a group together with the positions of its parents: the dimension 3 of head 1. The points of
a group have the shape of its arrays, (*sizes of the parents, size). Every entry of a tensor joins the points that its
indices stand for, and is labelled with its value, its tensor and the indices along which nothing moves. An element of
the group carries one model to another exactly where it carries labelled entries to labelled entries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from autoperm.gathering import gather
from autoperm.layout import all_coordinates
from autoperm.matching.unfold import Unfolding, unfoldings
from autoperm.spec import PermutationSpec
from autoperm.uses.weights import mixed

#: Hashes of labels are kept up to this size altogether; beyond it they are computed again where they are needed.
KEPT_BYTES = 1 << 30

Colours = list[np.ndarray]


@dataclass(frozen=True)
class Place:
    """Where the points of a group stand in a cell: the axes of its parents, then those of its leaves."""

    group: int
    axes: tuple[int, ...]


@dataclass(frozen=True)
class Incidence:
    """A cell and the points that its entries join."""

    cell: Unfolding
    places: tuple[Place, ...]

    @property
    def groups(self) -> set[int]:
        return {place.group for place in self.places}


class Structure:
    """The hypergraph of one model.

    Attributes:
        labels: for each tensor integers of its shape, equal for equal entries.
        order: the groups, parents before dependents.
        below: for each group all that depend on it, directly or not, in that order.
        incidences: one for each cell in which something moves.
    """

    def __init__(self, spec: PermutationSpec, labels: Mapping[str, torch.Tensor]):
        self.spec, self.labels = spec, labels
        self.above = [{spec.action.group_of[p] for p in g.parents if p in spec.action.group_of} for g in spec.groups]
        self.order = sorted(range(len(spec.groups)), key=lambda g: (len(self.above[g]), g))  # parents' parents count
        self.below = [[d for d in self.order if g in self.above[d]] for g in range(len(spec.groups))]
        cells = [u for name, layout in spec.layouts.items() for u in unfoldings(spec.action, name, layout)]
        self.incidences = [Incidence(u, _places(spec, u)) for u in cells]
        self._kept: dict[int, np.ndarray] = {}

    def shape(self, g: int) -> tuple[int, ...]:
        """The shape of a group's points."""
        group = self.spec.groups[g]
        return (*(self.spec.leaves[p].size for p in group.parents), group.size)

    def tensors_of(self, groups: Collection[int]) -> list[str]:
        """The tensors in which any of the groups occurs."""
        return list(dict.fromkeys(i.cell.name for i in self.incidences if i.groups & set(groups)))

    def sums(self, colours: Colours, changed: Collection[int]) -> dict[int, np.ndarray]:
        """For each point a hash of the multiset of its entries, each with its label and its points' colours.

        Only cells in which a changed group occurs are looked at.
        """
        found: dict[int, np.ndarray] = {}
        for k, incidence in enumerate(self.incidences):
            if incidence.groups & set(changed):
                for g, total in self._sums_of(k, incidence, colours):
                    found[g] = found[g] + total if g in found else total
        return found

    def _sums_of(self, k: int, incidence: Incidence, colours: Colours) -> Iterable[tuple[int, np.ndarray]]:
        entries = self._labels(k, incidence)
        for role, place in enumerate(incidence.places):
            entries = mixed(entries + self._spread(mixed(_numbers(colours[place.group], role + 1)), incidence, place))
        for role, place in enumerate(incidence.places):
            ascending = sorted(place.axes)
            total = entries.sum(axis=tuple(j for j in range(entries.ndim) if j not in ascending), dtype=np.uint64)
            total = total.transpose([ascending.index(axis) for axis in place.axes]).reshape(self.shape(place.group))
            yield place.group, mixed(total + _salt(k, role))

    def _spread(self, values: np.ndarray, incidence: Incidence, place: Place) -> np.ndarray:
        """Numbers of a group's points, shaped to broadcast along the axes of a cell."""
        shape = incidence.cell.shape
        values = values.reshape([shape[axis] for axis in place.axes]).transpose(np.argsort(place.axes))
        return values.reshape([n if j in place.axes else 1 for j, n in enumerate(shape)])

    def _labels(self, k: int, incidence: Incidence) -> np.ndarray:
        """Hashes of the entries' labels: the value, the cell, the positions along what does not move."""
        if k in self._kept:
            return self._kept[k]
        cell = incidence.cell
        entries = mixed(_numbers(cell.of(self.labels[cell.name]).numpy(), 0) + _salt(k, -1))
        moving = {axis for place in incidence.places for axis in place.axes}
        for axis, n in enumerate(cell.shape):
            if axis not in moving:
                still = mixed(_numbers(np.arange(n), axis + 1))
                entries = mixed(entries + still.reshape([-1 if j == axis else 1 for j in range(entries.ndim)]))
        if sum(kept.nbytes for kept in self._kept.values()) + entries.nbytes <= KEPT_BYTES:
            self._kept[k] = entries
        return entries

    def arranged(self, colours: Colours) -> list[np.ndarray]:
        """The element that sorts siblings by colour, those of one colour by position."""
        arrays = [np.empty(0, dtype=np.int64)] * len(colours)
        for g in self.order:
            sources = np.argsort(colours[g], axis=-1, kind="stable")
            arrays[g] = sources[self.parents_read(g, arrays)]
        return arrays

    def parents_read(self, g: int, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """From which positions of its parents a group's arrays are read; they index all but the last dimension."""
        group = self.spec.groups[g]
        here = all_coordinates(self.spec.leaves, group.parents)
        read = [self.spec.action.moved(p, here, arrays)[..., 0] for p in group.parents]
        return tuple(np.broadcast_arrays(*read)) if read else ()

    def points_read(self, g: int, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """The point, as a number, that each point of a group reads from."""
        points = np.arange(int(np.prod(self.shape(g)))).reshape(self.shape(g))
        return np.take_along_axis(points[self.parents_read(g, arrays)], arrays[g], axis=-1)

    def unchanged(self, arrays: Sequence[np.ndarray], groups: Collection[int]) -> bool:
        """Whether an element that moves only these groups leaves every weight as it is."""
        for name in self.tensors_of(groups):
            moved = gather(self.spec.action, self.spec.layouts[name], arrays, self.labels[name])
            if not np.array_equal(moved.numpy(), self.labels[name].numpy()):  # torch would start threads for it
                return False
        return True

    def digest(self, arrays: Sequence[np.ndarray]) -> bytes:
        """A digest of all weights under an element."""
        found = hashlib.blake2b(digest_size=32)
        for name in self.tensors_of(range(len(self.spec.groups))):
            moved = gather(self.spec.action, self.spec.layouts[name], arrays, self.labels[name])
            found.update(np.ascontiguousarray(moved.numpy()).data)
        return found.digest()


def _places(spec: PermutationSpec, cell: Unfolding) -> tuple[Place, ...]:
    """The points that the entries of a cell join; a group that occurs twice has two places."""
    found: dict[Place, None] = {}
    for axis, leaf in enumerate(cell.leaves):
        if leaf in spec.action.group_of:
            g = spec.action.group_of[leaf]
            seen = _visible(cell, axis)
            found[Place(g, tuple(seen[m] for m in (*spec.groups[g].parents, *spec.groups[g].leaves)))] = None
    return tuple(found)


def _visible(cell: Unfolding, axis: int) -> dict[int, int]:
    """The axis of every leaf that the leaf on ``axis`` refers to: as in the action, its own dimension's first."""
    others = [k for k in range(len(cell.leaves)) if cell.dims[k] != cell.dims[axis]]
    own = [k for k in range(len(cell.leaves)) if cell.dims[k] == cell.dims[axis]]
    return {leaf: k for k in (*others, *own, axis) if (leaf := cell.leaves[k]) is not None}


def _numbers(values: np.ndarray, salt: int) -> np.ndarray:
    with np.errstate(over="ignore"):
        return values.astype(np.int64).view(np.uint64) + np.uint64((salt * 0xD1B54A32D192ED03) % (1 << 64))


def _salt(k: int, role: int) -> np.uint64:
    return np.uint64(((k + 1) * 0x9E3779B97F4A7C15 + (role + 2) * 0xA0761D6478BD642F) % (1 << 64))
