"""Permuting tensors: whole dimensions at once where that is possible, else cell by cell."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from autoperm.errors import SpecError
from autoperm.layout import Action, Factors, Layout


def gather(action: Action, layout: Layout, element: Sequence[np.ndarray], tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with its entries permuted; a new tensor of the same dtype and device.

    Raises:
        SpecError: the tensor's shape is not the layout's.
    """
    if tuple(tensor.shape) != layout.shape:
        raise SpecError(f"shape {tuple(tensor.shape)} where the spec has {layout.shape}")
    separable = [alone(layout, action, j) for j in range(len(layout.shape))]
    out = tensor
    for j in range(len(layout.shape)):
        if separable[j]:
            index = index_along(action, layout, element, j)
            if not np.array_equal(index, np.arange(len(index))):
                out = out.index_select(j, torch.from_numpy(index).to(tensor.device))
    rest = [j for j, alone in enumerate(separable) if not alone]
    if rest:
        return _scatter_cells(action, layout, element, out, rest)
    return out.clone() if out is tensor else out


def alone(layout: Layout, action: Action, j: int) -> bool:
    """Whether the permutation along a dimension is the same whatever the position along the others, and needs none of them."""
    plan = layout._plans.get(j)
    if plan is None:
        plan = layout._plans[j] = _decide_alone(layout, action, j)
    return bool(plan)


def _decide_alone(layout: Layout, action: Action, j: int) -> bool:
    if layout.exchanged:
        return False
    seen: dict[int, tuple] = {}
    full = math.prod(len(p) for p in layout.pieces) == len(layout.cells)
    for cell, dims in layout.cells.items():
        factors = dims[j]
        moving = [f for f in factors if f.leaf in action.group_of]
        inside = {f.leaf for f in factors}
        for factor in moving:
            group = action.groups[action.group_of[factor.leaf]]
            if not set(group.parents) | set(group.leaves) <= inside:
                return False
        key = _key(factors) if moving else ()
        if seen.setdefault(cell[j], key) != key or (moving and not full):
            return False
    return True


def _key(factors: Factors) -> tuple:
    def raw(array: np.ndarray | None) -> bytes | None:
        return None if array is None else array.tobytes()

    return (raw(factors.relabel), *((f.leaf, raw(f.relabel)) for f in factors))


def index_along(action: Action, layout: Layout, element: Sequence[np.ndarray], j: int) -> np.ndarray:
    """The positions that are read along a dimension that is :func:`alone`."""
    index = np.arange(layout.shape[j])
    for piece, positions in enumerate(layout.pieces[j]):
        cell = next((c for c in layout.cells if c[j] == piece), None)
        if cell is not None and any(f.leaf in action.group_of for f in layout.cells[cell][j]):
            index[positions] = positions[source_along(action, layout.cells[cell][j], len(positions), element)]
    return index


def source_along(action: Action, factors: Factors, size: int, element: Sequence[np.ndarray]) -> np.ndarray:
    """The positions that the product of factors reads from; they must depend on nothing but each other."""
    everything = np.arange(size)
    one = Layout((size,), ((everything,),), {(0,): (factors,)})
    return np.broadcast_to(action.source(one, (0,), element)[0], (size,))


def _scatter_cells(
    action: Action, layout: Layout, element: Sequence[np.ndarray], tensor: torch.Tensor, rest: Sequence[int]
) -> torch.Tensor:
    """Permute, cell by cell, along dimensions whose permutation depends on the position along others."""
    out = tensor.clone()
    for cell in layout.cells:
        positions = [layout.pieces[j][p] for j, p in enumerate(cell)]
        sources = action.source(layout, cell, element)
        ndim = len(cell)
        read, write = [], []
        for j in range(ndim):
            here = positions[j].reshape([-1 if k == j else 1 for k in range(ndim)])
            write.append(torch.from_numpy(np.ascontiguousarray(here)).to(tensor.device))
            source = sources[j] if j in rest else here
            read.append(torch.from_numpy(np.ascontiguousarray(source)).to(tensor.device))
        out[tuple(write)] = tensor[tuple(read)]
    return out
