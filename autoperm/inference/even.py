"""Cells along which a joined tensor is constant: padding, and parts that are the same all along a dimension.

Such a cell is what it was however its positions are reordered. So it is tied to nothing there: columns of a weight that meet
zeros can be exchanged though the zeros' places move with those of another tensor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from autoperm.inference.partition import Partition
from autoperm.inference.system import Restriction, System, Tensor

_NOWHERE: frozenset[int] = frozenset()
Cell = tuple[int, ...]


class Even:
    """Along which dimensions the cells of tensors are constant, since they were put together like that or cut out of such."""

    def __init__(self, system: System, partition: Partition):
        self._system, self._partition = system, partition
        self._parts: dict[int, list[Restriction]] = {}  # of a joined tensor
        self._whole: dict[int, Restriction] = {}  # of a piece
        self._found: dict[tuple[int, Cell], frozenset[int]] = {}
        joined: dict[int, list[Restriction]] = defaultdict(list)
        restrictions = [statement for statement in system.frames if isinstance(statement, Restriction)]
        for r in restrictions:
            if not r.part_is_result:
                joined[r.whole.id].append(r)
        for r in restrictions if joined else ():
            if r.part_is_result:
                if r.whole.id in self._parts or r.whole.id in self._whole:
                    self._whole[r.part.id] = r
            elif self._may_be_even(parts := joined.pop(r.whole.id, [])):
                self._parts[r.whole.id] = parts

    def _may_be_even(self, parts: Sequence[Restriction]) -> bool:
        """Whether a tensor put together of these has a constant cell, if cut in some way."""
        left = {(k, r.whole.sizes[k]) for r in parts for k, _, index in r.dims if index is not None}
        claimed = sum(len(index) for r in parts for _, _, index in r.dims if index is not None)
        return any(claimed < size for _, size in left) or any(map(self._varies_less, parts))

    def _varies_less(self, r: Restriction) -> bool:
        """Whether a part has no axis along some dimension on which it has several positions, or may be constant itself."""
        lengths = {k: len(index) for k, _, index in r.dims if index is not None}
        shared = {k for k, part_dim, _ in r.dims if part_dim is not None}
        missing = [k for k, axis in enumerate(r.whole.dims) if axis is not None and k not in shared and lengths.get(k, 2) > 1]
        return bool(missing) or r.part.id in self._parts or r.part.id in self._whole

    def dims(self, tensor: Tensor, cell: Cell) -> frozenset[int]:
        """The dimensions along which a cell is constant."""
        if tensor.id not in self._parts and tensor.id not in self._whole:
            return _NOWHERE
        found = self._found.get((tensor.id, cell))
        if found is None:
            whole = self._whole.get(tensor.id)
            found = self._joined(tensor, cell) if whole is None else self._cut_out(whole, cell)
            found = frozenset(k for k in found if self._partition.piece_size(tensor.dims[k], cell[k]) > 1)  # type: ignore[arg-type]
            self._found[tensor.id, cell] = found
        return found

    def _positions(self, tensor: Tensor, dim: int, cell: Cell) -> np.ndarray | None:
        """The positions of a cell along a dimension; None where its axis was given up."""
        axis = tensor.dims[dim]
        return (
            None if axis is None or self._system.find(axis) in self._system.opaque else self._partition.positions(axis, cell[dim])
        )

    def _joined(self, tensor: Tensor, cell: Cell) -> frozenset[int]:
        """What a part is in which the cell lies; everywhere where no part has it."""
        touched = False
        for r in self._parts[tensor.id]:
            at = [(dim, index) for dim, _, index in r.dims if index is not None]
            if len(at) != 1 or (positions := self._positions(tensor, at[0][0], cell)) is None:
                return _NOWHERE
            inside = np.isin(positions, at[0][1])
            if inside.all():
                return self._of_part(r, cell, int(np.nonzero(at[0][1] == positions[0])[0][0]))
            touched |= bool(inside.any())
        return _NOWHERE if touched else frozenset(k for k, axis in enumerate(tensor.dims) if axis is not None)

    def _of_part(self, r: Restriction, cell: Cell, first: int) -> frozenset[int]:
        """Where the part has no axis, or is constant itself; ``first`` is a position of it in the cell."""
        at = [0] * len(r.part.dims)
        dims = {k: part_dim for k, part_dim, _ in r.dims if part_dim is not None}
        for k, part_dim, index in r.dims:
            if part_dim is not None:
                axis = r.part.dims[part_dim]
                at[part_dim] = cell[k] if index is None else 0 if axis is None else self._partition.color_at(axis, first)
        even = self.dims(r.part, tuple(at))
        return frozenset(k for k, axis in enumerate(r.whole.dims) if axis is not None and (k not in dims or dims[k] in even))

    def _cut_out(self, r: Restriction, cell: Cell) -> frozenset[int]:
        """What the cell of the whole is from which a piece was cut."""
        at, dims = [0] * len(r.whole.dims), {}
        for k, part_dim, index in r.dims:
            if part_dim is not None:
                dims[k] = part_dim
            if index is None:
                at[k] = 0 if part_dim is None else cell[part_dim]
                continue
            own = np.arange(1) if part_dim is None else self._positions(r.part, part_dim, cell)
            if own is None or self._positions(r.whole, k, tuple(at)) is None:
                return _NOWHERE
            at[k] = self._partition.color_at(r.whole.dims[k], int(index[own[0]]))  # type: ignore[arg-type]
        even = self.dims(r.whole, tuple(at))
        return frozenset(dims[k] for k in even if k in dims)
