"""Pointwise ops: operands and result move together, axis by axis, broadcasting dimensions of size 1."""

from __future__ import annotations

from autoperm.inference import views
from autoperm.inference.equation import expand_term
from autoperm.inference.views import View
from autoperm.rules.folding import folded, mirrored
from autoperm.rules.movement import narrowed
from autoperm.rules.op import Op
from autoperm.rules.random import noisy
from autoperm.rules.registry import rule

UNARY = """
abs acos acosh angle asin asinh atan atanh bitwise_not ceil celu clamp clamp_min clamp_max clip conj_physical
cos cosh deg2rad digamma elu erf erfc erfinv exp exp2 expm1 floor frac gelu hardshrink hardsigmoid
hardswish hardtanh isfinite isinf isnan isneginf isposinf leaky_relu lgamma log log10 log1p log2 log_sigmoid
log_sigmoid_forward logical_not logit mish mvlgamma nan_to_num neg negative positive rad2deg reciprocal relu relu6
round rsqrt selu sgn sigmoid sign signbit silu sin sinc sinh softplus softshrink special_entr special_erfcx
special_i0 special_i1 special_ndtr special_log_ndtr sqrt square tan tanh threshold trunc rad2deg i0 fix
special_i0e special_i1e special_ndtri special_bessel_j0 special_bessel_j1 special_bessel_y0 special_bessel_y1
special_modified_bessel_i0 special_modified_bessel_i1 special_modified_bessel_k0 special_modified_bessel_k1 special_airy_ai
special_scaled_modified_bessel_k0 special_scaled_modified_bessel_k1 special_spherical_bessel_j0 polygamma
_conj_physical real imag _to_copy to _autocast_to_reduced_precision _autocast_to_full_precision
"""
NARY = """
add addcdiv addcmul atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor copysign
complex polar div special_chebyshev_polynomial_t special_chebyshev_polynomial_u special_hermite_polynomial_h
special_hermite_polynomial_he special_laguerre_polynomial_l special_legendre_polynomial_p
div divide eq floor_divide fmax fmin fmod ge greater gt heaviside hypot le lerp less
logaddexp logaddexp2 logical_and
logical_or logical_xor lt masked_fill maximum minimum mul multiply ne nextafter pow float_power
_prelu_kernel remainder rsub special_xlog1py special_zeta sub subtract true_divide where xlogy
__and__ __or__ __xor__ __lshift__ __rshift__ isclose ldexp gcd lcm igamma igammac
"""


def pointwise(op: Op) -> object:
    """``..., ... -> ...``, aligned at the right."""
    operands = op.tensors()
    dim = mirrored(op, operands)
    found = merge(op, operands, op.shape()) if dim is None else folded(op, operands[0], dim)
    several = isinstance(op.node.meta["val"], (tuple, list))
    return [found] * len(op.node.meta["val"]) if several else found


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
    rule(f"aten.{_name}")(pointwise)


@rule("aten.native_dropout", "aten.dropout", "aten.feature_dropout", "aten.alpha_dropout", "aten.feature_alpha_dropout")
def dropout(op: Op) -> object:
    """The identity in eval mode; in train mode, entries times noise."""
    view = op.view("input" if "input" in op.args else "self")
    several = isinstance(op.node.meta["val"], (tuple, list))
    if op.get("train") is not False and op.get("p") != 0:
        found = noisy(op, view)
        return [found, noisy(op, result=1)] if several else found
    return [view, None] if several else view


@rule("aten.rrelu", "aten.rrelu_with_noise_functional")
def rrelu(op: Op) -> object:
    """A leaky ReLU in eval mode; in train mode, with random slopes."""
    view = op.view("self")
    if not isinstance(op.node.meta["val"], (tuple, list)):
        return noisy(op, view) if op["training"] else view
    return [noisy(op, view), noisy(op, result=1)] if op["training"] else [view, None]


@rule("aten.empty_like", "aten.new_empty", "aten.empty_strided", "aten.new_empty_strided", "aten.empty")
def uninitialised(op: Op) -> View:
    """Memory that is written to before anything reads it: no value, so no constraint."""
    return views.identity(op.system.tensor(op.shape(), [None] * len(op.shape()), op.node))


@rule("aten.glu")
def glu(op: Op) -> View:
    """The first half of a dimension, gated by the second."""
    view, dim = op.view("self"), op["dim"] % op.view("self").ndim
    half = op.shape()[dim]
    first, second = views.narrow(view, dim, 0, half), views.narrow(view, dim, half, half)
    if first is None or second is None:
        first, second = narrowed(op, view, dim, 0, half), narrowed(op, view, dim, half, half)
    return merge(op, [first, second], op.shape())


@rule("aten.prelu")
def prelu(op: Op) -> View:
    """One slope per channel, dimension 1, or a single slope."""
    view, weight = op.view("self"), op.view("weight")
    channel = _channel(view.ndim)
    return op.equation(f"{channel}, {'c' if view.ndim > 1 else '1'} -> {channel}", view, weight)


def _channel(ndim: int) -> str:
    return " ".join(["b", "c", *(f"s{k}" for k in range(ndim - 2))][:ndim])


@rule("aten.view_as_real")
def view_as_real(op: Op) -> View:
    """Complex numbers as pairs: a last axis that cannot move."""
    view = op.view("self")
    return op.equation("... -> ... _", view, reason="real and imaginary part")


@rule("aten.view_as_complex")
def view_as_complex(op: Op) -> View:
    return op.equation("... _ -> ...", op.view("self"), reason="real and imaginary part")
