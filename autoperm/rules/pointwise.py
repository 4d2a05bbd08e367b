"""Pointwise ops: operands and result move together, axis by axis, broadcasting dimensions of size 1."""

from __future__ import annotations

from autoperm.inference import views
from autoperm.inference.equation import expand_term
from autoperm.inference.views import View
from autoperm.rules.op import Op
from autoperm.rules.registry import NoRule, rule

UNARY = """
abs acos acosh alpha_dropout angle asin asinh atan atanh bitwise_not ceil celu clamp clamp_min clamp_max clip conj_physical
cos cosh deg2rad digamma elu erf erfc erfinv exp exp2 expm1 feature_dropout floor frac gelu hardshrink hardsigmoid
hardswish hardtanh isfinite isinf isnan isneginf isposinf leaky_relu lgamma log log10 log1p log2 log_sigmoid
log_sigmoid_forward logical_not logit mish mvlgamma nan_to_num neg negative positive rad2deg reciprocal relu relu6
round rrelu rsqrt selu sgn sigmoid sign signbit silu sin sinc sinh softplus softshrink special_entr special_erfcx
special_i0 special_i1 special_ndtr special_log_ndtr sqrt square tan tanh threshold trunc rad2deg i0 fix
_conj_physical real imag _to_copy to _autocast_to_reduced_precision _autocast_to_full_precision
"""
NARY = """
add add_scalar addcdiv addcmul atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor copysign
complex polar div divide eq floor_divide fmax fmin fmod ge greater gt heaviside hypot le lerp less logaddexp logaddexp2 logical_and
logical_or logical_xor lt masked_fill maximum minimum mul multiply ne nextafter pow float_power prelu_kernel
_prelu_kernel remainder rsub special_xlog1py special_zeta sub subtract true_divide where xlogy
__and__ __or__ __xor__ __lshift__ __rshift__ clamp_tensor copy isclose
"""


def pointwise(op: Op) -> View:
    """``..., ... -> ...``, aligned at the right."""
    return merge(op, op.tensors(), op.shape())


def merge(op: Op, operands: list[View], shape: tuple[int, ...]) -> View:
    """The label of a pointwise function of the operands."""
    present = [v for v in operands if any(v.dims) or _computed(v)]
    if len(present) == 1 and present[0].shape == shape:
        return present[0]
    inputs = [(v, expand_term("...", v.ndim)) for v in present]
    return op.state(inputs, [expand_term("...", len(shape))], [shape])[0]


def _computed(view: View) -> bool:
    """Whether a single number depends on entries of some tensor, which the result then depends on too."""
    source = view.source
    return any(axis is not None for axis in source.dims) or source.node.op == "call_function"


for _name in dict.fromkeys((UNARY + NARY).split()):
    # An in-place op that survived functionalisation has the functional op's label.
    rule(f"aten.{_name}", f"aten.{_name}_")(pointwise)


@rule("aten.native_dropout", "aten.dropout", "aten.feature_alpha_dropout")
def dropout(op: Op) -> object:
    """The identity in eval mode; noise in train mode has no symmetry that we can prove for one sample."""
    if op.get("train") is True and op.get("p") != 0:
        raise NoRule("dropout in train mode")
    view = op.view("input" if "input" in op.args else "self")
    return [view, None] if op.name.startswith("aten.native") else view


@rule("aten.glu")
def glu(op: Op) -> View:
    """The first half of a dimension, gated by the second."""
    view, dim = op.view("self"), op["dim"] % op.view("self").ndim
    half = op.shape()[dim]
    first, second = views.narrow(view, dim, 0, half), views.narrow(view, dim, half, half)
    if first is None or second is None:
        from autoperm.rules.movement import narrowed

        first, second = narrowed(op, view, dim, 0, half), narrowed(op, view, dim, half, half)
    return merge(op, [first, second], op.shape())


@rule("aten.prelu")
def prelu(op: Op) -> View:
    """One slope per channel, dimension 1, or a single slope."""
    view, weight = op.view("self"), op.view("weight")
    if view.ndim < 2 or not any(weight.dims):
        return view
    return op.equation(f"{_channel(view.ndim)}, c -> {_channel(view.ndim)}", view, weight)


def _channel(ndim: int) -> str:
    return " ".join(["b", "c", *(f"s{k}" for k in range(ndim - 2))])


@rule("aten.view_as_real")
def view_as_real(op: Op) -> View:
    """Complex numbers as pairs: a last axis that cannot move."""
    view = op.view("self")
    return op.equation("... -> ... _", view, reason="real and imaginary part")


@rule("aten.view_as_complex")
def view_as_complex(op: Op) -> View:
    return op.equation("... _ -> ...", op.view("self"), reason="real and imaginary part")
