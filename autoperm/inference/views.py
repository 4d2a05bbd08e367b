"""Views: tensors that only rearrange the entries of another one.

``view``, ``permute``, ``expand``, ``slice``, ``select`` and ``flip`` compute nothing, so they put no constraint
on a model by themselves: reshaping (768,) to (12, 64) and back leaves all 768 positions exchangeable. A
:class:`View` therefore stays symbolic until an op that computes reads it. Each of its dimensions is a list of
:class:`Digit`, and the position along a dimension of the source is ``offset + sum(stride * digit)``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from autoperm.inference.system import Tensor


class Digit(NamedTuple):
    """One factor of a view's dimension. ``dim`` is the source dimension, None where the value is uniform."""

    dim: int | None
    stride: int
    size: int


@dataclass(eq=False, slots=True)
class View:
    """A rearrangement of ``source``; ``dims[k]`` lists the digits of dimension k, outermost first."""

    source: Tensor
    dims: tuple[tuple[Digit, ...], ...]
    offsets: tuple[int, ...]
    solid: View | None = field(default=None)  # the materialised form, once there is one

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(math.prod(d.size for d in digits) for digits in self.dims)

    @property
    def ndim(self) -> int:
        return len(self.dims)


def identity(tensor: Tensor) -> View:
    dims = tuple(
        () if size == 1 else (Digit(j if axis is not None else None, 1, size),)
        for j, (size, axis) in enumerate(zip(tensor.sizes, tensor.dims, strict=True))
    )
    return View(tensor, dims, (0,) * len(dims))


def permute(view: View, order: Sequence[int]) -> View:
    return View(view.source, tuple(view.dims[k] for k in order), view.offsets)


def insert(view: View, at: int, size: int = 1) -> View:
    """Insert a dimension along which the value is uniform."""
    digits = () if size == 1 else (Digit(None, 1, size),)
    return View(view.source, (*view.dims[:at], digits, *view.dims[at:]), view.offsets)


def repeated(view: View, at: int, times: int, *, inside: bool) -> View:
    """Every position of a dimension so many times in a row, or (not ``inside``) all of them again and again."""
    again = (Digit(None, 1, times),) if times > 1 else ()
    digits = (*view.dims[at], *again) if inside else (*again, *view.dims[at])
    return View(view.source, (*view.dims[:at], digits, *view.dims[at + 1 :]), view.offsets)


def drop(view: View, at: int) -> View:
    return View(view.source, view.dims[:at] + view.dims[at + 1 :], view.offsets)


def expand(view: View, shape: Sequence[int]) -> View:
    """Broadcast to ``shape``; dimensions are aligned at the right and -1 keeps one."""
    pad = len(shape) - view.ndim
    old: list[tuple[Digit, ...]] = [()] * pad + list(view.dims)
    dims = tuple((Digit(None, 1, n),) if not digits and n > 1 else digits for digits, n in zip(old, shape, strict=True))
    return View(view.source, dims, view.offsets)


def narrow(view: View, at: int, start: int, length: int, step: int = 1) -> View | None:
    """Positions start, start + step, ... of a dimension; None where that is not a box of digits."""
    digits = view.dims[at]
    if start == 0 and step == 1 and length == math.prod(d.size for d in digits):
        return view
    if not digits:
        return view if length == 1 else None
    if len(digits) == 1:
        digit = digits[0]
        return _replace(view, at, (digit._replace(stride=digit.stride * step, size=length),), digit, start)
    inner = math.prod(d.size for d in digits[1:])
    if step == 1 and start % inner == 0 and length % inner == 0:
        head = digits[0]
        return _replace(view, at, (head._replace(size=length // inner), *digits[1:]), head, start // inner)
    return None


def select(view: View, at: int, index: int) -> View | None:
    """One position of a dimension, which disappears."""
    offsets = list(view.offsets)
    for digit in reversed(view.dims[at]):
        index, here = divmod(index, digit.size)
        if digit.dim is not None:
            offsets[digit.dim] += digit.stride * here
    return View(view.source, view.dims[:at] + view.dims[at + 1 :], tuple(offsets))


def flip(view: View, at: int) -> View:
    for k, digit in enumerate(view.dims[at]):
        turned = (*view.dims[at][:k], digit._replace(stride=-digit.stride), *view.dims[at][k + 1 :])
        view = _replace(view, at, turned, digit, digit.size - 1)
    return view


def window(view: View, at: int, size: int, step: int) -> View | None:
    """``Tensor.unfold``: windows of a dimension, disjoint ones only; the window's own axis comes last."""
    digits = view.dims[at]
    total = math.prod(d.size for d in digits)
    if step < size or len(digits) != 1:
        return None
    digit, count = digits[0], (total - size) // step + 1
    outer = () if count == 1 else (Digit(digit.dim, digit.stride * step, count),)
    inner = () if size == 1 else (Digit(digit.dim, digit.stride, size),)
    return View(view.source, (*view.dims[:at], outer, *view.dims[at + 1 :], inner), view.offsets)


def reshape(view: View, shape: Sequence[int]) -> View | None:
    """Regroup digits; None where a boundary of ``shape`` falls inside a digit that cannot be cut there."""
    digits = _merge([d for digits in view.dims for d in digits])
    dims: list[tuple[Digit, ...]] = []
    for size in reversed(shape):
        taken: list[Digit] = []
        while size > 1:
            if not digits:
                return None
            digit = digits.pop()
            if size % digit.size == 0:
                taken.append(digit)
                size //= digit.size
            elif digit.size % size == 0:
                taken.append(digit._replace(size=size))
                digits.append(digit._replace(stride=digit.stride * size, size=digit.size // size))
                size = 1
            else:
                return None
        dims.append(tuple(reversed(taken)))
    return None if digits else View(view.source, tuple(reversed(dims)), view.offsets)


def aligned(old: Sequence[int], new: Sequence[int]) -> list[int]:
    """The finest shape that both shapes are flattenings of, outermost first."""

    def suffixes(shape: Sequence[int]) -> set[int]:
        total, found = 1, {1}
        for n in reversed(shape):
            total *= n
            found.add(total)
        return found

    common = sorted(suffixes(old) & suffixes(new))
    return [high // low for low, high in itertools.pairwise(common)][::-1]


def positions(view: View, dim: int, digits: Sequence[Digit]) -> np.ndarray:
    """The positions along source dimension ``dim`` that the digits visit, outermost digit slowest."""
    index = np.array([view.offsets[dim]], dtype=np.int64)
    for digit in digits:
        index = (index[:, None] + digit.stride * np.arange(digit.size)).reshape(-1)
    return index


def source_digits(view: View) -> list[list[Digit]]:
    """For each source dimension the digits that run over it, longest stride first."""
    found: list[list[Digit]] = [[] for _ in view.source.sizes]
    for digits in view.dims:
        for digit in digits:
            if digit.dim is not None:
                found[digit.dim].append(digit)
    for digits_of_dim in found:
        digits_of_dim.sort(key=lambda d: -abs(d.stride))
    return found


def source_runs(view: View) -> list[list[tuple[Digit, ...]]]:
    """For each source dimension its digits, those side by side in one dimension of the view together.

    Runs are nested, longest strides first, so that the source dimension is their product in this order; where the
    strides of two runs interleave, every digit is a run of its own.
    """
    found: list[list[tuple[Digit, ...]]] = [[] for _ in view.source.sizes]
    for digits in view.dims:
        for dim, group in itertools.groupby(digits, key=lambda d: d.dim):
            if dim is not None:
                found[dim].append(tuple(group))
    for j, runs in enumerate(found):
        runs.sort(key=lambda run: -max(abs(d.stride) for d in run))
        nested = all(
            min(abs(d.stride) for d in outer) > max(abs(d.stride) for d in inner)
            for outer, inner in itertools.pairwise(runs)
        )
        if not nested:
            found[j] = [(d,) for d in sorted((d for run in runs for d in run), key=lambda d: -abs(d.stride))]
    return found


def covers(digits: Sequence[Digit], size: int, offset: int) -> bool:
    """Whether the digits enumerate all positions of a dimension in their natural order."""
    expected = 1
    for digit in reversed(digits):
        if digit.stride != expected:
            return False
        expected *= digit.size
    return offset == 0 and expected == size


def _replace(view: View, at: int, digits: tuple[Digit, ...], moved: Digit, steps: int) -> View:
    offsets = view.offsets
    if moved.dim is not None and steps:
        shifted = offsets[moved.dim] + moved.stride * steps
        offsets = (*offsets[: moved.dim], shifted, *offsets[moved.dim + 1 :])
    digits = tuple(d for d in digits if d.size > 1)
    return View(view.source, (*view.dims[:at], digits, *view.dims[at + 1 :]), offsets)


def _merge(digits: list[Digit]) -> list[Digit]:
    """Join neighbours that together are one digit, so that view(4, 6) then view(24) is nothing."""
    merged: list[Digit] = []
    for digit in digits:
        last = merged[-1] if merged else None
        if last is not None and last.dim == digit.dim and (digit.dim is None or last.stride == digit.stride * digit.size):
            merged[-1] = Digit(digit.dim, digit.stride, last.size * digit.size)
        else:
            merged.append(digit)
    return merged
