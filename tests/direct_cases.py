"""Ops that no function of ``rule_cases`` becomes when traced: other names, forms for other backends, rarer relatives.

Each is called by its own name, beside a function that gives the same and that the oracle can count: both have the same
group. Where there is no such function the order is given by hand.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from rule_cases import ints
from sandwich import Case
from torch import Tensor, fx

aten = torch.ops.aten


@dataclass(frozen=True)
class Direct:
    """An op by its own name, and the same by another; None where the order is given."""

    case: Case
    like: Case | None

    @property
    def name(self) -> str:
        return self.case.name


DIRECT: list[Direct] = []


def add(name: str, op: Callable[..., Any], like: Callable[..., Any] | int, *operands: Any, **options: Any) -> None:
    """``like`` is a function, or the order; 0 where the group is only to be sound."""
    shape = next((o for o in operands if isinstance(o, tuple)), ())
    trailing = next((k for k, n in enumerate(reversed(shape)) if n > 0), len(shape))
    options = {"space": trailing, **options}
    order = like if isinstance(like, int) else None
    other = Case(name, like, operands, **options) if callable(like) else None
    DIRECT.append(Direct(Case(name, op, operands, **{**options, "order": order}), other))


# -- pointwise: entries of a (2, 3) are free ---------------------------------------------------------------------------

FREE = 720
_UNARY = {
    "clamp_max": lambda x: aten.clamp_max(x, 0.3), "clip": lambda x: aten.clip(x, -0.5, 0.5), "conj_physical": aten.conj_physical,
    "isneginf": aten.isneginf, "isposinf": aten.isposinf, "mvlgamma": lambda x: aten.mvlgamma(x.abs() + 2, 2),
    "negative": aten.negative, "special_i0": aten.special_i0, "fix": aten.fix, "special_ndtr": aten.special_ndtr,
    "special_bessel_y0": lambda x: aten.special_bessel_y0(x.abs() + 1), "special_bessel_y1": lambda x: aten.special_bessel_y1(x.abs() + 1),
    "special_modified_bessel_i0": aten.special_modified_bessel_i0, "special_modified_bessel_i1": aten.special_modified_bessel_i1,
    "special_modified_bessel_k0": lambda x: aten.special_modified_bessel_k0(x.abs() + 1),
    "special_modified_bessel_k1": lambda x: aten.special_modified_bessel_k1(x.abs() + 1), "special_airy_ai": aten.special_airy_ai,
    "special_scaled_modified_bessel_k0": lambda x: aten.special_scaled_modified_bessel_k0(x.abs() + 1),
    "special_scaled_modified_bessel_k1": lambda x: aten.special_scaled_modified_bessel_k1(x.abs() + 1),
    "special_spherical_bessel_j0": aten.special_spherical_bessel_j0, "polygamma": lambda x: aten.polygamma(2, x.abs() + 1),
    "_conj_physical": aten._conj_physical, "feature_dropout": lambda x: aten.feature_dropout(x, 0.5, False),
    "native_dropout": lambda x: aten.native_dropout(x, 0.5, False)[0],
    "_autocast_to_full_precision": lambda x: aten._autocast_to_full_precision(x, False, False),
    "_autocast_to_reduced_precision": lambda x: aten._autocast_to_reduced_precision(x, False, False, torch.float16, torch.bfloat16),
    "alias_copy": aten.alias_copy, "detach_copy": aten.detach_copy, "lift": aten.lift,
    "resolve_conj": aten.resolve_conj, "resolve_neg": aten.resolve_neg, "conj": aten.conj, "_neg_view": aten._neg_view,
    "bitwise_not": lambda x: aten.bitwise_not(x > 0),
}  # fmt: skip
for _name, _op in _UNARY.items():
    add(_name, _op, FREE, (2, 3), constant=_name in ("isneginf", "isposinf", "bitwise_not", "mvlgamma"))
_INTEGERS = {
    "bitwise_left_shift": aten.bitwise_left_shift, "bitwise_right_shift": aten.bitwise_right_shift, "bitwise_xor": aten.bitwise_xor,
    "gcd": aten.gcd, "lcm": aten.lcm, "__and__": operator.and_, "__or__": operator.or_, "__xor__": operator.xor,
    "__lshift__": operator.lshift, "__rshift__": operator.rshift,
}  # fmt: skip
_REALS = {
    **{f"special_{kind}": getattr(aten, f"special_{kind}") for kind in ("chebyshev_polynomial_t", "chebyshev_polynomial_u",
       "hermite_polynomial_h", "hermite_polynomial_he", "laguerre_polynomial_l", "legendre_polynomial_p")},
    "special_xlog1py": lambda x, y: aten.special_xlog1py(x, y.abs()), "special_zeta": lambda x, y: aten.special_zeta(x.abs() + 2, y.abs() + 1),
    "divide": lambda x, y: aten.divide(x, y.abs() + 1), "true_divide": lambda x, y: aten.true_divide(x, y.abs() + 1),
    "multiply": aten.multiply, "subtract": aten.subtract, "rsub": aten.rsub, "greater": aten.greater, "less": aten.less,
    "ldexp": aten.ldexp, "igamma": lambda x, y: aten.igamma(x.abs() + 1, y.abs()), "igammac": lambda x, y: aten.igammac(x.abs() + 1, y.abs()),
}  # fmt: skip
for _name, _op in _INTEGERS.items():
    add(_name, lambda x, y, op=_op: op((9 * x).abs().int(), y.abs().int()), 48, (2, 3), (3,), constant=True)
for _name, _op in _REALS.items():
    add(_name, _op, 48, (2, 3), (3,), constant=True)

# -- movement ------------------------------------------------------------------------------------------------------------

add("view_copy", lambda x: aten.view_copy(x, [6]), lambda x: x.reshape(6), (2, 3))
add("_reshape_alias", lambda x: aten._reshape_alias(x.contiguous(), [6], [1]), lambda x: x.reshape(6), (2, 3))
add("_reshape_copy", lambda x: aten._reshape_copy(x, [6]), lambda x: x.reshape(6), (2, 3))
add("squeeze_copy", lambda x: aten.squeeze_copy(x, 1), lambda x: x.squeeze(1), (2, 1, 3))
add("unsqueeze_copy", lambda x: aten.unsqueeze_copy(x, 1), lambda x: x.unsqueeze(1), (2, 3))
add("permute_copy", lambda x: aten.permute_copy(x, [2, 0, 1]), lambda x: x.permute(2, 0, 1), (2, 3, 2))
add("numpy_T", lambda x: aten.numpy_T(x), lambda x: x.permute(1, 0), (2, 3))
add("numpy_T_3", lambda x: aten.numpy_T(x), lambda x: x.permute(2, 1, 0), (2, 3, 2))
add("mT", lambda x: aten.mT(x), lambda x: x.transpose(1, 2), (2, 3, 2))
add("t_copy", aten.t_copy, lambda x: x.t(), (2, 3))
add("adjoint", aten.adjoint, lambda x: x.mT, (2, 3))
add("swapaxes", lambda x: aten.swapaxes(x, 0, 2), lambda x: x.transpose(0, 2), (2, 3, 2))
add("swapdims", lambda x: aten.swapdims(x, 0, 2), lambda x: x.transpose(0, 2), (2, 3, 2))
add("transpose_copy", lambda x: aten.transpose_copy(x, 0, 1), lambda x: x.transpose(0, 1), (2, 3))
add("moveaxis", lambda x: aten.moveaxis(x, 0, 2), lambda x: x.movedim(0, 2), (2, 3, 2))
add("broadcast_to", lambda x: aten.broadcast_to(x, [2, 3]), lambda x: x.expand(2, 3), (3,))
add("expand_copy", lambda x: aten.expand_copy(x, [2, 3]), lambda x: x.expand(2, 3), (3,))
add("slice_copy", lambda x: aten.slice_copy(x, 1, 1, 4), lambda x: x[:, 1:4], (2, 5))
add("narrow", lambda x: aten.narrow(x, 1, 1, 3), lambda x: x[:, 1:4], (2, 5))
add("narrow_copy", lambda x: aten.narrow_copy(x, 1, 1, 3), lambda x: x[:, 1:4], (2, 5))
add("select_copy", lambda x: aten.select_copy(x, 1, 1), lambda x: x[:, 1], (2, 3))
add("unbind_copy", lambda x: aten.unbind_copy(x, 1), lambda x: x.unbind(1), (2, 3))
add("unsafe_chunk", lambda x: aten.unsafe_chunk(x, 2, 1), lambda x: x.chunk(2, 1), (2, 6))
add("unsafe_split_with_sizes", lambda x: aten.unsafe_split_with_sizes(x, [2, 3], 1), lambda x: x.split([2, 3], 1), (2, 5))
add("split_copy", lambda x: aten.split_copy(x, 2, 1), lambda x: x.split(2, 1), (2, 5))
add("split_with_sizes_copy", lambda x: aten.split_with_sizes_copy(x, [2, 3], 1), lambda x: x.split([2, 3], 1), (2, 5))
add("hsplit", lambda x: aten.hsplit(x, [2]), lambda x: x.split([2, 3], 1), (2, 5))
add("vsplit", lambda x: aten.vsplit(x, [2]), lambda x: x.split([2, 3], 0), (5, 2))
add("unfold_copy", lambda x: aten.unfold_copy(x, 1, 2, 2), lambda x: x.unfold(1, 2, 2), (2, 4))
add("as_strided_copy", lambda x: aten.as_strided_copy(x, [3, 2], [1, 3]), lambda x: x.as_strided((3, 2), (1, 3)), (2, 3))
add("diagonal_copy", aten.diagonal_copy, lambda x: x.diagonal(), (3, 3))
add("native_channel_shuffle", lambda x: aten.native_channel_shuffle(x, 2), lambda x: F.channel_shuffle(x, 2), (1, 6, 2, 1))
add("concat", lambda x, y: aten.concat([x, y], 1), lambda x, y: torch.cat([x, y], 1), (2, 3), (2, 2))
add("concatenate", lambda x, y: aten.concatenate([x, y], 1), lambda x, y: torch.cat([x, y], 1), (2, 3), (2, 2))

# -- contractions --------------------------------------------------------------------------------------------------------

add("ger", aten.ger, torch.outer, (2,), (3,))
add("_addmm_activation", aten._addmm_activation, lambda a, b, c: torch.addmm(a, b, c).relu(), (3,), (2, 2), (2, 3))
add("_int_mm", lambda x, y: aten._int_mm(x.to(torch.int8), y.to(torch.int8)), lambda x, y: x.round() @ y.round(), (17, 8), (8, 8), constant=True)
add("_convolution", lambda x, w, b: aten._convolution(x, w, b, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, False, False, False, False),
    lambda x, w, b: F.conv2d(x, w, b, padding=1), (1, 2, -2, -2), (3, 2, 2, 2), (3,))  # fmt: skip
add("mkldnn_convolution", lambda x, w, b: aten.mkldnn_convolution(x.float(), w.float(), b.float(), [0, 0], [1, 1], [1, 1], 1).double(),
    0, (1, 2, -2, -2), (3, 2, 2, 2), (3,), single=True)  # fmt: skip
add("thnn_conv2d", lambda x, w, b: aten.thnn_conv2d(x, w, [2, 2], b), F.conv2d, (1, 2, -2, -2), (3, 2, 2, 2), (3,))
add("_scaled_dot_product_attention_math", lambda q, k, v: aten._scaled_dot_product_attention_math(q, k, v)[0],
    F.scaled_dot_product_attention, (1, 2, 2, 2), (1, 2, 2, 2), (1, 2, 2, 3))  # fmt: skip
add("_euclidean_dist", aten._euclidean_dist, torch.cdist, (2, 3), (3, 3))
add("cross", lambda a, b: aten.cross(a, b), 2, (2, 3), (2, 3))

# -- norms ---------------------------------------------------------------------------------------------------------------

_norm = {"momentum": 0.1, "eps": 1e-5}
_batch_norms = {name: getattr(aten, name) for name in (
    "native_batch_norm", "_native_batch_norm_legit_functional", "_native_batch_norm_legit_no_training", "_batch_norm_no_update")}  # fmt: skip
for _training in (False, True):
    for _name, _op in list(_batch_norms.items())[:2]:
        add(f"{_name}_{_training}", lambda x, w, b, m, v, op=_op, t=_training: op(x, w, b, m, v.abs() + 1, t, **_norm)[0],
            lambda x, w, b, m, v, t=_training: F.batch_norm(x, m, v.abs() + 1, w, b, training=t), (2, 3, 2), (3,), (3,), (3,), (3,))  # fmt: skip
for _name, _op in list(_batch_norms.items())[2:]:
    add(_name, lambda x, w, b, m, v, op=_op: op(x, w, b, m, v.abs() + 1, **_norm)[0],
        lambda x, w, b, m, v: F.batch_norm(x, m, v.abs() + 1, w, b), (2, 3, 2), (3,), (3,), (3,), (3,))  # fmt: skip
add("_native_batch_norm_legit.no_stats", lambda x, w, b: aten._native_batch_norm_legit.no_stats(x, w, b, True, **_norm)[0],
    lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True), (2, 3, 2), (3,), (3,))  # fmt: skip
for _k in (1, 2):
    add(f"native_layer_norm_{_k}", lambda x, k=_k: aten.native_layer_norm(x, [3], None, None, 1e-5)[k],
        lambda x, k=_k: [x.mean(-1, True), (x.var(-1, correction=0, keepdim=True) + 1e-5).rsqrt()][k - 1], (2, 3))
    add(f"native_group_norm_{_k}", lambda x, k=_k: aten.native_group_norm(x, None, None, 2, 4, 3, 2, 1e-5)[k],
        lambda x, k=_k: [x.view(2, 2, 6).mean(-1), (x.view(2, 2, 6).var(-1, correction=0) + 1e-5).rsqrt()][k - 1], (2, 4, 3))
add("_fused_rms_norm", lambda x, w: aten._fused_rms_norm(x, [3], w, 1e-5)[0], lambda x, w: F.rms_norm(x, (3,), w), (2, 3), (3,))

# -- pooling, resampling, padding ----------------------------------------------------------------------------------------

add("max_pool1d_with_indices", lambda x: aten.max_pool1d_with_indices(x, [2])[0], lambda x: F.max_pool1d(x, 2), (1, 2, -4))
add("_upsample_nearest_exact1d", lambda x: aten._upsample_nearest_exact1d(x, [4]), 2, (1, 2, -3))
add("_upsample_nearest_exact3d", lambda x: aten._upsample_nearest_exact3d(x, [2, 2, 2]), 2, (1, 2, -2, -1, -2))
add("_upsample_bicubic2d_aa", lambda x: aten._upsample_bicubic2d_aa(x, [2, 2], False), 2, (1, 2, -3, -3))
add("_upsample_lanczos2d_aa", lambda x: aten._upsample_lanczos2d_aa(x, [2, 2], False), 2, (1, 2, -3, -3))
add("replication_pad3d", lambda x: aten.replication_pad3d(x, [1, 0, 0, 1, 0, 0]), 2, (1, 2, -2, -2, -2))
add("_adaptive_avg_pool3d", lambda x: aten._adaptive_avg_pool3d(x, [1, 1, 2]), 2, (1, 2, -1, -2, -4))
add("fractional_max_pool3d", lambda x, s: aten.fractional_max_pool3d(x, [2, 2, 2], [2, 2, 2], s)[0], 1, (1, 2, -4, -4, -4),
    torch.full((1, 2, 3), 0.5))  # fmt: skip
add("max_unpool3d", lambda x, i: F.max_unpool3d(x, i, 2), 1, (1, 2, -1, -1, -2), torch.tensor([0, 2]).expand(1, 2, 1, 1, 2))
add("grid_sampler_3d", lambda x, g: F.grid_sample(x, g, align_corners=False), 0, (1, 2, -2, -2, -2), (1, -2, -2, -2, -3))
add("_grid_sampler_2d_cpu_fallback", lambda x, g: aten._grid_sampler_2d_cpu_fallback(x.float(), g.float(), 0, 0, False).double(), 0,
    (1, 2, -2, -2), (1, -2, -2, -2), single=True)  # fmt: skip

# -- reductions, sorting, lookups, writing -------------------------------------------------------------------------------

add("frobenius_norm", lambda x: aten.frobenius_norm.dim(x, [1]), lambda x: x.norm(dim=1), (2, 3))
add("nanmedian", lambda x: x.nanmedian(1), lambda x: x.median(1), (2, 3), reads=(0,))
add("cummin", lambda x: x.cummin(1), lambda x: x.cummax(1), (2, 3), reads=(0,))
add("_embedding_bag", lambda w: aten._embedding_bag(w, torch.tensor([0, 2, 1]), torch.tensor([0, 2]))[0], 6, (5, 3), constant=True)
add("_unsafe_index", lambda x: aten._unsafe_index(x, [None, torch.tensor([2, 0])]), lambda x: x[:, torch.tensor([2, 0])], (2, 4))
add("_unsafe_index_put", lambda x, y: aten._unsafe_index_put(x, [torch.tensor([2, 0])], y), lambda x, y: x.index_copy(0, torch.tensor([2, 0]), y),
    (4, 2), (2, 2))  # fmt: skip
add("_index_put_impl", lambda x, y: aten._index_put_impl(x, [torch.tensor([2, 0])], y), lambda x, y: x.index_copy(0, torch.tensor([2, 0]), y),
    (4, 2), (2, 2))  # fmt: skip
add("put", lambda x, y: aten.put(x, torch.tensor([1, 3]), y), 1, (2, 3), (2,))
add("as_strided_scatter", lambda x, y: x.as_strided_scatter(y, (2, 2), (3, 1)), 1, (2, 3), (2, 2))
add("masked_select", lambda x: aten.masked_select(x, torch.tensor([True, False, True])), 1, (3,))
add("resize", lambda x: x + aten.copy(aten.resize(x.new_zeros(0), [2, 3]), x.tanh()), lambda x: x + x.tanh(), (2, 3))
add("empty_strided", lambda x: aten.copy(aten.empty_strided([2, 3], [3, 1], dtype=x.dtype), x), lambda x: x * 1, (2, 3))
add("new_empty_strided", lambda x: aten.copy(aten.new_empty_strided(x, [2, 3], [3, 1]), x), lambda x: x * 1, (2, 3))

# -- what depends on values ----------------------------------------------------------------------------------------------


def _found(op: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    """What is found among the ranks of a row, all of which occur."""
    return lambda x: x * op(x.argsort(0)).double().reshape(-1)[-1]


add("nonzero", lambda x: x * aten.nonzero(x.argsort(0))[0, 0], 1, (3,))
add("_unique", _found(lambda r: aten._unique(r)[0]), 1, (3,))
add("_unique2", _found(lambda r: aten._unique2(r)[0]), 1, (3,))
add("unique_dim", _found(lambda r: aten.unique_dim(r, 0)[0]), 1, (3,))
add("unique_consecutive", _found(lambda r: aten.unique_consecutive(r)[0]), 1, (3,))

# -- losses --------------------------------------------------------------------------------------------------------------

add("poisson_nll_loss", lambda x, y: aten.poisson_nll_loss(x, y, True, False, 1e-8, 1), FREE, (2, 3), (2, 3))
add("nll_loss", lambda x, t: aten.nll_loss(x, t), 0, (2, 3), ints(2, high=3), constant=True)
add("nll_loss2d", lambda x, t: aten.nll_loss2d(x, t), 0, (2, 3, -1, -2), ints(2, 1, 2, high=3), constant=True)
add("nll_loss2d_forward", lambda x, t: F.nll_loss(x, t), 0, (2, 3, -1, -2), ints(2, 1, 2, high=3), constant=True)

# -- linear algebra ------------------------------------------------------------------------------------------------------


def _square(x: Tensor) -> Tensor:
    return x @ x.mT + torch.eye(2).to(x)


_LINALG: dict[str, Callable[[Tensor], Any]] = {
    "inverse": aten.inverse, "_linalg_slogdet": lambda x: aten._linalg_slogdet(x)[1], "linalg_lu": lambda x: aten.linalg_lu(x)[2],
    "linalg_lu_factor": lambda x: aten.linalg_lu_factor(x)[0], "linalg_lu_factor_ex": lambda x: aten.linalg_lu_factor_ex(x)[0],
    "cholesky": lambda x: aten.cholesky(_square(x)), "cholesky_inverse": lambda x: aten.cholesky_inverse(_square(x)),
    "geqrf": aten.geqrf, "linalg_eig": lambda x: aten.linalg_eig(_square(x))[0].real, "linalg_eigvals": lambda x: aten.linalg_eigvals(_square(x)).real,
    "_linalg_eigvals": lambda x: aten._linalg_eigvals(_square(x)).real, "orgqr": lambda x: aten.orgqr(x, x[:, 0]),
    "linalg_ldl_factor": lambda x: aten.linalg_ldl_factor(_square(x))[0], "linalg_ldl_factor_ex": lambda x: aten.linalg_ldl_factor_ex(_square(x))[0],
    "lu_unpack": lambda x: aten.lu_unpack(*aten.linalg_lu_factor(x))[2], "linalg_lstsq": lambda x: aten.linalg_lstsq(x, x.tanh())[0],
    "cholesky_solve": lambda x: aten.cholesky_solve(x, _square(x)), "triangular_solve": lambda x: aten.triangular_solve(x, _square(x))[0],
    "linalg_lu_solve": lambda x: aten.linalg_lu_solve(*aten.linalg_lu_factor(_square(x)), x),
    "linalg_solve_triangular": lambda x: aten.linalg_solve_triangular(_square(x), x, upper=True), "_fft_c2c": lambda x: torch.fft.fft(torch.complex(x, x)),
}  # fmt: skip
for _name, _op in _LINALG.items():
    add(_name, _op, 0, (2, 2), constant=True)

# -- forms for other backends, which do not run here: put in the place of what does ---------------------------------------

#: Name -> the case of ``rule_cases`` that has the op in whose place it stands, and its arguments from that op's.
ELSEWHERE: dict[str, tuple[str, str, Callable[[fx.Node], tuple[Any, ...]]]] = {}


def _stands(name: str, case: str, op: str, arguments: Callable[[fx.Node], tuple[Any, ...]] = lambda node: node.args) -> None:
    ELSEWHERE[name] = (case, op, arguments)


for _name in ("_scaled_dot_product_flash_attention", "_scaled_dot_product_fused_attention_overrideable"):
    _stands(_name, "sdpa_grouped", "_scaled_dot_product_flash_attention_for_cpu", lambda node: node.args[:3])
for _name in ("_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention"):
    _stands(_name, "sdpa_masked", "_scaled_dot_product_flash_attention_for_cpu",
            lambda node: (*node.args[:3], node.kwargs["attn_mask"], False))  # fmt: skip
_stands("convolution_overrideable", "conv2d_groups", "convolution")
_stands("cudnn_convolution", "conv2d_strided_point", "convolution", lambda node: (*node.args[:2], [0, 0], [2, 2], [1, 1], 1, False, False, False))
_stands("_conv_depthwise2d", "conv2d_depthwise", "convolution", lambda node: (*node.args[:2], [2, 2], None, [1, 1], [0, 0], [1, 1]))
_stands("mkldnn_max_pool2d", "upsample_nearest", "upsample_nearest2d", lambda node: (node.args[0], [2, 2]))
for _name in ("cudnn_batch_norm", "miopen_batch_norm"):
    _stands(_name, "batch_norm_False", "native_batch_norm")
_stands("pin_memory", "relu", "relu")
_stands("_conj", "relu", "relu")
_stands("lift_fresh", "relu", "relu")
_stands("is_nonzero", "branch", "_local_scalar_dense")
