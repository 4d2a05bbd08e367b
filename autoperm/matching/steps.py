"""One step of coordinate ascent: the best relative permutation of one group, or of one with its dependents."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from autoperm.matching.assignment import assign_again
from autoperm.matching.blocks import Block
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


#: For a group and dependents, whose cells do not count for it, factors for the rows and columns of its Gram matrices:
#: two arrays of shape (copies, n).
Scale = Callable[[int, Sequence[int]], tuple[np.ndarray, np.ndarray]]


def step(
    problem: Problem, block: Block, counts: Filter = everything, scale: Scale | None = None
) -> tuple[dict[int, np.ndarray], float]:
    """The best relative permutations of a block, all other groups held; and the gain."""
    g, dependents = block
    if dependents:
        return wreath_step(problem, g, dependents, counts, scale)
    return single_step(problem, g, counts, scale)


def single_step(
    problem: Problem, g: int, counts: Filter = everything, scale: Scale | None = None
) -> tuple[dict[int, np.ndarray], float]:
    """The best relative permutation of one group, all others held; and the gain."""
    group = problem.spec.groups[g]
    matrices = gram(problem, g, [u for u in problem.cells[g] if counts(u)])
    if scale is not None:
        matrices = _scaled(matrices, *scale(g, ()))
    found, gain = [], 0.0
    for matrix in matrices:
        best, value = _assigned(problem, g, matrix) if len(matrices) == 1 else assign_again(matrix, None)[:2]
        found.append(best)
        gain += value - float(np.trace(matrix, dtype=np.float64))
    shape = (*(problem.spec.leaves[p].size for p in group.parents), group.size)
    return {g: np.stack(found).reshape(shape)}, gain


def _assigned(problem: Problem, g: int, matrix: np.ndarray) -> tuple[np.ndarray, float]:
    """The best assignment, from the prices at the last visit: they belong to positions of model b as it was given."""
    order, before = problem.element[g].reshape(-1), problem.prices.get(g)
    best, value, prices = assign_again(matrix, None if before is None else before[order])
    if prices is not None:
        problem.prices[g] = np.empty_like(prices)
        problem.prices[g][order] = prices
    return best, value


def wreath_step(
    problem: Problem, g: int, dependents: Sequence[int], counts: Filter = everything, scale: Scale | None = None
) -> tuple[dict[int, np.ndarray], float]:
    """The best relative permutation of a group together with groups that depend on it: exact.

    See :func:`autoperm.matching.wreath.best_wreath`.
    """
    group = problem.spec.groups[g]
    inner = {leaf for d in dependents for leaf in problem.spec.groups[d].leaves}
    base = gram(problem, g, [u for u in problem.cells[g] if counts(u) and not inner & set(u.leaves)])
    if scale is not None:
        base = _scaled(base, *scale(g, dependents))
    sources = [_source(problem, g, d, counts, scale) for d in dependents]
    gain, tops, picked = 0.0, [], []
    for k, matrix in enumerate(base):
        pairs = [source(k) for source in sources]
        outer, own, value = best_wreath(matrix, pairs)
        tops.append(outer)
        picked.append(own)
        gain += value - float(np.trace(matrix, dtype=np.float64)) - sum(p.unmoved() for p in pairs)
    relative = {g: np.stack(tops).reshape(*(problem.spec.leaves[p].size for p in group.parents), group.size)}
    for k, d in enumerate(dependents):
        relative[d] = _as_dependent(problem, g, d, np.stack([own[k] for own in picked]))
    return relative, gain


def _scaled(matrices: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return matrices * rows[:, :, None] * columns[:, None, :]


def _source(problem: Problem, g: int, d: int, counts: Filter, scale: Scale | None) -> Callable[[int], Pairs]:
    """What pairs of the group's positions are worth by a dependent, for each position of the group's parents."""
    group, dependent = problem.spec.groups[g], problem.spec.groups[d]
    n, m = group.size, dependent.size
    joint, cells = None, [u for u in problem.cells[d] if counts(u)]
    if not group.parents and n * m <= _LARGE:
        joint, cells = joint_gram(problem, (*group.leaves, *dependent.leaves), cells)
    parts = _unfolded(problem, g, d, cells)
    if scale is not None:
        factors = [torch.from_numpy(_of_pairs(problem, g, d, x)) for x in scale(d, ())]  # (copies of g, n, m)
        parts = [tuple(t * f[..., None].to(t) for t, f in zip(part, factors, strict=True)) for part in parts]
        if joint is not None:
            joint = joint * factors[0].reshape(-1, 1).to(joint) * factors[1].reshape(1, -1).to(joint)
    more = None if joint is None else joint.reshape(n, m, n, m)
    return lambda k: Pairs(n, m, [(a[k], b[k]) for a, b in parts], keep=n * m <= _LARGE, more=more)


def _unfolded(problem: Problem, g: int, d: int, cells: Sequence[Unfolding]) -> list[tuple[torch.Tensor, ...]]:
    """The cells of a dependent in both models, as (g's parents, g's positions, d's positions, the rest)."""
    group, dependent = problem.spec.groups[g], problem.spec.groups[d]
    parts = []
    for u in cells:
        for axes in u.occurrences(dependent.leaves):
            outer = [u.axis_beside(leaf, axes[0]) for leaf in group.leaves]
            batch = [u.axis_beside(q, axes[0]) for q in group.parents]
            both = arranged(u, (problem.a[u.name], problem.b[u.name]), batch, [*outer, *axes])
            parts.append(tuple(t.reshape(group.copies, group.size, dependent.size, -1) for t in both))
    return parts


def _of_pairs(problem: Problem, g: int, d: int, values: np.ndarray) -> np.ndarray:
    """From (copies of d, m), in d's own order of parents, to (g's parents, g's positions, m)."""
    group, dependent = problem.spec.groups[g], problem.spec.groups[d]
    sizes = [problem.spec.leaves[p].size for p in dependent.parents]
    order = [dependent.parents.index(p) for p in (*group.parents, *group.leaves)]
    array = values.reshape(*sizes, dependent.size).transpose(*order, len(order))
    return np.ascontiguousarray(array).reshape(group.copies, group.size, dependent.size)


def _as_dependent(problem: Problem, g: int, d: int, picked: np.ndarray) -> np.ndarray:
    """From (g's parents, g's positions, m) to the dependent's own order of parents."""
    group, dependent = problem.spec.groups[g], problem.spec.groups[d]
    order = [*group.parents, *group.leaves]
    sizes = [problem.spec.leaves[leaf].size for leaf in order]
    array = picked.reshape(*sizes, dependent.size)
    return array.transpose(*(order.index(q) for q in dependent.parents), len(order))
