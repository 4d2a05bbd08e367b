"""A cell of a tensor with one axis per leaf: what a matcher needs to compare positions of leaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from autoperm.layout import Action, Cell, Layout


@dataclass(frozen=True)
class Unfolding:
    """How to unfold one cell.

    ``leaves[k]`` is the leaf of axis k (None: a dimension along which nothing moves), ``dims[k]`` the dimension of
    the tensor it belongs to, and ``shape[k]`` its size.
    """

    name: str
    layout: Layout
    cell: Cell
    leaves: tuple[int | None, ...]
    dims: tuple[int, ...]
    shape: tuple[int, ...]

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The cell of a tensor, its axes in the leaves' own order of positions."""
        for j, piece in enumerate(self.cell):
            order = self._order(j, piece)
            if order is not None:
                tensor = tensor.index_select(j, torch.from_numpy(order).to(tensor.device))
        tensor = tensor.reshape(self.shape)
        axis = 0
        for factors in self.layout.cells[self.cell]:
            for factor in factors:
                if factor.back is not None:
                    tensor = tensor.index_select(axis, torch.from_numpy(factor.back).to(tensor.device))
                axis += 1
            axis += not factors
        return tensor

    def write(self, tensor: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        """The tensor with this cell replaced, the inverse of :meth:`of`: ``write(t, of(t))`` is t.

        Where the cell is the whole tensor a new one is returned, otherwise ``tensor`` is written to and returned.
        """
        for axis, factor in self._relabelled():
            cell = cell.index_select(axis, torch.from_numpy(factor).to(cell.device))
        cell = cell.reshape(self.layout.cell_shape(self.cell))
        orders = [self._order(j, piece) for j, piece in enumerate(self.cell)]
        if all(order is None for order in orders):
            return cell
        places = [np.arange(n) if order is None else order for order, n in zip(orders, cell.shape, strict=True)]
        tensor[tuple(torch.from_numpy(grid).to(tensor.device) for grid in np.ix_(*places))] = cell
        return tensor

    def _relabelled(self) -> Iterator[tuple[int, np.ndarray]]:
        """The axes whose positions a dimension lists in another order, and that order."""
        axis = 0
        for factors in self.layout.cells[self.cell]:
            for k, factor in enumerate(factors):
                if factor.relabel is not None:
                    yield axis + k, factor.relabel
            axis += max(len(factors), 1)

    def _order(self, j: int, piece: int) -> np.ndarray | None:
        relabel = self.layout.cells[self.cell][j].relabel
        positions = self.layout.pieces[j][piece]
        if len(positions) == self.layout.shape[j] and relabel is None:
            return None
        return positions if relabel is None else positions[np.argsort(relabel)]

    def occurrences(self, leaves: Sequence[int]) -> list[tuple[int, ...]]:
        """The axes of a group's leaves: one tuple per place in which the group occurs."""
        at = [[k for k, leaf in enumerate(self.leaves) if leaf == wanted] for wanted in leaves]
        return list(zip(*at, strict=True)) if len({len(a) for a in at}) == 1 else []

    def axis_beside(self, leaf: int, axis: int) -> int:
        """The axis of ``leaf`` that the leaf on ``axis`` refers to: in its own dimension first."""
        found = [k for k, m in enumerate(self.leaves) if m == leaf and k != axis]
        return next((k for k in found if self.dims[k] == self.dims[axis]), found[0])


def unfoldings(action: Action, name: str, layout: Layout) -> list[Unfolding]:
    """One unfolding per cell in which something moves."""
    found = []
    for cell, dims in layout.cells.items():
        leaves: list[int | None] = []
        of_dim: list[int] = []
        shape: list[int] = []
        for j, (factors, size) in enumerate(zip(dims, layout.cell_shape(cell), strict=True)):
            leaves += [f.leaf for f in factors] or [None]
            shape += [action.leaves[f.leaf].size for f in factors] or [size]
            of_dim += [j] * max(len(factors), 1)
        if any(leaf in action.group_of for leaf in leaves):
            found.append(Unfolding(name, layout, cell, tuple(leaves), tuple(of_dim), tuple(shape)))
    return found
