"""Whether scores can be taken to be different, so that which of them is chosen depends on nothing but their values.

``topk`` or ``argmax`` of scores of which some are equal choose by position. Weights in general position make the results of
matrix products different, and ops in this file keep them so: what an op does not say here may make values equal, as a ReLU, a
mask or a comparison does. Values that come from the same products may cancel (``x - x``): where two tensors are added or
multiplied, what makes them different has to be other products, their *origins*.

Masked scores are equal, but if they are minus infinity and enough others are left, none of them is chosen: experts are chosen
within groups in that way (DeepSeek-V3).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
from torch import fx

from autoperm.rules.op import Labels, Op, op_name
from autoperm.rules.vanishing import sources

#: The nodes whose values are different for weights in general position; None where some may be equal.
Origins = frozenset[fx.Node] | None

Keeping = Callable[["Values", Op, Collection[int]], Origins]

_RULES: dict[str, Keeping] = {}


def keeping(*names: str) -> Callable[[Keeping], Keeping]:
    """Register what makes the results of ops different along some dimensions, by their names without overload."""

    def register(function: Keeping) -> Keeping:
        _RULES.update(dict.fromkeys(names, function))
        return function

    return register


def distinct(op: Op, scores: fx.Node, dim: int, chosen: int, otherwise: Callable[[], None] | None = None) -> bool:
    """Whether the largest ``chosen`` of the scores along a dimension can be taken to be different from all others.

    Arguments:
        otherwise: what to do if that is found in the end to be so only where rows are not zero; None counts that as a no.
    """
    if _are_distinct(Values(op.labels), scores, dim, chosen):
        return True
    supposed: list[fx.Node] = []
    if otherwise is None or not _are_distinct(Values(op.labels, supposed=supposed), scores, dim, chosen):
        return False
    op.labels.suppose(op.node, list(dict.fromkeys(supposed)), otherwise)
    return True


def _are_distinct(seen: Values, scores: fx.Node, dim: int, chosen: int) -> bool:
    return seen.origins(scores, {dim}) is not None or chosen <= seen.left(scores, dim)


#: Of as many entries, what a layer norm gives are known numbers: of one 0, of two 1 and -1.
MOST_CONSTANT = 2


class Values:
    """What is known of the values in a graph.

    Arguments:
        labels: where the labels and constant values of its nodes are.
        rows: whether it is rows of several entries that are to be different, as what a product reads: functions that are
            nearly flat at places, GELU for one, do not make whole rows equal.
        supposed: where to note factors of products whose rows are taken not to be zero though they may be; if it is None,
            none are.
    """

    def __init__(self, labels: Labels, *, rows: bool = False, supposed: list[fx.Node] | None = None):
        self.labels, self.rows, self.supposed = labels, rows, supposed

    def of_rows(self) -> Values:
        return Values(self.labels, rows=True, supposed=self.supposed)

    def origins(self, node: Any, dims: Collection[int]) -> Origins:
        """What makes entries at different positions along some dimensions different; with no dimension, from zero."""
        if not isinstance(node, fx.Node) or not isinstance(value := node.meta.get("val"), torch.Tensor):
            return None
        dims = {d % value.ndim for d in dims if value.shape[d] > 1}
        if not dims:
            return sources(self.labels, node)
        if node.op == "placeholder":
            return frozenset([node]) if value.is_floating_point() else None
        if (known := self.labels.value(node)) is not None:
            return self._of_constant(node, known, dims)
        if node.op != "call_function":
            return None
        if node.target is operator.getitem:
            return self._of_result(node, dims)
        rule = _RULES.get(str(node.target).rpartition(".")[0])
        return None if rule is None else rule(self, Op(self.labels, node), dims)

    def _of_constant(self, node: fx.Node, value: torch.Tensor, dims: Collection[int]) -> Origins:
        if not bool(torch.isfinite(value.to(torch.float64)).all()) or not bool((value != 0).all()):
            return None
        rest = [d for d in range(value.ndim) if d not in dims]
        rows = value.permute([*rest, *dims]).reshape(math.prod(value.shape[d] for d in rest), -1)
        return frozenset() if all(len(row.unique()) == len(row) for row in rows) else None

    def _of_result(self, node: fx.Node, dims: Collection[int]) -> Origins:
        """The values that ``topk``, ``sort`` and ``max`` give, pieces, and results of norms."""
        source, which = node.args
        if not isinstance(source, fx.Node) or not is_op(source):
            return None
        op = Op(self.labels, source)
        name = op.name.rpartition(".")[0] if not op.name.endswith(".dim") else op.name
        if name in ("aten.topk", "aten.sort", "aten.max.dim", "aten.min.dim") and which == 0:
            return self.origins(op["self"], with_reduced(op["self"], dims, [op["dim"]], op.get("keepdim", True)))
        if name == "aten.native_layer_norm" and math.prod(op["normalized_shape"]) <= MOST_CONSTANT:
            return None
        if name in ("aten.native_layer_norm", "aten.log_sigmoid_forward", "aten.split", "aten.split_with_sizes"):
            return self.origins(first(op), dims) if which == 0 or "split" in name else None
        if name == "aten.unbind":
            dim = op["dim"] % op["self"].meta["val"].ndim
            return self.origins(op["self"], {d + (d >= dim) for d in dims})
        return None

    # -- scores of which some are masked ------------------------------------------------------------------------

    def left(self, scores: fx.Node, dim: int) -> int:
        """How many scores of each row a mask leaves at least, below which all the others are; 0 where that is not known."""
        if not is_op(scores):
            return 0
        op = Op(self.labels, scores)
        name = op.name.rpartition(".")[0]
        if name == "aten.masked_fill":
            x, mask, fill, stays = op["self"], op["mask"], op["value"], False
        elif name == "aten.mul" and (found := self._times_one_less(op)) is not None:
            x, mask, fill, stays = *found, 0, False  # type: ignore[assignment]
        elif name == "aten.where":
            x, mask, fill, stays = op["self"], op["condition"], op["other"], True
        elif name == "aten.scatter" and op.get("value") == -math.inf and self.origins(op["self"], {dim}) is not None:
            return op.shape()[dim] - op["index"].meta["val"].shape[dim] if op["dim"] % len(op.shape()) == dim else 0
        else:
            return 0
        if isinstance(fill, fx.Node):
            known = self.labels.value(fill)
            fill = known.item() if known is not None and known.numel() == 1 else math.nan
        below = fill == -math.inf or (fill <= 0 and self.positive(x))
        shape = scores.meta["val"].shape
        if not below or x.meta["val"].shape != shape or mask.meta["val"].shape != shape or self.origins(x, {dim}) is None:
            return 0
        counted = self.counted(mask, {dim % len(shape)})
        return 0 if counted is None else counted if stays else shape[dim] - counted

    def _times_one_less(self, op: Op) -> tuple[fx.Node, fx.Node] | None:
        """Of a product with one minus a mask the other factor, and the mask (GShard, Lepikhin et al. 2021)."""
        for x, factor in ((op["self"], op["other"]), (op["other"], op["self"])):
            if isinstance(x, fx.Node) and isinstance(factor, fx.Node) and op_name(factor) == "rsub":
                one_less = Op(self.labels, factor)
                if one_less["other"] == 1 and one_less["alpha"] == 1 and self.positive(x) and self._of_ones(one_less["self"]):
                    return x, one_less["self"]
        return None

    def _of_ones(self, mask: fx.Node) -> bool:
        """Whether a mask of numbers has ones where it is not zero."""
        while op_name(mask) in ("_to_copy", "clone", "alias", "detach"):
            mask = mask.all_input_nodes[0]
        return op_name(mask) == "eq" or (op_name(mask) == "scatter" and Op(self.labels, mask).get("value") == 1)

    def positive(self, x: fx.Node) -> bool:
        """Whether nothing of a tensor is below zero."""
        while is_op(x):
            name = str(x.target).split(".")[1]
            if name in ("sigmoid", "softmax", "_softmax", "exp", "softplus", "square", "abs"):
                return True
            if name not in ("view", "reshape", "_unsafe_view", "_to_copy", "clone", "alias", "detach"):
                return False
            x = x.all_input_nodes[0]
        return False

    def counted(self, mask: fx.Node, dims: Collection[int]) -> int | None:
        """How many entries of each row over some dimensions are not zero, where that is the same number for all rows."""
        if not is_op(mask):
            return None
        op, shape = Op(self.labels, mask), mask.meta["val"].shape
        size, name = math.prod(shape[d] for d in dims), str(mask.target).split(".")[1]
        if name in ("bitwise_not", "logical_not") or (name == "eq" and op["other"] == 0):
            if name == "bitwise_not" and mask.meta["val"].dtype != torch.bool:
                return None
            inner = self.counted(op["self"], dims)
            return None if inner is None else size - inner
        if name in ("_to_copy", "clone", "alias", "detach", "contiguous") or (name == "ne" and op["other"] == 0):
            return self.counted(op["self"], dims)
        if name == "eq" and isinstance(op["other"], fx.Node):
            return self._equal_to_one(op, dims)
        if name == "gt" and op["other"] == 0:
            return self.counted(op["self"], dims) if self._never_negative(op["self"]) else None
        if name == "expand":
            x = op["self"].meta["val"].shape
            inside = {d - (len(shape) - len(x)) for d in dims}
            kept = {d for d in inside if d >= 0 and x[d] == shape[d + len(shape) - len(x)]}
            inner = self.counted(op["self"], kept)
            return None if inner is None else inner * (size // math.prod(x[d] for d in kept))
        if name in ("view", "reshape", "_unsafe_view", "unsqueeze", "squeeze"):
            before = covering(op["self"].meta["val"].shape, shape, dims)
            exact = math.prod(op["self"].meta["val"].shape[d] for d in before) == size
            return self.counted(op["self"], before) if exact else None
        return self._scattered(op, dims) if name == "scatter" else None

    def _equal_to_one(self, op: Op, dims: Collection[int]) -> int | None:
        """A choice, held against all that could have been chosen (``one_hot``): one of each row is equal."""
        shape = op.shape()
        for index, table in ((op["self"], op["other"]), (op["other"], op["self"])):
            known, size = self.labels.value(table), _choices(self.labels, index)
            if known is None or size is None or known.ndim == 0 or set(dims) != {len(shape) - 1} or shape[-1] != size:
                continue
            every = known.shape == (size,) and bool((known == torch.arange(size, device=known.device)).all())
            if every and index.meta["val"].ndim == len(shape) and index.meta["val"].shape[-1] == 1:
                return 1
        return None

    def _never_negative(self, node: fx.Node) -> bool:
        """Whether a mask of numbers has none below zero."""
        while is_op(node) and (name := str(node.target).split(".")[1]) != "scatter":
            if name not in ("_to_copy", "clone", "alias", "detach", "contiguous", "expand", "view", "reshape", "_unsafe_view",
                            "unsqueeze", "squeeze"):  # fmt: skip
                return False
            node = node.all_input_nodes[0]
        value = Op(self.labels, node).get("value") if is_op(node) else None
        return isinstance(value, (int, float)) and value > 0

    def _scattered(self, op: Op, dims: Collection[int]) -> int | None:
        """Ones written into zeros at the positions that ``topk`` gives: each row has as many as were chosen."""
        base, index, shape = self.labels.value(op["self"]), op["index"], op.shape()
        dim, value = op["dim"] % len(shape), op.get("value")
        if base is None or bool(base.any()) or not isinstance(value, (int, float)) or value == 0:
            return None
        if set(dims) != ({dim} if shape[dim] > 1 else set()) or not is_chosen(self.labels, index, dim, len(shape)):
            return None
        chosen = index.meta["val"].shape
        same = all(a == b for k, (a, b) in enumerate(zip(chosen, shape, strict=True)) if k != dim)
        return chosen[dim] if same else None


def is_op(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload)


def _choices(labels: Labels, index: fx.Node) -> int | None:
    """Among how many a number was chosen; None where it is no choice."""
    while op_name(index) in ("unsqueeze", "view", "reshape", "squeeze", "clone", "alias", "detach", "select"):
        index = index.all_input_nodes[0]
    if op_name(index) in ("argmax", "argmin"):
        op = Op(labels, index)
        return None if op["dim"] is None else int(op["self"].meta["val"].shape[op["dim"]])
    source = index.args[0] if index.target is operator.getitem and index.args[1] == 1 else None
    if isinstance(source, fx.Node) and str(source.target) in ("aten.max.dim", "aten.min.dim", "aten.topk.default"):
        op = Op(labels, source)
        return int(op["self"].meta["val"].shape[op["dim"]])
    return None


def is_chosen(labels: Labels, index: fx.Node, dim: int, ndim: int) -> bool:
    """Whether an index is what ``topk`` gives along a dimension: different positions."""
    if index.target is not operator.getitem or index.args[1] != 1 or not isinstance(source := index.args[0], fx.Node):
        return False
    return str(source.target).startswith("aten.topk.") and Op(labels, source)["dim"] % ndim == dim


def covering(before: Sequence[int], after: Sequence[int], dims: Collection[int]) -> set[int]:
    """The dimensions of a tensor before a reshape that hold those of the reshaped one."""
    found: set[int] = set()
    i = j = 0
    while i < len(before) or j < len(after):
        left, right, sizes = [i], [j], [before[i] if i < len(before) else 1, after[j] if j < len(after) else 1]
        while sizes[0] != sizes[1]:
            if sizes[0] < sizes[1]:
                left.append(left[-1] + 1)
                sizes[0] *= before[left[-1]]
            else:
                right.append(right[-1] + 1)
                sizes[1] *= after[right[-1]]
        if set(dims) & set(right):
            found |= {k for k in left if k < len(before) and before[k] > 1}
        i, j = left[-1] + 1, right[-1] + 1
    return found


def first(op: Op) -> Any:
    return next(iter(op.args.values()))


def with_reduced(x: fx.Node, dims: Iterable[int], reduced: Sequence[int], keepdim: bool) -> set[int]:
    """Dimensions of a result as those of what was reduced, and the reduced ones."""
    return unreduced(x, dims, reduced, keepdim) | {d % max(x.meta["val"].ndim, 1) for d in reduced}


def unreduced(x: fx.Node, dims: Iterable[int], reduced: Sequence[int], keepdim: bool) -> set[int]:
    ndim = x.meta["val"].ndim
    gone = set() if keepdim else {d % ndim for d in reduced}
    left = [d for d in range(ndim) if d not in gone]
    return {left[d] for d in dims}
