"""The constraint system that the op rules write and the solver reads.

A traced graph becomes a handful of statements about *labelled tensors*:

* a :class:`Frame` says that some tensors are projections of one joint index space, as an einsum equation
  does: ``"b i, o i -> b o"`` has letters b, i, o, and every dimension of every member is a product of letters;
* a :class:`Restriction` says that one tensor holds selected positions of another (slice, select, flip, concat);
* a pin says that nothing may move along a dimension of a tensor.

The rules only ever state these; what follows from them is the business of ``partition``, ``cells`` and
``dependence``. A dimension that needs no statement (size 1, or *uniform*: the tensor's value is constant
along it) has no axis: its entry in :attr:`Tensor.dims` is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(eq=False, slots=True)
class Tensor:
    """A labelled tensor: ``dims[j]`` is the axis of dimension j, or None where there is none.

    ``quiet`` says that its value is constant along a factor or a segment of some axis: repeats, padding.
    """

    id: int
    sizes: tuple[int, ...]
    dims: tuple[int | None, ...]
    node: Any = None
    name: str | None = None
    quiet: bool = False


#: For each dimension of a tensor the letters (indices into the frame's) whose product it is, or None.
Projection = tuple[tuple[int, ...] | None, ...]


@dataclass(eq=False, slots=True)
class Frame:
    """Tensors that are projections of one joint index space."""

    letters: tuple[int, ...]  # the axis of each letter
    members: tuple[tuple[Tensor, Projection], ...]
    outputs: tuple[int, ...]  # members that are, or carry the label of, a result of the op
    node: Any = None
    movement: bool = False  # the second member is the first one, rearranged


@dataclass(eq=False, slots=True)
class Restriction:
    """``part`` holds the positions ``index`` of ``whole``.

    ``dims`` has one entry per axis of ``whole``: (dimension of whole, dimension of part or None where it is
    selected away, index array or None where the two dimensions are the same).
    """

    whole: Tensor
    part: Tensor
    dims: tuple[tuple[int, int | None, np.ndarray | None], ...]
    part_is_result: bool  # a slice computes the part from the whole, a concatenation the other way round
    node: Any = None


@dataclass(eq=False, slots=True)
class Pin:
    tensor: Tensor
    dim: int
    reason: str
    node: Any = None


@dataclass(eq=False)
class System:
    """All statements about one model, and the union-find of axes that are position by position the same."""

    frames: list[Frame | Restriction] = field(default_factory=list)  # in the order of computation
    pins: list[Pin] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    size: list[int] = field(default_factory=list)  # of each axis
    parent: list[int] = field(default_factory=list)
    roots: list[Tensor] = field(default_factory=list)  # tensors all of whose entries matter
    fixed: set[int] = field(default_factory=set)  # axes known, while the rules run, to be pinned throughout
    opaque: dict[int, str] = field(default_factory=dict)  # axes that nothing may depend on, with the reason
    products: dict[tuple[int, ...], None] = field(default_factory=dict)  # (flat axis, *letter axes)

    def axis(self, size: int) -> int:
        self.size.append(size)
        self.parent.append(len(self.parent))
        return len(self.parent) - 1

    def find(self, axis: int) -> int:
        parent = self.parent
        while parent[axis] != axis:
            parent[axis] = axis = parent[parent[axis]]
        return axis

    def union(self, a: int, b: int) -> int:
        a, b = self.find(a), self.find(b)
        if a == b:
            return a
        if a > b:
            a, b = b, a
        self.parent[b] = a
        if b in self.fixed:
            self.fixed.add(a)
        if b in self.opaque:
            self.opaque.setdefault(a, self.opaque[b])
        return a

    def is_fixed(self, axis: int) -> bool:
        return self.find(axis) in self.fixed

    def tensor(self, sizes: Sequence[int], dims: Sequence[int | None], node: Any, name: str | None = None) -> Tensor:
        tensor = Tensor(len(self.tensors), tuple(sizes), tuple(dims), node, name)
        self.tensors.append(tensor)
        return tensor

    def fresh(self, sizes: Sequence[int], node: Any, name: str | None = None) -> Tensor:
        """A tensor with an axis of its own along every dimension larger than 1."""
        return self.tensor(sizes, [self.axis(n) if n > 1 else None for n in sizes], node, name)

    def pin(self, tensor: Tensor, dim: int, reason: str, node: Any = None) -> None:
        if tensor.dims[dim] is not None:
            self.pins.append(Pin(tensor, dim, reason, node))

    def fix(self, axis: int) -> None:
        """Remember that every tensor along this axis is pinned (an input's axis, say)."""
        self.fixed.add(self.find(axis))

    def make_opaque(self, axis: int, reason: str) -> None:
        """Pin an axis, and let nothing depend on the position along it."""
        self.opaque.setdefault(self.find(axis), reason)

    def add_frame(self, frame: Frame) -> None:
        self.frames.append(frame)
        for tensor, projection in frame.members:
            for axis, letters in zip(tensor.dims, projection, strict=True):
                if axis is not None and letters is not None and len(letters) > 1:
                    self.products[(axis, *(frame.letters[i] for i in letters))] = None
