"""``as_strided``: memory read again in other steps.

A dimension whose steps never meet those of the others (heads beside overlapping windows of tokens, say) is a digit of the
position in memory, and passes whole. What the other dimensions read is known: positions of what is left of memory.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import fx

from autoperm.inference import views
from autoperm.inference.views import View
from autoperm.rules.joining import origin, picked
from autoperm.rules.movement import reshaped
from autoperm.rules.op import Op
from autoperm.rules.registry import rule

_WHY = "read by strides"


class Step(NamedTuple):
    """A dimension of the result: its place, its size, and how far apart in memory its entries are."""

    at: int
    size: int
    stride: int


@rule("aten.as_strided", "aten.as_strided_copy")
def as_strided(op: Op) -> View:
    value, strides = _value(op.node.args[0]), op.get("stride")
    start = value.storage_offset() if op.get("storage_offset") is None else op["storage_offset"]
    owner = _owner(op.node.args[0])
    memory, offset = _value(owner), start - _value(owner).storage_offset()
    steps = [Step(k, n, s) for k, (n, s) in enumerate(zip(op.shape(), strides, strict=True)) if n > 1]
    order = _memory_order(memory.shape, memory.stride())
    reach = offset + sum((step.size - 1) * step.stride for step in steps)
    whole = origin(owner)  # some tracers do not tell that a view shares memory, nor where in it it begins
    if order is None or offset < 0 or reach >= memory.numel() or (whole is not owner and op.get("storage_offset") is not None):
        for node in (op.node.args[0], owner, whole):
            op.pin(op.labels.view(node), _WHY)  # type: ignore[arg-type]
        return op.pinned(op.shape(), _WHY)
    digits = [step for step in steps if _is_digit(step, steps, offset, memory.numel())]
    rest = [step for step in steps if step not in digits]
    return _read(op, views.permute(op.labels.view(owner), order), digits, rest, offset)


def _value(node: Any) -> torch.Tensor:
    return node.meta["val"]


def _owner(node: Any) -> fx.Node:
    """The node of which this is a view: what lies between the entries of a view is read too."""
    while (source := _source(node)) is not None and _shares_memory(node, source):
        node = source
    return node


def _source(node: fx.Node) -> fx.Node | None:
    """What an op takes first; of one of several results, what the op that has them takes."""
    if node.target is operator.getitem:
        node = node.args[0]  # type: ignore[assignment]
    first = node.args[0] if node.args else None
    return first if isinstance(first, fx.Node) else None


def _shares_memory(node: fx.Node, other: fx.Node) -> bool:
    mine, base = node.meta["val"], other.meta["val"]
    if not (isinstance(mine, torch.Tensor) and isinstance(base, torch.Tensor)):
        return False
    return mine.dtype == base.dtype and mine.untyped_storage()._cdata == base.untyped_storage()._cdata


def _memory_order(shape: Sequence[int], strides: Sequence[int]) -> list[int] | None:
    """The dimensions as they lie in memory, outermost first; None where there are gaps or overlaps between entries."""
    order = sorted(range(len(shape)), key=lambda k: (-strides[k], -shape[k]))
    expected = 1
    for k in reversed(order):
        if shape[k] > 1 and strides[k] != expected:
            return None
        expected *= shape[k]
    return order


def _is_digit(step: Step, steps: Sequence[Step], offset: int, total: int) -> bool:
    """Whether the others and the offset never change the digit (position // stride) % size."""
    block = step.size * step.stride
    if not step.stride or total % block or offset // step.stride % step.size:
        return False
    others = [s for s in steps if s.at != step.at and s.stride]
    below = sum((s.size - 1) * s.stride for s in others if s.stride < step.stride) + offset % step.stride
    return below < step.stride and all(s.stride < step.stride or s.stride % block == 0 for s in others)


def _read(op: Op, memory: View, digits: Sequence[Step], rest: Sequence[Step], offset: int) -> View:
    """Memory as (digits, what is left), of which the other dimensions pick positions."""
    nested = sorted(digits, key=lambda step: -step.stride)
    radix: list[int] = []  # sizes outermost first
    left: list[int] = []  # which of them are left, and which are digits
    kept: list[int] = []
    size = math.prod(memory.shape)
    for step in nested:
        left.append(len(radix))
        kept.append(len(radix) + 1)
        radix += [size // (step.size * step.stride), step.size]
        size = step.stride
    left.append(len(radix))
    radix.append(size)
    split = views.permute(reshaped(op, memory, radix), [*kept, *left])
    flat = reshaped(op, split, [step.size for step in nested] + [math.prod(radix[k] for k in left)])
    index = _positions(rest, offset, radix, left)
    shape = (*flat.shape[:-1], index.size)
    if not np.array_equal(index.reshape(-1), np.arange(flat.shape[-1])):
        flat = picked(op, flat, len(nested), index.reshape(-1), shape)
    found = reshaped(op, flat, [*flat.shape[:-1], *index.shape])
    places = [step.at for step in (*nested, *rest)]
    return reshaped(op, views.permute(found, [places.index(k) for k in sorted(places)]), op.shape())


def _positions(rest: Sequence[Step], offset: int, radix: Sequence[int], left: Sequence[int]) -> np.ndarray:
    """Where in what is left of memory each entry along the other dimensions lies."""
    address = np.full((), offset)
    for step in rest:
        address = address[..., None] + step.stride * np.arange(step.size)
    found, weight = np.zeros_like(address), 1
    for k in reversed(range(len(radix))):
        address, digit = np.divmod(address, radix[k])
        if k in left:
            found, weight = found + weight * digit, weight * radix[k]
    return found
