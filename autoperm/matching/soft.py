"""Doubly stochastic matrices in place of permutations, and how they act on tensors.

A relaxed element has one tensor per group, of shape (*sizes of the group's parents, n, n): for every position of the
parents a matrix whose rows and columns sum to 1. Row i says what position i of the result is mixed from:

    out[h, i] = sum over h' and j of P[h, h'] D[h, i, j] b[h', j]

for heads P with dimensions D that depend on the head. Parents act first, and the dependents' matrices belong to the
positions of the result. At permutation matrices this is ``Permutation.apply``. It is linear in the matrix of each
occurrence of a group in a tensor, and torch differentiates it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from autoperm.layout import identity_element
from autoperm.matching.assignment import assign
from autoperm.matching.problem import Problem
from autoperm.matching.unfold import Unfolding, unfoldings


def soft_identity(
    problem: Problem, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> list[Tensor]:
    """The identity as a relaxed element: for each group a tensor of shape (*sizes of its parents, n, n).

    Arguments:
        dtype: float32 or float64.
        device: None for that of the problem's tensors.

    Example:
        >>> import torch, autoperm
        >>> from autoperm.matching.problem import Problem
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> state, spec = mlp.state_dict(), autoperm.infer(mlp, torch.zeros(1, 4))
        >>> problem = Problem(spec, state, state)
        >>> mixed = soft_apply(problem, problem.b, soft_identity(problem))
        >>> torch.equal(mixed["0.weight"], state["0.weight"])
        True
    """
    return soften(problem, identity_element(problem.spec.leaves, problem.spec.groups), dtype=dtype, device=device)


def soft_barycentre(
    problem: Problem, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> list[Tensor]:
    """The mean of all permutations: every entry is 1/n."""
    start = soft_identity(problem, dtype=dtype, device=device)
    return [torch.full_like(matrix, 1 / matrix.shape[-1]) for matrix in start]


def soften(
    problem: Problem,
    element: Sequence[np.ndarray],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> list[Tensor]:
    """Permutation matrices of an element, given as in :class:`autoperm.Permutation`: row i is 1 at ``array[..., i]``."""
    if device is None:
        device = next((t.device for t in problem.b.values()), torch.device("cpu"))
    where = [torch.from_numpy(array).to(device) for array in element]
    return [torch.nn.functional.one_hot(w, w.shape[-1]).to(dtype) for w in where]


def soft_apply(problem: Problem, tensors: Mapping[str, Tensor], relaxed: Sequence[Tensor]) -> dict[str, Tensor]:
    """The tensors mixed by a relaxed element, differentiable in both; none of them is changed.

    Arguments:
        tensors: by their names in the spec's layouts, as in ``problem.b``; buffers too. Those that nothing moves come
            back as they are.
        relaxed: one tensor per group, see :func:`soft_identity`; it acts on the tensors as they are, so on
            ``problem.b`` it follows the problem's current element.
    """
    cells = cells_by_tensor(problem)
    mixed = {}
    for name, tensor in tensors.items():
        found = cells[name] if name in cells else _cells_of(problem, name)
        out = tensor.clone() if found else tensor
        for u in found:
            mixture = soft_cell(problem, u, u.of(tensor), relaxed)
            out = u.write(out.to(mixture.dtype), mixture)
        mixed[name] = out
    return mixed


def cells_by_tensor(problem: Problem) -> dict[str, list[Unfolding]]:
    """The cells of parameters in which something moves, by the name of their tensor."""
    found: dict[str, list[Unfolding]] = {}
    for u in dict.fromkeys(u for cells in problem.cells.values() for u in cells):
        found.setdefault(u.name, []).append(u)
    return found


def _cells_of(problem: Problem, name: str) -> list[Unfolding]:
    layout = problem.spec.layouts.get(name)
    return unfoldings(problem.action, name, layout) if layout is not None else []


def soft_cell(problem: Problem, u: Unfolding, cell: Tensor, relaxed: Sequence[Tensor]) -> Tensor:
    """An unfolded cell, mixed along the axes of every group that occurs in it."""
    for g in acting(problem, u):
        for axes in u.occurrences(problem.spec.groups[g].leaves):
            cell = _mix_one(problem, u, cell, g, axes, relaxed[g])
    return cell


def acting(problem: Problem, u: Unfolding) -> list[int]:
    """The groups that occur in a cell, each after those that its permutation depends on."""
    group_of = problem.action.group_of

    def depth(g: int) -> int:
        above = (group_of[p] for p in problem.spec.groups[g].parents if p in group_of)
        return 1 + max(map(depth, above), default=0)

    here = {group_of[leaf] for leaf in u.leaves if leaf is not None and leaf in group_of}
    return sorted(here, key=lambda g: (depth(g), g))


def _mix_one(problem: Problem, u: Unfolding, cell: Tensor, g: int, axes: Sequence[int], matrix: Tensor) -> Tensor:
    return mix(cell, matrix, [u.axis_beside(p, axes[0]) for p in problem.spec.groups[g].parents], axes)


def mix(cell: Tensor, matrix: Tensor, batch: Sequence[int], axes: Sequence[int]) -> Tensor:
    """Mix a cell along the product of some axes, for every position along the batch axes.

    Arguments:
        matrix: anything that reshapes to (sizes of the batch axes, sizes of the axes, sizes of the axes).
    """
    sizes = [cell.shape[k] for k in axes]
    dtype = torch.promote_types(cell.dtype, matrix.dtype)
    matrix = matrix.reshape(*(cell.shape[k] for k in batch), *sizes, *sizes).to(cell.device, dtype)
    every = list(range(cell.ndim))
    rows = [cell.ndim + k for k in range(len(axes))]
    new = [rows[axes.index(k)] if k in axes else k for k in every]
    return torch.einsum(matrix, [*batch, *rows, *axes], cell.to(dtype), every, new)


def harden(problem: Problem, relaxed: Sequence[Tensor]) -> list[np.ndarray]:
    """The nearest element: for every group and position of its parents the assignment with the largest sum.

    Rows belong to positions of the result, for dependents too, so that each matrix is rounded by itself: where head h
    is read from matters to what its dimensions are compared with, not to which of their matrices count.

    Returns:
        For each group an array of shape (*sizes of its parents, n), as in :class:`autoperm.Permutation`.
    """
    found = []
    for group, matrix in zip(problem.spec.groups, relaxed, strict=True):
        flat = matrix.detach().double().cpu().numpy().reshape(-1, group.size, group.size)
        found.append(np.stack([assign(one)[0] for one in flat]).reshape(tuple(matrix.shape[:-1])))
    return found
