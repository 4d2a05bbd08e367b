"""Cosines in place of inner products: units count alike, however large their weights are.

A unit is a position of a group, for each position of the group's parents. Its weights are those of all tensors along it.
Reordering other groups reorders them and leaves their norm as it is, so that norms are computed once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from autoperm.layout import all_coordinates
from autoperm.matching.blocks import Block
from autoperm.matching.grams import arranged
from autoperm.matching.problem import Problem
from autoperm.matching.unfold import Unfolding


class Cosines:
    """The norms of all units, as factors for Gram matrices; units without weights have factor 0."""

    def __init__(self, problem: Problem, found: Sequence[Block]):
        self._problem, self._found = problem, found
        self._factors: dict[tuple[int, tuple[int, ...]], tuple[np.ndarray, np.ndarray]] = {}
        for g, dependents in found:
            for key in ((g, dependents), *((d, ()) for d in dependents)):
                cells = self._cells(*key)
                self._factors[key] = (self._inverse(key[0], cells, 0), self._given(key[0], self._inverse(key[0], cells, 1)))

    def scale(self, g: int, without: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """One over the norms of a group's units in model a, and in model b as it stands: two arrays (copies, n).

        Arguments:
            without: dependents, whose cells are left out.
        """
        rows, columns = self._factors[g, tuple(without)]
        return rows, columns[self._sources(g)].reshape(rows.shape)

    def total(self) -> float:
        """The sum over blocks of the cosines between units of a and the units of b in their places."""
        total = 0.0
        for g, dependents in self._found:
            for key in ((g, dependents), *((d, ()) for d in dependents)):
                rows, columns = self.scale(*key)
                products = _products(self._problem, key[0], self._cells(*key), (self._problem.a, self._problem.b))
                total += float((products * rows * columns).sum())
        return total

    def _cells(self, g: int, without: Sequence[int]) -> list[Unfolding]:
        inner = {leaf for d in without for leaf in self._problem.spec.groups[d].leaves}
        return [u for u in self._problem.cells[g] if not inner & set(u.leaves)]

    def _inverse(self, g: int, cells: Sequence[Unfolding], k: int) -> np.ndarray:
        tensors = (self._problem.a, self._problem.b)[k]
        norms = np.sqrt(_products(self._problem, g, cells, (tensors, tensors)))
        return np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)

    def _given(self, g: int, values: np.ndarray) -> np.ndarray:
        """From positions of model b as it stands to those of model b as it was given."""
        group = self._problem.spec.groups[g]
        out = np.empty((*(self._problem.spec.leaves[p].size for p in group.parents), group.size))
        out[self._sources(g)] = values.reshape(out.shape)
        return out

    def _sources(self, g: int) -> tuple[np.ndarray, ...]:
        """Which unit of model b as it was given is in each place."""
        problem = self._problem
        group = problem.spec.groups[g]
        here = all_coordinates(problem.spec.leaves, group.parents)
        return (*(problem.action.moved(p, here, problem.element) for p in group.parents), problem.element[g])


def _products(problem: Problem, g: int, cells: Sequence[Unfolding], tensors: Sequence) -> np.ndarray:  # type: ignore[type-arg]
    """For every unit the inner product of its weights, in double precision: shape (copies, n)."""
    group = problem.spec.groups[g]
    total = np.zeros((group.copies, group.size))
    for u in cells:
        for axes in u.occurrences(group.leaves):
            batch = [u.axis_beside(p, axes[0]) for p in group.parents]
            a, b = arranged(u, (tensors[0][u.name], tensors[1][u.name]), batch, axes)
            a, b = (t.reshape(group.copies, group.size, -1) for t in (a, b))
            total += torch.einsum("cnr,cnr->cn", a.to(_wide(a)), b.conj().to(_wide(a))).real.cpu().numpy()
    return total


def _wide(tensor: torch.Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float64)
