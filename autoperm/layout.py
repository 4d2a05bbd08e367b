"""How the permutations of the groups act on one tensor of the state dict.

Along each dimension a tensor is cut into pieces; in each cell (one piece per dimension) a dimension is a product
of *leaves*. An element of the group gives every leaf a permutation, possibly one per position of other leaves.
:func:`gather` turns that into the entries to read: ``out[i] = tensor[source(i)]``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Leaf:
    """An index set. Pinned leaves never move, but others may depend on the position along them."""

    name: str
    size: int
    pinned: str | None = None  # the reason


@dataclass(frozen=True)
class Group:
    """One permutation group: Sym(size), independently for every position along its parents.

    Attributes:
        name: a parameter dimension that it moves, such as ``layer1.0.conv1.weight[0]``.
        size: the number of exchangeable positions.
        leaves: the leaves whose product those positions are; more than one only if they are always flattened.
        parents: the leaves on whose position the permutation may depend, pinned ones included.
        moves: the (parameter, dimension) pairs that it moves, by the names in ``spec.layouts``.
        copies: how many independent permutations there are, the product of the parents' sizes.
        parent: the name of the group it depends on most closely, None for a group of its own.

    Example:
        >>> import torch, autoperm
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = autoperm.infer(mlp, torch.zeros(1, 4))
        >>> spec.groups[0].moves
        (('0.weight', 0), ('0.bias', 0), ('2.weight', 1))
        >>> spec.groups[0].order
        40320
    """

    name: str
    size: int
    leaves: tuple[int, ...]
    parents: tuple[int, ...] = ()
    moves: tuple[tuple[str, int], ...] = ()
    copies: int = 1
    parent: str | None = None

    @property
    def order(self) -> int:
        """The number of elements, exact."""
        return math.factorial(self.size) ** self.copies

    @property
    def log10_order(self) -> float:
        return self.copies * math.lgamma(self.size + 1) / math.log(10)


@dataclass(frozen=True, eq=False)
class Factor:
    """A leaf as it occurs in a tensor: digit k of the dimension is position ``relabel[k]`` of the leaf."""

    leaf: int
    relabel: np.ndarray | None = None

    @cached_property
    def back(self) -> np.ndarray | None:
        return None if self.relabel is None else np.argsort(self.relabel)


class Factors(tuple[Factor, ...]):
    """The factors of a dimension, outermost first.

    Where ``relabel`` is not None the dimension lists the positions of their product in another order: position k is
    position ``relabel[k]`` of the product.
    """

    relabel: np.ndarray | None

    def __new__(cls, factors: Iterable[Factor] = (), relabel: np.ndarray | None = None) -> Factors:
        self = super().__new__(cls, factors)
        self.relabel = relabel
        return self


@dataclass(frozen=True)
class Label:
    """Along a dimension a cell is position ``at`` of a leaf, whose other positions are other cells."""

    dim: int
    leaf: int
    at: int


@dataclass(frozen=True)
class Exchanged:
    """A cell that elements of the group put in other cells' places: those of the same orbit, by their labels."""

    orbit: int
    labels: tuple[Label, ...]


Cell = tuple[int, ...]


@dataclass(eq=False)
class Layout:
    """One tensor: ``pieces[j]`` are the positions of each piece of dimension j, ``cells`` the factors in each cell.

    Cells that are missing are left alone: no output depends on them. ``exchanged`` has the cells that move as a whole.
    """

    shape: tuple[int, ...]
    pieces: tuple[tuple[np.ndarray, ...], ...]
    cells: dict[Cell, tuple[Factors, ...]]
    exchanged: dict[Cell, Exchanged] = field(default_factory=dict)
    _plans: dict[int, object] = field(default_factory=dict, repr=False)

    def cell_shape(self, cell: Cell) -> tuple[int, ...]:
        return tuple(len(self.pieces[j][p]) for j, p in enumerate(cell))

    def leaves(self) -> set[int]:
        inside = {f.leaf for dims in self.cells.values() for factors in dims for f in factors}
        return inside | {x.leaf for e in self.exchanged.values() for x in e.labels}

    def leaves_at(self, cell: Cell, dim: int) -> list[int]:
        """The leaves along one dimension of a cell, those that exchange it as a whole included."""
        labels = self.exchanged[cell].labels if cell in self.exchanged else ()
        return [f.leaf for f in self.cells[cell][dim]] + [x.leaf for x in labels if x.dim == dim]

    @cached_property
    def orbits(self) -> dict[int, list[Cell]]:
        """The cells of each orbit."""
        found: dict[int, list[Cell]] = {}
        for cell, exchanged in self.exchanged.items():
            found.setdefault(exchanged.orbit, []).append(cell)
        return found


class Action:
    """The action of the groups on the tensors: which group moves a leaf, and how."""

    def __init__(self, leaves: Sequence[Leaf], groups: Sequence[Group]):
        self.leaves, self.groups = leaves, groups
        self.group_of = {leaf: g for g, group in enumerate(groups) for leaf in group.leaves}

    def moved(self, leaf: int, coordinate: Mapping[int, np.ndarray], element: Sequence[np.ndarray]) -> np.ndarray:
        """The position that a leaf reads from, given the coordinates of everything it depends on."""
        if leaf not in self.group_of:
            return coordinate[leaf]
        index = self.group_of[leaf]
        group = self.groups[index]
        sizes = [self.leaves[m].size for m in group.leaves]
        flat: np.ndarray | int = 0
        for m, size in zip(group.leaves, sizes, strict=True):
            flat = flat * size + coordinate[m]
        source = element[index][(*(coordinate[p] for p in group.parents), flat)]
        at = group.leaves.index(leaf)
        return (source // math.prod(sizes[at + 1 :])) % sizes[at]

    def source(self, layout: Layout, cell: Cell, element: Sequence[np.ndarray]) -> list[np.ndarray]:
        """For each dimension of a cell the positions of the tensor read, broadcasting over what they depend on."""
        dims, shape = layout.cells[cell], layout.cell_shape(cell)
        labels = layout.exchanged[cell].labels if cell in layout.exchanged else ()
        coordinates = [self._coordinates(dims[j], n, j, len(dims)) for j, n in enumerate(shape)]
        digits: Digits = [{} for _ in dims]
        for j, factors in enumerate(dims):
            for k, factor in enumerate(factors):
                here = self._visible(dims, coordinates, labels, j)
                here[factor.leaf] = coordinates[j][k]
                digits[j][_occurrence(factors, k)] = self.moved(factor.leaf, here, element)
        found = self._positions(layout, cell, digits)
        if not labels:
            return found
        at = []
        for label in labels:
            here = self._visible(dims, coordinates, labels, label.dim)
            at.append(self.moved(label.leaf, here | {label.leaf: np.asarray(label.at)}, element))
        for other in layout.orbits[layout.exchanged[cell].orbit]:
            there = [np.asarray(a == x.at) for a, x in zip(at, layout.exchanged[other].labels, strict=True)]
            if other != cell and all(bool(t.any()) for t in there):
                chosen = functools.reduce(np.logical_and, there)
                new = self._positions(layout, other, digits)
                found = [np.where(chosen, n, f) for n, f in zip(new, found, strict=True)]
        return found

    def _positions(self, layout: Layout, cell: Cell, digits: Digits) -> list[np.ndarray]:
        """The positions in a tensor of a cell's entries, by their digits along the leaves."""
        found = []
        for j, (factors, size) in enumerate(zip(layout.cells[cell], layout.cell_shape(cell), strict=True)):
            total = np.zeros((1,) * len(cell), dtype=np.int64)
            if not factors:
                total = np.arange(size).reshape([-1 if k == j else 1 for k in range(len(cell))])
            for k, factor in enumerate(factors):
                digit = digits[j][_occurrence(factors, k)]
                digit = digit if factor.back is None else factor.back[digit]
                total = total * self.leaves[factor.leaf].size + digit
            local = total if factors.relabel is None else np.argsort(factors.relabel)[total]
            found.append(layout.pieces[j][cell[j]][local])
        return found

    def _coordinates(self, factors: Factors, n: int, j: int, ndim: int) -> list[np.ndarray]:
        """The position along each leaf of a dimension, shaped to broadcast along that dimension."""
        shape = [-1 if k == j else 1 for k in range(ndim)]
        found, inner = [], n
        position = np.arange(n) if factors.relabel is None else factors.relabel
        for factor in factors:
            inner //= self.leaves[factor.leaf].size
            digit = (position // inner) % self.leaves[factor.leaf].size
            found.append((digit if factor.relabel is None else factor.relabel[digit]).reshape(shape))
        return found

    def _visible(
        self,
        dims: Sequence[Sequence[Factor]],
        coordinates: Sequence[Sequence[np.ndarray]],
        labels: Sequence[Label],
        j: int,
    ) -> dict[int, np.ndarray]:
        """The coordinates that what is in dimension j refers to: its own dimension's first."""
        seen: dict[int, np.ndarray] = {}
        for d in [*(d for d in range(len(dims)) if d != j), j]:
            for factor, at in zip(dims[d], coordinates[d], strict=True):
                seen[factor.leaf] = at
            seen.update({x.leaf: np.asarray(x.at) for x in labels if x.dim == d})
        return seen


#: For each dimension the digit along (leaf, how many of the same leaf come before it).
Digits = list[dict[tuple[int, int], np.ndarray]]


def _occurrence(factors: Factors, k: int) -> tuple[int, int]:
    leaf = factors[k].leaf
    return leaf, sum(f.leaf == leaf for f in factors[:k])


def identity_element(leaves: Sequence[Leaf], groups: Sequence[Group]) -> list[np.ndarray]:
    """The identity: for each group an array of shape (*sizes of the parents, size)."""
    return [
        np.broadcast_to(np.arange(g.size), (*(leaves[p].size for p in g.parents), g.size)).copy() for g in groups
    ]


def all_coordinates(leaves: Sequence[Leaf], parents: Sequence[int]) -> dict[int, np.ndarray]:
    """Every combination of positions of the parents, shaped to broadcast, one dimension per parent and one more."""
    n = len(parents) + 1
    return {p: np.arange(leaves[p].size).reshape([-1 if k == i else 1 for k in range(n)]) for i, p in enumerate(parents)}
