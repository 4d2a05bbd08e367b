"""Counting the automorphisms of a scalar DAG with BLISS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import igraph

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
    vertices = reachable(graph, outputs)
    index = {v: i for i, v in enumerate(vertices)}
    places: dict[int, list[int]] = {}
    for position, v in enumerate(outputs):
        places.setdefault(v, []).append(position)
    colours: dict[tuple[object, ...], int] = {}
    colour: list[int] = []
    edges: list[tuple[int, int]] = []
    for i, v in enumerate(vertices):
        fixed = tuple(child for child in graph.children[v] if child not in index)
        key = (graph.label[v], graph.height[v], fixed, tuple(places.get(v, ())))
        colour.append(colours.setdefault(key, len(colours)))
        edges.extend((i, index[child]) for child in graph.children[v] if child in index)
    return Coloured(igraph.Graph(n=len(vertices), edges=edges), colour, index)


def count_automorphisms(coloured: Coloured) -> int:
    """The exact number of automorphisms."""
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
