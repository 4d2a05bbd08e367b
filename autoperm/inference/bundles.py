"""Bundles of boxes and leaves that swaps exchange, and the leaf whose positions they become.

Every box that moves is given the number of its bundle, along each dimension that tells: its *label*. Labels are kept only
if exchanging two bundles does to them what it should, if earlier exchanges keep them, and if they keep earlier labels;
what an element of the group does to a parameter is then read off the labels alone.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np

from autoperm.inference.quotient import Slot
from autoperm.layout import Label

if TYPE_CHECKING:
    from autoperm.inference.exchange import Search


class Bundles:
    """The bundles that some swaps exchange: generator j exchanges bundle 0 with bundle j + 1."""

    def __init__(self, search: Search, generators: Sequence[np.ndarray]):
        self.search, self.graph, self.generators = search, search.graph, generators
        self.count = len(generators) + 1
        self.swaps = {(0, j): g for j, g in enumerate(generators, 1)}
        for (i, a), (j, b) in itertools.combinations(enumerate(generators, 1), 2):
            self.swaps[i, j] = a[b[a]]
        n = len(generators[0])
        self.moved = sorted(set(np.nonzero(np.any([g != np.arange(n) for g in generators], axis=0))[0].tolist()))
        self.unclear: set[Slot] = set()
        self.side = self._sides() if self.count == 2 else {}
        self.at: dict[int, dict[int, int]] = {}  # vertex -> dimension (-1 for a leaf) -> bundle
        self.natural = self._label() and self._one_form() and self._consistent() and self._dependences_agree()

    # -- labels --------------------------------------------------------------------------------------------------

    def _sides(self) -> dict[Slot, int]:
        """For two bundles, which is which is a matter of choice: slots that list the same positions agree.

        Where they cannot agree, since something is added to its own mirror image, the slot is noted as unclear.
        """
        image, side = self.generators[0], {}
        guides = [self._padded(t) for t in self.search.accepted] + [t for t in self.search.swaps if self._commutes(t)]
        near: deque[tuple[Slot, int]] = deque()  # slots that list the same positions as one whose side is known
        beside: deque[tuple[Slot, int]] = deque()  # other dimensions of a box one of whose sides is known
        starts = deque((s, 0) for s in sorted(self._changing_slots(), key=lambda s: (s[0] not in self.search.seeds, s)))
        while near or beside or starts:
            slot, at = (near or beside or starts).popleft()
            if slot in side:
                continue
            for (v, dim), here in ((slot, at), ((int(image[slot[0]]), slot[1]), 1 - at)):
                side[v, dim] = here
                near.extend(((int(t[v]), dim), here) for t in guides)
                for other in self.graph.links[v, dim]:
                    if side.get(other, here) != here:
                        self.unclear.update([(v, dim), other])
                    elif self._moves(other):
                        near.append((other, here))
                beside.extend(((v, d), here) for d in self._dims(v) if self._moves((v, d)))
        return side

    def _commutes(self, other: np.ndarray) -> bool:
        """Whether another swap can keep the two bundles apart."""
        g = self.generators[0]
        return bool((other[g] == g[other]).all()) and not any(other[v] == g[v] for v in self.moved)

    def _dims(self, v: int) -> Sequence[int]:
        box = self.graph.boxes_at[v]
        return range(len(box.key)) if box is not None else (-1,) if v in self.search.leaf_of else ()

    def _changing_slots(self) -> list[Slot]:
        return [(v, d) for v in self.moved for d in self._dims(v) if self._moves((v, d))]

    def _moves(self, slot: Slot) -> bool:
        """Whether some generator changes a slot."""
        v, dim = slot
        if self.graph.boxes_at[v] is None:
            return any(g[v] != v for g in self.generators)
        return any(g[v] != v and self._changes(v, int(g[v]), dim) for g in self.generators)

    def _label(self) -> bool:
        leaf_of = self.search.leaf_of
        for v in self.moved:
            if v in leaf_of:
                at = self._bundle((v, -1))
                if at is None:
                    return False
                self.at[v] = {-1: at}
        return all(self._label_box(v) for v in self.moved if self.graph.boxes_at[v] is not None)

    def _label_box(self, v: int) -> bool:
        found: dict[int, int] = {}
        for dim in self._dims(v):
            if self._moves((v, dim)):
                at = self._bundle((v, dim))
                inside = {self.at[w][-1] for w in self._leaves_at(v, dim) if w in self.at}
                if at is None or len(inside) > 1 or (inside and self.count > 2 and inside != {at}):
                    return False
                found[dim] = inside.pop() if inside else at
        self.at[v] = found
        return bool(found)

    def _bundle(self, slot: Slot) -> int | None:
        """The bundle that a slot is in: the one that all swaps which move it have in common."""
        if self.count == 2:
            return self.side[slot]
        v, dim = slot
        moving = {pair for pair, g in self.swaps.items() if g[v] != v}
        if dim >= 0 and self._common(moving) is None:  # in several bundles, along several dimensions
            moving = {pair for pair in moving if self._changes(v, int(self.swaps[pair][v]), dim)}
        return self._common(moving)

    def _common(self, moving: set[tuple[int, int]]) -> int | None:
        """The bundle that all of some swaps exchange, if they are all the swaps that do."""
        return next((j for j in range(self.count) if moving == {p for p in self.swaps if j in p}), None)

    def _leaves_at(self, v: int, dim: int) -> list[int]:
        """The vertices of the leaves along a dimension of a box, those of earlier exchanges included."""
        box, vertex = self.graph.box(v), self.graph.leaf_vertex
        labels = self.graph.labels.get(v, ())
        return [vertex[leaf] for leaf in box.leaves[dim]] + [vertex[x.leaf] for x in labels if x.dim == dim]

    def _changes(self, v: int, w: int, dim: int) -> bool:
        same = self.graph.box(v).key[dim] == self.graph.box(w).key[dim]
        return not same or self._leaves_at(v, dim) != self._leaves_at(w, dim)

    def _consistent(self) -> bool:
        """Whether the generators do to the labels what exchanging two bundles does, and keep the labels there were."""
        seeds = [v for v in self.moved if v in self.search.seeds]
        for j, g in enumerate(self.generators, 1):
            swap = {0: j, j: 0}
            for v in seeds:
                if self.at[int(g[v])] != {d: swap.get(x, x) for d, x in self.at[v].items()}:
                    return False
        keeps = all(self._keeps_labels(v, g) for v in seeds for g in self.generators)
        return keeps and all(self.at[v] == self.at.get(int(t[v])) for v in seeds for t in self.search.accepted)

    def _padded(self, swap: np.ndarray) -> np.ndarray:
        """An earlier swap, which leaves what was added since where it is."""
        return np.concatenate([swap, np.arange(len(swap), len(self.generators[0]))])

    def _keeps_labels(self, v: int, g: np.ndarray) -> bool:
        leaf_of, vertex = self.search.leaf_of, self.graph.leaf_vertex
        mine = [(x.dim, leaf_of[int(g[vertex[x.leaf]])], x.at) for x in self.graph.labels[v]]
        return sorted(mine) == sorted((x.dim, leaf_of[vertex[x.leaf]], x.at) for x in self.graph.labels[int(g[v])])

    def _one_form(self) -> bool:
        """Bring the boxes of a parameter to labels along the same dimensions; False if they do not all move, or disagree.

        A dimension beside the one that says which bundle it is may follow in some boxes only.
        """
        for orbit in self._orbits():
            if not all(v in self.at for v in orbit):
                return False
            common = set.intersection(*(set(self.at[v]) for v in orbit))
            for v in orbit:
                dropped = {at for d, at in self.at[v].items() if d not in common}
                if not common or (dropped and dropped != {self.at[v][d] for d in common}):
                    return False
                self.at[v] = {d: at for d, at in self.at[v].items() if d in common}
        return True

    def _orbits(self) -> list[set[int]]:
        """The boxes of parameters that these generators and those of earlier leaves exchange."""
        union = nx.utils.UnionFind(self.search.orbits)
        for members in self.search.orbits.to_sets():
            union.union(*members)
        boxes = [v for v in self.moved if v in self.search.seeds]
        for v in boxes:
            union.union(v, *(int(g[v]) for g in self.generators))
        return [orbit for orbit in union.to_sets() if not orbit.isdisjoint(boxes)]

    # -- dependences ---------------------------------------------------------------------------------------------

    def _dependences_agree(self) -> bool:
        """Whether the generators map what leaves depend on as they map the leaves."""
        leaf_of, vertex, of = self.search.leaf_of, self.graph.leaf_vertex, self.search.solution.of
        moved = {leaf_of[v] for v in self.moved if v in leaf_of}
        pinned = self.search.solution.cells.classes.pinned
        if any(leaf not in moved and leaf not in pinned and moved & of.get(leaf, set()) for leaf in leaf_of.values()):
            return False
        for g in self.generators:
            def there(leaf: int, g: np.ndarray = g) -> int:
                return leaf_of[int(g[vertex[leaf]])] if leaf in vertex else leaf

            free = moved - pinned.keys()
            if any({there(m) for m in of.get(leaf, set())} != of.get(there(leaf), set()) for leaf in free):
                return False
        return True

    def become_a_leaf(self) -> None:
        """Add the leaf whose positions are the bundles, and make one leaf of those that they exchange."""
        graph, search, solution = self.graph, self.search, self.search.solution
        leaf_of, classes = search.leaf_of, solution.cells.classes
        new = classes.leaf(self.count)
        vertex = graph.add(("leaf", self.count, False, False))
        graph.leaf_vertex[new], leaf_of[vertex] = vertex, new
        points = [graph.add(("position", self.count, j)) for j in range(self.count)]
        for point in points:
            graph.connect(point, vertex, "of")
        parents = self._parents()
        for v in self.moved:
            box = graph.boxes_at[v]
            for dim, at in self.at.get(v, {}).items():
                if (v, dim) not in self.unclear:
                    graph.connect(v, points[at], ("label", dim if v in search.seeds else None))
                if box is not None:
                    graph.labels[v].append(Label(dim, new, at))
                if v in search.seeds:
                    search.found.labels[box.space, box.key].append(Label(dim, new, at))
            if v in search.seeds:
                search.orbits.union(v, *(int(g[v]) for g in self.generators))
        self._unite_leaves(new)
        solution.of[new] = parents
        search.accepted += self.generators

    def _unite_leaves(self, new: int) -> None:
        solution, leaf_of, classes = self.search.solution, self.search.leaf_of, self.search.solution.cells.classes
        families: dict[int, int] = {}
        for v in self.moved:
            if v in leaf_of and self.at[v][-1] == 0:
                families[leaf_of[v]] = united = classes.leaf(classes.size[leaf_of[v]])
                if leaf_of[v] in classes.pinned:
                    classes.pinned[united] = classes.pinned[leaf_of[v]]
                if leaf_of[v] in classes.blurred:
                    classes.blurred.add(united)
        for leaf, united in families.items():
            vertex = self.graph.leaf_vertex[leaf]
            members = {leaf_of[int(g[vertex])] for g in self.generators} | {leaf}
            self.search.found.renamed.update(dict.fromkeys(members, united))
            self.graph.leaf_vertex[united] = vertex
        for leaf, united in families.items():
            solution.of[united] = {families.get(m, m) for m in solution.of.get(leaf, set())} | {new}
        for vertex, leaf in leaf_of.items():
            leaf_of[vertex] = self.search.found.name(leaf)
        for leaf in self.search.found.renamed:
            solution.of.pop(leaf, None)

    def _parents(self) -> set[int]:
        """The leaves at each of whose positions the bundles can be exchanged apart from the others."""
        classes, of = self.search.solution.cells.classes, self.search.solution.of
        found: set[int] | None = None
        for v in self.moved:
            box = self.graph.boxes_at[v]
            if box is not None:
                here = [leaf for dim in box.leaves for leaf in dim]
                once = {leaf for leaf in here if here.count(leaf) == 1}
                found = once if found is None else found & once
            elif v in self.search.leaf_of:
                seen = of.get(self.search.leaf_of[v], set())  # none: all tensors are constant along it
                found = seen.copy() if found is None else found & seen
        still = {self.search.leaf_of[v] for v in self.moved if v in self.search.leaf_of}
        parents = {m for m in found or set() if m not in still and m not in classes.blurred}
        while bad := {m for m in parents if m not in classes.pinned and not of.get(m, set()) <= parents}:
            parents -= bad
        return parents
