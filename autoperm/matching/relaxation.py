"""The objective at a relaxed element: its gradient, the best linear step, and how it runs along a segment.

The objective is the sum over cells of <a, soft b>: a polynomial, linear in the matrix of each occurrence of a group.
Heads with their dimensions are also differentiated as one: W[h, i, h', j] = P[h, h'] D[h, i, j], in which the linear
problem over all wreath elements is exact, whereas P and D by themselves only see each other's present value.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.polynomial import Polynomial
from torch import Tensor

from autoperm.matching.assignment import assign
from autoperm.matching.problem import Problem
from autoperm.matching.soft import acting, cells_by_tensor, mix
from autoperm.matching.unfold import Unfolding

#: Wreaths (heads times their dimensions) above this size are not differentiated as one.
LARGEST_WREATH = 6000

Element = Sequence[np.ndarray]

#: A group and one that depends on it.
Pair = tuple[int, int]


@dataclass(frozen=True)
class Gradient:
    """The gradient of the objective.

    Attributes:
        value: the objective, without what no element changes.
        groups: with respect to each group's matrices, of their shape.
        alone: for the groups of pairs, from the cells without the dependents: shape (copies, n, n).
        pairs: with respect to W, for each pair: shape (copies, n, m, n, m).
    """

    value: float
    groups: list[Tensor]
    alone: dict[int, Tensor]
    pairs: dict[Pair, Tensor]


def relaxed_objective(problem: Problem, relaxed: Sequence[Tensor]) -> float:
    """The sum over all cells that move of <a, soft b>, added up in float64."""
    with torch.no_grad():
        return math.fsum(float(_agreement(problem, u, relaxed, {})) for u in _cells(problem))


def gradient(problem: Problem, relaxed: Sequence[Tensor], pairs: Sequence[Pair] = ()) -> Gradient:
    """The gradient at a relaxed element, with ``pairs`` differentiated as one as well.

    In a cell at most one of a group's pairs may occur, and once: the blocks of weight matching are such.
    """
    leaves = [matrix.detach().requires_grad_() for matrix in relaxed]
    wreaths = {pair: _wreath(problem, pair, relaxed).requires_grad_() for pair in pairs}
    value = 0.0
    with torch.enable_grad():
        for u in _cells(problem):
            term = _agreement(problem, u, leaves, wreaths)
            value += float(term.detach())
            term.backward()
    groups = [_grad(leaf) for leaf in leaves]
    alone = {g: groups[g].reshape(_shape(problem, g)).clone() for g, _ in pairs}
    found = {pair: _grad(wreath) for pair, wreath in wreaths.items()}
    for (g, d), whole in found.items():
        inner = _inside(problem, (g, d), relaxed[d])
        outer = relaxed[g].reshape(_shape(problem, g))
        groups[g] += torch.einsum("pnimj,pnij->pnm", whole, inner).reshape(groups[g].shape)
        groups[d] += _outside(problem, (g, d), torch.einsum("pnimj,pnm->pnij", whole, outer))
    return Gradient(value, groups, alone, found)


def best_vertex(slope: Gradient) -> list[np.ndarray]:
    """The element at which the linear function with that slope is largest: one assignment per matrix."""
    return [_best(matrix.reshape(-1, *matrix.shape[-2:])).reshape(matrix.shape[:-1]) for matrix in slope.groups]


def best_wreaths(problem: Problem, slope: Gradient) -> dict[int, np.ndarray]:
    """For the slope's pairs the wreath element at which the linear function of W is largest, exact.

    One assignment per dependent for every pair of the group's positions, then one over the positions.
    """
    found: dict[int, np.ndarray] = {}
    for g, alone in slope.alone.items():
        base, choices = alone.double().cpu().numpy(), {}
        for r, d in slope.pairs:
            if r == g:
                values, choices[d] = _best_inside(slope.pairs[r, d].double().cpu().numpy())
                base = base + values
        outer = _best(torch.from_numpy(base))
        found[g] = outer.reshape(tuple(slope.groups[g].shape[:-1]))
        for d, choice in choices.items():
            picked = np.take_along_axis(choice, outer[:, :, None, None], axis=2)[:, :, 0]
            found[d] = _outside(problem, (g, d), torch.from_numpy(picked)).numpy()
    return found


def along(problem: Problem, start: Sequence[Tensor], end: Sequence[Tensor]) -> Polynomial:
    """The objective at start + t (end - start) as a polynomial in t, exact up to rounding.

    Each cell's degree is the number of occurrences of groups in it, and it is evaluated at one point more than that.
    """
    total = Polynomial([0.0])
    with torch.no_grad():
        for degree, cells in _by_degree(problem).items():
            points = (1 - np.cos(np.pi * np.arange(degree + 1) / degree)) / 2
            values = []
            for t in points:
                here = [torch.lerp(x, y, float(t)) for x, y in zip(start, end, strict=True)]
                values.append(math.fsum(float(_agreement(problem, u, here, {})) for u in cells))
            total += Polynomial.fit(points, values, degree, domain=[0.0, 1.0]).convert()
    return total


def best_step(line: Polynomial) -> tuple[float, float]:
    """The t in [0, 1] at which a polynomial is largest, and what it gains over t = 0."""
    stationary = [float(r.real) for r in line.deriv().roots() if abs(r.imag) < 1e-9 and 0 < r.real < 1]
    best = max([1.0, 0.0, *stationary], key=line)
    return best, float(line(best) - line(0.0))


def _cells(problem: Problem) -> list[Unfolding]:
    return list(itertools.chain.from_iterable(cells_by_tensor(problem).values()))


def _by_degree(problem: Problem) -> dict[int, list[Unfolding]]:
    found: dict[int, list[Unfolding]] = {}
    for u in _cells(problem):
        degree = sum(len(u.occurrences(problem.spec.groups[g].leaves)) for g in acting(problem, u))
        found.setdefault(degree, []).append(u)
    return found


def _agreement(problem: Problem, u: Unfolding, relaxed: Sequence[Tensor], wreaths: Mapping[Pair, Tensor]) -> Tensor:
    """<a, soft b> over one cell; pairs that are given act as their W says."""
    cell, groups, here, done = u.of(problem.b[u.name]), problem.spec.groups, acting(problem, u), set()
    for g in here:
        pair = next(((r, d) for r, d in wreaths if r == g and d in here), None)
        if pair is not None:
            (axes,) = u.occurrences(groups[pair[1]].leaves)
            outer = [u.axis_beside(leaf, axes[0]) for leaf in groups[g].leaves]
            cell = mix(cell, wreaths[pair], [u.axis_beside(q, axes[0]) for q in groups[g].parents], [*outer, *axes])
            done.add(pair[1])
        elif g not in done:
            for axes in u.occurrences(groups[g].leaves):
                cell = mix(cell, relaxed[g], [u.axis_beside(q, axes[0]) for q in groups[g].parents], axes)
    return (u.of(problem.a[u.name]) * cell.conj()).real.sum(dtype=torch.float64)


def _grad(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _shape(problem: Problem, g: int) -> tuple[int, int, int]:
    group = problem.spec.groups[g]
    return group.copies, group.size, group.size


def _best(matrices: Tensor) -> np.ndarray:
    """For each of the matrices (k, n, n) the permutation with the largest sum: shape (k, n)."""
    return np.stack([assign(one)[0] for one in matrices.double().cpu().numpy()])


def _best_inside(whole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From (copies, n, m, n, m): for every pair of positions the best value (copies, n, n) and its permutation."""
    copies, n, m = whole.shape[:3]
    values, choices = np.empty((copies, n, n)), np.empty((copies, n, n, m), dtype=np.int64)
    for k, i, j in itertools.product(range(copies), range(n), range(n)):
        choices[k, i, j], values[k, i, j] = assign(whole[k, i, :, j])
    return values, choices


def _wreath(problem: Problem, pair: Pair, relaxed: Sequence[Tensor]) -> Tensor:
    g, d = pair
    outer = relaxed[g].detach().reshape(_shape(problem, g))
    return torch.einsum("pnm,pnij->pnimj", outer, _inside(problem, pair, relaxed[d].detach()))


def _order(problem: Problem, pair: Pair) -> tuple[list[int], list[int]]:
    """A group's parents and leaves, and their sizes."""
    group = problem.spec.groups[pair[0]]
    order = [*group.parents, *group.leaves]
    return order, [problem.spec.leaves[leaf].size for leaf in order]


def _inside(problem: Problem, pair: Pair, matrix: Tensor) -> Tensor:
    """A dependent's tensor (*its parents, ...) as (the group's copies, its positions, ...)."""
    order, _ = _order(problem, pair)
    parents, group = problem.spec.groups[pair[1]].parents, problem.spec.groups[pair[0]]
    axes = [parents.index(leaf) for leaf in order]
    rest = matrix.shape[len(parents) :]
    return matrix.permute(*axes, *range(len(parents), matrix.ndim)).reshape(group.copies, group.size, *rest)


def _outside(problem: Problem, pair: Pair, matrix: Tensor) -> Tensor:
    """The inverse of :func:`_inside`."""
    order, sizes = _order(problem, pair)
    matrix = matrix.reshape(*sizes, *matrix.shape[2:])
    axes = [order.index(leaf) for leaf in problem.spec.groups[pair[1]].parents]
    return matrix.permute(*axes, *range(len(order), matrix.ndim))
