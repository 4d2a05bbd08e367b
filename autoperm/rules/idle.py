"""Whether it is no matter what is chosen where the row that chooses is zero.

A router without a bias gives a row of zeros equal scores, and ``topk`` takes the first ones: a text may start with the padding
token, whose embedding is zero. But experts without biases make zeros of zeros, whichever are chosen. So where that is shown, all
of what depends on such a choice is zero before it reaches an output, experts may trade places.

The rows that may be zero, *idle* ones, are those of a factor of the product that makes the scores. What they choose is left open,
and followed through the graph op by op (:mod:`autoperm.rules.rowwise`): of no other row may anything depend on it, and of idle
ones nothing that goes on. Lists of sorted rows (:mod:`autoperm.rules.listing`) are followed by what they were before.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import Tensor, fx

from autoperm.rules import rowwise, rowwise_math
from autoperm.rules.generic import is_finite
from autoperm.rules.listing import Back, Places, Rows, Tracked
from autoperm.rules.nonzero import is_never_zero
from autoperm.rules.op import Labels, Op, op_name
from autoperm.rules.pointwise import pointwise
from autoperm.rules.registry import find_rule
from autoperm.rules.rowwise import RULES, Followed, Kind
from autoperm.rules.ties import Values

_PASSED = frozenset("view reshape _unsafe_view unsqueeze squeeze _to_copy clone alias detach contiguous".split())  # noqa: SIM905


def is_idle(labels: Labels, topk: fx.Node, rows: fx.Node) -> bool:
    """Whether the outputs of the graph are the same whatever ``topk`` chooses for rows of zeros of a tensor.

    Arguments:
        labels: the labels of the whole graph.
        topk: or ``argmax``, or another op that says where values are.
        rows: what scores are made of, one row along its last dimension for each row of scores.
    """
    shape = rows.meta["val"].shape
    numbers = torch.arange(math.prod(shape[:-1]), device="cpu").reshape([*shape[:-1], 1])
    try:
        return _Walk(labels, topk).run(*_back(labels, rows, numbers))
    except _Matters:
        return False


def _back(labels: Labels, node: fx.Node, rows: Tensor) -> tuple[fx.Node, Tensor]:
    """What has zeros exactly where a tensor has, as far back as that is known, and where its entries belong."""
    while op_name(node):
        op, before = Op(labels, node), None
        if op_name(node) in _PASSED:
            before = op["self"]
            rows = rowwise.reshaped(rows, op.shape(), before.meta["val"].shape)
        elif op_name(node) == "mul":
            before = next((a for a, b in (node.args[:2], node.args[1::-1]) if _is_scaled(labels, node, a, b)), None)
        elif op_name(node) == "rms_norm":
            before = op["input"]
        if before is None:
            break
        node = before
    return node, rows


def _is_scaled(labels: Labels, node: fx.Node, x: Any, factor: Any) -> bool:
    """Whether a product is the first factor, of its shape, scaled by what is not zero."""
    if not isinstance(x, fx.Node) or x.meta["val"].shape != node.meta["val"].shape:
        return False
    if not isinstance(factor, fx.Node):
        return 0 < abs(factor) < math.inf
    return labels.is_weight(factor) or is_never_zero(factor)


class _Matters(Exception):
    """Something that goes on may depend on what is chosen."""


class _Walk:
    def __init__(self, labels: Labels, topk: fx.Node):
        self.labels, self.topk = labels, topk
        self._values = Values(labels)
        self._found: dict[fx.Node, Any] = {}
        self._listed: set[fx.Node] = set()
        self._of_choice: dict[int, Tensor] = {}  # by the choice of a listing, where its rows belong

    def run(self, start: fx.Node, rows: Tensor) -> bool:
        self._found[start] = Followed(Kind.ZERO, rows)
        for node in start.graph.nodes:
            if node is start or not any(n in self._found or n in self._listed for n in node.all_input_nodes):
                continue
            found = self._through(node)
            if node is self.topk and found is None:
                return False
            if found is not None:
                self._found[node] = found
        return self.topk in self._found

    # -- what rules ask for ------------------------------------------------------------------------------------------

    def of(self, node: Any) -> Followed | None:
        found = self._found.get(node)
        return found if isinstance(found, Followed) else None

    def number(self, node: Any) -> Tensor | None:
        raw = self.labels.raw(node)
        value = raw.value if isinstance(raw, Places) else self.labels.value(node)
        return None if value is None else value.cpu()

    def is_finite(self, node: fx.Node) -> bool:
        return node in self._found or is_finite(self._values, node)

    # -- node by node ---------------------------------------------------------------------------------------------------

    def _through(self, node: fx.Node) -> Any:
        if self.labels.value(node) is not None:  # as large as what it is made of, and no more
            return None
        if isinstance(node.target, torch._ops.OpOverload):
            if self._is_list(node) or any(source in self._listed for source in node.all_input_nodes):
                return self._of_lists(Op(self.labels, node))
            return self._by_rule(Op(self.labels, node))
        if node.target is operator.getitem:
            return self._of_several(node)
        if any(source in self._listed for source in node.all_input_nodes):  # the output, or a call of something unknown
            raise _Matters
        return self._checked(node, None)

    def _of_several(self, node: fx.Node) -> Followed | None:
        source, which = node.args
        found = self._found.get(source)  # type: ignore[arg-type]
        result = found[which] if isinstance(found, list) else None  # type: ignore[index]
        if isinstance(self.labels.raw(node), Tracked):
            self._listed.add(node)
            return result
        return self._checked(node, result)

    def _by_rule(self, op: Op) -> Any:
        rule = RULES.get(op_name(op.node)) or (rowwise_math.pointwise if find_rule(op.node.target) is pointwise else None)
        return self._checked(op.node, rule(self, op) if rule is not None else None)

    def _checked(self, node: fx.Node, found: Any) -> Any:
        """What is known of a result; where that is nothing, nothing that it is made of may be open.

        Raises:
            _Matters: something is.
        """
        if found is None and any(self._is_open(source) for source in node.all_input_nodes):
            raise _Matters
        return found

    def _is_open(self, node: fx.Node) -> bool:
        """Whether a tensor, or one of several results, depends on what is chosen; of a list, what it was before."""
        found = self._found.get(node)
        several = found if isinstance(found, list) else [found]
        return any(part is not None and part.kind == Kind.OPEN for part in several)

    # -- lists of sorted rows -----------------------------------------------------------------------------------------------

    def _is_list(self, node: fx.Node) -> bool:
        raw = self.labels.raw(node)
        return any(isinstance(part, Tracked) for part in (raw if isinstance(raw, list) else [raw]))

    def _of_lists(self, op: Op) -> Any:
        raw, name = self.labels.raw(op.node), op_name(op.node)
        if self._is_list(op.node):
            self._listed.add(op.node)
            if name in ("sort", "argsort"):
                return self._sorted(op, raw if isinstance(raw, list) else [raw])
            if "grouped_mm" in name:
                return self._grouped(op, raw)
            rows = isinstance(raw, (list, Rows))
            return self._by_rule(op) if rows else None  # places, counts and ends are no more than what makes lists
        if name in ("index", "_unsafe_index") and any(n and isinstance(self.labels.raw(n), Back) for n in op["indices"]):
            return self.of(op["self"])
        if name == "index_add" and isinstance(self.labels.raw(op["index"]), Places):
            return self._checked(op.node, None)  # sums over rows, of which none may be open
        raise _Matters

    def _sorted(self, op: Op, results: list[Any]) -> Any:
        """The choices of all rows in order, and where they were; or the inverse of that."""
        if (x := self.of(op["self"])) is not None:
            self._of_choice[id(results[-1].listing.choice)] = x.rows
        return [x, None] if len(results) > 1 else None

    def _grouped(self, op: Op, raw: Rows) -> Followed | None:
        """Each row times the matrix that it chose."""
        rows, weight = list(op.args.values())[:2]
        x, chosen = self.of(rows), self._of_choice.get(id(raw.listing.choice))
        if chosen is None or self.of(weight) is not None:
            raise _Matters
        picked = Followed(Kind.OPEN, chosen.reshape(-1, 1), self.is_finite(weight))
        if x is None:
            return picked
        mixed = rowwise.changes(x.rows, [-1])
        return self._checked(op.node, None if mixed else rowwise_math.times(self, [x, picked], [rows, weight]))
