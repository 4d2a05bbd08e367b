"""Ops that keep different values different (see :mod:`autoperm.rules.ties`): what is not here may make some equal."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import fx

from autoperm.capture.clean import ancestors
from autoperm.rules.movement import reordered
from autoperm.rules.nonzero import is_mask
from autoperm.rules.op import Op
from autoperm.rules.ties import MOST_CONSTANT, Origins, Values, covering, first, keeping, unreduced, with_reduced
from autoperm.rules.vanishing import balanced

#: Of the first argument. Left out is what is flat somewhere, or so nearly that rounding makes it so: GELU, ELU.
_ONE_TO_ONE = """
alias clone contiguous detach lift_fresh_copy neg exp exp2 expm1 reciprocal sigmoid tanh softplus silu sin erf atan slice flip
roll _prelu_kernel
"""


@keeping(*(f"aten.{name}" for name in _ONE_TO_ONE.split()))
def same(values: Values, op: Op, dims: Collection[int]) -> Origins:
    return values.origins(first(op), dims)


@keeping("aten.log", "aten.log2", "aten.log10", "aten.log1p", "aten.sqrt", "aten.rsqrt")
def of_positive(values: Values, op: Op, dims: Collection[int]) -> Origins:
    """Of numbers below zero they are all NaN."""
    return values.origins(op["self"], dims) if values.positive(op["self"]) else None


@keeping("aten.leaky_relu")
def sloped(values: Values, op: Op, dims: Collection[int]) -> Origins:
    return values.origins(op["self"], dims) if op["negative_slope"] != 0 else None


@keeping("aten.abs", "aten.square", "aten.cos")
def even(values: Values, op: Op, dims: Collection[int]) -> Origins:
    """Of a number and its negative the same, as there are among values that were made to have a sum."""
    return None if balanced(op["self"]) else values.origins(op["self"], dims)


@keeping("aten._softmax", "aten._log_softmax", "aten._safe_softmax", "aten.softmax", "aten.log_softmax")
def in_shares(values: Values, op: Op, dims: Collection[int]) -> Origins:
    """The share of one alone is the whole."""
    shape = op["self"].meta["val"].shape
    return values.origins(op["self"], dims) if shape and shape[op["dim"]] > 1 else None


@keeping("aten.rms_norm", "aten.layer_norm")
def normalised(values: Values, op: Op, dims: Collection[int]) -> Origins:
    return values.origins(first(op), dims) if math.prod(op["normalized_shape"]) > MOST_CONSTANT else None


@keeping("aten.gelu", "aten.elu", "aten.mish")
def nearly_flat(values: Values, op: Op, dims: Collection[int]) -> Origins:
    return values.origins(op["self"], dims) if values.rows and op.get("alpha", 1) != 0 else None


@keeping("aten._to_copy", "aten.to")
def cast(values: Values, op: Op, dims: Collection[int]) -> Origins:
    """To float32, or a type that holds no less than before: rounding to fewer digits makes values equal."""
    old, new = op["self"].meta["val"].dtype, op.node.meta["val"].dtype
    if not (old.is_floating_point and new.is_floating_point):
        return None
    enough = max(torch.finfo(old).eps, torch.finfo(torch.float32).eps)
    return values.origins(op["self"], dims) if torch.finfo(new).eps <= enough else None


@keeping("aten.view", "aten.reshape", "aten._unsafe_view", "aten.unsqueeze", "aten.squeeze")
def reshaped(values: Values, op: Op, dims: Collection[int]) -> Origins:
    return values.origins(op["self"], covering(op["self"].meta["val"].shape, op.shape(), dims))


@keeping("aten.permute", "aten.transpose", "aten.t")
def permuted(values: Values, op: Op, dims: Collection[int]) -> Origins:
    order = reordered(op, len(op.shape()))
    return values.origins(op["self"], {order[d] for d in dims})


@keeping("aten.select")
def selected(values: Values, op: Op, dims: Collection[int]) -> Origins:
    dim = op["dim"] % op["self"].meta["val"].ndim
    return values.origins(op["self"], {d + (d >= dim) for d in dims})


@keeping("aten.expand")
def expanded(values: Values, op: Op, dims: Collection[int]) -> Origins:
    x, shape = op["self"].meta["val"].shape, op.shape()
    more = len(shape) - len(x)
    if any(d < more or x[d - more] != shape[d] for d in dims):
        return None
    return values.origins(op["self"], {d - more for d in dims})


@keeping("aten.cat")
def joined(values: Values, op: Op, dims: Collection[int]) -> Origins:
    found = [values.origins(part, dims) for part in op["tensors"]]
    return _apart(found) if op["dim"] % len(op.shape()) in dims else _all(found)


@keeping("aten.stack")
def stacked(values: Values, op: Op, dims: Collection[int]) -> Origins:
    dim = op["dim"] % len(op.shape())
    found = [values.origins(part, {d - (d > dim) for d in dims if d != dim}) for part in op["tensors"]]
    return _apart(found) if dim in dims else _all(found)


# -- arithmetic: what makes the operands different must not cancel -------------------------------------------------------


@keeping("aten.add", "aten.sub", "aten.mul", "aten.div", "aten.rsub")
def combined(values: Values, op: Op, dims: Collection[int]) -> Origins:
    if op.get("rounding_mode") is not None:
        return None
    if op.name.startswith("aten.div") and _is_norm(op["other"], op["self"], dims, len(op.shape())):
        return values.origins(op["self"], dims)
    scales, found, fixed = op.name.startswith(("aten.mul", "aten.div")), [], False
    for part in (op["self"], op["other"]):
        if isinstance(part, (int, float)):
            if not math.isfinite(part) or (part == 0 and scales):
                return None
            continue
        shape = part.meta["val"].shape
        more = len(op.shape()) - len(shape)
        own = {d - more for d in dims if d >= more and shape[d - more] > 1}
        shifts = not scales and is_finite(values, part)
        if shifts and dims and not own:
            continue  # of all alike
        origins = values.origins(part, own)
        if scales and not own and is_mask(values.labels, part):
            return None  # inputs that multiply all alike are masks
        if origins is None and shifts and not reads_input(values, part):
            fixed = True
            continue
        if origins is None:
            return None
        found.append((origins, len(own) == len(dims)))
    if fixed and not all(any(reads_input(values, node) for node in origins) for origins, _ in found):
        return None  # what depends on the input cannot be made equal by what does not
    if not any(whole for _, whole in found):
        return None
    # What does not vary along the dimensions scales or shifts all alike.
    return _apart([o for o, whole in found if whole]) if all(w for _, w in found) else _all(o for o, whole in found if whole)


def _is_norm(node: Any, x: fx.Node, dims: Collection[int], ndim: int) -> bool:
    """Whether a tensor is the norm of another one over several of its dimensions, so that different rows stay different."""
    while isinstance(node, fx.Node) and node.op == "call_function":
        name = str(node.target).split(".")[1]
        if name == "linalg_vector_norm":
            over = {d % ndim for d in (node.args[2] if len(node.args) > 2 and node.args[2] else range(ndim))}  # type: ignore[union-attr]
            several = math.prod(x.meta["val"].shape[d] for d in over) > 1
            return node.args[0] is x and several and not over & set(dims)
        if name not in ("expand", "clamp_min", "clamp"):
            return False
        node = node.args[0]
    return False


@keeping("aten.pow")
def power(values: Values, op: Op, dims: Collection[int]) -> Origins:
    exponent = op["exponent"]
    if isinstance(exponent, (int, float)) and exponent % 2 != 1 and balanced(op["self"]):
        return None
    if isinstance(exponent, float) and not exponent.is_integer() and not values.positive(op["self"]):
        return None
    return values.origins(op["self"], dims) if isinstance(exponent, (int, float)) and exponent != 0 else None


@keeping("aten.sum", "aten.mean")
def summed(values: Values, op: Op, dims: Collection[int]) -> Origins:
    """Sums of different values differ, unless these were made to have a sum: by a softmax, a norm, a division by it."""
    x, reduced = op["self"], op.get("dim")
    if reduced is None or (isinstance(reduced, list) and not reduced) or balanced(x):
        return None
    reduced = [reduced] if isinstance(reduced, int) else list(reduced)
    return values.origins(x, unreduced(x, dims, reduced, op["keepdim"]))


#: What starts anew, whatever infinities come before: products, and what is in proportion to something.
_ANEW = ("mm", "addmm", "bmm", "baddbmm", "linear", "convolution", "_softmax", "softmax", "native_layer_norm")


def is_finite(values: Values, node: fx.Node) -> bool:
    """Whether nothing puts infinities, as a mask does, between the products that a node comes from and the node."""
    waiting, seen = [node], {node}
    while waiting:
        here = waiting.pop()
        if here.op == "placeholder":
            continue
        known = values.labels.value(here)
        if known is not None:
            if not bool(torch.isfinite(known.to(torch.float64)).all()):
                return False
            continue
        name = str(here.target).partition(".")[2]
        if here.op != "call_function" or not all(math.isfinite(a) for a in here.args if isinstance(a, float)):
            return False
        if name.startswith(("log", "reciprocal", "rsqrt")) or (name.startswith("div") and not _is_bounded(here.args[1])):
            return False
        if not name.startswith(_ANEW):
            waiting += set(here.all_input_nodes) - seen
            seen.update(here.all_input_nodes)
    return True


def reads_input(values: Values, node: fx.Node) -> bool:
    """Whether a node depends on an input of the model, not on weights alone."""
    return any(here.op == "placeholder" and not values.labels.is_weight(here) for here in ancestors([node]))


def _is_bounded(divisor: Any) -> bool:
    """Whether a divisor is no less than a positive number."""
    while isinstance(divisor, fx.Node) and str(divisor.target).startswith("aten.expand"):
        divisor = divisor.args[0]
    if not isinstance(divisor, fx.Node):
        return isinstance(divisor, (int, float)) and divisor != 0
    least = divisor.args[1] if len(divisor.args) > 1 else None
    return str(divisor.target).startswith("aten.clamp") and isinstance(least, (int, float)) and least > 0


@keeping("aten.amax", "aten.amin")
def extreme(values: Values, op: Op, dims: Collection[int]) -> Origins:
    reduced = op["dim"] if op["dim"] else list(range(op["self"].meta["val"].ndim))
    return values.origins(op["self"], with_reduced(op["self"], dims, reduced, op["keepdim"]))


def _apart(found: Iterable[Origins]) -> Origins:
    """All origins together, where each set is different from the others."""
    total: set[fx.Node] = set()
    constant = 0
    for origins in found:
        if origins is None or total & origins:
            return None
        constant += not origins
        total |= origins
    return frozenset(total) if constant < 2 else None  # two constants may hold the same numbers


def _all(found: Iterable[Origins]) -> Origins:
    listed = list(found)
    return None if any(o is None for o in listed) else frozenset().union(*listed)  # type: ignore[arg-type]
