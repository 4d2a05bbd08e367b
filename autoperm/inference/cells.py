"""From statements about tensors to classes of index sets.

Once the axes are cut into pieces, a tensor is a grid of *cells*, one piece per dimension. In every cell every
dimension gets a class of its own, so that at first the permutation along a dimension may depend on the cell;
each statement then unifies classes cell by cell. A norm weight shared by all heads, say, has one cell for what
are many in the activations, and so ties them: nothing else is needed for it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from autoperm.inference.classes import Classes, Ref
from autoperm.inference.even import Even
from autoperm.inference.partition import Partition
from autoperm.inference.relabel import is_identity
from autoperm.inference.system import Frame, Projection, Restriction, System, Tensor

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
        self.shared: list[tuple[Restriction, Cell, Cell, list[tuple[int, int]]]] = []  # dimensions of whole and part
        self.live: dict[int, set[Cell]] = {}
        self._all_live: set[int] = set()  # tensors that are live in every cell
        self._grids: dict[int, Cell] = {}
        self.exhausted = False  # whether the search for exchanges ended before it was done
        self.cut_apart = False  # whether axes were cut because views of them do not fit
        self.in_points = False  # whether axes were cut into points to begin with
        self._whole = not partition.colors  # nothing is cut: one cell each, all live
        self._even = Even(system, partition)

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
        if tensor.id in self._all_live:
            return list(self._all_cells(tensor))
        return sorted(self.live.get(tensor.id, ()))

    def _all_cells(self, tensor: Tensor) -> Iterator[Cell]:
        return itertools.product(*(range(n) for n in self.grid(tensor)))

    def is_live(self, tensor: Tensor, cell: Cell) -> bool:
        return self._whole or tensor.id in self._all_live or cell in self.live.get(tensor.id, ())

    def classes_of(self, tensor: Tensor, cell: Cell) -> list[int | None]:
        found = self.of.get((tensor.id, cell))
        if found is None:
            even = self._even.dims(tensor, cell)
            found = [None if j in even else self._class(tensor.dims[j], piece) for j, piece in enumerate(cell)]
            self.of[tensor.id, cell] = found
        return found

    def _class(self, axis: int | None, piece: int) -> int | None:
        if axis is None:
            return None
        root = self.system.find(axis)
        size = self.partition.piece_size(root, piece)
        if size == 1 and root not in self.partition.colors:
            return None
        new = self.classes.leaf(size, cuttable=size > 1)
        self.origin[new] = (root, piece)
        if root in self.system.opaque:
            self.classes.pin((new, None), self.system.opaque[root], blur=True)
        return new

    # -- frames ----------------------------------------------------------------------------------------------

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

    def _frame(self, frame: Frame) -> None:
        for joint, members in self._live_cells(frame):
            self._unify_members(frame, joint, members)

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

    def _unify_members(self, frame: Frame, joint: Cell, members: list[Cell]) -> None:
        letters: list[int | None] = [None] * len(frame.letters)
        flattened: list[tuple[int, tuple[int, ...]]] = []
        fresh: list[tuple[Tensor, Projection, Cell]] = []
        unify = self.classes.unify
        for (tensor, projection), cell in zip(frame.members, members, strict=True):
            items = self.of.get((tensor.id, cell))
            if items is None:
                fresh.append((tensor, projection, cell))
                continue
            for item, run in zip(items, projection, strict=True):
                if item is None or run is None:
                    continue
                if len(run) > 1:
                    flattened.append((item, run))
                elif letters[run[0]] is None:
                    letters[run[0]] = item
                elif letters[run[0]] != item:
                    unify((letters[run[0]], None), (item, None))  # type: ignore[arg-type]
        for item, run in flattened:
            product = self._product(frame, joint, letters, run)
            if product is not None:
                self._unify_sized((item, None), product)
        for tensor, projection, cell in fresh:
            if (tensor.id, cell) not in self.of:
                self.of[tensor.id, cell] = self._adopt(frame, joint, letters, tensor, projection, cell)
            else:  # the same tensor twice in one statement
                self._unify_members(frame, joint, members)
                return
        self._hold_where_even(frame, letters, members)
        self.joint.append((frame, joint, letters))

    def _hold_where_even(self, frame: Frame, letters: list[int | None], members: list[Cell]) -> None:
        """What meets a constant is not to be merged with what meets another one, though neither is tied to it."""
        for (tensor, projection), cell in zip(frame.members, members, strict=True):
            for dim in self._even.dims(tensor, cell):
                for letter in projection[dim] or ():
                    if letters[letter] is not None:
                        self.classes.stuck.update(self.classes.leaves((letters[letter], None)))  # type: ignore[arg-type]

    def _adopt(
        self, frame: Frame, joint: Cell, letters: list[int | None], tensor: Tensor, projection: Projection, cell: Cell
    ) -> list[int | None]:
        """A tensor that no statement has named yet takes its classes from the letters."""
        items: list[int | None] = []
        even = self._even.dims(tensor, cell)
        for j, (axis, run, piece) in enumerate(zip(tensor.dims, projection, cell, strict=True)):
            if j in even:
                items.append(None)
            elif axis is None or run is None or self.system.find(axis) in self.system.opaque:
                items.append(self._class(axis, piece))
                if items[-1] is None or run is None:
                    continue
                if len(run) == 1 and letters[run[0]] is not None:
                    self._unify_sized((items[-1], None), (letters[run[0]], None))  # type: ignore[arg-type]
                elif len(run) == 1:
                    letters[run[0]] = items[-1]
                elif (product := self._product(frame, joint, letters, run)) is not None:
                    self._unify_sized((items[-1], None), product)  # type: ignore[arg-type]
            elif len(run) == 1:
                if letters[run[0]] is None:
                    letters[run[0]] = self._class(frame.letters[run[0]], joint[run[0]])
                items.append(letters[run[0]])
            else:
                items.append(self._adopt_product(axis, piece, self._product(frame, joint, letters, run)))
        return items

    def _adopt_product(self, axis: int, piece: int, product: Ref | None) -> int | None:
        size = 1 if product is None else self.classes.size[product[0]]
        if size == self.partition.piece_size(axis, piece):
            return None if product is None else product[0]
        item = self._class(axis, piece)  # a factor was given up: then this axis cannot move either
        if item is not None and product is not None:
            self._unify_sized((item, None), product)
        return item

    def _product(self, frame: Frame, joint: Cell, letters: list[int | None], run: tuple[int, ...]) -> Ref | None:
        """The class of a flattened dimension; None where a single position is left."""
        factors: list[Ref] = []
        for i in run:
            if letters[i] is None:
                letters[i] = self._class(frame.letters[i], joint[i])
            if letters[i] is not None:
                factors.append((letters[i], None))  # type: ignore[arg-type]
        if not factors:
            return None
        return factors[0] if len(factors) == 1 else (self.classes.product(factors), None)

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
        found: list[tuple[int, int | None, int, np.ndarray | None]] = []
        part_axis = r.part.dims[part_dim]
        for piece in range(self.partition.pieces(part_axis)):
            at = index[self.partition.positions(part_axis, piece)]  # type: ignore[arg-type]
            # One piece of the whole, unless the part's axis was given up: then no size fits, and all of them are pinned.
            for color in sorted({self.partition.color_at(axis, int(i)) for i in at}):
                local = np.searchsorted(self.partition.positions(axis, color), at)
                found.append((color, part_dim, piece, None if is_identity(local) else local))
        return found

    def _restrict(self, r: Restriction) -> None:
        result = r.part if r.part_is_result else r.whole
        selected = [dim for dim, part_dim, index in r.dims if part_dim is None and index is not None]
        for whole, part, shared in self._options(r):
            if not self.is_live(result, part if r.part_is_result else whole):
                continue
            of_whole, of_part = self.classes_of(r.whole, whole), self.classes_of(r.part, part)
            even, even_part = self._even.dims(r.whole, whole), self._even.dims(r.part, part)
            if r.whole.quiet or r.part.quiet:
                self.shared.append((r, whole, part, [(dim, part_dim) for dim, part_dim, _ in shared]))
            for dim in selected:
                if of_whole[dim] is not None:
                    self.classes.stuck.update(self.classes.leaves((of_whole[dim], None)))  # type: ignore[arg-type]
            for dim, part_dim, relabel in shared:
                a, b = of_part[part_dim], of_whole[dim]
                if dim in even or part_dim in even_part:
                    for item in (a, b):
                        if item is not None:
                            self.classes.stuck.update(self.classes.leaves((item, None)))
                    continue
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
