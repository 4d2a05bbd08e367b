"""The cells of tensors, and which of them an output depends on.

Once the axes are cut into pieces, a tensor is a grid of *cells*, one piece per dimension. A statement about whole tensors is
one about each combination of the pieces of its letters, a *joint cell*, in which every member has a cell of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from autoperm.inference.partition import Partition
from autoperm.inference.relabel import is_identity
from autoperm.inference.system import Frame, Restriction, System, Tensor

#: One piece index per dimension of a tensor.
Cell = tuple[int, ...]


class Grid:
    """The cells of every tensor of a system whose axes are cut."""

    def __init__(self, system: System, partition: Partition):
        self.system, self.partition = system, partition
        self.live: dict[int, set[Cell]] = {}
        self._all_live: set[int] = set()  # tensors that are live in every cell
        self._grids: dict[int, Cell] = {}
        self._whole = not partition.colors  # nothing is cut: one cell each, all live
        if not self._whole:
            self._mark_live()

    def grid(self, tensor: Tensor) -> Cell:
        """The number of pieces along each dimension."""
        found = self._grids.get(tensor.id)
        if found is None:
            found = self._grids[tensor.id] = tuple(self.partition.pieces(axis) for axis in tensor.dims)
        return found

    def cells(self, tensor: Tensor) -> list[Cell]:
        """The cells of a tensor that an output depends on."""
        if self._whole:
            return [(0,) * len(tensor.dims)]
        if tensor.id in self._all_live:
            return list(self._all_cells(tensor))
        return sorted(self.live.get(tensor.id, ()))

    def _all_cells(self, tensor: Tensor) -> Iterator[Cell]:
        return itertools.product(*(range(n) for n in self.grid(tensor)))

    def is_live(self, tensor: Tensor, cell: Cell) -> bool:
        return self._whole or tensor.id in self._all_live or cell in self.live.get(tensor.id, ())

    def _joint_cells(self, frame: Frame) -> Iterator[Cell]:
        counts = [self.partition.pieces(axis) for axis in frame.letters]
        return itertools.product(*(range(n) for n in counts))

    def member_cell(self, frame: Frame, member: int, joint: Cell) -> Cell:
        tensor, projection = frame.members[member]
        cell = []
        for axis, letters in zip(tensor.dims, projection, strict=True):
            if axis is None or letters is None:
                cell.append(0)
            elif len(letters) == 1:
                cell.append(joint[letters[0]])
            else:
                cell.append(self._flat_piece(frame, axis, letters, joint))
        return tuple(cell)

    def _flat_piece(self, frame: Frame, axis: int, letters: tuple[int, ...], joint: Cell) -> int:
        """The piece of a flattened axis in which a joint cell lies."""
        position = 0
        for i in letters:
            letter = frame.letters[i]
            position = position * self.system.size[letter] + int(self.partition.positions(letter, joint[i])[0])
        return self.partition.color_at(axis, position)

    def _live_cells(self, frame: Frame) -> Iterator[tuple[Cell, list[Cell]]]:
        """The joint cells on which a live result depends, with the cell of each member."""
        outputs = [frame.members[m][0] for m in frame.outputs]
        if not self._whole and not any(t.id in self._all_live or self.live.get(t.id) for t in outputs):
            return
        if self._whole or all(self.partition.pieces(axis) == 1 for axis in frame.letters):
            yield (0,) * len(frame.letters), [(0,) * len(tensor.dims) for tensor, _ in frame.members]
            return
        for joint in self._joint_cells(frame):
            members = [self.member_cell(frame, m, joint) for m in range(len(frame.members))]
            if any(self.is_live(t, members[m]) for t, m in zip(outputs, frame.outputs, strict=True)):
                yield joint, members

    def _options(self, r: Restriction) -> Iterator[tuple[Cell, Cell, list[tuple[int, int, np.ndarray | None]]]]:
        """Every pair of a cell of the whole and the cell of the part inside it, with the dimensions they share."""
        stated = {dim: (part_dim, index) for dim, part_dim, index in r.dims}
        choices = []
        for dim, axis in enumerate(r.whole.dims):
            part_dim, index = stated.get(dim, (None, None))
            choices.append(self._choices(r, dim, axis, part_dim, index))
        for combination in itertools.product(*choices):
            whole = tuple(choice[0] for choice in combination)
            part = [0] * len(r.part.dims)
            shared = []
            for dim, (_, part_dim, piece, relabel) in enumerate(combination):
                if part_dim is not None:
                    part[part_dim] = piece
                    shared.append((dim, part_dim, relabel))
            yield whole, tuple(part), shared

    def _choices(
        self, r: Restriction, dim: int, axis: int | None, part_dim: int | None, index: np.ndarray | None
    ) -> list[tuple[int, int | None, int, np.ndarray | None]]:
        if axis is None:
            return [(0, None, 0, None)]
        if index is None:
            return [(p, part_dim, p, None) for p in range(self.partition.pieces(axis))]
        if part_dim is None:
            return [(c, None, 0, None) for c in sorted({self.partition.color_at(axis, int(i)) for i in index})]
        found: list[tuple[int, int | None, int, np.ndarray | None]] = []
        part_axis = r.part.dims[part_dim]
        for piece in range(self.partition.pieces(part_axis)):
            at = index[self.partition.positions(part_axis, piece)]  # type: ignore[arg-type]
            # One piece of the whole, unless the part's axis was given up: then no size fits, and all of them are pinned.
            for color in sorted({self.partition.color_at(axis, int(i)) for i in at}):
                local = np.searchsorted(self.partition.positions(axis, color), at)
                found.append((color, part_dim, piece, None if is_identity(local) else local))
        return found

    def _mark_live(self) -> None:
        """Walk back from the outputs: entries that no output depends on are left alone."""
        self._all_live.update(tensor.id for tensor in self.system.roots)
        for statement in reversed(self.system.frames):
            if isinstance(statement, Restriction):
                self._mark_restriction(statement)
            else:
                self._mark_frame(statement)
        for statement in self.system.frames:
            self._mark_movement(statement)

    def _mark_movement(self, statement: Frame | Restriction) -> None:
        """What is a mere view of something live is live too: an op may have pinned it through that view."""
        if isinstance(statement, Restriction):
            if statement.part_is_result and self._reached(statement.whole):
                for whole, part, _ in self._options(statement):
                    if self.is_live(statement.whole, whole):
                        self._mark(statement.part, part)
        elif statement.movement and self._reached(statement.members[0][0]):
            (source, _), (result, _) = statement.members
            for joint in self._joint_cells(statement):
                if self.is_live(source, self.member_cell(statement, 0, joint)):
                    self._mark(result, self.member_cell(statement, 1, joint))

    def _reached(self, tensor: Tensor) -> bool:
        return tensor.id in self._all_live or bool(self.live.get(tensor.id))

    def _mark(self, tensor: Tensor, cell: Cell) -> None:
        if tensor.id not in self._all_live:
            found = self.live.setdefault(tensor.id, set())
            found.add(cell)
            if len(found) == math.prod(self.grid(tensor)):
                self._all_live.add(tensor.id)

    def _mark_restriction(self, r: Restriction) -> None:
        result = r.part if r.part_is_result else r.whole
        if result.id in self._all_live and not r.part_is_result:
            self._all_live.add(r.part.id)
        elif result.id in self._all_live or self.live.get(result.id):
            for whole, part, _ in self._options(r):
                if self.is_live(result, part if r.part_is_result else whole):
                    self._mark(*((r.whole, whole) if r.part_is_result else (r.part, part)))

    def _mark_frame(self, frame: Frame) -> None:
        if any(frame.members[m][0].id in self._all_live for m in frame.outputs) and not _on_diagonal(frame):
            self._all_live.update(tensor.id for tensor, _ in frame.members)
            return
        for _, members in self._live_cells(frame):
            for (tensor, _), cell in zip(frame.members, members, strict=True):
                self._mark(tensor, cell)


def _on_diagonal(frame: Frame) -> bool:
    """Whether a member is read along a diagonal only: one letter stands for two of its dimensions."""
    letters = [[i for run in projection for i in run or ()] for _, projection in frame.members]
    return any(len(set(run)) < len(run) for run in letters)
