"""One step of coordinate ascent: the best relative permutation of one group, or of one with its dependents."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from autoperm.matching.assignment import assign
from autoperm.matching.grams import arranged, gram, joint_gram
from autoperm.matching.problem import Problem
from autoperm.matching.unfold import Unfolding
from autoperm.matching.wreath import Pairs, best_wreath

#: Above this many rows the Gram matrix of a whole wreath is not kept while it is solved.
_LARGE = 6000


#: Which cells a step looks at.
Filter = Callable[[Unfolding], bool]


def everything(cell: Unfolding) -> bool:
    return True


def single_step(problem: Problem, g: int, counts: Filter = everything) -> tuple[dict[int, np.ndarray], float]:
    """The best relative permutation of one group, all others held; and the gain."""
    group = problem.spec.groups[g]
    matrices = gram(problem, g, [u for u in problem.cells[g] if counts(u)])
    found, gain = [], 0.0
    for matrix in matrices:
        best, value = assign(matrix)
        found.append(best)
        gain += value - float(np.trace(matrix, dtype=np.float64))
    shape = (*(problem.spec.leaves[p].size for p in group.parents), group.size)
    return {g: np.stack(found).reshape(shape)}, gain


def wreath_step(
    problem: Problem, g: int, dependents: Sequence[int], counts: Filter = everything
) -> tuple[dict[int, np.ndarray], float]:
    """The best relative permutation of a group together with groups that depend on it: exact.

    See :func:`autoperm.matching.wreath.best_wreath`.
    """
    group, groups = problem.spec.groups[g], problem.spec.groups
    inner = {leaf for d in dependents for leaf in groups[d].leaves}
    base = gram(problem, g, [u for u in problem.cells[g] if counts(u) and not inner & set(u.leaves)])
    sources = [_sources(problem, g, d, counts) for d in dependents]
    gain, tops, picked = 0.0, [], []
    for k, matrix in enumerate(base):
        pairs = []
        for d, (joint, parts) in zip(dependents, sources, strict=True):
            n, m = group.size, groups[d].size
            more = None if joint is None else joint.reshape(n, m, n, m)
            pairs.append(Pairs(n, m, [(a[k], b[k]) for a, b in parts], keep=n * m <= _LARGE, more=more))
        outer, own, value = best_wreath(matrix, pairs)
        tops.append(outer)
        picked.append(own)
        gain += value - float(np.trace(matrix, dtype=np.float64)) - sum(p.unmoved() for p in pairs)
    relative = {g: np.stack(tops).reshape(*(problem.spec.leaves[p].size for p in group.parents), group.size)}
    for k, d in enumerate(dependents):
        relative[d] = _as_dependent(problem, g, d, np.stack([own[k] for own in picked]))
    return relative, gain


def _sources(
    problem: Problem, g: int, d: int, counts: Filter
) -> tuple[torch.Tensor | None, list[tuple[torch.Tensor, torch.Tensor]]]:
    """The Gram matrix of all positions of a dependent, and what else there is to add.

    That is its cells unfolded in both models to (g's parents, g's positions, d's positions, the rest).
    """
    group, dependent = problem.spec.groups[g], problem.spec.groups[d]
    joint, cells = None, [u for u in problem.cells[d] if counts(u)]
    if not group.parents and group.size * dependent.size <= _LARGE:
        joint, cells = joint_gram(problem, (*group.leaves, *dependent.leaves), cells)
    parts = []
    for u in cells:
        for axes in u.occurrences(dependent.leaves):
            outer = [u.axis_beside(leaf, axes[0]) for leaf in group.leaves]
            batch = [u.axis_beside(q, axes[0]) for q in group.parents]
            a, b = arranged(u, (problem.a[u.name], problem.b[u.name]), batch, [*outer, *axes])
            a, b = (t.reshape(group.copies, group.size, dependent.size, -1) for t in (a, b))
            parts.append((a, b))
    return joint, parts


def _as_dependent(problem: Problem, g: int, d: int, picked: np.ndarray) -> np.ndarray:
    """From (g's parents, g's positions, m) to the dependent's own order of parents."""
    group, dependent = problem.spec.groups[g], problem.spec.groups[d]
    order = [*group.parents, *group.leaves]
    sizes = [problem.spec.leaves[leaf].size for leaf in order]
    array = picked.reshape(*sizes, dependent.size)
    return array.transpose(*(order.index(q) for q in dependent.parents), len(order))
