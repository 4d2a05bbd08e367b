"""Inner products and distances of tensors, one of them read in another order: summed in double precision, a piece at a time.

No permuted copy of a tensor is made, nor a wide one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from autoperm.matching.current import Indices, read

#: Entries summed at a time: they stay in the cache, and torch starts no threads for so few. Threads cost more than
#: they bring here, by far where the cores are shared.
_CHUNK = 1 << 15

#: Entries read at a time.
_PART = 1 << 17


def inner(a: torch.Tensor, b: torch.Tensor, indices: Indices | None = None) -> float:
    """<a, b>; with ``indices``, b is read at these positions along each dimension."""
    return math.fsum(_dot(x, y) for x, (y,) in _pieces(a, b, None, [indices]))


def squared_distance(a: torch.Tensor, b: torch.Tensor, indices: Indices | None = None) -> float:
    """|a - b|²; with ``indices``, b is read at these positions along each dimension."""
    return math.fsum(_dot(d, d) for d in (x - y for x, (y,) in _pieces(a, b, None, [indices])))


def rise(a: torch.Tensor, b: torch.Tensor, old: Indices, new: Indices) -> float | None:
    """<a, b read at new> - <a, b read at old>, from the entries that differ; None where that would be most of them."""
    moved = [np.flatnonzero(x != y) for x, y in zip(old, new, strict=True)]
    changed = [j for j, positions in enumerate(moved) if len(positions)]
    if not changed:
        return 0.0
    if len(changed) > 1 or 2 * len(moved[changed[0]]) > len(new[changed[0]]):
        return None
    at = (changed[0], moved[changed[0]])
    return math.fsum(_dot(x, y - z) for x, (y, z) in _pieces(a, b, at, [new, old]))


def _dot(x: torch.Tensor, y: torch.Tensor) -> float:
    return float(torch.vdot(y, x).real)


def _pieces(
    a: torch.Tensor, b: torch.Tensor, at: tuple[int, np.ndarray] | None, orders: Sequence[Indices | None]
) -> Iterator[tuple[torch.Tensor, list[torch.Tensor]]]:
    """Pieces of a and of b in each order, in double precision; with ``at`` only those positions of a dimension."""
    wide = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float64)
    if a.ndim == 0:
        a, b, orders = a.reshape(1), b.reshape(1), [None for _ in orders]
    dim, positions = at or (0, np.arange(len(a)))
    everything = [np.arange(n) for n in a.shape]
    step = max(1, _PART * len(everything[dim]) // max(a.numel(), 1))
    for k in range(0, len(positions), step):
        some = positions[k : k + step]
        parts = [read(a, _with(everything, dim, some))]
        for order in orders:
            parts.append(read(b, _with(everything, dim, some) if order is None else _with(order, dim, order[dim][some])))
        flat = [part.reshape(-1).split(_CHUNK if a.device.type == "cpu" else 1 << 24) for part in parts]
        for first, *others in zip(*flat, strict=True):
            yield first.to(wide), [x.to(wide) for x in others]
        del parts, flat, first, others  # before the next are read


def _with(indices: Sequence[np.ndarray], dim: int, positions: np.ndarray) -> list[np.ndarray]:
    return [positions if j == dim else index for j, index in enumerate(indices)]
