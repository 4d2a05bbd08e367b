"""Op by op, what a choice that some rows make for nothing changes: see :mod:`autoperm.rules.idle`.

Each entry of a tensor that is followed belongs to a row of the tensor that chooses. Of some rows, the *idle* ones, nothing is
known but that they are zero there, so that what they choose is left open. An op without a rule here ends in None: its result is
not followed further, which is no matter unless something of it is open.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Protocol

import torch
from torch import Tensor, fx

from autoperm.rules.movement import reordered
from autoperm.rules.op import Labels, Op
from autoperm.rules.registry import registering


class Kind(IntEnum):
    """What is known of the entries that belong to idle rows; all others are what they are, whatever the idle rows choose."""

    ZERO = 0  # they are zero
    SURE = 1  # they do not depend on what is chosen
    OPEN = 2  # they may


@dataclass(frozen=True, eq=False)
class Followed:
    """A tensor, entry by entry.

    Attributes:
        kind: what is known where an entry belongs to an idle row.
        rows: to which row each belongs, of the tensor's shape, but of size 1 along dimensions on which that does not depend.
        finite: whether open entries are no infinities, so that times zero they are zero.
    """

    kind: Kind
    rows: Tensor
    finite: bool = True


class Known(Protocol):
    """What is known of the operands of an op."""

    labels: Labels
    topk: fx.Node

    def of(self, node: Any) -> Followed | None: ...
    def number(self, node: Any) -> Tensor | None:
        """The value of an operand that is known, in the order before rows were listed."""

    def is_finite(self, node: fx.Node) -> bool: ...


Rule = Callable[[Known, Op], "Followed | list[Followed | None] | None"]

RULES: dict[str, Rule] = {}
following = registering(RULES)


# -- where entries belong ---------------------------------------------------------------------------------------------


def compact(rows: Tensor) -> Tensor:
    for dim, size in enumerate(rows.shape):
        if size > 1 and bool((rows == rows.narrow(dim, 0, 1)).all()):
            rows = rows.narrow(dim, 0, 1)
    return rows


def together(found: Iterable[Tensor]) -> Tensor | None:
    """Where entries belong that are made of several; None where these belong to different rows."""
    first, *others = torch.broadcast_tensors(*found)
    return compact(first) if all(torch.equal(first, other) for other in others) else None


def spread(rows: Tensor, dims: Iterable[int], shape: Sequence[int]) -> Tensor:
    """The rows with some of the dimensions in their full size."""
    return rows.expand([shape[d] if d in dims else n for d, n in enumerate(rows.shape)])


def reshaped(rows: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Group of dimensions by group, so that those along which nothing changes stay small."""
    if 0 in before:
        return rows.new_zeros(()).expand([min(n, 1) for n in after])
    sizes: list[int] = []
    i = j = 0
    whole: list[int] = []
    while i < len(before) or j < len(after):
        left, right = [i] if i < len(before) else [], [j] if j < len(after) else []
        a, b = math.prod(before[k] for k in left), math.prod(after[k] for k in right)
        while a != b:
            if a < b:
                left.append(i + len(left))
                a *= before[left[-1]]
            else:
                right.append(j + len(right))
                b *= after[right[-1]]
        changes = any(rows.shape[k] > 1 for k in left)
        whole += left if changes else []
        sizes += [after[k] if changes else 1 for k in right]
        i, j = i + len(left), j + len(right)
    return compact(spread(rows, whole, before).reshape(sizes))


def changes(rows: Tensor, dims: Iterable[int]) -> bool:
    return any(rows.shape[d] > 1 for d in dims)


# -- ops that move entries about --------------------------------------------------------------------------------------


@following("view reshape _unsafe_view unsqueeze squeeze flatten unflatten")
def _view(known: Known, op: Op) -> Followed | None:
    x = known.of(op["self"])
    return x and replace(x, rows=reshaped(x.rows, op["self"].meta["val"].shape, op.shape()))


@following("clone alias detach contiguous lift_fresh_copy _to_copy to")
def _same(known: Known, op: Op) -> Followed | None:
    return known.of(op["self"])


@following("permute transpose t")
def _permuted(known: Known, op: Op) -> Followed | None:
    x = known.of(op["self"])
    return x and replace(x, rows=x.rows.permute(reordered(op, x.rows.ndim)))


@following("expand")
def _expanded(known: Known, op: Op) -> Followed | None:
    x = known.of(op["self"])
    return x and replace(x, rows=x.rows.reshape([1] * (len(op.shape()) - x.rows.ndim) + list(x.rows.shape)))


@following("slice select split split_with_sizes unbind")
def _cut(known: Known, op: Op) -> Followed | list[Followed | None] | None:
    x = known.of(op["self"])
    if x is None:
        return None
    whole = spread(x.rows, {(op.get("dim") or 0) % x.rows.ndim}, op["self"].meta["val"].shape)
    found = op.node.target(whole, *op.node.args[1:], **op.node.kwargs)  # type: ignore[operator]
    if isinstance(found, (list, tuple)):
        return [replace(x, rows=compact(part)) for part in found]
    return replace(x, rows=compact(found))


@following("cat")
def _joined(known: Known, op: Op) -> Followed | None:
    dim, parts = op["dim"] % len(op.shape()), [known.of(node) for node in op["tensors"]]
    present = [part for part in parts if part is not None]
    rows = together([part.rows for part in present])
    if rows is None or changes(rows, [dim]):
        return None
    kind = max(part.kind if part else Kind.SURE for part in parts)
    return Followed(kind, rows, all(part.finite for part in present))


# -- lookups --------------------------------------------------------------------------------------------------------------


@following("index _unsafe_index index_select embedding")
def looked_up(known: Known, op: Op) -> Followed | None:
    """Rows of a table by known numbers, or by what was chosen."""
    table = op["weight"] if "weight" in op.args else op["self"]
    if "weight" in op.args or "index" in op.args:
        dim = 0 if "weight" in op.args else op["dim"] % len(op.shape())
        indices = [None] * dim + [op["index"] if "index" in op.args else op["indices"]]
    else:
        indices = op["indices"]
    numbers = {d: known.number(node) for d, node in enumerate(indices) if node is not None}
    if all(value is not None for value in numbers.values()):
        return _by_numbers(known.of(table), table.meta["val"].shape, indices, numbers)
    if len(numbers) > 1:
        return None
    ((dim, _),) = numbers.items()
    return _by_choice(known, table, dim, indices[dim])


def _by_numbers(
    x: Followed | None, shape: Sequence[int], indices: Sequence[Any], numbers: dict[int, Tensor | None]
) -> Followed | None:
    if x is None or any(value.dtype == torch.bool for value in numbers.values() if value is not None):
        return None
    found: Tensor = torch.ops.aten.index.Tensor(spread(x.rows, numbers, shape), [numbers.get(d) for d in range(len(indices))])
    return replace(x, rows=compact(found))


def _by_choice(known: Known, table: fx.Node, dim: int, index: fx.Node) -> Followed | None:
    chosen, x, ndim = known.of(index), known.of(table), index.meta["val"].ndim
    if chosen is None or (x is not None and changes(x.rows, [dim])):
        return None
    after = table.meta["val"].ndim - dim - 1
    rows = [chosen.rows.reshape([1] * dim + list(chosen.rows.shape) + [1] * after)]
    if x is not None:
        rows.append(x.rows.reshape([*x.rows.shape[:dim], *[1] * ndim, *x.rows.shape[dim + 1 :]]))
    return _combined(rows, x, chosen, known.is_finite(table))


def _combined(rows: list[Tensor], x: Followed | None, chosen: Followed, finite: bool) -> Followed | None:
    where = together(rows)
    if where is None:
        return None
    kind = Kind.ZERO if x is not None and x.kind == Kind.ZERO else max(chosen.kind, x.kind if x is not None else Kind.SURE)
    return Followed(kind, where, finite and (x is None or x.finite))


@following("gather take_along_dim")
def _gathered(known: Known, op: Op) -> Followed | None:
    index = op["index"] if "index" in op.args else op["indices"]
    x, chosen, dim = known.of(op["self"]), known.of(index), op["dim"] % len(op.shape())
    if chosen is None or (x is not None and changes(x.rows, [dim])) or not _differ_at_most(op["self"], index, dim):
        return None
    return _combined([part.rows for part in (chosen, x) if part is not None], x, chosen, known.is_finite(op["self"]))


def _differ_at_most(one: fx.Node, other: fx.Node, dim: int) -> bool:
    """Whether two tensors have the same shape but for one dimension."""
    shapes = [list(node.meta["val"].shape) for node in (one, other)]
    return len(shapes[0]) == len(shapes[1]) and all(a == b for d, (a, b) in enumerate(zip(*shapes, strict=True)) if d != dim)


@following("scatter scatter_add")
def _scattered(known: Known, op: Op) -> Followed | None:
    """Along the dimension that is written to, anything may be at any place."""
    parts = [part for part in map(known.of, op.node.all_input_nodes) if part is not None]
    dim, value = op["dim"] % len(op.shape()), op.get("value")
    if any(changes(part.rows, [dim]) for part in parts):
        return None
    if not all(_differ_at_most(op.node, node, dim) for node in op.node.all_input_nodes):
        return None
    if (rows := together([part.rows for part in parts])) is None:
        return None
    finite = math.isfinite(value) if isinstance(value, (int, float)) else all(map(known.is_finite, op.node.all_input_nodes))
    return Followed(max(max(part.kind for part in parts), Kind.SURE), rows, finite and all(part.finite for part in parts))


@following("one_hot")
def _one_hot(known: Known, op: Op) -> Followed | None:
    x = known.of(op["self"])
    return x and Followed(Kind.OPEN, x.rows.unsqueeze(-1))
