"""Products keep different values different (see :mod:`autoperm.rules.ties`): they are origins of their own, along each dimension
that comes from a factor which is different along it, if the other factor does not make rows equal."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import fx

from autoperm.rules.op import Op
from autoperm.rules.ties import Origins, Values, keeping
from autoperm.rules.vanishing import made_of, sources, weights_of


def _product(
    values: Values, op: Op, dims: Collection[int], factors: Sequence[tuple[Any, dict[int, int]]], *, of_rows: bool = False
) -> Origins:
    """Arguments:
    factors: tensors, each with the dimensions of the result that it has, and which of its own they are.
    of_rows: whether it is the last dimension of the first factor that is summed over.
    """
    rows = values.of_rows()
    for d in dims:
        if not any(
            d in own and rows.origins(x, {own[d]}) is not None and _is_free(rows, factors[1 - k][0], x, of_rows and k == 1)
            for k, (x, own) in enumerate(factors)
        ):
            return None
    return weights_of(values.labels, op.node)


def _is_free(values: Values, other: fx.Node, rows: fx.Node, may_suppose: bool) -> bool:
    """Whether what different rows are multiplied with keeps them different: it is neither known nor made of the same values."""
    if values.labels.value(other) is not None:
        return False
    others, mine = sources(values.labels, other), made_of(values.labels, rows)
    if others is None and may_suppose and values.supposed is not None and not made_of(values.labels, other) & mine:
        values.supposed.append(other)
        return True
    return others is not None and bool(others - mine)


@keeping("aten.mm", "aten.addmm", "aten.bmm", "aten.baddbmm")
def matrix_product(values: Values, op: Op, dims: Collection[int]) -> Origins:
    first, second = ("self", "mat2") if "mat1" not in op.args and "batch1" not in op.args else ("mat1", "mat2")
    if "batch1" in op.args:
        first, second = "batch1", "batch2"
    ndim = len(op.shape())
    batch = {0: 0} if ndim == 3 else {}
    factors = [(op[first], {**batch, ndim - 2: ndim - 2}), (op[second], {**batch, ndim - 1: ndim - 1})]
    return _product(values, op, dims, factors, of_rows=True) or _with_bias(values, op, dims, op[first], op["self"])


@keeping("aten.linear")
def linear(values: Values, op: Op, dims: Collection[int]) -> Origins:
    last = len(op.shape()) - 1
    factors = [(op["input"], {d: d for d in range(last)}), (op["weight"], {last: 0})]
    return _product(values, op, dims, factors, of_rows=True) or _with_bias(values, op, dims, op["input"], op.get("bias"))


def _with_bias(values: Values, op: Op, dims: Collection[int], x: fx.Node, bias: object) -> Origins:
    """What is the same in all rows of a product, where the data may be zero, is different by the bias."""
    last = len(op.shape()) - 1
    if bias is x or not isinstance(bias, fx.Node) or not set(dims) <= {last} or bias.meta["val"].ndim < 1:
        return None
    return None if values.origins(bias, {bias.meta["val"].ndim - 1}) is None else weights_of(values.labels, op.node)


@keeping("aten.convolution")
def convolution(values: Values, op: Op, dims: Collection[int]) -> Origins:
    channels = {1: 1 if op["transposed"] and op["groups"] == 1 else 0}
    if op["transposed"] and op["groups"] > 1:
        return None
    return _product(values, op, dims, [(op["input"], {d: d for d in range(len(op.shape())) if d != 1}), (op["weight"], channels)])


@keeping("aten._cdist_forward", "aten._euclidean_dist", "aten.cdist")
def distances(values: Values, op: Op, dims: Collection[int]) -> Origins:
    last = len(op.shape()) - 1
    batch = {d: d for d in range(last - 1)}
    return _product(values, op, dims, [(op["x1"], {**batch, last - 1: last - 1}), (op["x2"], {**batch, last: last - 1})])
