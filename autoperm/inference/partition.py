"""Where axes must be cut: the coarsest partition of every axis that all statements respect.

Slicing, concatenating and indexing with constants tell some positions of an axis apart from others. Each axis
gets a colour per position, refined until every restriction and every product agrees; the positions of one
colour form a *piece*. Pieces are sets, not intervals: the complement of a middle slice is one piece.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence

import numpy as np

from autoperm.inference.system import Restriction, System

#: A pinned axis that is cut more often than this is not worth following: nothing may depend on it instead.
PINNED_BUDGET = 8
#: The same for a free axis, where giving up costs symmetry.
FREE_BUDGET = 600

_Relation = tuple[str, tuple]


class Partition:
    """Colours of the positions of every axis (None: all the same), and the pieces they make."""

    def __init__(self, system: System):
        self.system = system
        self.colors: dict[int, np.ndarray] = {}
        self.count: dict[int, int] = {}
        self._touching: dict[int, list[_Relation]] = defaultdict(list)
        self._queue: deque[_Relation] = deque()
        self._queued: set[int] = set()
        self._pieces: dict[int, list[np.ndarray]] = {}
        self._sizes: dict[int, list[int]] = {}
        self._opaque = len(system.opaque)
        for relation in self._relations():
            for axis in {a for a in self._axes(relation) if a is not None}:
                self._touching[axis].append(relation)

        self._close_fixed()

    def _close_fixed(self) -> None:
        """An axis made of fixed axes, and the parts of a fixed axis, are fixed."""
        fixed, queue = self.system.fixed, deque(self.system.find(a) for a in self.system.fixed)
        fixed.update(queue)
        while queue:
            for kind, content in self._touching.get(queue.popleft(), ()):
                if kind == "product":
                    flat, letters = content[0], content[1:]
                    new = letters if flat in fixed else (flat,) if all(a in fixed for a in letters) else ()
                else:
                    new = content[1:2] if content[0] in fixed and content[1] is not None else ()
                for axis in new:
                    if axis not in fixed:
                        fixed.add(axis)
                        queue.append(axis)

    def solve(self) -> Partition:
        for kind, relation in [r for rs in self._touching.values() for r in rs]:
            if kind == "part":
                self._queue_one((kind, relation))
        while self._queue:
            while self._queue:
                relation = self._queue.popleft()
                self._queued.discard(id(relation[1]))
                self._apply(relation)
            if len(self.system.opaque) == self._opaque:  # otherwise what was cut along an axis that is given up now starts anew
                self._give_up_what_is_finer()
        return self

    def _give_up_what_is_finer(self) -> None:
        """A product is cut no finer than its factors; where one of these was given up, what cuts it finer is given up too."""
        if not self.system.opaque:
            return
        views = defaultdict(list)
        for kind, content in {id(r[1]): r for rs in self._touching.values() for r in rs}.values():
            if kind == "product" and content[0] in self.colors:
                views[content[0]].append(content[1:])
        for root, products in views.items():
            if root not in self.colors:  # given up since, with another one
                continue
            coarse = [p for p in products if not self.system.opaque.keys().isdisjoint(p) and self._is_finer(root, p)]
            if not coarse:
                continue
            others = {a for letters in products if letters is not coarse[0] for a in letters if a in self.colors}
            for axis in sorted(others) or [root]:  # what another view of it is cut along, or a part of it
                self._give_up(axis, f"an axis of size {self.system.size[axis]} is cut finer than can be followed")
                for relation in self._touching[axis]:
                    self._queue_one(relation)

    def _is_finer(self, root: int, letters: Sequence[int]) -> bool:
        grid = self._grid(letters)
        return len(np.unique(grid * self.count[root] + self.colors[root])) > len(np.unique(grid))

    # -- what the solved partition answers ---------------------------------------------------------------

    def pieces(self, axis: int | None) -> int:
        return 1 if axis is None else self.count.get(self.system.find(axis), 1)

    def positions(self, axis: int, piece: int) -> np.ndarray:
        """The positions of a piece, ascending."""
        root = self.system.find(axis)
        if root not in self._pieces:
            colors = self.colors.get(root)
            if colors is None:
                self._pieces[root] = [np.arange(self.system.size[root])]
            else:
                order = np.argsort(colors, kind="stable")
                cuts = np.cumsum(np.bincount(colors))[:-1]
                self._pieces[root] = np.split(order, cuts)
        return self._pieces[root][piece]

    def piece_size(self, axis: int, piece: int) -> int:
        root = self.system.find(axis)
        if root not in self.colors:
            return self.system.size[root]
        if root not in self._sizes:
            self._sizes[root] = np.bincount(self.colors[root]).tolist()
        return self._sizes[root][piece]

    def color_at(self, axis: int, position: int) -> int:
        colors = self.colors.get(self.system.find(axis))
        return 0 if colors is None else int(colors[position])

    def refine(self, axis: int, key: np.ndarray) -> None:
        """Tell positions with different keys apart; the first position of each colour numbers them."""
        root = self.system.find(axis)
        if root in self.system.opaque:
            return
        old = self.colors.get(root)
        if old is not None:
            key = old * (int(key.max()) + 1) + key
        colors, count = _numbered(key)
        if count == self.count.get(root, 1):
            return
        budget = PINNED_BUDGET if root in self.system.fixed else FREE_BUDGET
        self._pieces.pop(root, None)
        self._sizes.pop(root, None)
        if count > budget:
            self._give_up(root, f"axis of size {self.system.size[root]} is cut into more than {budget} pieces")
        else:
            self.colors[root] = colors
            self.count[root] = count
        for relation in self._touching.get(root, ()):
            self._queue_one(relation)

    def _give_up(self, root: int, reason: str) -> None:
        """Stop following an axis; with it the fixed axes that it is made of, or that are made of it."""
        if root in self.system.opaque:
            return
        self.system.make_opaque(root, reason)
        self.colors.pop(root, None)
        self.count.pop(root, None)
        for kind, content in self._touching.get(root, ()):
            for axis in content if kind == "product" else ():
                if axis in self.system.fixed:
                    self._give_up(axis, reason)

    # -- the statements as relations between axes ----------------------------------------------------------

    def _relations(self) -> list[_Relation]:
        find = self.system.find
        found: list[_Relation] = []
        for axes in self.system.products:
            found.append(("product", tuple(find(a) for a in axes)))
        for frame in self.system.frames:
            if isinstance(frame, Restriction):
                for dim, part_dim, index in frame.dims:
                    if index is not None:
                        part = None if part_dim is None else frame.part.dims[part_dim]
                        whole = find(frame.whole.dims[dim])  # type: ignore[arg-type]
                        found.append(("part", (whole, None if part is None else find(part), index)))
        return found

    @staticmethod
    def _axes(relation: _Relation) -> Sequence[int | None]:
        kind, content = relation
        return content if kind == "product" else content[:2]

    def _queue_one(self, relation: _Relation) -> None:
        if id(relation[1]) not in self._queued:
            self._queued.add(id(relation[1]))
            self._queue.append(relation)

    def _apply(self, relation: _Relation) -> None:
        kind, content = relation
        if kind == "product":
            self._product(content[0], content[1:])
        else:
            self._part(*content)

    def _part(self, whole: int, part: int | None, index: np.ndarray) -> None:
        """Positions inside and outside the index differ; inside, whole and part have the same colours."""
        size = self.system.size[whole]
        of_part = None if part is None else self.colors.get(part)
        if len(index) < size or of_part is not None:
            key = np.zeros(size, dtype=np.int64)
            key[index] = 1 if of_part is None else of_part + 1
            self.refine(whole, key)
        of_whole = self.colors.get(whole)
        if part is not None and of_whole is not None:
            self.refine(part, of_whole[index])

    def _product(self, flat: int, letters: Sequence[int]) -> None:
        """A product is cut as a grid: its colour is the tuple of its factors' colours."""
        if flat not in self.colors and not any(a in self.colors for a in letters):
            return
        shape = tuple(self.system.size[a] for a in letters)
        if flat in self.colors:
            grid = self.colors[flat].reshape(shape)
            for k, letter in enumerate(letters):
                rows = np.moveaxis(grid, k, 0).reshape(shape[k], -1)
                if not (rows == rows[0]).all():
                    self.refine(letter, _equal_rows(rows))
        self.refine(flat, self._grid(letters))

    def _grid(self, letters: Sequence[int]) -> np.ndarray:
        """A number for each position of a product, by the pieces of its factors."""
        key = np.zeros((1,), dtype=np.int64)
        for letter in letters:
            colors = self.colors.get(letter)
            colors = np.zeros(self.system.size[letter], dtype=np.int64) if colors is None else colors
            key = (key[:, None] * self.count.get(letter, 1) + colors).reshape(-1)
        return key


def _numbered(key: np.ndarray) -> tuple[np.ndarray, int]:
    """Renumber keys (small non-negative integers) in the order of their first positions; and how many there are."""
    n = len(key)
    first = np.full(int(key.max()) + 1, n, dtype=np.int64)
    first[key[::-1]] = np.arange(n - 1, -1, -1)
    present = np.nonzero(first < n)[0]
    rank = np.zeros(len(first), dtype=np.int64)
    rank[present[np.argsort(first[present])]] = np.arange(len(present))
    return rank[key], len(present)


def _equal_rows(rows: np.ndarray) -> np.ndarray:
    """A number per row, equal for equal rows."""
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(row.tobytes(), len(seen)) for row in np.ascontiguousarray(rows)])
