"""From statements about tensors to classes of index sets.

Once the axes are cut into pieces, a tensor is a grid of *cells*, one piece per dimension. In every cell every
dimension gets a class of its own, so that at first the permutation along a dimension may depend on the cell;
each statement then unifies classes cell by cell. A norm weight shared by all heads, say, has one cell for what
are many in the activations, and so ties them: nothing else is needed for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from autoperm.inference.classes import Classes, Ref, is_identity
from autoperm.inference.partition import Partition
from autoperm.inference.system import Frame, Restriction, System, Tensor

#: One piece index per dimension of a tensor.
Cell = tuple[int, ...]


class Cells:
    """The classes of every dimension of every cell that an output depends on."""

    def __init__(self, system: System, partition: Partition):
        self.system, self.partition = system, partition
        self.classes = Classes()
        self.of: dict[tuple[int, Cell], list[int | None]] = {}  # (tensor id, cell) -> class per dimension
        self.origin: dict[int, tuple[int, int]] = {}  # class -> (axis, piece)
        self.joint: list[tuple[Frame, Cell, list[int | None]]] = []  # classes of a frame's letters, per joint cell
        self.live: dict[int, set[Cell]] = {}
        self._grids: dict[int, Cell] = {}
        self._whole = not partition.colors  # nothing is cut: one cell each, all live

    def solve(self) -> Cells:
        if not self._whole:
            self._mark_live()
        for statement in self.system.frames:
            if isinstance(statement, Restriction):
                self._restrict(statement)
            else:
                self._frame(statement)
        for pin in self.system.pins:
            for cell in self.cells(pin.tensor):
                item = self.classes_of(pin.tensor, cell)[pin.dim]
                if item is not None:
                    self.classes.pin((item, None), pin.reason)
        return self

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
        return sorted(self.live.get(tensor.id, ()))

    def classes_of(self, tensor: Tensor, cell: Cell) -> list[int | None]:
        found = self.of.get((tensor.id, cell))
        if found is None:
            found = [self._class(axis, piece) for axis, piece in zip(tensor.dims, cell, strict=True)]
            self.of[tensor.id, cell] = found
        return found

    def _class(self, axis: int | None, piece: int) -> int | None:
        if axis is None:
            return None
        root = self.system.find(axis)
        size = len(self.partition.positions(root, piece)) if root in self.partition.colors else self.system.size[root]
        if size == 1:
            return None
        new = self.classes.leaf(size, cuttable=True)
        self.origin[new] = (root, piece)
        if root in self.system.opaque:
            self.classes.pin((new, None), self.system.opaque[root], blur=True)
        return new

    # -- frames ----------------------------------------------------------------------------------------------

    def _joint_cells(self, frame: Frame) -> Iterator[Cell]:
        counts = [self.partition.pieces(axis) for axis in frame.letters]
        return itertools.product(*(range(n) for n in counts))

    def _member_cell(self, frame: Frame, member: int, joint: Cell) -> Cell:
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

    def _frame(self, frame: Frame) -> None:
        if self._whole or all(self.partition.pieces(axis) == 1 for axis in frame.letters):
            joint = (0,) * len(frame.letters)
            members = [(0,) * len(tensor.dims) for tensor, _ in frame.members]
            if self._whole or self._is_live(frame, members):
                self._unify_members(frame, joint, members)
            return
        for joint in self._joint_cells(frame):
            members = [self._member_cell(frame, m, joint) for m in range(len(frame.members))]
            if self._is_live(frame, members):
                self._unify_members(frame, joint, members)

    def _is_live(self, frame: Frame, members: list[Cell]) -> bool:
        return any(members[m] in self.live.get(frame.members[m][0].id, ()) for m in frame.outputs)

    def _unify_members(self, frame: Frame, joint: Cell, members: list[Cell]) -> None:
        letters: list[int | None] = [None] * len(frame.letters)
        flattened: list[tuple[int, tuple[int, ...]]] = []
        unify = self.classes.unify
        for (tensor, projection), cell in zip(frame.members, members, strict=True):
            for item, run in zip(self.classes_of(tensor, cell), projection, strict=True):
                if item is None or run is None:
                    continue
                if len(run) > 1:
                    flattened.append((item, run))
                elif letters[run[0]] is None:
                    letters[run[0]] = item
                else:
                    unify((letters[run[0]], None), (item, None))  # type: ignore[arg-type]
        for item, run in flattened:
            self._unify_product(frame, joint, letters, item, run)
        self.joint.append((frame, joint, letters))

    def _unify_product(
        self, frame: Frame, joint: Cell, letters: list[int | None], item: int, run: tuple[int, ...]
    ) -> None:
        factors: list[Ref] = []
        for i in run:
            if letters[i] is None:
                letters[i] = self._class(frame.letters[i], joint[i])
            if letters[i] is not None:
                factors.append((letters[i], None))  # type: ignore[arg-type]
        product = factors[0] if len(factors) == 1 else (self.classes.product(factors), None)
        self._unify_sized((item, None), product)

    def _unify_sized(self, a: Ref, b: Ref) -> None:
        """Unify, unless an axis that was given up makes the two differ in size: then nothing moves."""
        if self.classes.size[a[0]] == self.classes.size[b[0]]:
            self.classes.unify(a, b)
        else:
            for ref in (a, b):
                self.classes.pin(ref, "an axis is cut in too many ways to follow", blur=True)

    # -- restrictions ------------------------------------------------------------------------------------------

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
        found = []
        part_axis = r.part.dims[part_dim]
        for piece in range(self.partition.pieces(part_axis)):
            at = index[self.partition.positions(part_axis, piece)]  # type: ignore[arg-type]
            color = self.partition.color_at(axis, int(at[0]))
            local = np.searchsorted(self.partition.positions(axis, color), at)
            found.append((color, part_dim, piece, None if is_identity(local) else local))
        return found

    def _restrict(self, r: Restriction) -> None:
        result = r.part if r.part_is_result else r.whole
        for whole, part, shared in self._options(r):
            if not self._whole and (part if r.part_is_result else whole) not in self.live.get(result.id, ()):
                continue
            of_whole, of_part = self.classes_of(r.whole, whole), self.classes_of(r.part, part)
            for dim, part_dim, relabel in shared:
                a, b = of_part[part_dim], of_whole[dim]
                if a is None and b is None:
                    continue
                if a is None or b is None or self.classes.size[a] != self.classes.size[b]:
                    for item in (a, b):
                        if item is not None:
                            self.classes.pin((item, None), "an axis is cut in too many ways to follow", blur=True)
                else:
                    self.classes.unify((a, None), (b, relabel))

    # -- liveness ----------------------------------------------------------------------------------------------

    def _mark_live(self) -> None:
        """Walk back from the outputs: entries that no output depends on are left alone."""
        for tensor in self.system.roots:
            self.live.setdefault(tensor.id, set()).update(itertools.product(*(range(n) for n in self.grid(tensor))))
        for statement in reversed(self.system.frames):
            if isinstance(statement, Restriction):
                self._mark_restriction(statement)
            else:
                self._mark_frame(statement)

    def _mark_restriction(self, r: Restriction) -> None:
        whole_live, part_live = self.live.setdefault(r.whole.id, set()), self.live.setdefault(r.part.id, set())
        if not (part_live if r.part_is_result else whole_live):
            return
        for whole, part, _ in self._options(r):
            if r.part_is_result and part in part_live:
                whole_live.add(whole)
            elif not r.part_is_result and whole in whole_live:
                part_live.add(part)

    def _mark_frame(self, frame: Frame) -> None:
        if not any(self.live.get(frame.members[m][0].id) for m in frame.outputs):
            return
        for joint in self._joint_cells(frame):
            members = [self._member_cell(frame, m, joint) for m in range(len(frame.members))]
            if self._is_live(frame, members):
                for (tensor, _), cell in zip(frame.members, members, strict=True):
                    self.live.setdefault(tensor.id, set()).add(cell)
