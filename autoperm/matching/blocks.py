"""Blocks: groups whose best step is found together, all others held."""

from __future__ import annotations

import itertools
from typing import TypeAlias

import networkx as nx

from autoperm.matching.problem import Problem

#: A group, and groups that depend on it.
Block: TypeAlias = tuple[int, tuple[int, ...]]


def blocks(problem: Problem) -> list[Block]:
    """Every group with the dependents that its step can solve with it; the other dependents on their own.

    Dependents that meet in one tensor are coupled (both sides of a grouped convolution): the group then has several
    blocks, in each of which the dependents do not meet and the others are held. Dependents with dependents of their
    own or a second parent that moves are blocks by themselves.
    """
    parents_of = _parents(problem)
    has_children = set().union(*(parents_of[d] for d in problem.matched))
    found: list[Block] = []
    taken: set[int] = set()
    for g in sorted(problem.matched):
        own = [d for d in sorted(problem.matched) if parents_of[d] == {g} | parents_of[g] and d not in has_children]
        own = [d for d in own if not parents_of[g] and _same_batch(problem, g, d) and not occurs_twice(problem, d)]
        if own and not occurs_twice(problem, g):
            found += [(g, apart) for apart in _apart(problem, own)]
            taken.update(own)
    heads = {g for g, _ in found}
    return found + [(g, ()) for g in sorted(problem.matched) if g not in taken and g not in heads]


def linear_blocks(problem: Problem) -> list[Block]:
    """Groups with dependents whose step is not exact, but the best to first order, or with the groups above them held.

    Either occurs twice in a tensor (a residual stream under GroupNorm), or the group depends on others itself. Matched one
    after the other, heads have nothing to go by while their dimensions are in another order, and neither have these.
    """
    exact, found = set(blocks(problem)), []
    parents_of = _parents(problem)
    for g in sorted(problem.matched):
        own = [d for d in sorted(problem.matched) if parents_of[d] == {g} | parents_of[g] and _same_batch(problem, g, d)]
        found += [(g, apart) for apart in _apart(problem, own) if (g, apart) not in exact]
    return found


def _parents(problem: Problem) -> list[set[int]]:
    """For each group those that it depends on."""
    group_of = problem.action.group_of
    return [{group_of[p] for p in g.parents if p in group_of} for g in problem.spec.groups]


def _apart(problem: Problem, dependents: list[int]) -> list[tuple[int, ...]]:
    """The dependents in classes whose members do not meet in a tensor."""
    graph = nx.Graph()
    graph.add_nodes_from(dependents)
    graph.add_edges_from((d, e) for d, e in itertools.combinations(dependents, 2) if _meet(problem, d, e))
    colour = nx.greedy_color(graph)
    return [tuple(d for d in dependents if colour[d] == c) for c in sorted(set(colour.values()))]


def _same_batch(problem: Problem, g: int, d: int) -> bool:
    """Whether a dependent's parents are exactly the group's leaves and the group's parents."""
    group, dependent = problem.spec.groups[g], problem.spec.groups[d]
    return set(dependent.parents) == set(group.leaves) | set(group.parents)


def _meet(problem: Problem, d: int, e: int) -> bool:
    other = set(problem.spec.groups[e].leaves)
    return any(other & set(u.leaves) for u in problem.cells[d])


def occurs_twice(problem: Problem, g: int) -> bool:
    """Whether a group occurs twice in one tensor, where the objective is quadratic in it."""
    leaves = problem.spec.groups[g].leaves
    return any(len(u.occurrences(leaves)) != 1 for u in problem.cells[g])
