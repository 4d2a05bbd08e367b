"""Weight matching: block coordinate ascent (Ainsworth, Hayase and Srinivasa, ICLR 2023, Algorithm 1).

Each block is a group together with the groups that depend on it alone (heads with their query-key and value
dimensions), and the step on a block is exact. A block none of whose tensors changed since it was last visited is
skipped. The objective never falls.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from autoperm.matching.problem import Problem
from autoperm.matching.registry import Match, matcher
from autoperm.matching.steps import single_step, wreath_step

logger = logging.getLogger(__name__)

Block = tuple[int, tuple[int, ...]]


@matcher("weight")
def weight_matching(
    problem: Problem,
    *,
    seed: int = 0,
    max_sweeps: int = 100,
    progress: Callable[[int, float], None] | None = None,
) -> Match:
    """Visit the blocks in a fresh random order each sweep, until a sweep changes nothing.

    Arguments:
        seed: of the visiting order.
        max_sweeps: the most sweeps to make.
        progress: called after each sweep with its number and the objective.
    """
    generator = torch.Generator().manual_seed(seed)
    found = blocks(problem)
    seen: dict[int, dict[str, int]] = {}
    history = [problem.objective]
    for sweep in range(1, max_sweeps + 1):
        moved = 0
        for k in torch.randperm(len(found), generator=generator).tolist():
            moved += _visit(problem, found[k], seen)
        history.append(problem.objective)
        logger.debug("sweep %d: %d of %d blocks moved, objective %.10g", sweep, moved, len(found), history[-1])
        if progress is not None:
            progress(sweep, history[-1])
        if not moved:
            break
    return Match(problem.permutation, problem.objective, problem.distance, tuple(history))


def blocks(problem: Problem) -> list[Block]:
    """Every group with the dependents that its step can solve with it; the other dependents on their own.

    Dependents that meet in one tensor are coupled, and so are those with dependents of their own or a second parent
    that moves: for them a step holds the rest, as for any block.
    """
    groups = problem.spec.groups
    parents_of = [{problem.action.group_of[p] for p in g.parents if p in problem.action.group_of} for g in groups]
    has_children = set().union(*parents_of) if parents_of else set()
    found: list[Block] = []
    taken: set[int] = set()
    for g in range(len(groups)):
        own = [d for d, above in enumerate(parents_of) if above == {g} | parents_of[g] and d not in has_children]
        own = [d for d in own if not parents_of[g] and _same_batch(problem, g, d) and not _twice(problem, d)]
        own = [d for d in own if not any(e != d and _meet(problem, d, e) for e in own)]
        if own and not _twice(problem, g):
            found.append((g, tuple(own)))
            taken.update(own)
    heads = {g for g, _ in found}
    return found + [(g, ()) for g in range(len(groups)) if g not in taken and g not in heads]


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


def _visit(problem: Problem, block: Block, seen: dict[int, dict[str, int]]) -> bool:
    g, dependents = block
    versions = {name: problem.version[name] for name in problem.tensors_of([g, *dependents])}
    if seen.get(g) == versions:
        return False
    relative, gain = wreath_step(problem, g, dependents) if dependents else single_step(problem, g)
    # Gram matrices are in the weights' own precision and, where a group occurs twice, a linearisation: the objective
    # itself decides.
    moved = gain > 0 and problem.apply(relative)
    if moved and not dependents and _twice(problem, g):
        seen.pop(g, None)  # a step on a linearisation may leave more to gain, with nothing else moved
    else:
        seen[g] = {name: problem.version[name] for name in versions}
    return moved
