"""The canonical order of a model's weights: individualise and refine (McKay 1981; McKay and Piperno 2014).

Where refinement leaves points tied, one of them at a time gets a colour of its own and refinement goes on, down to
an order of all points: a leaf. The canonical leaf is the smallest by the traces on the way and then by the weights
in its order. Branches that an automorphism carries to one another have equal leaves, so that one of them is enough.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import DisjointSet

from autoperm.uses.exchange import equivalent, twins
from autoperm.uses.refinement import Colouring, Tie, first_tie, individualised, start
from autoperm.uses.structure import Structure

#: A group and points of it that automorphisms reorder at will, whichever of them already have colours of their own.
Free = tuple[int, frozenset[int]] | None


@dataclass(frozen=True)
class Leaf:
    """An order of all points.

    Attributes:
        arrays: the element that puts the weights in this order.
        traces: of the steps that led to it.
        digest: of the weights in this order.
    """

    arrays: list[np.ndarray]
    traces: tuple[bytes, ...]
    digest: bytes

    @property
    def key(self) -> tuple[tuple[bytes, ...], bytes]:
        """By which leaves are compared."""
        return self.traces, self.digest


class Search:
    """The search for the canonical leaf of one model.

    Attributes:
        root: what the weights alone tell apart. Models with different traces there are not permutations.
    """

    def __init__(self, structure: Structure):
        self.structure = structure
        self.root = start(structure)

    def canonical(self) -> Leaf:
        """The smallest leaf."""
        return self._best(self.root)

    def _best(self, node: Colouring) -> Leaf:
        """The smallest leaf below a node."""
        traces: list[bytes] = []
        free: Free = None
        while (tie := first_tie(self.structure, node.colours)) is not None:
            below, free = self._only_child(node, tie, free)
            if below is None:
                found = self._branch(node, tie)
                return Leaf(found.arrays, (*traces, *found.traces), found.digest)
            node = below
            traces.append(node.trace)
        return self._leaf(node, traces)

    def _any(self, node: Colouring) -> Leaf:
        """One leaf below a node, by taking the first point of every tie."""
        free: Free = None
        while (tie := first_tie(self.structure, node.colours)) is not None:
            below, free = self._only_child(node, tie, free)
            node = individualised(self.structure, node, tie.group, tie.classes[0][:1]) if below is None else below
        return self._leaf(node, [])

    def _leaf(self, node: Colouring, traces: list[bytes]) -> Leaf:
        arrays = self.structure.arranged(node.colours)
        return Leaf(arrays, tuple(traces), self.structure.digest(arrays))

    def _only_child(self, node: Colouring, tie: Tie, free: Free) -> tuple[Colouring | None, Free]:
        """The child that stands for all where automorphisms make all choices the same; None where they may differ.

        Which children a node has must not depend on the order of the weights. Whether points are twins does not, so
        that all get their colours in one step. Whether ``equivalent`` sees that points are alike does: it only saves
        looking at the other children.
        """
        alike = twins(self.structure, node.colours, tie)
        if alike:
            return individualised(self.structure, node, tie.group, np.concatenate(alike)), None
        points = tie.classes[0]
        if free is None or free[0] != tie.group or not free[1].issuperset(points.tolist()):
            transitive, symmetric = equivalent(self.structure, node, tie.group, points)
            if not transitive:
                return None, None
            free = (tie.group, frozenset(points.tolist())) if symmetric else None
        return individualised(self.structure, node, tie.group, points[:1]), free

    def _branch(self, node: Colouring, tie: Tie) -> Leaf:
        """The smallest leaf over all choices in the first class of a tie, each orbit tried once."""
        points = tie.classes[0].tolist()
        orbits: DisjointSet = DisjointSet(points)
        tried: list[int] = []
        known: dict[bytes, Leaf] = {}
        best: Leaf | None = None
        for point in points:
            if any(orbits.connected(point, other) for other in tried):
                continue
            tried.append(point)
            child = individualised(self.structure, node, tie.group, [point])
            if best is not None and child.trace > best.traces[0]:
                continue
            probe = self._any(child)
            if self._merge(orbits, known, probe, tie.group):
                continue
            found = self._best(child)
            found = Leaf(found.arrays, (child.trace, *found.traces), found.digest)
            self._merge(orbits, known, found, tie.group)
            if best is None or found.key < best.key:
                best = found
        if best is None:
            raise RuntimeError("a tie without points")  # a class has two at least
        return best

    def _merge(self, orbits: DisjointSet, known: dict[bytes, Leaf], leaf: Leaf, g: int) -> bool:
        """Two leaves with equal weights are an automorphism: join the points that it exchanges."""
        other = known.setdefault(leaf.digest, leaf)
        if other is leaf:
            return False
        mine, theirs = (self.structure.points_read(g, x.arrays).ravel().tolist() for x in (leaf, other))
        for x, y in zip(mine, theirs, strict=True):
            if x in orbits:
                orbits.merge(x, y)
        return True
