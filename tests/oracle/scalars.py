"""A hash-consed DAG of scalars: one vertex per distinct scalar expression.

Every operation is one of two shapes. A *bag* is a label over a multiset of children (a sum, a product). A
*call* is a label over an ordered tuple; positions are encoded by unary ``arg_p`` vertices, shared by all
parents, so that in the end each vertex is a label over a *set* of children. Children and label determine
the vertex, hence two automorphisms that agree on the leaves are equal: nothing is counted twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

ZERO = 0  # the vertex of the constant 0, so that the zeros that ATen's padding ops write are vertices already
NOTHING = 1  # stands for the weight of a masked entry: no sum of products contains it


class ScalarGraph:
    """Vertices are integers; ``label``, ``children``, ``height`` and ``movable`` are indexed by them.

    A vertex is *movable* if a state scalar (parameter or persistent buffer) occurs in it. The others are
    fixed by every automorphism. ``height`` is the longest path to a leaf.
    """

    def __init__(self) -> None:
        self.label: list[int] = []
        self.children: list[tuple[int, ...]] = []
        self.height: list[int] = []
        self.movable: list[bool] = []
        self._labels: dict[Hashable, int] = {}
        self._vertices: dict[tuple[int, tuple[int, ...]], int] = {}
        self._constants: dict[float | complex | str, int] = {}
        assert self.constant(0.0) == ZERO
        assert self.leaf("nothing", movable=False) == NOTHING

    def label_of(self, label: Hashable) -> int:
        """The number of a label, which is any hashable value."""
        return self._labels.setdefault(label, len(self._labels))

    def leaf(self, label: Hashable, movable: bool) -> int:
        """A fresh vertex without children, equal to no other."""
        self.label.append(self.label_of(label))
        self.children.append(())
        self.height.append(0)
        self.movable.append(movable)
        return len(self.label) - 1

    def constant(self, value: float | complex) -> int:
        """The vertex of a constant: one per value, whatever its dtype. All NaN are one."""
        key = (
            "nan" if value != value else value + 0
        )  # -0.0 and 0.0 are equal keys already, and so are True and 1
        found = self._constants.get(key)
        if found is None:
            found = self._constants[key] = self.leaf(("constant", key), movable=False)
        return found

    def node(self, label: int, children: tuple[int, ...]) -> int:
        """The vertex with this label over this set of children (sorted, without repetition)."""
        key = (label, children)
        found = self._vertices.get(key)
        if found is None:
            found = self._vertices[key] = len(self.label)
            self.label.append(label)
            self.children.append(children)
            movable = [child for child in children if self.movable[child]]
            self.movable.append(bool(movable))
            self.height.append(1 + max((self.height[child] for child in movable), default=0))
        return found

    def unary(self, label: Hashable, child: int) -> int:
        """The vertex of a function of one scalar."""
        return self.node(self.label_of(label), (child,))

    def bag(self, label: Hashable, members: Iterable[int]) -> int:
        """The vertex of a symmetric function of a multiset; a member that occurs k times is wrapped in
        ``times_k``.
        """
        members = sorted(members)
        distinct = set(members)
        if len(distinct) < len(members):
            counts = Counter(members)
            members = sorted(m if k == 1 else self.unary(("times", k), m) for m, k in counts.items())
        return self.node(self.label_of(label), tuple(members))

    def call(self, label: Hashable, arguments: Sequence[int]) -> int:
        """The vertex of a function whose arguments are ordered; the first needs no position vertex."""
        wrapped = [self.unary(("arg", p), a) if p else a for p, a in enumerate(arguments)]
        return self.node(self.label_of(label), tuple(sorted(wrapped)))
