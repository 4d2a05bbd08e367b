"""Counting the automorphisms of a scalar DAG with BLISS."""

from __future__ import annotations

from collections.abc import Sequence

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


def coloured_graph(graph: ScalarGraph, outputs: Sequence[int]) -> tuple[igraph.Graph, list[int]]:
    """An undirected coloured graph with the automorphisms of the DAG.

    Vertices that no parameter enters are fixed, so they become part of their parents' colour, and so do the output
    positions of a vertex. The height is in the colour too: an edge joins different heights, which gives its direction.
    """
    vertices = reachable(graph, outputs)
    index = {v: i for i, v in enumerate(vertices)}
    places: dict[int, list[int]] = {}
    for position, v in enumerate(outputs):
        places.setdefault(v, []).append(position)
    colours: dict[tuple[object, ...], int] = {}
    colour, edges = [], []
    for i, v in enumerate(vertices):
        fixed = tuple(child for child in graph.children[v] if child not in index)
        key = (graph.label[v], graph.height[v], fixed, tuple(places.get(v, ())))
        colour.append(colours.setdefault(key, len(colours)))
        edges.extend((i, index[child]) for child in graph.children[v] if child in index)
    return igraph.Graph(n=len(vertices), edges=edges), colour


def count_automorphisms(graph: ScalarGraph, outputs: Sequence[int]) -> int:
    """How many permutations of the state's scalars, within each tensor, fix all output scalars."""
    if not any(graph.movable[v] for v in outputs):
        return 1
    coloured, colour = coloured_graph(graph, outputs)
    return int(coloured.count_automorphisms(color=colour))
