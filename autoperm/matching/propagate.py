"""Where weight matching starts: every block is matched once, on the evidence of what is matched already."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence, Set

import torch

from autoperm.matching.blocks import Block, occurs_twice
from autoperm.matching.problem import Problem
from autoperm.matching.steps import Filter, Scale, everything, step
from autoperm.matching.unfold import Unfolding


def propagate(
    problem: Problem,
    found: Sequence[Block],
    generator: torch.Generator,
    scale: Scale | None = None,
    value: Callable[[], float] | None = None,
) -> dict[Block, dict[str, int]]:
    """Match every block once, each on the tensors whose other groups are matched already or fixed.

    The block with the largest share of such evidence goes first. Kept only if the objective rises altogether: where
    two models are near each other already, there is nothing to gain.

    Arguments:
        found: the blocks, visited in a random order where none has more evidence than another.
        scale: factors for the Gram matrices, see :class:`autoperm.matching.cosine.Cosines`.
        value: what is to rise in place of the objective.

    Returns:
        For each block that was matched on all of its tensors their versions, to be skipped as long as they are these.
    """
    value = value or (lambda: problem.objective)
    start, element = value(), list(problem.element)
    evidence = {block: _evidence(problem, block) for block in found}
    known: set[int] = set()
    seen: dict[Block, dict[str, int]] = {}
    waiting = [found[k] for k in torch.randperm(len(found), generator=generator, device="cpu").tolist()]
    while waiting:
        shares = [_share(evidence[block], known) for block in waiting]
        block = waiting.pop(max(range(len(shares)), key=shares.__getitem__))
        own = {block[0], *block[1]}
        if own <= known:
            continue
        inside = known | own
        counts = _once(problem, own, inside) if max(shares) > 0 else everything
        problem.apply(step(problem, block, counts, scale)[0], always=True)
        if max(shares) == 1 and not any(occurs_twice(problem, g) for g in own):
            seen[block] = problem.versions(sorted(own))
        known = inside
    if value() < start:
        problem.restore(element)
        return {}
    return seen


#: In place of a group: what a block occurs in twice is no evidence while it is not matched itself.
_NEVER = -1


def _others(problem: Problem, u: Unfolding) -> set[int]:
    group_of = problem.action.group_of
    return {group_of[leaf] for leaf in u.leaves if leaf is not None and leaf in group_of}


def within(problem: Problem, known: Set[int]) -> Filter:
    """The cells that no other groups move."""
    return lambda u: _others(problem, u) <= known


def _once(problem: Problem, own: Set[int], known: Set[int]) -> Filter:
    """The cells that no other groups move, and in which none of a block's own occurs twice."""
    among = within(problem, known)
    return lambda u: among(u) and not _is_twice(problem, u, own)


def _is_twice(problem: Problem, u: Unfolding, own: Set[int]) -> bool:
    return any(len(u.occurrences(problem.spec.groups[g].leaves)) > 1 for g in own)


def _evidence(problem: Problem, block: Block) -> dict[frozenset[int], float]:
    """The shares of a block's weights by the other groups that move them."""
    own = {block[0], *block[1]}
    found: dict[frozenset[int], float] = {}
    for g in own:
        for u in problem.cells[g]:
            key = frozenset({_NEVER} if _is_twice(problem, u, own) else _others(problem, u) - own)
            found[key] = found.get(key, 0.0) + math.prod(u.shape)
    total = sum(found.values())
    return {key: size / total for key, size in found.items()}


def _share(evidence: dict[frozenset[int], float], known: set[int]) -> float:
    """The share of a block's weights whose other groups are known; exactly 1 if all are."""
    if all(key <= known for key in evidence):
        return 1.0
    return sum(size for key, size in evidence.items() if key <= known)
