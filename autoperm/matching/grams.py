"""Gram matrices: how well every position of a group in model a agrees with every position in model b.

They are most of the work of matching. A term changes only if another group of its tensor moves: where the group itself
moved, columns trade places. So the terms of groups without parents are kept, in model b's original order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from autoperm.matching.problem import Problem
from autoperm.matching.unfold import Unfolding

#: The most bytes of terms to keep; further ones are computed anew each time.
KEPT_BYTES = 1 << 29


def gram(problem: Problem, g: int, cells: Sequence[Unfolding]) -> np.ndarray:
    """For every position of the parents the matrix of <a at i, b at j>: shape (parents, n, n)."""
    group = problem.spec.groups[g]
    if not cells:
        return np.zeros((group.copies, group.size, group.size))
    once = all(len(u.occurrences(group.leaves)) == 1 for u in cells)
    total = _from_kept(problem, g, cells)[None] if once and not group.parents else _fresh(problem, g, cells)
    return total.cpu().numpy()


def _fresh(problem: Problem, g: int, cells: Sequence[Unfolding]) -> torch.Tensor:
    """The same, in the weights' own precision: the objective itself decides about a step."""
    group = problem.spec.groups[g]
    total = torch.zeros(())
    for u in cells:
        for axes in u.occurrences(group.leaves):
            batch = [u.axis_beside(p, axes[0]) for p in group.parents]
            a, b = arranged(u, (problem.a[u.name], problem.b[u.name]), batch, axes)
            a, b = (t.reshape(group.copies, group.size, -1) for t in (a, b))
            total = total.to(a.device) + torch.bmm(a, b.conj().transpose(1, 2)).real
    return total.expand(group.copies, group.size, group.size)


def _from_kept(problem: Problem, g: int, cells: Sequence[Unfolding]) -> torch.Tensor:
    """One term per set of other groups that the cells share; each is recomputed if one of those has moved."""
    order = torch.from_numpy(problem.element[g])
    terms: list[torch.Tensor] = []
    for others, members in _by_others(problem, g, cells).items():
        key, stamp = (g, tuple(members)), tuple(problem.moves[h] for h in others)
        before = problem.kept.get(key)
        if before is not None and before[0] == stamp:
            term = before[1]
        else:
            fresh = _fresh(problem, g, members)[0]
            term = torch.empty_like(fresh)
            term[:, order.to(fresh.device)] = fresh
            _keep(problem, key, stamp, term)
        terms.append(term)
    return sum(terms[1:], terms[0]).index_select(1, order.to(terms[0].device))


def _by_others(problem: Problem, g: int, cells: Sequence[Unfolding]) -> dict[tuple[int, ...], list[Unfolding]]:
    group_of = problem.action.group_of
    found: dict[tuple[int, ...], list[Unfolding]] = {}
    for u in cells:
        others = {group_of[leaf] for leaf in u.leaves if leaf in group_of} - {g}
        found.setdefault(tuple(sorted(others)), []).append(u)
    return found


def _keep(problem: Problem, key: tuple[int, tuple[Unfolding, ...]], stamp: tuple[int, ...], term: torch.Tensor) -> None:
    problem.kept.pop(key, None)
    held = sum(t.numel() * t.element_size() for _, t in problem.kept.values())
    if held + term.numel() * term.element_size() <= KEPT_BYTES:
        problem.kept[key] = (stamp, term)


def arranged(
    unfolding: Unfolding, tensors: Sequence[torch.Tensor], batch: Sequence[int], axes: Sequence[int]
) -> list[torch.Tensor]:
    """Tensors unfolded and permuted to (batch axes flattened, *axes each, the rest flattened)."""
    rest = [k for k in range(len(unfolding.shape)) if k not in (*batch, *axes)]
    sizes = [math.prod(unfolding.shape[k] for k in batch), *(unfolding.shape[k] for k in axes), -1]
    if not rest:
        sizes[-1] = 1
    return [unfolding.of(t).permute(*batch, *axes, *rest).reshape(sizes) for t in tensors]
