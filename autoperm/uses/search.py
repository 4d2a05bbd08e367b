"""The canonical order of a model's weights: individualise and refine (McKay 1981; McKay and Piperno 2014).

Where refinement leaves points tied, one of them at a time gets a colour of its own and refinement goes on, down to
an order of all points: a leaf. The canonical leaf is the smallest by the traces on the way and then by the weights
in its order. Branches that an automorphism carries to one another have equal leaves, so that one of them is enough.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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


@dataclass
class Branch:
    """A node whose choices are being tried: the orbits of its points that are known, and the leaves seen below it."""

    group: int
    orbits: DisjointSet
    leaves: dict[bytes, Leaf] = field(default_factory=dict)


class Search:
    """The search for the canonical leaf of one model.

    Attributes:
        root: what the weights alone tell apart. Models with different traces there are not permutations.
    """

    def __init__(self, structure: Structure):
        self.structure = structure
        self.root = start(structure)
        self._branches: list[Branch] = []  # from the root down to where the search is

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
        leaf = Leaf(arrays, tuple(traces), self.structure.digest(arrays))
        self._compare(leaf)
        return leaf

    def _only_child(self, node: Colouring, tie: Tie, free: Free) -> tuple[Colouring | None, Free]:
        """The child that stands for all where automorphisms make all choices the same; None where they may differ.

        Which children a node has must not depend on the order of the weights. Whether points are twins does not, so
        that all get their colours in one step. Whether ``equivalent`` sees that points are alike does: it only saves
        looking at the other children.
        """
        alike = twins(self.structure, node.colours, tie)
        if alike:
            for points in alike:
                self._alike(tie.group, points)
            return individualised(self.structure, node, tie.group, np.concatenate(alike)), None
        points = tie.classes[0]
        if free is None or free[0] != tie.group or not free[1].issuperset(points.tolist()):
            transitive, symmetric = equivalent(self.structure, node, tie.group, points)
            if not transitive:
                return None, None
            self._alike(tie.group, points)
            free = (tie.group, frozenset(points.tolist())) if symmetric else None
        return individualised(self.structure, node, tie.group, points[:1]), free

    def _branch(self, node: Colouring, tie: Tie) -> Leaf:
        """The smallest leaf over all choices in the first class of a tie, each orbit tried once."""
        branch = Branch(tie.group, DisjointSet(tie.classes[0].tolist()))
        self._branches.append(branch)
        tried: list[int] = []
        best: Leaf | None = None
        for point in tie.classes[0].tolist():
            if self._in_orbit_of(branch, point, tried):
                continue
            child = individualised(self.structure, node, tie.group, [point])
            if best is None or child.trace <= best.traces[0]:
                if best is not None:
                    self._any(child)  # one leaf is enough to see an automorphism
                if not self._in_orbit_of(branch, point, tried):
                    found = self._best(child)
                    found = Leaf(found.arrays, (child.trace, *found.traces), found.digest)
                    best = found if best is None or found.key < best.key else best
            tried.append(point)
        self._branches.pop()
        if best is None:
            raise RuntimeError("a tie without points")  # a class has two at least
        return best

    def _in_orbit_of(self, branch: Branch, point: int, tried: list[int]) -> bool:
        return any(branch.orbits.connected(point, other) for other in tried)

    def _compare(self, leaf: Leaf) -> None:
        """Note a leaf; where one with the same weights is known below a branch, the two are an automorphism there."""
        other: Leaf | None = None
        for branch in reversed(self._branches):
            if other is None:
                other = branch.leaves.setdefault(leaf.digest, leaf)
                other = None if other is leaf else other
            if other is not None:  # it is known to all branches above as well
                self._join(branch, *(self.structure.points_read(branch.group, x.arrays).ravel() for x in (leaf, other)))

    def _alike(self, g: int, points: np.ndarray) -> None:
        """Note that automorphisms carry these points of a group to one another."""
        for branch in self._branches:
            if branch.group == g:
                self._join(branch, points[:-1], points[1:])

    def _join(self, branch: Branch, points: np.ndarray, others: np.ndarray) -> None:
        for x, y in zip(points.tolist(), others.tolist(), strict=True):
            if x != y and x in branch.orbits:
                branch.orbits.merge(x, y)
