"""Ops that compute, entry by entry of rows that may be idle: see :mod:`autoperm.rules.rowwise`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from autoperm.rules.op import Op, dims_of, op_name
from autoperm.rules.rowwise import Followed, Kind, Known, changes, following, together

# -- along dimensions ---------------------------------------------------------------------------------------------------------

_STAYS_ZERO = frozenset("sum mean amax amin prod linalg_vector_norm cumsum".split())  # noqa: SIM905


def _kind(x: Followed, op: Op) -> Kind:
    return x.kind if x.kind != Kind.ZERO or op_name(op.node) in _STAYS_ZERO else Kind.SURE


@following("sum mean amax amin prod any all logsumexp linalg_vector_norm")
def _reduced(known: Known, op: Op) -> Followed | None:
    x, dims = known.of(op["self"]), dims_of(op.get("dim"), op["self"].meta["val"].ndim)
    if x is None or changes(x.rows, dims):
        return None
    kept = [n for d, n in enumerate(x.rows.shape) if d not in dims]
    return Followed(_kind(x, op), x.rows if len(op.shape()) == x.rows.ndim else x.rows.reshape(kept), x.finite)


@following("_softmax softmax _safe_softmax _log_softmax log_softmax cumsum")
def _along(known: Known, op: Op) -> Followed | None:
    x = known.of(op["self"])
    if x is None or changes(x.rows, dims_of(op["dim"], x.rows.ndim)):
        return None
    return Followed(_kind(x, op), x.rows, x.finite and "log" not in op_name(op.node))


@following("topk sort max min argmax argmin")
def _chosen(known: Known, op: Op) -> Followed | list[Followed | None] | None:
    """The largest values are the same whichever of equal ones are taken; where they were is open."""
    x = known.of(op["self"])
    if x is None or op.get("dim") is None or changes(x.rows, dim := [op["dim"] % x.rows.ndim]):
        return None
    rows = x.rows if op.get("keepdim", True) else x.rows.reshape([n for d, n in enumerate(x.rows.shape) if d not in dim])
    where = Followed(Kind.OPEN if op.node is known.topk else max(x.kind, Kind.SURE), rows)
    return where if "arg" in op_name(op.node) else [replace(x, rows=rows), where]


@following("native_layer_norm")
def _normalised(known: Known, op: Op) -> list[Followed | None] | None:
    x, dims = known.of(op["input"]), range(-len(op["normalized_shape"]), 0)
    if x is None or changes(x.rows, dims):
        return None
    kind = Kind.ZERO if x.kind == Kind.ZERO and op.get("bias") is None else max(x.kind, Kind.SURE)
    return [replace(x, kind=kind), None, None] if x.kind != Kind.OPEN else None


@following("rms_norm")
def _scaled(known: Known, op: Op) -> Followed | None:
    x = known.of(op["input"])
    return None if x is None or changes(x.rows, range(-len(op["normalized_shape"]), 0)) else x


# -- products -----------------------------------------------------------------------------------------------------------------


@following("mm bmm addmm baddbmm linear")
def _product(known: Known, op: Op) -> Followed | None:
    left, right, bias = _factors(op)
    a, b = known.of(left), known.of(right)
    if isinstance(bias, fx.Node) and known.of(bias) is not None:
        return None
    if op.name.startswith("aten.linear"):
        if b is not None:
            return None
        parts = [] if a is None or changes(a.rows, [-1]) else [a]
    else:
        parts = [x for x, summed in ((a, -1), (b, -2)) if x is not None and not changes(x.rows, [summed])]
    if any(x is not None and x.kind == Kind.OPEN and x not in parts for x in (a, b)):
        return None
    found = times(known, parts, [left, right])
    if found is not None and bias is not None:
        return replace(found, kind=max(found.kind, Kind.SURE))
    return found


def _factors(op: Op) -> tuple[fx.Node, fx.Node, Any]:
    """Both factors, and what is added."""
    for first, second, added in (("mat1", "mat2", "self"), ("batch1", "batch2", "self"), ("input", "weight", "bias")):
        if first in op.args:
            return op[first], op[second], op.get(added)
    return op["self"], op["mat2"], None


def times(known: Known, parts: Sequence[Followed], nodes: Sequence[fx.Node]) -> Followed | None:
    """A product: zero where a factor is, and the others are finite."""
    zeros, open_ = ([part for part in parts if part.kind == kind] for kind in (Kind.ZERO, Kind.OPEN))
    if zeros and all(part.finite for part in open_) and (rows := together([zeros[0].rows, *(p.rows for p in open_)])) is not None:
        return Followed(Kind.ZERO, rows)
    return _either(known, parts, nodes)


def _either(known: Known, parts: Sequence[Followed], nodes: Sequence[fx.Node]) -> Followed | None:
    """Open where any of the operands is; otherwise sure."""
    kind = Kind.OPEN if any(part.kind == Kind.OPEN for part in parts) else Kind.SURE
    several = [part.rows for part in parts if part.kind == kind or kind == Kind.SURE]
    rows = together(several) if several else None
    finite = all(part.finite for part in parts) and all(map(known.is_finite, nodes))
    return None if rows is None else Followed(kind, rows, finite)


# -- pointwise ops -------------------------------------------------------------------------------------------------------------

#: Zero of zero.
_ODD = frozenset(
    """
relu relu6 silu gelu elu tanh neg abs square leaky_relu sin asinh atan erf expm1 log1p mish hardswish sqrt sinh asin tan
sign floor ceil round trunc softshrink hardshrink celu selu _prelu_kernel
""".split()  # noqa: SIM905
)
#: Finite of finite numbers.
_BOUNDED = _ODD | frozenset("add sub rsub mul sigmoid exp clamp clamp_min clamp_max hardtanh where masked_fill softplus".split())  # noqa: SIM905


def pointwise(known: Known, op: Op) -> Followed | None:
    nodes, name, ndim = op.node.all_input_nodes, op_name(op.node), len(op.shape())
    parts = []
    for node in nodes:
        if (part := known.of(node)) is not None:
            parts.append(replace(part, rows=part.rows.reshape([1] * (ndim - part.rows.ndim) + list(part.rows.shape))))
    if name == "mul" and len(nodes) > 1:
        return times(known, parts, nodes)
    found = _either(known, parts, nodes)
    if found is None:
        return None
    if any(part is not None and part.kind == Kind.ZERO for part in map(known.of, _signed(op, name))):
        return replace(found, kind=Kind.OPEN, finite=False)
    if found.kind == Kind.SURE and _stays_zero(known, op, name):
        return replace(found, kind=Kind.ZERO)
    return replace(found, finite=found.finite and _stays_finite(known, op, name))


def _signed(op: Op, name: str) -> list[Any]:
    """Operands of which a zero's sign is seen, which depends on what it was multiplied with."""
    if name in ("div", "atan2", "copysign"):
        return [op.get("other")]
    negative = name == "pow" and not (isinstance(op["exponent"], (int, float)) and op["exponent"] > 0)
    return [op["self"]] if negative or name in ("reciprocal", "rsqrt", "signbit") else []


def _stays_zero(known: Known, op: Op, name: str) -> bool:
    if not _is_zero(known, op.get("self")):
        return False
    if name in ("add", "sub", "where"):
        return _is_zero(known, op["other"])
    if name == "div":
        return op.get("rounding_mode") is None
    if name in ("clamp", "clamp_min", "clamp_max", "hardtanh"):
        low, high = (op["min_val"], op["max_val"]) if name == "hardtanh" else (op.get("min"), op.get("max"))
        numbers = all(bound is None or isinstance(bound, (int, float)) for bound in (low, high))
        return numbers and (low is None or low <= 0) and (high is None or high >= 0)
    if name == "pow":
        return isinstance(op["exponent"], (int, float)) and op["exponent"] > 0
    return name in _ODD or name == "mul"  # of one tensor, with itself or a number


def _is_zero(known: Known, operand: Any) -> bool:
    found = known.of(operand)
    return found is not None and found.kind == Kind.ZERO


def _stays_finite(known: Known, op: Op, name: str) -> bool:
    """Whether finite numbers make finite ones; shares, divided by their sum, do."""
    if any(isinstance(value, (int, float)) and not math.isfinite(value) for value in op.args.values()):
        return False
    if op.node.meta["val"].dtype == torch.bool:
        return True
    if name == "div":
        return not isinstance(op["other"], fx.Node) or known.of(op["other"]) is None or _is_sum(op["other"])
    return name in _BOUNDED or (name == "rsqrt" and _is_raised(op["self"]))


def _is_raised(node: fx.Node) -> bool:
    """Whether a small number is added, as in a norm."""
    added = node.args[1] if op_name(node) == "add" and len(node.args) > 1 else 0
    return isinstance(added, (int, float)) and added > 0


def _is_sum(node: fx.Node) -> bool:
    while op_name(node) in ("add", "expand", "clamp", "clamp_min", "_to_copy"):
        node = node.all_input_nodes[0]
    return op_name(node) == "sum"
