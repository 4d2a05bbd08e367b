"""One step of coordinate ascent: the best relative permutation of one group, or of one with its dependents."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from autoperm.matching.grams import arranged, gram
from autoperm.matching.problem import Problem
from autoperm.matching.unfold import Unfolding

#: Above this many rows the Gram matrix of a whole wreath is not formed at once.
_LARGE = 6000


def assign(gram: np.ndarray) -> tuple[np.ndarray, float]:
    """The permutation p that maximises the sum of gram[i, p[i]], and the sum."""
    rows, columns = linear_sum_assignment(gram, maximize=True)
    return columns, float(gram[rows, columns].sum())


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
        gain += value - float(np.trace(matrix))
    shape = (*(problem.spec.leaves[p].size for p in group.parents), group.size)
    return {g: np.stack(found).reshape(shape)}, gain


def wreath_step(
    problem: Problem, g: int, dependents: Sequence[int], counts: Filter = everything
) -> tuple[dict[int, np.ndarray], float]:
    """The best relative permutation of a group together with groups that depend on it: exact.

    For every pair of the group's positions, one assignment per dependent; then one assignment over the positions on
    those optima plus what only the group itself touches.
    """
    group = problem.spec.groups[g]
    inner = {leaf for d in dependents for leaf in problem.spec.groups[d].leaves}
    base = gram(problem, g, [u for u in problem.cells[g] if counts(u) and not inner & set(u.leaves)])
    identity = np.einsum("pii->", base)
    choices = {}
    for d in dependents:
        values, choices[d], unmoved = _pairs(problem, g, d, counts)
        base += values
        identity += unmoved
    tops, gain = [], -float(identity)
    for matrix in base:
        best, value = assign(matrix)
        tops.append(best)
        gain += value
    outer = np.stack(tops)  # (parents, n)
    relative = {g: outer.reshape(*(problem.spec.leaves[p].size for p in group.parents), group.size)}
    for d in dependents:
        picked = np.take_along_axis(choices[d], outer[:, :, None, None], axis=2)[:, :, 0]
        relative[d] = _as_dependent(problem, g, d, picked)
    return relative, gain


def _pairs(problem: Problem, g: int, d: int, counts: Filter) -> tuple[np.ndarray, np.ndarray, float]:
    """For every pair of positions of g the best value over d's permutations, those permutations, and the trace."""
    group, dependent = problem.spec.groups[g], problem.spec.groups[d]
    p, n, m = group.copies, group.size, dependent.size
    parts = []
    for u in filter(counts, problem.cells[d]):
        for axes in u.occurrences(dependent.leaves):
            outer = [u.axis_beside(leaf, axes[0]) for leaf in group.leaves]
            batch = [u.axis_beside(q, axes[0]) for q in group.parents]
            a, b = arranged(u, (problem.a[u.name], problem.b[u.name]), batch, [*outer, *axes])
            parts.append(tuple(t.reshape(p, n, m, -1) for t in (a, b)))
    values, choices = np.empty((p, n, n)), np.empty((p, n, n, m), dtype=np.int64)
    unmoved = 0.0
    for k in range(p):
        whole = _flat_gram(parts, k, n, m) if n * m <= _LARGE else None
        for i, j in itertools.product(range(n), range(n)):
            matrix = whole[i, :, j, :] if whole is not None else _pair_gram(parts, k, i, j, m)
            choices[k, i, j], values[k, i, j] = assign(matrix)
            unmoved += float(np.trace(matrix)) if i == j else 0.0
    return values, choices, unmoved


def _flat_gram(parts: Sequence[tuple[torch.Tensor, ...]], k: int, n: int, m: int) -> np.ndarray:
    total = np.zeros((n * m, n * m))
    for a, b in parts:
        total += (a[k].reshape(n * m, -1) @ b[k].reshape(n * m, -1).conj().T).real.double().cpu().numpy()
    return total.reshape(n, m, n, m)


def _pair_gram(parts: Sequence[tuple[torch.Tensor, ...]], k: int, i: int, j: int, m: int) -> np.ndarray:
    total = np.zeros((m, m))
    for a, b in parts:
        total += (a[k, i] @ b[k, j].conj().T).real.double().cpu().numpy()
    return total


def _as_dependent(problem: Problem, g: int, d: int, picked: np.ndarray) -> np.ndarray:
    """From (g's parents, g's positions, m) to the dependent's own order of parents."""
    group, dependent = problem.spec.groups[g], problem.spec.groups[d]
    order = [*group.parents, *group.leaves]
    sizes = [problem.spec.leaves[leaf].size for leaf in order]
    array = picked.reshape(*sizes, dependent.size)
    return array.transpose(*(order.index(q) for q in dependent.parents), len(order))
