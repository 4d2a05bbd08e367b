"""Exchanges of whole parts of a model that were cut apart: heads that mirror one another, blocks that do not nest.

What the classes find is a normal subgroup: the permutations inside the pieces. Pieces may be exchanged as well, several
at once in several tensors. Such exchanges are automorphisms of the quotient graph. Those that exchange one *bundle* of
boxes and leaves for another generate symmetric groups; each becomes a leaf whose positions are the bundles. The leaves of
the bundles become one leaf that depends on it, so that the whole is a wreath product as everywhere else.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np

from autoperm.inference.bundles import Bundles
from autoperm.inference.quotient import Quotient
from autoperm.layout import Exchanged, Label

if TYPE_CHECKING:
    from autoperm.inference.dependence import Dependence

#: The most boxes for which exchanges are looked for: where views that do not fit were cut apart, and elsewhere.
MOST_BOXES = 6000
FEW_BOXES = 1200
#: How much work a search may be, as edges of the graph looked at: where views were cut apart, where axes were cut into
#: points to see whether more is found, and elsewhere.
MOST_WORK = 120_000_000
SOME_WORK = 5_000_000
LITTLE_WORK = 2_000_000
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
    if not cells.partition.colors or len(cells.of) + len(cells.joint) > (MOST_BOXES if cells.cut_apart else FEW_BOXES):
        return None
    return Search(solution).run()


class Search:
    def __init__(self, solution: Dependence):
        self.solution, self.graph = solution, Quotient(solution)
        self.found = Exchanges(alias=self.graph.aliases)
        for leaf, seen in solution.of.items():
            solution.of[leaf] = {self.found.name(m) for m in seen}
        cells = solution.cells
        self.limit = SOME_WORK if cells.in_points else MOST_WORK if cells.cut_apart else LITTLE_WORK
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
            self.found.orbits[self.graph.box(v).space, self.graph.box(v).key] = self.orbits[v]
        return self.found if self.found.labels else None

    # -- which vertices can be exchanged -----------------------------------------------------------------------

    def _swaps(self, colors: np.ndarray) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        explained: set[tuple[int, int]] = set()
        for a, b in self._pairs(colors):
            if (a, b) in explained:
                continue
            if self.graph.work > self.limit:
                self.solution.cells.exhausted = True
                break
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
            alike[self.graph.box(v).space, int(colors[v])].append(v)
        pairs = [p for members in alike.values() for p in itertools.combinations(members, 2)]
        apart = {p: sum(x != y for x, y in zip(*(self.graph.box(v).key for v in p), strict=True)) for p in pairs}
        return iter(sorted(pairs, key=lambda p: (apart[p], len(self.graph.box(p[0]).key))))

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
                bundles = Bundles(self, [swaps[m] for m in chosen])
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
