"""Counting the automorphisms of a scalar DAG with BLISS."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import igraph

from .pointwise import CHAINS
from .scalars import ScalarGraph


def reachable(graph: ScalarGraph, outputs: Sequence[int]) -> list[int]:
    """The movable vertices on which an output depends."""
    seen = {v for v in outputs if graph.movable[v]}
    stack = list(seen)
    while stack:
        for child in graph.children[stack.pop()]:
            if graph.movable[child] and child not in seen:
                seen.add(child)
                stack.append(child)
    return sorted(seen)


class Flat:
    """The part of a DAG on which outputs depend, with chains as one: (a + b) + c is a + (b + c).

    A sum that only another sum reads is part of it; so are products of products, and the largest of largest ones.
    """

    def __init__(self, graph: ScalarGraph, outputs: Sequence[int]):
        self.graph, self.outputs = graph, outputs
        self.label: dict[int, int] = {}
        self.children: dict[int, tuple[int, ...]] = {}
        self.height: dict[int, int] = {}
        self._times = {graph.label_of(("times", k)): k for k in range(2, 100)}
        self._chains = {graph.label_of(label) for label in CHAINS.values()}
        self._new: dict[tuple[int, int], int] = {}
        vertices = reachable(graph, outputs)
        self._uses = Counter(child for v in vertices for child in graph.children[v]) + Counter(outputs)
        members: dict[int, Counter[int]] = {}
        for v in vertices:
            if graph.label[v] in self._chains:
                members[v] = self._members(v, members)
                self._add(v, graph.label[v], [self._repeated(m, k) for m, k in members[v].items()])
            else:
                self._add(v, graph.label[v], graph.children[v])
        read = self._reachable()
        self.children = {v: found for v, found in self.children.items() if v in read}

    def _members(self, v: int, members: dict[int, Counter[int]]) -> Counter[int]:
        graph, found = self.graph, Counter[int]()
        for child in graph.children[v]:
            if child in members and graph.label[child] == graph.label[v] and self._uses[child] == 1:
                found += members[child]
            elif graph.label[child] in self._times:
                found[graph.children[child][0]] += self._times[graph.label[child]]
            else:
                found[child] += 1
        return found

    def _repeated(self, vertex: int, times: int) -> int:
        if times == 1:
            return vertex
        if (vertex, times) not in self._new:
            new = self._new[vertex, times] = len(self.graph.label) + len(self._new)
            if self.graph.movable[vertex]:
                self._add(new, self.graph.label_of(("times", times)), [vertex])
            else:
                self.label[new] = self.graph.label_of(("fixed", vertex, times))
        return self._new[vertex, times]

    def _add(self, v: int, label: int, children: Sequence[int]) -> None:
        self.label[v], self.children[v] = label, tuple(sorted(children))
        self.height[v] = 1 + max((self.height[child] for child in children if child in self.height), default=-1)

    def _reachable(self) -> set[int]:
        seen = {v for v in self.outputs if v in self.children}
        waiting = list(seen)
        while waiting:
            fresh = {child for child in self.children[waiting.pop()] if child in self.children} - seen
            seen |= fresh
            waiting += fresh
        return seen


@dataclass(frozen=True)
class Coloured:
    """An undirected coloured graph; `index` maps the vertices of the scalar DAG that it keeps to its own."""

    graph: igraph.Graph
    colour: list[int]
    index: dict[int, int]


def coloured_graph(graph: ScalarGraph, outputs: Sequence[int]) -> Coloured:
    """A graph with the automorphisms of the part of the DAG on which outputs depend.

    Vertices that no parameter enters are fixed, so they become part of their parents' colour, and so do the
    output positions of a vertex. The height is in the colour too: an edge joins different heights, which
    gives its direction.
    """
    flat = Flat(graph, outputs)
    children = flat.children
    vertices = sorted(children)
    index = {v: i for i, v in enumerate(vertices)}
    places: dict[int, list[int]] = {}
    for position, v in enumerate(outputs):
        places.setdefault(v, []).append(position)
    colours: dict[tuple[object, ...], int] = {}
    colour: list[int] = []
    edges: list[tuple[int, int]] = []
    for i, v in enumerate(vertices):
        fixed = tuple(child for child in children[v] if child not in index)
        key = (flat.label[v], flat.height[v], fixed, tuple(places.get(v, ())))
        colour.append(colours.setdefault(key, len(colours)))
        edges.extend((i, index[child]) for child in children[v] if child in index)
    return Coloured(igraph.Graph(n=len(vertices), edges=edges), colour, index)


def count_automorphisms(coloured: Coloured) -> int:
    """The exact number of automorphisms."""
    sys.set_int_max_str_digits(0)  # igraph gives large ones as digits
    return int(coloured.graph.count_automorphisms(color=coloured.colour)) if coloured.colour else 1


def leaf_generators(coloured: Coloured, leaves: Sequence[int]) -> list[list[int]]:
    """What generators of the automorphism group do to some leaves of the DAG: positions in `leaves`."""
    if not coloured.colour:
        return []
    place = {coloured.index[v]: i for i, v in enumerate(leaves) if v in coloured.index}
    where = [coloured.index.get(v) for v in leaves]
    return [
        [i if at is None else place[g[at]] for i, at in enumerate(where)]
        for g in coloured.graph.automorphism_group(color=coloured.colour)
    ]
