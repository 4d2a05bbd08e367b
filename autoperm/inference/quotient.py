"""A cut model as a small coloured graph, and its automorphisms that exchange two vertices.

Where the axes are cut, a tensor is a set of boxes (cells whose leaves were merged count as one), and so is the joint
index space of every statement. The vertices are the boxes and the leaves; edges say which box of a statement's joint
space projects to which box of its members, which boxes a restriction relates, and which leaves are in which dimension
of a box. An automorphism moves whole boxes and keeps the position along every leaf: each statement then holds as before,
so that it is a symmetry of the model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np

from autoperm.inference.system import Restriction

if TYPE_CHECKING:
    from autoperm.inference.cells import Cell
    from autoperm.inference.dependence import Dependence

#: Rounds of refinement after which two vertices that are not told apart count as alike.
_ROUNDS = 64
#: How many choices between vertices that are alike to make in the search for one exchange.
_CHOICES = 64
_MIX = np.uint64(0x9E3779B97F4A7C15)


#: A dimension of a box, by its vertex; -1 for a leaf's only one.
Slot = tuple[int, int]


@dataclass(frozen=True)
class Box:
    """Cells of one space: a tensor's id, or a negative number for the joint space of a statement.

    ``key`` tells along each dimension which piece it is, ``leaves`` which leaves larger than 1 it is a product of.
    """

    space: int
    key: tuple[Hashable, ...]
    leaves: tuple[tuple[int, ...], ...]


class Quotient:
    """The graph.

    Attributes:
        boxes_at: the box of each vertex, None for a leaf and for what was added.
        leaf_vertex: the vertex of each leaf.
        work: how many edges refinement has looked at, which is what a search costs.
        links: the slots that list the same positions.
        labels: what was added to a box (see ``exchange``).
    """

    def __init__(self, solution: Dependence):
        self.solution, self.cells = solution, solution.cells
        self.boxes_at: list[Box | None] = []
        self.links: dict[Slot, set[Slot]] = defaultdict(set)
        self.labels: dict[int, list] = defaultdict(list)
        self.leaf_vertex: dict[int, int] = {}
        self._vertex: dict[tuple[int, tuple[Hashable, ...]], int] = {}
        self._items: dict[int, Sequence[int | None]] = {}  # the classes of a box, in one of its cells
        self._leaves = nx.utils.UnionFind()  # pinned leaves that are as good as one another
        self._of_cell: dict[tuple[int, Cell], int] = {}
        self.work = 0  # edges looked at so far
        self._colors: list[int] = []
        self._edges: set[tuple[int, int, int]] = set()  # (from, to, kind); kinds are even, odd ones go backwards
        self._kinds: dict[Hashable, int] = {}
        self._build()

    # -- building ----------------------------------------------------------------------------------------------

    def _build(self) -> None:
        cells = self.cells
        pinned: dict[int, set[int]] = {}
        for pin in cells.system.pins:
            pinned.setdefault(pin.tensor.id, set()).add(pin.dim)
        for (number_of, cell), items in cells.of.items():
            self._of_cell[number_of, cell] = self._box(number_of, cell, items, pinned.get(number_of, set()))
        number: dict[int, int] = {}
        for frame, joint, letters, _ in cells.joint:
            k = number.setdefault(id(frame), len(number))
            v = self._box(-1 - k, joint, letters, set())
            for m, (tensor, projection) in enumerate(frame.members):
                member = self._of_cell[tensor.id, cells.member_cell(frame, m, joint)]
                self.connect(v, member, ("member", k, m))
                for dim, run in enumerate(projection):
                    for letter in run or ():
                        self._link((v, letter), (member, dim))
        for k, statement in enumerate(cells.system.frames):
            if isinstance(statement, Restriction):
                for whole, part, shared in self._restricted(statement):
                    self.connect(whole, part, ("part", k))
                    for dim, part_dim, _ in shared:
                        self._link((whole, dim), (part, part_dim))
        for v in range(len(self.boxes_at)):
            box = self.box(v)
            leaves = tuple(tuple(self._leaves[leaf] for leaf in dim) for dim in box.leaves)
            self.boxes_at[v] = Box(box.space, box.key, leaves)
            for dim, inside in enumerate(leaves):
                for n, leaf in enumerate(inside):
                    self.connect(v, self._leaf(leaf), ("leaf", dim, inside[:n].count(leaf)))
                    self._link((v, dim), (self._leaf(leaf), -1))

    def _restricted(self, r: Restriction) -> Iterator[tuple[int, int, list]]:
        for whole, part, shared in self.cells._options(r):
            u, v = self._of_cell.get((r.whole.id, whole)), self._of_cell.get((r.part.id, part))
            live = self.cells.is_live(r.part, part) if r.part_is_result else self.cells.is_live(r.whole, whole)
            if live and u is not None and v is not None:
                yield u, v, shared

    def _box(self, space: int, cell: Cell, items: Sequence[int | None], pinned: set[int]) -> int:
        size, solution = self.cells.classes.size, self.solution
        key = tuple(solution.box(item, piece) for item, piece in zip(items, cell, strict=True))
        leaves = tuple(
            () if item is None else tuple(leaf for leaf in solution.leaves(item) if size[leaf] > 1) for item in items
        )
        found = self._vertex.get((space, key))
        if found is None:
            box = Box(space, key, leaves)
            still = tuple((d, key[d]) for d in sorted(pinned)) + tuple(self._blurred(key, items))
            found = self._vertex[space, key] = self.add(("box", space, still), box)
            self._items[found] = items
        elif leaves != self.box(found).leaves:
            self._same(found, leaves, items)
        return found

    def _same(self, v: int, leaves: tuple[tuple[int, ...], ...], items: Sequence[int | None]) -> None:
        """Another cell of a box, whose pinned leaves may have other names."""
        box, pinned = self.box(v), self.cells.classes.pinned
        for dim, (mine, other) in enumerate(zip(box.leaves, leaves, strict=True)):
            if mine == other:
                continue
            alike = len(mine) == len(other) and self._order(self._items[v][dim]) == self._order(items[dim])
            if alike and all(a == b or (a in pinned and b in pinned) for a, b in zip(mine, other, strict=True)):
                for a, b in zip(mine, other, strict=True):
                    self._leaves.union(a, b)
            else:
                self._colors[v] = self._kinds.setdefault(("still", v), len(self._kinds))

    @property
    def aliases(self) -> dict[int, int]:
        """Pinned leaves that are as good as others, with the names that they have here."""
        return {leaf: self._leaves[leaf] for leaf in list(self._leaves) if self._leaves[leaf] != leaf}

    def _order(self, item: int | None) -> tuple[Hashable, ...]:
        """In which order a dimension lists the positions of its leaves."""
        if item is None:
            return ()
        relabel, refs = self.solution.describe(item)
        return tuple(None if r is None else r.tobytes() for r in (relabel, *(turn for _, turn in refs)))

    def _blurred(self, key: tuple[Hashable, ...], items: Sequence[int | None]) -> Iterator[Hashable]:
        """Where it is not known how positions along a leaf are tied, an exchange must keep them as they are listed.

        That holds for leaves of a single position too: what else a piece is tied to is not in the graph.
        """
        for dim, item in enumerate(items):
            if item is not None and self.cells.classes.blurred.intersection(self.solution.leaves(item)):
                yield dim, key[dim], *self._order(item)

    def _leaf(self, leaf: int) -> int:
        leaf = self._leaves[leaf]
        if leaf not in self.leaf_vertex:
            classes = self.cells.classes
            self.leaf_vertex[leaf] = self.add(("leaf", classes.size[leaf], leaf in classes.pinned, leaf in classes.blurred))
        return self.leaf_vertex[leaf]

    def box(self, v: int) -> Box:
        """The box of a vertex that has one."""
        found = self.boxes_at[v]
        if found is None:
            raise KeyError(v)
        return found

    def add(self, color: Hashable, box: Box | None = None) -> int:
        """A new vertex."""
        self.boxes_at.append(box)
        self._colors.append(self._kinds.setdefault(color, len(self._kinds)))
        return len(self._colors) - 1

    def _link(self, one: Slot, other: Slot) -> None:
        self.links[one].add(other)
        self.links[other].add(one)

    def connect(self, u: int, v: int, kind: Hashable) -> None:
        """A new edge."""
        k = 2 * self._kinds.setdefault(kind, len(self._kinds))
        self._edges.update([(u, v, k), (v, u, k + 1)])

    # -- automorphisms -----------------------------------------------------------------------------------------

    def prepare(self) -> np.ndarray:
        """Freeze the graph as arrays; returns the stable colour of every vertex."""
        edges = np.array(sorted(self._edges), dtype=np.int64).reshape(-1, 3)
        n = len(self._colors)
        self._from, self._to, kind = edges[:, 0], edges[:, 1], edges[:, 2]
        self._kind = kind
        self._start = np.searchsorted(self._from, np.arange(n))
        self._lonely = np.bincount(self._from, minlength=n) == 0
        self._of_kind = _mixed(kind.astype(np.uint64) + np.uint64(77))
        self.base = np.array(self._colors, dtype=np.int64)
        self._initial = self._stable(_mixed(self.base.astype(np.uint64))[:, None])
        return self._initial[:, 0]

    def _stable(self, colors: np.ndarray) -> np.ndarray:
        """Refine colours, each column by itself, until no more are told apart, or two columns do not have the same."""
        count = -1
        for _ in range(_ROUNDS):
            now = len(np.unique(colors[:, 0]))
            if now == count or now == len(colors) or (colors.sum(axis=0) != colors[:, 0].sum()).any():
                break
            count = now
            self.work += len(self._to)
            told = _mixed(colors[self._to] ^ self._of_kind[:, None])
            sums = np.add.reduceat(told, np.minimum(self._start, len(told) - 1), axis=0) if len(told) else colors * 0
            sums[self._lonely] = 0
            colors = _mixed(colors * np.uint64(3) + sums)
        return colors

    def exchange(self, a: int, b: int) -> np.ndarray | None:
        """An automorphism of order two that exchanges two vertices and moves little else; None if none is found."""
        chosen = [(a, b)]
        for _ in range(_CHOICES):
            colors = self._told_apart(chosen)
            if not np.array_equal(np.sort(colors[:, 0]), np.sort(colors[:, 1])):
                return None
            found, open_pair = self._reading(colors)
            if open_pair is None:
                return found if self._is_exchange(found) else None
            chosen.append(open_pair)
        return None

    def _told_apart(self, chosen: Sequence[tuple[int, int]]) -> np.ndarray:
        colors = np.repeat(self._initial, 2, axis=1)
        for k, (a, b) in enumerate(chosen):
            one, two = _mixed(np.array([1000 + 2 * k, 1001 + 2 * k], dtype=np.uint64))
            colors[a, 0] = colors[b, 1] = one
            colors[b, 0] = colors[a, 1] = two
        return self._stable(colors)

    def _reading(self, colors: np.ndarray) -> tuple[np.ndarray, tuple[int, int] | None]:
        """What the colours say of the automorphism, and a pair that they leave open."""
        image = np.arange(len(colors))
        moved = np.nonzero(colors[:, 0] != colors[:, 1])[0]
        by_color: dict[int, list[int]] = {}
        for w in moved.tolist():
            by_color.setdefault(int(colors[w, 1]), []).append(w)
        for v in moved.tolist():
            alike = by_color.get(int(colors[v, 0]), [])
            if len(alike) != 1:
                back = [w for w in alike if colors[w, 0] == colors[v, 1]]
                return image, (v, back[0]) if back else (v, v)
            image[v] = alike[0]
        return image, None

    def _is_exchange(self, image: np.ndarray) -> bool:
        if not np.array_equal(image[image], np.arange(len(image))) or (self.base[image] != self.base).any():
            return False
        moved = image != np.arange(len(image))
        at = moved[self._from] | moved[self._to]
        some = np.stack([self._from[at], self._to[at], self._kind[at]])
        onto = np.stack([image[some[0]], image[some[1]], some[2]])
        return np.array_equal(some[:, np.lexsort(some)], onto[:, np.lexsort(onto)])


def _mixed(x: np.ndarray) -> np.ndarray:
    """A hash of every entry."""
    with np.errstate(over="ignore"):
        x = (x + _MIX) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(32))
