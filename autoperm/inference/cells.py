"""From statements about tensors to classes of index sets.

Once the axes are cut into pieces, a tensor is a grid of *cells*, one piece per dimension. In every cell every
dimension gets a class of its own, so that at first the permutation along a dimension may depend on the cell;
each statement then unifies classes cell by cell. A norm weight shared by all heads, say, has one cell for what
are many in the activations, and so ties them: nothing else is needed for it.
"""

from __future__ import annotations

from autoperm.inference.classes import Classes
from autoperm.inference.even import Even
from autoperm.inference.forest import Ref
from autoperm.inference.grid import Cell, Grid
from autoperm.inference.partition import Partition
from autoperm.inference.system import Frame, Projection, Restriction, System, Tensor


class Cells(Grid):
    """The classes of every dimension of every cell that an output depends on."""

    def __init__(self, system: System, partition: Partition):
        super().__init__(system, partition)
        self.classes = Classes()
        self.of: dict[tuple[int, Cell], list[int | None]] = {}  # (tensor id, cell) -> class per dimension
        self.origin: dict[int, tuple[int, int]] = {}  # class -> (axis, piece)
        #: Per joint cell of a frame the classes of its letters, and the cells of its members.
        self.joint: list[tuple[Frame, Cell, list[int | None], list[Cell]]] = []
        self.shared: list[tuple[Restriction, Cell, Cell, list[tuple[int, int]]]] = []  # dimensions of whole and part
        self.related: list[tuple[Restriction, Cell, Cell]] = []  # cells of a whole and of its part
        self.exhausted = False  # whether the search for exchanges ended before it was done
        self.cut_apart = False  # whether axes were cut because views of them do not fit
        self.in_points = False  # whether axes were cut into points to begin with
        self._even = Even(system, partition)

    def solve(self) -> Cells:
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

    def _frame(self, frame: Frame) -> None:
        for joint, members in self._live_cells(frame):
            self._unify_members(frame, joint, members)

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
        self.joint.append((frame, joint, letters, members))

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

    def _restrict(self, r: Restriction) -> None:
        result = r.part if r.part_is_result else r.whole
        selected = [dim for dim, part_dim, index in r.dims if part_dim is None and index is not None]
        for whole, part, shared in self._options(r):
            if not self.is_live(result, part if r.part_is_result else whole):
                continue
            of_whole, of_part = self.classes_of(r.whole, whole), self.classes_of(r.part, part)
            self.related.append((r, whole, part))
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
