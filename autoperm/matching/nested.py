"""The best element of a group of groups where every group has a score for each pair of its positions: exact.

A head's score with another head includes the best that their dimensions can do, and so on inwards: assignments over the
innermost positions first, for every pair of what they depend on; then, outwards, over these pairs. The groups are held
against one another nowhere else, so that the result is the optimum.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np

from autoperm.layout import Action, all_coordinates
from autoperm.matching.assignment import assign
from autoperm.matching.sources import above, ordered_parents


def solve(action: Action, scores: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    """The permutations that maximise the sum of all scores.

    Arguments:
        action: the action of a spec's groups.
        scores: for each group to solve an array of shape (P, M, n, M, n), where P is the number of positions of the
            pinned leaves that it depends on, M that of the leaves that move, and n its size: [p, h, i, k, j] is what
            position i beside h in model a gains by reading position j beside k in model b.

    Returns:
        For each group, and for each that others depend on, an array shaped as in a permutation.
    """
    total = dict(scores)
    for g in list(total):
        for h in above(action, g):
            total.setdefault(h, np.zeros(_shape(action, h)))
    order = sorted(total, key=lambda g: (len(action.groups[g].parents), g))
    best: dict[int, np.ndarray] = {}
    for g in reversed(order):
        if above(action, g) and _is_chain(action, g):
            best[g], values = _all_pairs(total[g])
            _hand_up(action, g, values, total)
    element: dict[int, np.ndarray] = {}
    for g in order:
        element[g] = _given_parents(action, g, total[g], best.get(g), element)
    return element


def _counts(action: Action, g: int) -> tuple[int, int]:
    """How many positions the pinned leaves that a group depends on have, and how many the others."""
    parents = action.groups[g].parents
    moving = math.prod(action.leaves[p].size for p in parents if p in action.group_of)
    return math.prod(action.leaves[p].size for p in parents) // moving, moving


def _shape(action: Action, g: int) -> tuple[int, ...]:
    (pinned, moving), n = _counts(action, g), action.groups[g].size
    return pinned, moving, n, moving, n


def _is_chain(action: Action, g: int) -> bool:
    """Whether the innermost group that a group depends on itself depends on all the others, pinned leaves apart."""
    parents, chain = set(action.groups[g].parents), above(action, g)
    last = action.groups[chain[-1]]
    return set(last.leaves) | set(last.parents) <= parents and set(above(action, chain[-1])) == set(chain[:-1])


def _all_pairs(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every pair of positions of the parents the best permutation (P, M, M, n) and its value (P, M, M)."""
    pinned, moving, n = score.shape[:3]
    found = np.empty((pinned, moving, moving, n), dtype=np.int64)
    values = np.empty((pinned, moving, moving))
    for p, h, k in itertools.product(range(pinned), range(moving), range(moving)):
        found[p, h, k], values[p, h, k] = assign(score[p, h, :, k, :])
    return found, values


def _hand_up(action: Action, g: int, values: np.ndarray, total: dict[int, np.ndarray]) -> None:
    """Add what the pairs of a group's parents are worth to the score of the innermost of them."""
    parent = above(action, g)[-1]
    pinned = [p for p in ordered_parents(action, g) if p not in action.group_of]
    kept = [p for p in ordered_parents(action, parent) if p not in action.group_of]
    values = values.reshape(*(action.leaves[p].size for p in pinned), *values.shape[1:])
    values = values.sum(axis=tuple(k for k, p in enumerate(pinned) if p not in kept))
    total[parent] = total[parent] + values.reshape(_shape(action, parent))


def _given_parents(
    action: Action, g: int, score: np.ndarray, best: np.ndarray | None, element: Mapping[int, np.ndarray]
) -> np.ndarray:
    """A group's permutations once those of the groups that it depends on are known."""
    parents, n = ordered_parents(action, g), action.groups[g].size
    pinned, moving = score.shape[:2]
    source = _sources(action, g, element).reshape(pinned, moving)
    found = np.empty((pinned, moving, n), dtype=np.int64)
    for p, h in itertools.product(range(pinned), range(moving)):
        k = source[p, h]
        found[p, h] = assign(score[p, h, :, k, :])[0] if best is None else best[p, h, k]
    array = found.reshape(*(action.leaves[p].size for p in parents), n)
    return array.transpose(*(parents.index(p) for p in action.groups[g].parents), len(parents))


def _sources(action: Action, g: int, element: Mapping[int, np.ndarray]) -> np.ndarray:
    """For every position of a group's parents the flat position of the moving ones that it reads from."""
    parents = ordered_parents(action, g)
    here = all_coordinates(action.leaves, parents)
    arrays = [element.get(k) for k in range(len(action.groups))]
    flat = np.zeros([action.leaves[p].size for p in parents] + [1], dtype=np.int64)
    for p in parents:
        if p in action.group_of:
            flat = flat * action.leaves[p].size + action.moved(p, here, arrays)  # type: ignore[arg-type]
    return flat
