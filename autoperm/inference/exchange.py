"""Exchanges of whole parts of a model that were cut apart: heads that mirror one another, blocks that do not nest.

What the classes find is a normal subgroup: the permutations inside the pieces. Pieces may be exchanged as well, several
at once in several tensors. Such exchanges are automorphisms of the quotient graph. Those that exchange one *bundle* of
boxes and leaves for another generate symmetric groups; each becomes a leaf whose positions are the bundles. The leaves of
the bundles become one leaf that depends on it, so that the whole is a wreath product as everywhere else.
"""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np

from autoperm.inference.quotient import Quotient, Slot
from autoperm.layout import Exchanged, Label

if TYPE_CHECKING:
    from autoperm.inference.dependence import Dependence

#: The most boxes for which exchanges are looked for, and how many pairs are tried in one round.
MOST_BOXES = 6000
MOST_TRIES = 800
_MOST_ROUNDS = 12


#: A box, by its space and its key.
Key = tuple[int, tuple[Hashable, ...]]


@dataclass
class Exchanges:
    """What was found: the labels of every box that moves, and which leaves have become one."""

    labels: dict[Key, list[Label]] = field(default_factory=lambda: defaultdict(list))
    orbits: dict[Key, int] = field(default_factory=dict)
    alias: dict[int, int] = field(default_factory=dict)
    renamed: dict[int, int] = field(default_factory=dict)

    def name(self, leaf: int) -> int:
        """What a leaf is called in the end."""
        leaf = self.alias.get(leaf, leaf)
        while leaf in self.renamed:
            leaf = self.renamed[leaf]
        return leaf

    def of(self, space: int, key: tuple[Hashable, ...]) -> Exchanged | None:
        """The labels of a box and its orbit; None if it stays where it is."""
        if (space, key) not in self.labels:
            return None
        labels = [Label(x.dim, self.name(x.leaf), x.at) for x in self.labels[space, key]]
        return Exchanged(self.orbits[space, key], tuple(sorted(labels, key=lambda x: (x.dim, x.leaf))))


def exchanges(solution: Dependence) -> Exchanges | None:
    """Find the exchanges of a solution, whose leaves and dependences are extended by what is found."""
    cells = solution.cells
    if not cells.partition.colors or len(cells.of) + len(cells.joint) > MOST_BOXES:
        return None
    return _Search(solution).run()


class _Search:
    def __init__(self, solution: Dependence):
        self.solution, self.graph = solution, Quotient(solution)
        self.found = Exchanges(alias=self.graph.aliases)
        for leaf, seen in solution.of.items():
            solution.of[leaf] = {self.found.name(m) for m in seen}
        self.swaps: list[np.ndarray] = []  # of this round
        self.accepted: list[np.ndarray] = []  # of earlier rounds, those that became leaves
        self.orbits = nx.utils.UnionFind()
        self.leaf_of: dict[int, int] = {v: leaf for leaf, v in self.graph.leaf_vertex.items()}
        named = {t.id for t in solution.cells.system.tensors if t.name is not None}
        self.seeds = {v for v, box in enumerate(self.graph.boxes_at) if box is not None and box.space in named}

    def run(self) -> Exchanges | None:
        for _ in range(_MOST_ROUNDS):
            colors = self.graph.prepare()
            self.swaps = self._swaps(colors)
            if not self._accept(self.swaps):
                break
        for v in self.orbits:
            self.found.orbits[self.graph.boxes_at[v].space, self.graph.boxes_at[v].key] = self.orbits[v]
        return self.found if self.found.labels else None

    # -- which vertices can be exchanged -----------------------------------------------------------------------

    def _swaps(self, colors: np.ndarray) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        explained: set[tuple[int, int]] = set()
        for tries, (a, b) in enumerate(self._pairs(colors)):
            if tries >= MOST_TRIES:
                break
            if (a, b) in explained:
                continue
            image = self.graph.exchange(a, b)
            if image is not None:
                found.append(image)
                moved = np.nonzero(image != np.arange(len(image)))[0]
                explained.update(zip(moved.tolist(), image[moved].tolist(), strict=True))
        return found

    def _pairs(self, colors: np.ndarray) -> Iterator[tuple[int, int]]:
        """Pairs of boxes of a parameter that look alike: those that differ along one dimension first."""
        alike: dict[tuple[int, int], list[int]] = defaultdict(list)
        for v in sorted(self.seeds):
            alike[self.graph.boxes_at[v].space, int(colors[v])].append(v)
        pairs = [p for members in alike.values() for p in itertools.combinations(members, 2)]
        apart = {p: sum(x != y for x, y in zip(*(self.graph.boxes_at[v].key for v in p), strict=True)) for p in pairs}
        return iter(sorted(pairs, key=lambda p: (apart[p], len(self.graph.boxes_at[p[0]].key))))

    # -- which of them make a symmetric group --------------------------------------------------------------------

    def _accept(self, swaps: list[np.ndarray]) -> int:
        """Turn swaps that move least into leaves, as long as they move different things; returns how many."""
        support = [frozenset(np.nonzero(s != np.arange(len(s)))[0].tolist()) for s in swaps]
        used: set[int] = set()
        count = 0
        for k in sorted(range(len(swaps)), key=lambda k: (len(support[k]), min(support[k]))):
            if used & support[k]:
                continue
            same = [m for m in range(len(swaps)) if m != k and len(support[m]) == len(support[k]) and not used & support[m]]
            for chosen in (*_stars(swaps, k, same), [k]):
                bundles = _Bundles(self, [swaps[m] for m in chosen])
                if bundles.natural:
                    bundles.become_a_leaf()
                    used |= set().union(*(support[m] for m in chosen))
                    count += 1
                    break
        return count


def _stars(swaps: Sequence[np.ndarray], k: int, others: Sequence[int]) -> Iterator[list[int]]:
    """Swap k with others that may exchange one of its two bundles for a third, a fourth and so on."""
    first = np.nonzero(swaps[k] != np.arange(len(swaps[k])))[0][0]
    for centre in (int(first), int(swaps[k][first])):
        star = [k]
        for m in others:
            new = swaps[m][centre] not in (centre, *(swaps[j][centre] for j in star))
            if new and all(_braid(swaps[j], swaps[m]) for j in star):
                star.append(m)
        if len(star) > 1:
            yield star


def _braid(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two swaps are related as (1 2) and (1 3) are."""
    return bool((a[b[a]] == b[a[b]]).all()) and bool((a[b] != b[a]).any())


class _Bundles:
    """The bundles that some swaps exchange: generator j exchanges bundle 0 with bundle j + 1."""

    def __init__(self, search: _Search, generators: Sequence[np.ndarray]):
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
        box, vertex = self.graph.boxes_at[v], self.graph.leaf_vertex
        labels = self.graph.labels.get(v, ())
        return [vertex[leaf] for leaf in box.leaves[dim]] + [vertex[x.leaf] for x in labels if x.dim == dim]

    def _changes(self, v: int, w: int, dim: int) -> bool:
        same = self.graph.boxes_at[v].key[dim] == self.graph.boxes_at[w].key[dim]
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
        """The boxes that these generators and those of earlier leaves exchange."""
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
                found = of.get(self.search.leaf_of[v], set()).copy() if found is None else found & of[self.search.leaf_of[v]]
        still = {self.search.leaf_of[v] for v in self.moved if v in self.search.leaf_of}
        parents = {m for m in found or set() if m not in still and m not in classes.blurred}
        while bad := {m for m in parents if m not in classes.pinned and not of.get(m, set()) <= parents}:
            parents -= bad
        return parents
