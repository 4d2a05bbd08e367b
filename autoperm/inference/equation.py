"""Rules that read like an equation: ``"... i, o i, o -> ... o"``.

Operands are separated by commas, dimensions by spaces. A name is a letter of the joint index space; ``(g i)``
is a flattened product; ``...`` stands for any number of leading dimensions, aligned at the right as in
broadcasting; ``_`` is a dimension along which nothing may move, ``_...`` any number of them. After ``;`` come
tensors that exist only inside the op, such as the mean and variance of a norm: what is missing there is reduced.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from autoperm.inference import views
from autoperm.inference.operands import resolved
from autoperm.inference.system import Frame, Projection, System, Tensor
from autoperm.inference.views import View

#: A dimension along which nothing may move.
PIN = ("_",)
#: Letters per dimension.
Spec = tuple[tuple[str, ...], ...]


@lru_cache(maxsize=4096)
def parse(equation: str, ranks: tuple[int | None, ...]) -> tuple[list[Spec], list[str], list[Spec]]:
    """Operand specs for the given ranks, the raw output terms, and the specs of the reduced tensors."""
    body, _, reduced = equation.partition(";")
    left, _, right = body.partition("->")
    terms = left.split(",")
    specs = [() if rank is None else expand_term(term, rank) for term, rank in zip(terms, ranks, strict=True)]
    batch = tuple(dict.fromkeys(name for spec in specs for names in spec for name in names if name[0] == "~"))
    inner = [_with_batch(term, batch) for term in reduced.split(",")] if reduced else []
    return specs, right.split(","), inner


@lru_cache(maxsize=4096)
def expand_term(term: str, rank: int) -> Spec:
    """The letters of each dimension of a term, its ellipsis spelled out."""
    tokens = _tokens(term)
    spread = next((k for k, token in enumerate(tokens) if token in (("...",), ("_...",))), None)
    if spread is None:
        return tuple(tokens)
    count = rank - (len(tokens) - 1)
    pinned = tokens[spread][0] == "_..."
    filling = [PIN if pinned else (f"~{count - 1 - k}",) for k in range(count)]
    return (*tokens[:spread], *filling, *tokens[spread + 1 :])


def _with_batch(term: str, batch: tuple[str, ...]) -> Spec:
    spec: list[tuple[str, ...]] = []
    for token in _tokens(term):
        spec.extend([(name,) for name in batch] if token == ("...",) else [token])
    return tuple(spec)


def _tokens(term: str) -> list[tuple[str, ...]]:
    tokens: list[tuple[str, ...]] = []
    group: list[str] | None = None
    for word in term.replace("(", " ( ").replace(")", " ) ").split():
        if word == "(":
            group = []
        elif word == ")":
            tokens.append(tuple(group or ()))
            group = None
        elif group is not None:
            group.append(word)
        else:
            tokens.append(() if word == "1" else (word,))
    return tokens


class Statement:
    """Builds one frame: operands first, then results."""

    def __init__(self, system: System, node: Any, sizes: Mapping[str, int], reason: str):
        self.system, self.node, self.sizes, self.reason = system, node, dict(sizes), reason
        self.index: dict[str, int] = {}  # letter -> its place in the frame
        self.axes: list[int | None] = []
        self.members: list[tuple[Tensor, Projection]] = []
        self.inner: list[tuple[Tensor, Projection]] = []  # tensors that exist only inside the op
        self.outputs: list[int] = []
        self.read: list[tuple[View, Spec]] = []
        self.anonymous = 0

    def operand(self, view: View, spec: Spec) -> None:
        """State that the dimensions of ``view`` are the letters of ``spec``."""
        plain = any(names == PIN for names in spec)
        view, (tensor, projection) = resolved(self.system, view, self.node, plain=plain)
        placed: list[tuple[int, ...] | None] = []
        for j, of_view in enumerate(projection):
            if of_view is None:
                placed.append(None)
                continue
            names = [name for k in of_view for name in self._names(tensor, j, k, spec, view)]
            placed.append(self._place(tensor.dims[j], names))
        self.members.append((tensor, tuple(placed)))
        self.read.append((view, spec))

    def _names(self, tensor: Tensor, j: int, k: int, spec: Spec, view: View) -> list[str]:
        size = view.dims[k][0].size if view.dims[k] else 1
        if spec[k] == PIN:
            self.system.pin(tensor, j, self.reason, self.node)
            self.system.fix(tensor.dims[j])  # type: ignore[arg-type]
        if spec[k] == PIN or not spec[k]:
            self.anonymous += 1
            name = f"#{self.anonymous}"
            self.sizes[name] = size
            return [name]
        if len(spec[k]) == 1:
            self.sizes.setdefault(spec[k][0], size)
        else:
            self._solve_sizes(spec[k], size)
        return [name for name in spec[k] if self.sizes[name] > 1]

    def _solve_sizes(self, names: tuple[str, ...], size: int) -> None:
        """A product of known size determines its one unknown factor."""
        unknown = [name for name in names if name not in self.sizes]
        if unknown:
            known = math.prod(self.sizes[name] for name in names if name in self.sizes)
            self.sizes[unknown[0]] = size // known

    def _place(self, axis: int | None, names: list[str]) -> tuple[int, ...]:
        for name in names:
            if name not in self.index:
                self.index[name] = len(self.axes)
                self.axes.append(None)
        if len(names) == 1 and axis is not None:
            at = self.index[names[0]]
            mine = self.axes[at]
            if mine is None:
                self.axes[at] = axis
            else:
                if self.system.size[mine] != self.system.size[axis]:
                    sizes = f"{self.system.size[mine]} and {self.system.size[axis]}"
                    raise RuntimeError(f"internal error: letter {names[0]!r} has sizes {sizes} at {self.node}")
                self.system.union(mine, axis)
        return tuple(self.index[name] for name in names)

    def result(self, spec: Spec, shape: Sequence[int]) -> View:
        """The label of a result whose dimensions are the letters of ``spec``."""
        for at, (view, of_operand) in enumerate(self.read):
            reusable = PIN not in spec and not view.source.quiet
            if reusable and of_operand == spec and self._same_extent(view, shape, spec):
                self.outputs.append(at)
                # A label of its own: a materialised form of the operand may be older than this statement, and
                # liveness walks the statements backwards.
                return View(view.source, view.dims, view.offsets)
        dims: list[int | None] = []
        placed: list[tuple[int, ...] | None] = []
        pinned: list[int] = []
        for names, size in zip(spec, shape, strict=True):
            axis, letters = self._result_axis(names, size)
            if names == PIN and axis is not None:
                pinned.append(len(dims))
            dims.append(axis)
            placed.append(letters)
        tensor = self.system.tensor(shape, dims, self.node)
        for j in pinned:
            self.system.pin(tensor, j, self.reason, self.node)
        self.outputs.append(len(self.members))
        self.members.append((tensor, tuple(placed)))
        return views.identity(tensor)

    def _same_extent(self, view: View, shape: Sequence[int], spec: Spec) -> bool:
        """Whether the result has an axis exactly where the operand has one, so that its label is the operand's."""
        if view.shape != tuple(shape):
            return False
        for digits, names in zip(view.dims, spec, strict=True):
            if any(d.dim is None for d in digits) and any(name in self.index for name in names):
                return False
        return True

    def _result_axis(self, names: tuple[str, ...], size: int) -> tuple[int | None, tuple[int, ...] | None]:
        if size == 1:
            return None, None
        if names == PIN:
            axis = self.system.axis(size)
            self.system.fix(axis)
            self.anonymous += 1
            return axis, self._place(axis, [f"#{self.anonymous}"])
        names = tuple(name for name in names if self.sizes.get(name, size) > 1)
        if not any(name in self.index for name in names):
            self._check_origin(names)
            return None, None  # every operand is uniform along it, so the result is
        letters = self._place(None, list(names))
        for name, letter in zip(names, letters, strict=True):
            if self.axes[letter] is None:
                self.axes[letter] = self.system.axis(self.sizes[name])
        if len(letters) == 1:
            return self.axes[letters[0]], letters
        axis = self.system.axis(size)
        if all(self.system.is_fixed(self.axes[i]) for i in letters):  # type: ignore[arg-type]
            self.system.fix(axis)
        return axis, letters

    def _check_origin(self, names: tuple[str, ...]) -> None:
        """A rule that invents a letter for a result would declare uniform what need not be; ``()`` says so on purpose."""
        if names and not any(set(names) & set(group) for _, spec in self.read for group in spec):
            raise RuntimeError(f"internal error: letters {names} of a result at {self.node} are no operand's")

    def reduce(self, spec: Spec, sources: Sequence[int]) -> None:
        """A tensor inside the op, computed from all entries of some operands along the letters it lacks.

        It is a statement of its own, ahead of the op's: each entry of the result depends, through it, on entries
        of the operands that lie in other cells.
        """
        self._complete_axes()
        places = [self.index[name] for group in spec for name in group if name in self.index]
        tensor = self.system.tensor([self.system.size[a] for a in self._at(places)], self._at(places), self.node)
        projection = tuple((i,) for i in places)
        read = [self.members[k] for k in sources if k < len(self.members)]
        outputs = (len(read),)
        self.system.add_frame(Frame(tuple(self._at(range(len(self.axes)))), (*read, (tensor, projection)), outputs, self.node))
        self.inner.append((tensor, projection))

    def _at(self, places: Iterable[int]) -> list[int]:
        return [self.axes[i] for i in places]  # type: ignore[misc]

    def _complete_axes(self) -> None:
        """Letters that occur only in products get an axis."""
        for name, at in self.index.items():
            if self.axes[at] is None:
                self.axes[at] = self.system.axis(self.sizes[name])

    def close(self) -> None:
        """Hand the frame to the system, unless it says nothing."""
        self._complete_axes()
        members = (*self.members, *self.inner)
        flat = [[i for letters in projection for i in letters or ()] for _, projection in members]
        trivial = len(members) < 2 and all(len(p or ()) < 2 for _, ps in members for p in ps)
        if trivial and all(len(set(run)) == len(run) for run in flat):
            return
        outputs = tuple(self.outputs) or tuple(range(len(members)))  # no result: it holds where any operand matters
        self.system.add_frame(Frame(tuple(self._at(range(len(self.axes)))), members, outputs, self.node))
