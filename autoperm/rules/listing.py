"""Rows that were sorted by what they chose.

Which row comes where depends on the weights, so a label of its own would have to be pinned. But an op that treats all rows
alike gives the same whether it is applied before the rows are listed or after. So a list of rows is labelled by what it was
*before* it was listed, and ops are stated there, until the rows are put back: by the inverse order, or summed into the
places they came from. An op that does anything else with a list sees a plain label, for which everything that decides the
order is pinned first. Mixtures of experts gather the tokens of each expert like this; how such lists come about and are put
back is in :mod:`autoperm.rules.routing`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from autoperm.inference.equation import PIN, Statement
from autoperm.inference.operands import pin_view, pinned
from autoperm.inference.views import View
from autoperm.rules import choices, picking
from autoperm.rules.choices import Choice
from autoperm.rules.deferred import Deferred
from autoperm.rules.movement import reordered
from autoperm.rules.op import Op, dims_of, letters
from autoperm.rules.pointwise import dropout, pointwise
from autoperm.rules.registry import Rule, find_rule, registering

WHY = "rows are listed in an order that depends on it"


@dataclass(eq=False)
class Listing:
    """The order of rows that are sorted by the numbers of a choice, one number a row."""

    choice: Choice

    @property
    def size(self) -> int:
        """How many rows there are."""
        return self.choice.shape[0]


class Listed(Deferred):
    """Anything whose order is that of a listing."""

    listing: Listing

    def settle(self, labels: Any, node: fx.Node) -> View:
        """What decides the order is pinned, and so is the result."""
        self.pin_order(labels, node)
        return pinned(labels.system, node.meta["val"].shape, WHY, node)

    def pin_order(self, labels: Any, node: fx.Node) -> None:
        choices.pin(labels.system, self.listing.choice, node, WHY)
        pin_view(labels.system, self.listing.choice, WHY, node, final=True)


@dataclass(eq=False)
class Rows(Listed):
    """A tensor whose dimension ``dim`` was listed, by what it was before."""

    listing: Listing
    label: View | Deferred
    dim: int

    def plain(self, labels: Any, node: fx.Node) -> View:
        """The label before."""
        if isinstance(self.label, Deferred):
            self.label = self.label.settle(labels, node)
        return self.label

    def settle(self, labels: Any, node: fx.Node) -> View:
        """Nothing moves along the rows, whatever their order."""
        self.pin_order(labels, node)
        label = self.plain(labels, node)
        choices.pin(labels.system, label, node, WHY)
        names = letters(label.ndim)
        names[self.dim] = PIN
        statement = Statement(labels.system, node, {}, WHY)
        statement.operand(label, tuple(names))
        found = statement.result(tuple(names), label.shape)
        statement.close()
        return found


@dataclass(eq=False)
class Places(Listed):
    """For each row of a list a known number: where it was before, or anything computed from that."""

    listing: Listing
    value: torch.Tensor  # (rows,), in the order before

    @property
    def is_order(self) -> bool:
        return torch.equal(self.value, torch.arange(self.listing.size, device="cpu"))


@dataclass(eq=False)
class Back(Listed):
    """The inverse of an order: for each row before where it is in the list."""

    listing: Listing


@dataclass(eq=False)
class Ends(Listed):
    """Where the rows of each position end in the list that is sorted by them."""

    listing: Listing


@dataclass(eq=False)
class Counts(Deferred):
    """How many rows chose each position: a plain label, of which the running total is known to be :class:`Ends`."""

    choice: Choice
    label: View

    def settle(self, labels: Any, node: fx.Node) -> View:
        return self.label


Tracked = Listed | Counts


_RULES: dict[str, Rule] = {}
#: Register what ops make of lists, by their names without overload; where that is None, :func:`alike` is tried.
tracking = registering(_RULES, "a rule for lists")


def apply(op: Op) -> object | None:
    """The result where the op knows what to do with lists, or treats all rows alike."""
    found = _RULES.get(op.name.rpartition(".")[0])
    result = found(op) if found is not None else None
    return alike(op) if result is None else result


# -- ops that treat all rows alike -----------------------------------------------------------------------------------


class Before:
    """The labels of operands as they were before they were listed."""

    def __init__(self, labels: Any):
        self._labels, self.system = labels, labels.system

    def raw(self, node: fx.Node) -> Any:
        raw = self._labels.raw(node)
        return raw.label if isinstance(raw, Rows) else raw

    def view(self, node: fx.Node) -> View:
        raw = self._labels.raw(node)
        if isinstance(raw, Rows):
            return raw.plain(self._labels, node)
        if isinstance(raw, Places):
            return pinned(self.system, raw.value.shape, WHY, node)
        return self._labels.view(node)  # type: ignore[no-any-return]

    def value(self, node: fx.Node) -> torch.Tensor | None:
        raw = self._labels.raw(node)
        return raw.value if isinstance(raw, Places) else self._labels.value(node)

    def is_weight(self, node: fx.Node) -> bool:
        return self._labels.is_weight(node)  # type: ignore[no-any-return]

    def suppose(self, node: fx.Node, rows: list[fx.Node], otherwise: Callable[[], None]) -> None:
        self._labels.suppose(node, rows, otherwise)


class Earlier(Op):
    """An op as it would be applied before the rows are listed."""

    def __init__(self, op: Op):
        super().__init__(Before(op.labels), op.node)

    def applied(self) -> object:
        for kind, apply in ((picking.Picked, picking.apply), (Choice, choices.apply)):
            if any(isinstance(self.labels.raw(node), kind) for node in self.node.all_input_nodes):
                found = apply(self)
                if found is not None:
                    return found
        rule = find_rule(self.node.target)
        assert rule is not None, "the engine asks about ops that have a rule"
        return rule(self)


def rows_of(op: Op, argument: object) -> Rows | None:
    raw = raw_of(op, argument)
    return raw if isinstance(raw, Rows) else None


def raw_of(op: Op, argument: object) -> Any:
    return op.labels.raw(argument) if isinstance(argument, fx.Node) else None


def alike(op: Op) -> object | None:
    """The op on the rows before, if all its lists are of one listing and it treats their rows alike."""
    lists = {node: raw_of(op, node) for node in op.node.all_input_nodes if isinstance(raw_of(op, node), Tracked)}
    if not all(isinstance(raw, Rows) for raw in lists.values()) or len({raw.listing for raw in lists.values()}) != 1:
        return None
    dims = {_after(op, node, raw) for node, raw in lists.items()}
    if len(dims) != 1 or (dim := dims.pop()) is None:
        return None
    listing = next(iter(lists.values())).listing
    found = Earlier(op).applied()
    if isinstance(found, (list, tuple)):
        return [None if label is None else Rows(listing, label, dim) for label in found]
    return Rows(listing, found, dim)  # type: ignore[arg-type]


def _after(op: Op, node: fx.Node, rows: Rows) -> int | None:
    """Which dimension of the result has a list's rows; None where the op does not treat them alike."""
    name, dim, before = op.name.rpartition(".")[0].partition(".")[2], rows.dim, tuple(node.meta["val"].shape)
    rule, after = find_rule(op.node.target), op.shape()
    if rule in (pointwise, dropout) or name in ("clone", "detach", "alias", "contiguous", "lift_fresh_copy", "expand"):
        at = len(after) - len(before) + dim
        return at if after[at] == before[dim] and _broadcast(op, len(after) - at) else None
    if name in ("view", "reshape", "_unsafe_view", "unsqueeze", "squeeze", "flatten", "unflatten"):
        lead = math.prod(before[:dim])
        return next((k for k, n in enumerate(after) if math.prod(after[:k]) == lead and n == before[dim]), None)
    if name in ("split", "split_with_sizes", "chunk", "slice", "select", "unbind"):
        cut = (op.get("dim") or 0) % len(before)
        return None if cut == dim else dim - (name in ("select", "unbind") and cut < dim)
    if name in ("permute", "transpose", "t"):
        return reordered(op, len(before)).index(dim)
    if name in ("sum", "mean", "amax", "amin", "prod", "var", "std", "logsumexp", "_softmax", "_log_softmax", "norm"):
        over = dims_of(op.get("dim"), len(before))
        return None if dim in over else dim if len(after) == len(before) else dim - sum(d < dim for d in over)
    return _multiplied(op, name, node, dim)


def _broadcast(op: Op, from_right: int) -> bool:
    """Whether what is not listed is the same for all rows."""
    plain = [node.meta["val"].shape for node in op.node.all_input_nodes if rows_of(op, node) is None]
    return all(len(shape) < from_right or shape[-from_right] == 1 for shape in plain)


def _multiplied(op: Op, name: str, node: fx.Node, dim: int) -> int | None:
    """Rows of the left factor of a product, or of both in a batch of products."""
    left = op.args.get({"addmm": "mat1", "linear": "input"}.get(name, "self"))
    if name == "bmm":
        both = all(rows_of(op, factor) is not None for factor in op.node.args)
        return 0 if dim == 0 and both else None
    lists = [n for n in op.node.all_input_nodes if rows_of(op, n) is not None]
    if name not in ("mm", "addmm", "linear") or lists != [node] or node is not left or dim == len(op.shape()) - 1:
        return None
    added = op.args.get("self") if name == "addmm" else None
    alone = added is None or added.meta["val"].ndim < 2 or added.meta["val"].shape[0] == 1
    return dim if alone else None
