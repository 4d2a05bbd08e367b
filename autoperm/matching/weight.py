"""Weight matching: block coordinate ascent (Ainsworth, Hayase and Srinivasa, ICLR 2023, Algorithm 1).

Each block is a group together with groups that depend on it alone (heads with their query-key and value dimensions),
and the step on a block is the best there is with the other groups held. A block none of whose tensors changed since it
was last visited is skipped. The objective never falls.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence

import networkx as nx
import torch

from autoperm.errors import AutopermError
from autoperm.matching.problem import Problem
from autoperm.matching.registry import Match, matcher
from autoperm.matching.steps import Filter, everything, single_step, wreath_step
from autoperm.running import Progress, running

logger = logging.getLogger(__name__)

Block = tuple[int, tuple[int, ...]]


@matcher("weight")
def weight_matching(
    problem: Problem,
    *,
    seed: int = 0,
    max_sweeps: int = 100,
    start: str = "propagate",
    progress: Progress = True,
) -> Match:
    """Visit the blocks in a fresh random order each sweep, until a sweep changes nothing.

    Arguments:
        seed: of the visiting order.
        max_sweeps: the most sweeps to make; 0 leaves model b as it is.
        start: ``"propagate"`` matches each block once on the evidence of what is matched already, from the inputs and
            outputs inwards, before the first sweep; ``"identity"`` starts from model b as it is, as the paper does.
        progress: False for no bar, or a function that is called after each sweep with its number and the objective.
    """
    generator = torch.Generator().manual_seed(seed)
    found = blocks(problem)
    seen: dict[Block, dict[str, int]] = {}
    if start == "propagate" and max_sweeps > 0:
        propagate(problem, found, generator)
    elif start not in ("propagate", "identity"):
        raise AutopermError(f'start must be "propagate" or "identity", not {start!r}')
    history = [problem.objective]
    with running("weight matching", progress=progress) as run:
        while run.done < max_sweeps and not run.stopped:
            moved = 0
            for k in torch.randperm(len(found), generator=generator).tolist():
                moved += _visit(problem, found[k], seen)
                if run.stopped:
                    break
            history.append(problem.objective)
            run.advance(history[-1])
            logger.debug("sweep %d: %d of %d blocks moved, objective %.10g", run.done, moved, len(found), history[-1])
            if not moved:
                break
    return Match(problem.permutation, problem.objective, problem.distance, tuple(history), run.stopped)


def propagate(problem: Problem, found: Sequence[Block], generator: torch.Generator) -> None:
    """Match every block once, each on the tensors whose other groups are matched already or fixed.

    The block with the largest share of such evidence goes first. Kept only if the objective rises altogether: where
    two models are near each other already, there is nothing to gain.
    """
    start, element = problem.objective, list(problem.element)
    known: set[int] = set()
    waiting = [found[k] for k in torch.randperm(len(found), generator=generator).tolist()]
    while waiting:
        shares = [_evidence(problem, block, known) for block in waiting]
        g, dependents = waiting.pop(max(range(len(shares)), key=shares.__getitem__))
        inside = known | {g, *dependents}
        counts = _counts(problem, inside) if max(shares) > 0 else everything
        step = wreath_step(problem, g, dependents, counts) if dependents else single_step(problem, g, counts)
        problem.apply(step[0], always=True)
        known = inside
    if problem.objective < start:
        problem.restore(element)


def _counts(problem: Problem, known: set[int]) -> Filter:
    group_of = problem.action.group_of
    return lambda u: all(group_of[leaf] in known for leaf in u.leaves if leaf is not None and leaf in group_of)


def _evidence(problem: Problem, block: Block, known: set[int]) -> float:
    """The share of a block's weights whose other groups are known."""
    cells = [u for g in (block[0], *block[1]) for u in problem.cells[g]]
    counts = _counts(problem, known | {block[0], *block[1]})
    sizes = [math.prod(u.shape) for u in cells]
    return sum(n for n, u in zip(sizes, cells, strict=True) if counts(u)) / max(sum(sizes), 1)


def blocks(problem: Problem) -> list[Block]:
    """Every group with the dependents that its step can solve with it; the other dependents on their own.

    Dependents that meet in one tensor are coupled (both sides of a grouped convolution): the group then has several
    blocks, in each of which the dependents do not meet and the others are held. Dependents with dependents of their
    own or a second parent that moves are blocks by themselves.
    """
    groups = problem.spec.groups
    parents_of = [{problem.action.group_of[p] for p in g.parents if p in problem.action.group_of} for g in groups]
    has_children = set().union(*(parents_of[d] for d in problem.matched))
    found: list[Block] = []
    taken: set[int] = set()
    for g in sorted(problem.matched):
        own = [d for d in sorted(problem.matched) if parents_of[d] == {g} | parents_of[g] and d not in has_children]
        own = [d for d in own if not parents_of[g] and _same_batch(problem, g, d) and not _twice(problem, d)]
        if own and not _twice(problem, g):
            found += [(g, apart) for apart in _apart(problem, own)]
            taken.update(own)
    heads = {g for g, _ in found}
    return found + [(g, ()) for g in sorted(problem.matched) if g not in taken and g not in heads]


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


def _twice(problem: Problem, g: int) -> bool:
    """Whether a group occurs twice in one tensor, where the objective is quadratic in it."""
    leaves = problem.spec.groups[g].leaves
    return any(len(u.occurrences(leaves)) != 1 for u in problem.cells[g])


def _visit(problem: Problem, block: Block, seen: dict[Block, dict[str, int]]) -> bool:
    g, dependents = block
    versions = {name: problem.version[name] for name in problem.tensors_of([g, *dependents])}
    if seen.get(block) == versions:
        return False
    relative, gain = wreath_step(problem, g, dependents) if dependents else single_step(problem, g)
    # Gram matrices are in the weights' own precision and, where a group occurs twice, a linearisation: the objective
    # itself decides.
    moved = gain > 0 and problem.apply(relative)
    if moved and not dependents and _twice(problem, g):
        seen.pop(block, None)  # a step on a linearisation may leave more to gain, with nothing else moved
    else:
        seen[block] = {name: problem.version[name] for name in versions}
    return moved
