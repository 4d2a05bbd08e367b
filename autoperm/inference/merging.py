"""Undo cuts that turn out not to matter.

Axes are cut into pieces everywhere at once, so an axis that is cut for one head is cut for all. Afterwards leaves that
are cut apart for nothing are merged again: two leaves are one where each occurrence of one has the other as its
sibling, in the neighbouring cell along the same dimension, with all else in the two cells the same. Then no statement
tells them apart, since every tensor that the statements relate has both or neither.

A single position (one key head for all query heads, say) does not move, but each cell may have a leaf of its own for it.
These are no difference, and become one leaf with the cells.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
from networkx.utils import UnionFind

from autoperm.inference.cells import Cell, Cells
from autoperm.inference.forest import Product

#: (tensor id, negative for the joint space of a statement; cell, dimension, place among the dimension's factors)
Place = tuple[int, Cell, int, int]
#: The leaves of each dimension of a cell, in the order of its factors.
Shape = tuple[tuple[int, ...] | None, ...]


class Merging:
    """Finds which leaves are one; ``into`` maps a leaf to the merged leaf and where its positions start there."""

    def __init__(self, cells: Cells, describe: Callable[[int], Product], depends: Mapping[int, set[int]]):
        self.cells, self.describe, self.depends = cells, describe, depends
        self.into: dict[int, tuple[int, int]] = {}
        self.shapes: dict[tuple[int, Cell], Shape] = {}
        self.orders: dict[tuple[int, Cell], tuple[Hashable, ...]] = {}  # in which order each dimension lists its positions
        self.places: dict[int, list[Place]] = defaultdict(list)
        self.members: dict[tuple[int, Cell], list[tuple[int, Cell]]] = {}  # what a cell of a joint space is made of
        self.single: set[int] = set()  # leaves of one position that are left, once all else was tried
        self.singles: dict[tuple[int, Cell], list[int]] = {}  # those of a cell, in order
        self.same = UnionFind()  # of them

    def solve(self) -> dict[int, tuple[int, int]]:
        size, pinned = self.cells.classes.size, set(self.cells.classes.pinned)
        self._read(pinned)
        self._merge()
        self.single = {leaf for leaf in self.places if size[leaf] == 1 and leaf not in self.into}
        if self.single:
            self._read(pinned | self.single)
            self._merge()
            for group in self.same.to_sets():
                self.into |= dict.fromkeys(group, (min(group), 0))
        return self.into

    def _read(self, still: set[int]) -> None:
        """Where leaves occur; of those that do not move, one is as good as another of its size."""
        self.places.clear()
        for (tensor, cell), items in self.cells.of.items():
            self._note(tensor, cell, items, still)
        # The joint index space of a statement counts as a tensor: a flattened dimension of its members hides which
        # of its letters two cells differ in.
        number: dict[int, int] = {}
        for frame, joint, letters, members in self.cells.joint:
            space = -1 - number.setdefault(id(frame), len(number))
            self._note(space, joint, letters, still)
            self.members[space, joint] = [(t.id, cell) for (t, _), cell in zip(frame.members, members, strict=True)]
        # So does each part of a tensor: what one part brings is not what another one brings.
        for restriction, whole, part in self.cells.related:
            space = -1 - number.setdefault(id(restriction), len(number))
            self._note(space, part, self.cells.of[restriction.part.id, part], still)
            self.members[space, part] = [(restriction.whole.id, whole)]

    def _note(self, tensor: int, cell: Cell, items: Sequence[int | None], still: set[int]) -> None:
        size = self.cells.classes.size
        shape: list[tuple[int, ...] | None] = []
        order: list[Hashable] = []
        self.singles[tensor, cell] = singles = []
        for dim, item in enumerate(items):
            relabel, refs = (None, []) if item is None else self.describe(item)
            singles += [m for m, _ in refs if m in self.single]
            shape.append(None if item is None else tuple(-size[m] if m in still else m for m, _ in refs))
            order.append((_raw(relabel), *(_raw(turn) for m, turn in refs if m not in still)))
            for k, leaf in enumerate(shape[-1] or ()):
                if leaf >= 0:
                    self.places[leaf].append((tensor, cell, dim, k))
        self.shapes[tensor, cell] = tuple(shape)
        self.orders[tensor, cell] = tuple(order)

    def _merge(self) -> None:
        alike: dict[tuple, list[int]] = defaultdict(list)
        for leaf, places in self.places.items():
            if leaf not in self.into and self._may_merge(leaf):
                alike[self._signature(leaf, places)].append(leaf)
        for leaves in alike.values():
            if len(leaves) > 1:
                self._merge_among(leaves)

    def _may_merge(self, leaf: int) -> bool:
        classes = self.cells.classes
        return leaf not in classes.pinned and leaf not in classes.stuck and leaf not in classes.blurred

    def _signature(self, leaf: int, places: list[Place]) -> tuple:
        """Leaves can only be one if they occur in the same places of the same tensors and depend on the same."""
        where = tuple(sorted((tensor, dim, k) for tensor, _, dim, k in places))
        return where, frozenset(self.depends.get(leaf, ()))

    def _merge_among(self, leaves: list[int]) -> None:
        found: list[list[int]] = []
        for leaf in sorted(leaves, key=lambda x: self.places[x][0]):
            home = next((c for c in found if all(self._siblings(leaf, m) and self._siblings(m, leaf) for m in c)), None)
            if home is None:
                found.append([leaf])
            else:
                home.append(leaf)
        for members in found:
            if len(members) > 1:
                self._join(members)

    def _join(self, members: list[int]) -> None:
        size = self.cells.classes.size
        new = self.cells.classes.leaf(sum(size[m] for m in members))
        start = 0
        for member in members:
            self.into[member] = (new, start)
            start += size[member]
        for member in members[1:]:
            self._join_singles(members[0], member)

    def _join_singles(self, leaf: int, other: int) -> None:
        """Single positions in cells that are one after all are one."""
        by_row = self._rows(other)
        for tensor, cell, dim, k in self.places[leaf]:
            row = by_row[tensor, dim, k, cell[:dim], cell[dim + 1 :]]
            (beside,) = (c for c in row if self._same_but(tensor, cell, c, dim, k))
            for pair in zip(self.singles[tensor, cell], self.singles[tensor, beside], strict=True):
                self.same.union(*pair)

    def _siblings(self, leaf: int, other: int) -> bool:
        """Whether each occurrence of a leaf has exactly one of the other beside it, all else being the same."""
        by_row = self._rows(other)
        for tensor, cell, dim, k in self.places[leaf]:
            beside = by_row.get((tensor, dim, k, cell[:dim], cell[dim + 1 :]), ())
            same = [c for c in beside if self._same_but(tensor, cell, c, dim, k)]
            if len(same) != 1 or not self._members_alike(tensor, cell, same[0], leaf, other):
                return False
        return True

    def _members_alike(self, space: int, cell: Cell, beside: Cell, leaf: int, other: int) -> bool:
        """Whether what two cells of a joint space are made of differs in nothing but the two leaves."""
        pairs = zip(self.members.get((space, cell), ()), self.members.get((space, beside), ()), strict=True)
        return all(one == two or self._turned(one, leaf, other) == self.shapes[two] for one, two in pairs)

    def _turned(self, place: tuple[int, Cell], leaf: int, other: int) -> Shape:
        shape = self.shapes[place]
        return tuple(None if items is None else tuple(other if m == leaf else m for m in items) for items in shape)

    def _rows(self, leaf: int) -> dict[tuple, list[Cell]]:
        """The cells of a leaf by everything but where they are along its dimension."""
        found: dict[tuple, list[Cell]] = defaultdict(list)
        for tensor, cell, dim, k in self.places[leaf]:
            found[tensor, dim, k, cell[:dim], cell[dim + 1 :]].append(cell)
        return found

    def _same_but(self, tensor: int, cell: Cell, other: Cell, dim: int, k: int) -> bool:
        one, two = self.shapes[tensor, cell], self.shapes[tensor, other]
        a, b = one[dim] or (), two[dim] or ()
        orders = zip(self.orders[tensor, cell], self.orders[tensor, other], strict=True)
        both = enumerate(zip(zip(one, two, strict=True), orders, strict=True))
        rest = all(x == y and p == q for d, ((x, y), (p, q)) in both if d != dim)
        return rest and len(a) == len(b) and all(x == y for i, (x, y) in enumerate(zip(a, b, strict=True)) if i != k)


def _raw(array: np.ndarray | None) -> bytes | None:
    return None if array is None else array.tobytes()
