"""Cells of a tensor with one axis per leaf: what a matcher needs to compare positions of leaves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from autoperm.layout import Action, Cell, Factors, Label, Layout


@dataclass(frozen=True)
class Unfolding:
    """How to unfold a cell, or several that elements of the group exchange, stacked along axes for what exchanges them.

    ``leaves[k]`` is the leaf of axis k (None: a dimension along which nothing moves), ``dims[k]`` the dimension of
    the tensor it belongs to, and ``shape[k]`` its size. ``cells`` are in the order of the leading axes.
    """

    name: str
    layout: Layout
    cells: tuple[Cell, ...]
    leaves: tuple[int | None, ...]
    dims: tuple[int, ...]
    shape: tuple[int, ...]

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The cells of a tensor, their axes in the leaves' own order of positions."""
        if len(self.cells) == 1:
            return self._one(tensor, self.cells[0])
        return torch.stack([self._one(tensor, cell) for cell in self.cells]).reshape(self.shape)

    def cut(self, dim: int, size: int) -> Unfolding:
        """How to unfold a few positions of the one cell along a dimension, in any order, out of the tensor.

        The positions along that dimension are no longer told apart by leaves.
        """
        shape = tuple(size if j == dim else n for j, n in enumerate(self.layout.cell_shape(self.cells[0])))
        factors = tuple(Factors() if j == dim else own for j, own in enumerate(self.layout.cells[self.cells[0]]))
        cell = (0,) * len(shape)
        axes = [axis for axis in zip(self.dims, self.leaves, self.shape, strict=True) if axis[0] != dim]
        axes = sorted([*axes, (dim, None, size)], key=lambda axis: axis[0])
        dims, leaves, sizes = zip(*axes, strict=True)
        layout = Layout(shape, tuple((np.arange(n),) for n in shape), {cell: factors})
        return Unfolding(self.name, layout, (cell,), leaves, dims, sizes)

    def _one(self, tensor: torch.Tensor, cell: Cell) -> torch.Tensor:
        for j, piece in enumerate(cell):
            order = self._order(cell, j, piece)
            if order is not None:
                tensor = tensor.index_select(j, torch.from_numpy(order).to(tensor.device))
        tensor = tensor.reshape([n for _, n in self._axes(cell)])
        for axis, relabel in self._relabelled(cell):
            tensor = tensor.index_select(axis, torch.from_numpy(np.argsort(relabel)).to(tensor.device))
        return tensor if cell == self.cells[0] else tensor.permute(self._places(cell))

    def write(self, tensor: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """The tensor with these cells replaced, the inverse of :meth:`of`: ``write(t, of(t))`` is t.

        Where one cell is the whole tensor a new one is returned, otherwise ``tensor`` is written to and returned.
        """
        inner = self.shape[len(self.shape) - len(self._axes(self.cells[0])) :]
        for cell, content in zip(self.cells, cells.reshape(len(self.cells), *inner), strict=True):
            tensor = self._write_one(tensor, cell, content)
        return tensor

    def _write_one(self, tensor: torch.Tensor, cell: Cell, content: torch.Tensor) -> torch.Tensor:
        if cell != self.cells[0]:
            content = content.permute(np.argsort(self._places(cell)).tolist())
        for axis, relabel in self._relabelled(cell):
            content = content.index_select(axis, torch.from_numpy(relabel).to(content.device))
        content = content.reshape(self.layout.cell_shape(cell))
        orders = [self._order(cell, j, piece) for j, piece in enumerate(cell)]
        if all(order is None for order in orders):
            return content
        places = [np.arange(n) if order is None else order for order, n in zip(orders, content.shape, strict=True)]
        tensor[tuple(torch.from_numpy(grid).to(tensor.device) for grid in np.ix_(*places))] = content
        return tensor

    def _axes(self, cell: Cell) -> list[tuple[tuple[int, int | None, int], int]]:
        """The axes of one cell: (dimension, leaf, how many of that leaf come before it in the dimension) and size."""
        found: list[tuple[tuple[int, int | None, int], int]] = []
        sizes = dict(zip(self.leaves, self.shape, strict=True))
        for j, (factors, size) in enumerate(zip(self.layout.cells[cell], self.layout.cell_shape(cell), strict=True)):
            inside = [f.leaf for f in factors]
            found += [((j, leaf, inside[:k].count(leaf)), sizes[leaf]) for k, leaf in enumerate(inside)]
            found += [] if factors else [((j, None, 0), size)]
        return found

    def _places(self, cell: Cell) -> list[int]:
        """Which axis of a cell comes at each place of the first cell's."""
        mine = [key for key, _ in self._axes(cell)]
        return [mine.index(key) for key, _ in self._axes(self.cells[0])]

    def _relabelled(self, cell: Cell) -> Iterator[tuple[int, np.ndarray]]:
        """The axes whose positions a dimension lists in another order, and that order."""
        axis = 0
        for factors in self.layout.cells[cell]:
            for k, factor in enumerate(factors):
                if factor.relabel is not None:
                    yield axis + k, factor.relabel
            axis += max(len(factors), 1)

    def _order(self, cell: Cell, j: int, piece: int) -> np.ndarray | None:
        relabel = self.layout.cells[cell][j].relabel
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
    """One unfolding per cell in which something moves, and per grid of cells that are exchanged.

    Exchanged cells that make no grid are left out: what a matcher finds without them is right, if not the best.
    """
    found = []
    for labels, cells in [((), (cell,)) for cell in layout.cells if cell not in layout.exchanged] + _grids(action, layout):
        leaves: list[int | None] = [x.leaf for x in labels]
        of_dim = [x.dim for x in labels]
        shape = [action.leaves[x.leaf].size for x in labels]
        for j, (factors, size) in enumerate(zip(layout.cells[cells[0]], layout.cell_shape(cells[0]), strict=True)):
            leaves += [f.leaf for f in factors] or [None]
            shape += [action.leaves[f.leaf].size for f in factors] or [size]
            of_dim += [j] * max(len(factors), 1)
        if any(leaf in action.group_of for leaf in leaves):
            found.append(Unfolding(name, layout, tuple(cells), tuple(leaves), tuple(of_dim), tuple(shape)))
    return found


def _grids(action: Action, layout: Layout) -> list[tuple[tuple[Label, ...], tuple[Cell, ...]]]:
    """Orbits of exchanged cells, put together until they have a cell for every combination of their labels."""
    open_grids: dict[tuple, list[dict[tuple[int, ...], Cell]]] = {}
    for orbit in layout.orbits.values():
        inside = {tuple(x.at for x in layout.exchanged[cell].labels): cell for cell in orbit}
        kind = _kind(layout, orbit[0])
        home = next((g for g in open_grids.get(kind, ()) if not g.keys() & inside.keys()), None)
        if home is None:
            open_grids.setdefault(kind, []).append(inside)
        else:
            home.update(inside)
    found = []
    for grid in itertools.chain(*open_grids.values()):
        labels = layout.exchanged[next(iter(grid.values()))].labels
        if len(grid) == math.prod(action.leaves[x.leaf].size for x in labels):
            found.append((labels, tuple(grid[at] for at in sorted(grid))))
    return found


def _kind(layout: Layout, cell: Cell) -> tuple:
    """What cells of a grid have in common: their shape, their leaves, and what they are positions of."""
    leaves = tuple(tuple(sorted(f.leaf for f in factors)) for factors in layout.cells[cell])
    return layout.cell_shape(cell), leaves, tuple((x.dim, x.leaf) for x in layout.exchanged[cell].labels)
