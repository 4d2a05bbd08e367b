"""What the permutation of a leaf may depend on.

After (768,) is viewed as (12, 64), each of the twelve heads may permute its own 64: the group is a wreath
product. In general a leaf's permutation may depend on whatever is *visible* beside it in every tensor in which
it occurs: another dimension, or a co-factor of the same dimension. Where a class occurs more than once, the
occurrence in the same dimension counts; otherwise it is ambiguous, and not visible.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Hashable, Sequence

import networkx as nx
import numpy as np

from autoperm.inference.cells import Cells
from autoperm.inference.exchange import Exchanges, exchanges
from autoperm.inference.forest import Product
from autoperm.inference.merging import Merging
from autoperm.inference.quiet import quiet_leaves
from autoperm.inference.system import Frame

#: The leaves of each dimension of a tensor.
Label = tuple[tuple[int, ...], ...]


class Dependence:
    """For each leaf the set of leaves on which its permutation may depend."""

    def __init__(self, cells: Cells):
        self.cells = cells
        self.of: dict[int, set[int]] = {}
        self.merged: dict[int, tuple[int, int]] = {}  # leaf -> merged leaf, where its positions start there
        self.exchanges: Exchanges | None = None
        self._leaves: dict[int, tuple[int, ...]] = {}
        self._described: dict[int, Product] = {}
        self._seen: set[tuple[Label, frozenset[int]]] = set()

    def solve(self) -> Dependence:
        self._narrow_all()
        if self.cells.partition.colors:
            self.merged = Merging(self.cells, self.describe, self.of).solve()
            if self.merged and self._clash():
                self.merged = {}
            if self.merged:
                self._leaves.clear()
                self._narrow_all()
            self.exchanges = exchanges(self)
        return self

    def _narrow_all(self) -> None:
        self.of.clear()
        self._seen.clear()
        quiet = quiet_leaves(self.cells, self.leaves)
        for tensor in self.cells.system.tensors:
            for cell in self.cells.cells(tensor):
                if (tensor.id, cell) in self.cells.of:
                    self.narrow(self.label(self.cells.of[tensor.id, cell]), quiet.get((tensor.id, cell), frozenset()))
        for frame, _, letters, _ in self.cells.joint:
            self._agree(frame, letters)
        self._close()
        if self._same_parents():
            self._close()

    def describe(self, item: int) -> Product:
        """A class as a product of leaves; see :meth:`Classes.describe`."""
        found = self._described.get(item)
        if found is None:
            found = self._described[item] = self.cells.classes.describe((item, None))
        return found

    def leaves(self, item: int) -> tuple[int, ...]:
        found = self._leaves.get(item)
        if found is None:
            found = tuple(self.merged.get(m, (m, 0))[0] for m in self.cells.classes.leaves((item, None)))
            self._leaves[item] = found
        return found

    def merged_leaves(self, item: int) -> tuple[int, ...]:
        """The leaves of a class, outermost first, merged where they are one."""
        return tuple(self.merged.get(leaf, (leaf, 0))[0] for leaf, _ in self.describe(item)[1])

    def box(self, item: int | None, piece: int) -> Hashable:
        """Pieces with the same box hold what is one leaf after all."""
        if item is None or not any(leaf in self.merged for leaf, _ in self.describe(item)[1]):
            return piece
        return self.merged_leaves(item)

    def merged_positions(self, item: int, n: int) -> np.ndarray:
        """The positions of a piece of ``n`` in the product of its merged leaves."""
        relabel, refs = self.describe(item)
        position = np.arange(n) if relabel is None else relabel
        size, inner, total = self.cells.classes.size, n, np.zeros(n, dtype=np.int64)
        for leaf, turn in refs:
            inner //= size[leaf]
            digit = (position // inner) % size[leaf]
            merged, start = self.merged.get(leaf, (leaf, 0))
            total = total * size[merged] + (digit if turn is None else turn[digit]) + start
        return total

    def _clash(self) -> bool:
        """Whether pieces of a dimension would not hold all positions of what is one leaf, each once.

        They do not in views that do not fit, or where the pieces have leaves beside it that stay, but are not one.
        """
        taken: dict[Hashable, dict[int, set[int]]] = {}
        whole: dict[Hashable, int] = {}
        for tensor in self.cells.system.tensors:
            for cell in self.cells.cells(tensor):
                items = self.cells.of.get((tensor.id, cell), ())
                key = tuple(self.box(item, piece) for item, piece in zip(items, cell, strict=False))
                for j, (item, piece) in enumerate(zip(items, cell, strict=False)):
                    if isinstance(box := key[j], tuple):
                        here = taken.setdefault((tensor.id, key, j), {})
                        whole[tensor.id, key, j] = math.prod(self.cells.classes.size[leaf] for leaf in box)
                        if piece not in here:
                            n = len(self.cells.partition.positions(tensor.dims[j], piece))  # type: ignore[arg-type]
                            mine = set(self.merged_positions(item, n).tolist())  # type: ignore[arg-type]
                            if len(mine) < n or any(mine & other for other in here.values()):
                                return True
                            here[piece] = mine
        return any(sum(map(len, here.values())) < whole[at] for at, here in taken.items())

    def label(self, items: Sequence[int | None]) -> Label:
        return tuple(self.leaves(i) for i in items if i is not None)

    def narrow(self, label: Label, quiet: frozenset[int] = frozenset()) -> None:
        """Intersect what each leaf of a tensor depends on with what it sees there.

        Along a quiet leaf the value is constant, so that its permutation may depend on anything at all.
        """
        if (label, quiet) in self._seen:
            return
        self._seen.add((label, quiet))
        count = Counter(leaf for dim in label for leaf in dim)
        everything = {leaf for leaf, n in count.items() if n == 1}
        unique = len(everything) == len(count)
        for dim in label:
            for leaf in dim:
                if leaf in quiet and count[leaf] == 1:
                    continue
                visible = everything if unique else everything | {m for m in dim if dim.count(m) == 1}
                mine = self.of.get(leaf)
                if mine is None:
                    self.of[leaf] = visible - {leaf}
                else:
                    mine &= visible

    def _agree(self, frame: Frame, letters: Sequence[int | None]) -> None:
        """In the joint index space of an op, all members must mean the same occurrence of what a leaf sees."""
        places = [(i, k, leaf) for i, c in enumerate(letters) if c is not None for k, leaf in enumerate(self.leaves(c))]
        twice = {leaf for leaf, n in Counter(p[2] for p in places).items() if n > 1}
        if not twice:
            return
        for place in places:
            for other in twice & self.of.get(place[2], set()):
                meant = set()
                for _, projection in frame.members:
                    dims = [[p for i in run or () for p in places if p[0] == i] for run in projection]
                    meant |= _meant(dims, place, other)
                if len(meant) != 1 or None in meant:
                    self.of[place[2]].discard(other)

    def _same_parents(self) -> bool:
        """Take away what two leaves that move together depend on, where each means another occurrence of it.

        In the outer product of a tensor that repeats another one with itself, the repeats along either dimension are beside
        that dimension's entries: together they depend on neither.
        """
        found = False
        for label in {label for label, _ in self._seen}:
            count = Counter(leaf for dim in label for leaf in dim)
            twice = {leaf for leaf, n in count.items() if n > 1}
            alone = [[leaf for leaf in dim if count[leaf] == 1 and leaf in self.of] for dim in label] if twice else []
            for one, other in itertools.combinations(alone, 2):
                for x, y in itertools.product(one, other):
                    if x in self.of[y] and y in self.of[x] and twice & (self.of[x] | self.of[y]):
                        self.of[x] -= twice
                        self.of[y] -= twice
                        found = True
        return found

    def _close(self) -> None:
        """Drop what nothing may depend on, and keep the relation transitive."""
        classes = self.cells.classes
        for leaf, seen in self.of.items():
            seen -= classes.blurred
            seen.difference_update([m for m in seen if classes.size[m] == 1])
            seen.discard(leaf)
        free = [leaf for leaf in self.of if leaf not in classes.pinned]
        changed = True
        while changed:
            changed = False
            for leaf in free:
                mine = self.of[leaf]
                for other in list(mine):
                    if other not in classes.pinned and not (self.of.get(other, set()) - {leaf} <= mine):
                        mine.discard(other)
                        changed = True

    def components(self) -> list[tuple[int, ...]]:
        """Free leaves, those that depend on one another together, each after what it depends on."""
        graph = nx.DiGraph()
        pinned = self.cells.classes.pinned
        size = self.cells.classes.size
        graph.add_nodes_from(leaf for leaf in self.of if leaf not in pinned and size[leaf] > 1)
        graph.add_edges_from((m, leaf) for leaf in list(graph) for m in self.of[leaf] if m in graph)
        condensed = nx.condensation(graph)
        order = nx.lexicographical_topological_sort(condensed, key=lambda c: min(condensed.nodes[c]["members"]))
        return [tuple(sorted(condensed.nodes[c]["members"])) for c in order]


def _meant(dims: Sequence[Sequence[tuple[int, int, int]]], place: tuple[int, int, int], other: int) -> set:
    """The occurrences of ``other`` that ``place`` refers to in one tensor; None where that is ambiguous."""
    found = set()
    for dim in dims:
        if place not in dim:
            continue
        beside = [p for p in dim if p[2] == other and p != place]
        beside = beside or [p for d in dims if d is not dim for p in d if p[2] == other]
        found.add(beside[0] if len(beside) == 1 else None)
    return found
