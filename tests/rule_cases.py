"""The ops whose rules are tested: functions between free operands (see ``sandwich``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from sandwich import Case
from torch import Tensor

CASES: list[Case] = []


def add(name: str, function: Callable[..., Any], *operands: Any, **options: Any) -> None:
    shape = next((o for o in operands if isinstance(o, tuple)), ())
    trailing = next((k for k, n in enumerate(reversed(shape)) if n > 0), len(shape))
    CASES.append(Case(name, function, operands, **{"space": trailing, **options}))


def ints(*shape: int, high: int) -> Tensor:
    return (torch.arange(torch.Size(shape).numel()) * 7 % high).reshape(shape)


# -- pointwise -----------------------------------------------------------------------------------------------

UNARY = ["abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "clamp_min", "cos", "cosh", "digamma", "erf", "erfc", "erfinv", "exp", "exp2", "expm1", "floor", "frac", "lgamma", "log", "log10", "log1p", "log2", "logit", "neg", "reciprocal", "round", "rsqrt", "sigmoid", "sign", "sin", "sinc", "sinh", "sqrt", "square", "tan", "tanh", "trunc", "isnan", "isinf", "isfinite", "positive", "signbit", "sgn", "deg2rad", "rad2deg", "nan_to_num", "i0", "angle", "logical_not"]
for _op in UNARY:

    def _unary(x: Tensor, op: str = _op) -> Tensor:
        x = 0.2 + 0.6 * x.sigmoid() if op in ("acos", "asin", "atanh", "erfinv", "logit") else 1.1 + x.abs()
        return torch.clamp_min(x, 1.5) if op == "clamp_min" else getattr(torch, op)(x)

    add(_op, _unary, (2, 3), constant=_op in ("isnan", "isinf", "isfinite", "sign", "signbit", "sgn", "angle", "logical_not"))
for _op in ["i0e", "i1", "i1e", "ndtr", "ndtri", "log_ndtr", "erfcx", "entr", "bessel_j0", "bessel_j1", "psi", "expit"]:
    add(f"special.{_op}", lambda x, op=_op: getattr(torch.special, op)(x.sigmoid()), (2, 3))
for _op in ["relu", "relu6", "elu", "celu", "selu", "gelu", "silu", "mish", "hardswish", "hardsigmoid", "hardtanh", "hardshrink", "softshrink", "softplus", "softsign", "tanhshrink", "leaky_relu", "logsigmoid"]:
    add(_op, lambda x, op=_op: getattr(F, op)(x), (2, 3))
add("threshold", lambda x: F.threshold(x, 0.1, 20), (2, 3))
add("rrelu", lambda x: F.rrelu(x), (2, 3), order=720, why="the oracle has no expansion")
add("floor_divide", lambda x, y: torch.floor_divide(10 * x, y.abs() + 0.1), (2, 3), (3,), order=48,
    why="the oracle has no expansion")  # fmt: skip
add("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), (2, 3))
add("square_by_product", lambda x: x * x, (2, 3))
for _op in ["add", "sub", "mul", "div", "maximum", "minimum", "fmax", "fmin", "atan2", "hypot", "logaddexp", "logaddexp2", "copysign", "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor", "remainder", "fmod", "heaviside", "nextafter", "xlogy", "float_power"]:

    def _binary(x: Tensor, y: Tensor, op: str = _op) -> Tensor:
        x, y = (x, y) if op in ("add", "sub", "lt", "gt", "le", "ge", "maximum", "minimum") else (x.abs() + 0.1, y.abs() + 0.1)
        return getattr(torch, op)(x, y)

    flat = ("eq", "ne", "logical_and", "logical_or", "logical_xor", "heaviside")
    add(_op, _binary, (2, 3), (3,), constant=_op in flat)
add("pow", lambda x, y: x.abs().pow(y), (2, 3), (2, 1))
add("where", lambda c, x, y: torch.where(c > 0, x, y), (2, 3), (3,), (2, 1))
add("lerp", torch.lerp, (2, 3), (2, 3), (3,))
add("addcmul", torch.addcmul, (2, 3), (3,), (2, 1))
add("addcdiv", lambda a, b, c: torch.addcdiv(a, b, c.abs() + 1), (2, 3), (3,), (2, 1))
add("masked_fill", lambda x, y: x.masked_fill(y > 0, -1.0), (2, 3), (3,))
add("clamp_tensor", lambda x, y: torch.clamp(x, min=y), (2, 3), (3,))
add("polar", lambda r, t: torch.polar(r.abs(), t), (2, 3), (2, 3), order=720, why="the oracle has no expansion")
add("complex", torch.complex, (2, 3), (2, 3), order=720, why="the oracle has no expansion")
add("real_imag", lambda a, b: torch.complex(a, b).real * torch.complex(a, b).imag, (2, 3), (2, 3), order=720, why="the oracle has no expansion")
add("view_as_complex", lambda x: torch.view_as_complex(x).abs(), (3, 2))
add("isclose", torch.isclose, (2, 3), (3,), constant=True)
add("glu", lambda x: F.glu(x, -1), (2, 6))
add("prelu_1", F.prelu, (2, 3), (1,))
add("prelu_c", F.prelu, (2, 3, 2), (3,))
add("dropout_eval", lambda x: F.dropout(x, 0.5, training=False), (2, 3))
add("alpha_dropout_eval", lambda x: F.feature_alpha_dropout(x, 0.5, training=False), (2, 3))

# -- reductions, sorting and scans -------------------------------------------------------------------------------

for _op in ["sum", "mean", "prod", "amax", "amin", "logsumexp", "nansum", "std", "var", "all", "any", "count_nonzero", "nanmean"]:
    add(_op, lambda x, op=_op: getattr(torch, op)(x, 1), (2, 3, 2), constant=_op in ("all", "any", "count_nonzero"))
for _op in ["sum", "mean", "prod", "std", "var", "max", "min", "all", "any", "median", "nanmedian"]:
    add(f"{_op}_all", lambda x, op=_op: getattr(torch, op)(x), (2, 3), constant=_op in ("all", "any"))
add("sum_of_uniform", lambda x: x[:, None].expand(2, 3).sum(1), (2,))
add("softmax", lambda x: x.softmax(1), (2, 3))
add("log_softmax", lambda x: x.log_softmax(1), (2, 3))
add("softmin", lambda x: F.softmin(x, 1), (2, 3))
add("softmax_of_uniform", lambda x: x[:, None].expand(2, 3).softmax(1), (2,), constant=True)
add("normalize", lambda x: F.normalize(x, dim=1), (2, 3))
add("norm_p", lambda x: x.norm(3, dim=1), (2, 3))
add("vector_norm", lambda x: torch.linalg.vector_norm(x, dim=0, keepdim=True), (2, 3))
add("matrix_norm", lambda x: torch.linalg.matrix_norm(x), (2, 3))
add("nuclear_norm", lambda x: torch.linalg.matrix_norm(x, "nuc"), (2, 3, 3), order=2, why="linear algebra pins its matrices")
add("var_mean", lambda x: torch.var_mean(x, 1), (2, 3))
add("std_mean", lambda x: torch.std_mean(x, 1), (2, 3))
add("aminmax", lambda x: torch.aminmax(x, dim=1), (2, 3))
add("max_value", lambda x: x.max(1), (2, 3), reads=(0,))
add("max_both", lambda x: x.max(1), (2, 3))
add("min_pair", lambda x, y: torch.min(x, y), (2, 3), (3,))
add("argmax", lambda x: x.argmax(1), (2, 3), order=2)
add("argmin_all", lambda x: x.argmin(), (2, 3), order=1)
add("median_value", lambda x: x.median(1), (2, 3), reads=(0,))
add("kthvalue", lambda x: x.kthvalue(2, 1), (2, 3), reads=(0,))
add("mode", lambda x: x.round().mode(1), (2, 3), reads=(0,))
add("quantile", lambda x: x.quantile(0.3, 1), (2, 3))
add("sort_value", lambda x: x.sort(1), (2, 3), reads=(0,))
add("sort_both", lambda x: x.sort(1), (2, 3), order=2)
add("sort_index", lambda x: x.sort(1), (2, 3), reads=(1,), order=2)
add("topk_value", lambda x: x.topk(2, 1), (2, 3), reads=(0,))
add("topk_both", lambda x: x.topk(2, 1), (2, 3), order=2)
add("msort", torch.msort, (3, 2))
add("argsort", lambda x: x.argsort(1), (2, 3), order=2)
add("cumsum", lambda x: x.cumsum(1), (2, 3))
add("cumprod", lambda x: x.cumprod(1), (2, 3))
add("logcumsumexp", lambda x: x.logcumsumexp(1), (2, 3))
add("cummax", lambda x: x.cummax(1), (2, 3), reads=(0,))
add("cumsum_of_uniform", lambda x: x[:, None].expand(2, 3).cumsum(1), (2,))
add("diff", lambda x: x.diff(dim=1), (2, 3))
add("_is_all_true", lambda x: x * torch.ops.aten._is_all_true(x > 0), (2, 3), order=720, constant=True, why="the oracle has no expansion")
add("_is_any_true", lambda x: x * torch.ops.aten._is_any_true(x > 9), (2, 3), order=720, constant=True, why="the oracle has no expansion")
add("trapezoid", lambda x: torch.trapezoid(x, dim=1), (2, 3))
add("trace", torch.trace, (3, 3))
add("histc", lambda x: torch.histc(x, 4, -9, 9), (6,), order=720, constant=True, why="the oracle has no expansion")
add("cov", torch.cov, (2, 3), order=12, why="a transposition is no permutation of axes")
add("corrcoef", torch.corrcoef, (2, 3), order=12, constant=True, why="the oracle has no expansion")

# -- contractions --------------------------------------------------------------------------------------------------

add("linear", F.linear, (2, 3), (4, 3), (4,))
add("mm", torch.mm, (2, 3), (3, 2))
add("mm_with_itself", lambda x: x @ x.mT, (3, 2), order=12, why="a transposition is no permutation of axes")
add("mm_squared", lambda x: x @ x, (3, 3), order=6, why="a transposition is no permutation of axes")
add("bmm", torch.bmm, (2, 2, 3), (2, 3, 2))
add("matmul_broadcast", torch.matmul, (2, 1, 2, 3), (2, 3, 2))
add("mv", torch.mv, (2, 3), (3,))
add("vm", torch.matmul, (3,), (3, 2))
add("dot", torch.dot, (3,), (3,))
add("outer", torch.outer, (2,), (3,))
add("kron", torch.kron, (2, 2), (2, 3))
add("addmm", torch.addmm, (3,), (2, 2), (2, 3))
add("addmm_scalar", torch.addmm, (1,), (2, 2), (2, 3))
add("baddbmm", torch.baddbmm, (2, 2, 3), (2, 2, 2), (2, 2, 3))
add("addbmm", torch.addbmm, (2, 3), (2, 2, 2), (2, 2, 3))
add("addmv", torch.addmv, (2,), (2, 3), (3,))
add("addr", torch.addr, (2, 3), (2,), (3,))
add("bilinear", F.bilinear, (2, 3), (2, 2), (4, 3, 2), (4,))
add("einsum", lambda a, b: torch.einsum("bij,kj->bik", a, b), (2, 2, 3), (2, 3))
add("einsum_diagonal", lambda a: torch.einsum("bii->bi", a), (2, 3, 3), order=72, why="an axis that occurs twice counts as one")
add("tensordot", lambda a, b: torch.tensordot(a, b, 2), (2, 2, 3), (2, 3, 2))
add("inner", torch.inner, (2, 3), (2, 3))
add("chain", lambda a, b, c: torch.linalg.multi_dot([a, b, c]), (2, 3), (3, 2), (2, 2))
add("cosine_similarity", lambda a, b: F.cosine_similarity(a, b, 1), (2, 3), (2, 3), constant=True)
add("pairwise_distance", F.pairwise_distance, (2, 3), (2, 3))
add("cdist", torch.cdist, (1, 2, 3), (1, 3, 3))
add("cdist_p1", lambda a, b: torch.cdist(a, b, 1.0), (2, 2, 3), (3, 3))
add("pdist", torch.pdist, (3, 2), order=2, why="pairs of rows are in order")
add("cross", lambda a, b: torch.linalg.cross(a, b), (2, 3), (2, 3), order=2, why="the oracle has no expansion")
for _causal in (False, True):
    add(f"sdpa_{_causal}", lambda q, k, v, c=_causal: F.scaled_dot_product_attention(q, k, v, is_causal=c),
        (1, 2, 2, 2), (1, 2, 2, 2), (1, 2, 2, 3))  # fmt: skip
add("sdpa_masked", lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m),
    (1, 2, 2, 2), (1, 2, 3, 2), (1, 2, 3, 2), (2, 3))  # fmt: skip
add("sdpa_grouped", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
    (1, 4, 2, 2), (1, 2, 2, 2), (1, 2, 2, 2))  # fmt: skip

# -- convolutions -------------------------------------------------------------------------------------------------

add("conv1d", F.conv1d, (1, 3, -4), (2, 3, 2), (2,))
add("conv1d_unbatched", F.conv1d, (3, -4), (2, 3, 2), (2,))
add("conv2d", lambda x, w, b: F.conv2d(x, w, b, padding=1), (2, 2, -2, -3), (3, 2, 3, 3), (3,))
add("conv2d_point", F.conv2d, (1, 3, 2, 2), (2, 3, 1, 1), (2,))
add("conv2d_strided_point", lambda x, w: F.conv2d(x, w, stride=2), (1, 2, -3, -3), (2, 2, 1, 1))
add("conv2d_groups", lambda x, w, b: F.conv2d(x, w, b, groups=2), (1, 4, -2, -2), (6, 2, 2, 1), (6,))
add("conv2d_depthwise", lambda x, w: F.conv2d(x, w, groups=3), (1, 3, -2, -2), (3, 1, 2, 2))
add("conv2d_multiplier", lambda x, w: F.conv2d(x, w, groups=2), (1, 2, -2, -2), (4, 1, 2, 2))
add("conv3d", lambda x, w: F.conv3d(x, w), (1, 2, -2, -2, -2), (2, 2, 1, 2, 2))
add("conv_transpose1d", F.conv_transpose1d, (1, 3, -2), (3, 2, 2), (2,))
add("conv_transpose2d", lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2), (1, 2, -2, -2), (2, 3, 2, 2), (3,))
add("conv_transpose2d_groups", lambda x, w, b: F.conv_transpose2d(x, w, b, groups=2), (1, 4, -2, 1), (4, 3, 2, 1), (6,))
add("conv_transpose2d_unbatched", F.conv_transpose2d, (2, -2, -2), (2, 2, 1, 2))
add("conv_transpose3d", F.conv_transpose3d, (1, 2, 1, -2, -2), (2, 2, 1, 2, 1))
add("conv_of_uniform_space", lambda x, w: F.conv2d(x[..., None, None].expand(1, 2, 3, 3), w, padding=1),
    (1, 2), (2, 2, 3, 3), space=2)  # fmt: skip
add("conv_of_uniform_channels", lambda x, w: F.conv1d(x[:, None].expand(1, 3, 4), w), (1, -4), (2, 3, 2))
add("conv_tbc", lambda x, w, b: torch.conv_tbc(x, w, b), (-3, 1, 2), (2, 2, 3), (3,), order=12, why="by hand")

# -- norms ---------------------------------------------------------------------------------------------------------

for _training in (False, True):
    add(f"batch_norm_{_training}", lambda x, m, v, w, b, t=_training: F.batch_norm(x, m, v.abs() + 1, w, b, training=t),
        (2, 3, 2), (3,), (3,), (3,), (3,))  # fmt: skip
add("batch_norm_plain", lambda x: F.batch_norm(x, None, None, training=True), (3, 2))
add("instance_norm", lambda x, w, b: F.instance_norm(x, weight=w, bias=b), (2, 3, 3), (3,), (3,))
add("instance_norm_stats", lambda x, m, v: F.instance_norm(x, m, v.abs() + 1, use_input_stats=False),
    (2, 3, -2), (3,), (3,))  # fmt: skip
add("layer_norm", lambda x, w, b: F.layer_norm(x, (3,), w, b), (2, 3), (3,), (3,))
add("layer_norm_2", lambda x, w: F.layer_norm(x, (2, 3), w), (2, 2, 3), (2, 3))
add("rms_norm", lambda x, w: F.rms_norm(x, (3,), w), (2, 3), (3,))
add("group_norm", lambda x, w, b: F.group_norm(x, 2, w, b), (2, 4, 3), (4,), (4,))
add("group_norm_plain", lambda x: F.group_norm(x, 2), (1, 4, 2))
add("local_response_norm", lambda x: F.local_response_norm(x, 2), (2, -3, -2))
add("weight_norm", lambda v, g: torch._weight_norm(v, g, 0), (3, 2), (3, 1))
add("norm_except_dim", lambda v: torch.norm_except_dim(v, 2, 0), (3, 2))
add("renorm", lambda x: torch.renorm(x, 2, 0, 1.0), (3, 2), order=48, why="the oracle has no expansion")

# -- pooling, resampling, padding ------------------------------------------------------------------------------------

add("max_pool1d", lambda x: F.max_pool1d(x, 2), (1, 2, -4))
add("max_pool1d_unbatched", lambda x: F.max_pool1d(x, 2), (2, -4))
add("max_pool2d", lambda x: F.max_pool2d(x, 2, 1), (1, 2, -3, -2))
add("max_pool2d_indices", lambda x: F.max_pool2d(x, 2, return_indices=True), (1, 2, -2, -2), order=2, why="by hand")
add("max_pool3d", lambda x: F.max_pool3d(x, 2), (1, 2, -2, -2, -2))
add("avg_pool1d", lambda x: F.avg_pool1d(x, 2), (1, 2, -4))
add("avg_pool2d", lambda x: F.avg_pool2d(x, 2, 1, padding=1), (1, 2, -2, -2))
add("avg_pool3d", lambda x: F.avg_pool3d(x, 2), (1, 2, -2, -2, -2))
add("avg_pool_of_uniform", lambda x: F.avg_pool1d(x[..., None].expand(1, 2, 3), 2, padding=1), (1, 2))
add("lp_pool2d", lambda x: F.lp_pool2d(x, 2, 2), (1, 2, -2, -2))
add("adaptive_avg_pool1d", lambda x: F.adaptive_avg_pool1d(x, 2), (1, 2, -3))
add("adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, 1), (1, 2, 2, 2))
add("adaptive_avg_pool2d_2", lambda x: F.adaptive_avg_pool2d(x, (2, 1)), (1, 2, -3, -2))
add("adaptive_avg_pool2d_same", lambda x: F.adaptive_avg_pool2d(x, (2, 3)), (1, 2, -2, -3))
add("adaptive_avg_pool3d", lambda x: F.adaptive_avg_pool3d(x, 1), (1, 2, 1, 2, 2))
add("adaptive_max_pool1d", lambda x: F.adaptive_max_pool1d(x, 1), (1, 2, -3))
add("adaptive_max_pool2d", lambda x: F.adaptive_max_pool2d(x, 1), (1, 2, -2, -2))
add("adaptive_max_pool3d", lambda x: F.adaptive_max_pool3d(x, (1, 2, 2)), (1, 2, 1, -2, -2))
add("fractional_max_pool2d", lambda x, s: F.fractional_max_pool2d(x, 2, 2, _random_samples=s), (1, 2, -3, -3),
    torch.full((1, 2, 2), 0.5), order=1, why="each channel has its own samples")  # fmt: skip
add("max_unpool2d", lambda x, i: F.max_unpool2d(x, i, 2), (1, 2, 1, -2), torch.tensor([0, 2]).expand(1, 2, 1, 2),
    order=1, why="each channel has its own indices")  # fmt: skip
add("upsample_nearest1d", lambda x: F.interpolate(x, scale_factor=2), (1, 2, -3))
add("upsample_linear1d", lambda x: F.interpolate(x, scale_factor=2, mode="linear"), (1, 2, -3))
for _mode in ["nearest", "bilinear", "bicubic", "area", "nearest-exact"]:
    add(f"upsample_{_mode}", lambda x, m=_mode: F.interpolate(x, size=(3, 4), mode=m), (1, 2, -2, -2))
add("upsample_antialias", lambda x: F.interpolate(x, size=(2, 2), mode="bilinear", antialias=True), (1, 2, -3, -3))
add("upsample_one_axis", lambda x: F.interpolate(x, size=(4, 2), mode="bilinear"), (1, 2, -2, 2))
add("upsample_no_axis", lambda x: F.interpolate(x, size=(2, 3), mode="bicubic"), (1, 2, 2, 3))
add("upsample_by_a_factor_to_the_same", lambda x: F.interpolate(x, scale_factor=1.4, mode="linear"), (1, 2, -2))
add("upsample_by_one", lambda x: F.interpolate(x, scale_factor=(2.0, 1.0), mode="bilinear", align_corners=True), (1, 2, -2, 3))
add("upsample_trilinear", lambda x: F.interpolate(x, scale_factor=2, mode="trilinear"), (1, 2, -2, -1, -2))
add("upsample_nearest3d", lambda x: F.interpolate(x, scale_factor=2), (1, 2, -2, -1, -2))
for _mode in ["reflect", "replicate", "circular", "constant"]:
    add(f"pad_{_mode}", lambda x, m=_mode: F.pad(x, (1, 1), m), (1, 2, -3))
    add(f"pad2d_{_mode}", lambda x, m=_mode: F.pad(x, (1, 0, 1, 1), m), (1, 2, -2, -2))
add("pad_channels", lambda x: F.pad(x, (0, 0, 1, 2)), (2, 3, 2))
add("pad_value", lambda x: F.pad(x, (1, 1), value=2.0), (2, 3))
add("pad_all_away", lambda x: F.pad(x, (-1, 3)) + x, (2, 1))
add("pad_negative", lambda x: F.pad(x, (-1, 1)), (2, 3))
add("pad_of_uniform", lambda x: F.pad(x[:, None].expand(2, 3), (1, 1)), (2,))
add("pad3d_reflect", lambda x: F.pad(x, (1, 0, 0, 1, 0, 0), "reflect"), (1, 2, -2, -2, -2))
add("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), (1, 8, 2, 2))
add("pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 2), (1, 2, 2, 4))
add("channel_shuffle", lambda x: F.channel_shuffle(x, 2), (1, 6, 2))
add("im2col", lambda x: F.unfold(x, 2), (1, 2, -2, -3), space=1)
add("im2col_of_one_channel", lambda x, w: w @ F.unfold(x, 2), (1, 1, -2, -3), (2, 4), space=1)
add("im2col_unbatched", lambda x: F.unfold(x, 2), (2, -2, -3), space=1)
add("col2im", lambda x: F.fold(x, (2, 3), 2), (1, 8, -2), space=2)
add("grid_sample", lambda x: F.grid_sample(x, F.affine_grid(torch.eye(2, 3)[None].to(x), [1, 2, 2, 2], False),
    align_corners=False), (1, 2, -2, -2))  # fmt: skip
add("grid_sample_free", lambda x, g: F.grid_sample(x, g, align_corners=False), (2, 2, 2, 2), (2, 2, 2, 2))

# -- movement ------------------------------------------------------------------------------------------------------

add("flatten", lambda x: x.flatten(1), (2, 2, 3))
add("unflatten", lambda x: x.unflatten(1, (2, 3)), (2, 6))
add("reshape_across", lambda x: x.reshape(3, 2), (2, 3), order=8, why="shapes without a common refinement: exchanges remain")
add("permute", lambda x: x.permute(2, 0, 1), (2, 3, 2))
add("expand", lambda x: x.expand(2, 3), (3,))
add("repeat", lambda x: x.repeat(2, 2), (2, 3))
add("tile", lambda x: x.tile((2,)), (2, 3))
add("repeat_interleave", lambda x: x.repeat_interleave(2, 1), (2, 3))
add("repeat_interleave_list", lambda x: x.repeat_interleave(torch.tensor([1, 2, 1]), 1), (2, 3))
add("index_constant_tiled", lambda x: x[:, torch.arange(6) % 3], (2, 3))
add("index_constant_mixed", lambda x: x[:, torch.tensor([3, 0, 1, 0, 3, 2, 1, 1])], (2, 4))
add("cat", lambda x, y: torch.cat([x, y], 1), (2, 3), (2, 2))
add("cat_same", lambda x: torch.cat([x, x], 1), (2, 3))
add("cat_uniform", lambda x, y: torch.cat([x, y[:, None].expand(2, 3)], 1), (2, 3), (2,))
add("stack", lambda x, y: torch.stack([x, y], 1), (2, 3), (2, 3))
add("stack_uniform", lambda x, y: torch.stack([x, y[:, None].expand(2, 3)], 1), (2, 3), (2,))
add("block_diag", torch.block_diag, (2, 2), (2, 3), order=(24 * 720) ** 2, why="what meets zeros moves by blocks")
add("split", lambda x: x.split(2, 1), (2, 5))
add("chunk", lambda x: x.chunk(2, 1), (2, 6))
add("tensor_split", lambda x: x.tensor_split(3, 1), (2, 5))
add("unbind", lambda x: x.unbind(1), (2, 3))
add("slice", lambda x: x[:, 1:4], (2, 5))
add("slice_strided", lambda x: x[:, ::2], (2, 5))
add("select", lambda x: x[:, 1], (2, 3))
add("flip", lambda x: x.flip(1) * x, (2, 4), order=384 * 16, why="the factors of a pair trade places too")
add("roll", lambda x: x.roll(1, 1) + x, (2, 4), order=8, why="of a dihedral group the swaps are ours")
add("roll_flat", lambda x: x.roll(1), (2, 3), order=16, why="a reordering across a product: exchanges remain")
add("rot90", lambda x: x.rot90(), (2, 3))
add("diagonal", lambda x: x.diagonal(), (3, 3))
add("diagonal_off", lambda x: x.diagonal(1), (3, 3))
add("diag_embed", torch.diag_embed, (2, 3), order=72, why="what meets zeros moves with the diagonal")
add("meshgrid", lambda x, y: torch.meshgrid(x, y, indexing="ij"), (2,), (3,))
add("cartesian", torch.cartesian_prod, (2,), (3,))
add("unfold", lambda x: x.unfold(1, 2, 2), (2, 4))
add("unfold_overlap", lambda x: x.unfold(1, 2, 1), (2, -4), space=2)
add("movedim", lambda x: x.movedim(0, 2), (2, 3, 2))
add("squeeze", lambda x: x.squeeze(1), (2, 1, 3))
add("as_strided", lambda x: x.as_strided((2, 2), (1, 2)), (2, 3), order=4, why="parts of rows: four entries in a square, of which the oracle has all orders")
add("as_strided_turned", lambda x: x.as_strided((3, 2), (1, 3)), (2, 3))
add("as_strided_of_turned", lambda x: x.transpose(0, 1).as_strided((2, 3), (3, 1)), (2, 3))
add("as_strided_windows", lambda x: x.as_strided((2, 3, 4, 2), (2, 8, 4, 1)), (-8, 2, 2), space=2)
add("as_strided_of_heads", lambda x: x.transpose(0, 1).as_strided((2, 3, 4, 2), (2, 8, 4, 1)), (-8, 2, 2), space=2)
add("as_strided_offset", lambda x: x.as_strided((2, 2, 2), (6, 1, 3), 1), (2, 2, 3), order=0)
add("as_strided_digit_offset", lambda x: x.as_strided((2, 3), (6, 1), 3), (2, 2, 3))
add("as_strided_carry", lambda x: x.as_strided((2, 3), (3, 1), 1), (-3, -3), space=2)
add("as_strided_repeat", lambda x: x.as_strided((2, 2, 3), (0, 3, 1)), (2, 3))
add("as_strided_of_gaps", lambda x: x[:, :2].as_strided((2, 2), (4, 1)), (2, 4), order=24, why="all four entries of the piece")
add("as_strided_between", lambda x: x[:, :2].as_strided((2, 4), (4, 1)), (2, 4), order=40320, why="what the piece left out is read")
add("as_strided_of_parts", lambda x: torch.view_as_real(torch.view_as_complex(x)).as_strided((2, 3), (6, 2)), (2, 3, 2), order=0)
add("as_strided_beyond_a_part", lambda x: x.split(2)[0].as_strided((4, 3), (3, 1)) + x.sum(), (4, -3), space=2)
add("as_strided_before_a_part", lambda x: x.unbind(0)[1].as_strided((4, 3), (3, 1), 0) + x.sum(), (4, -3), space=2, order=1, why="the oracle has no memory before a piece")
add("as_strided_from_a_piece", lambda x: x[1].as_strided((3, 2), (1, 3)), (2, 2, 3), order=720, why="the second block")
add("tril", torch.tril, (2, -3, -3))
add("triu_1", lambda x: x.triu(1), (-3, -3))
add("vander", lambda x: torch.vander(x, 3), (3,), order=36, why="the oracle has no expansion; the column of ones goes by itself")
add("type_as", lambda x, y: x.type_as(y), (2, 3), (2,))

# -- writing to a part ----------------------------------------------------------------------------------------------


def _assign(x: Tensor, y: Tensor, at: Any) -> Tensor:
    x = x.clone()
    x[at] = y
    return x


_all = slice(None)
add("assign_slice", lambda x, y: _assign(x, y, (_all, slice(1, 3))), (2, 5), (2, 2))
add("assign_step", lambda x, y: _assign(x, y, (_all, slice(0, 4, 2))), (2, 5), (2, 2))
add("assign_broadcast", lambda x, y: _assign(x, y, (_all, slice(1, 3))), (2, 5), (2, 1))
add("assign_number", lambda x: _assign(x, torch.tensor(2.0), (_all, slice(1, 3))), (2, 5))
add("assign_select", lambda x, y: _assign(x, y, (_all, 1)), (2, 3), (2,))
add("assign_all", lambda x, y: _assign(x, y, (_all,)), (2, 3), (3,))
add("assign_into_uniform", lambda x, y: _assign(x[:, None].expand(2, 4), y, (_all, slice(1, 3))), (2,), (2, 2))
add("assign_index", lambda x, y: _assign(x, y, (_all, torch.tensor([0, 2]))), (2, 4), (2, 2))
add("assign_mask", lambda x, y: _assign(x, y, torch.tensor([[True, False], [False, True]])), (2, 2), (2,), order=1, why="pinned")  # fmt: skip
add("slice_scatter", lambda x, y: x.slice_scatter(y, 1, 1, 3), (2, 5), (2, 2))
add("select_scatter", lambda x, y: x.select_scatter(y, 1, 1), (2, 3), (2,))
add("diagonal_scatter", lambda x, y: x.diagonal_scatter(y), (3, 3), (3,), order=6, why="what is overwritten moves with the diagonal")
add("fill_diagonal", lambda x: x.clone().fill_diagonal_(1.0), (3, 3), order=1, why="pinned")
add("index_fill", lambda x: x.index_fill(1, torch.tensor([0, 2]), 3.0), (2, 4))
add("index_copy", lambda x, y: x.index_copy(1, torch.tensor([2, 0]), y), (2, 4), (2, 2))
add("index_add", lambda x, y: x.index_add(1, torch.tensor([2, 0]), y), (2, 4), (2, 2), order=0,
    why="sound; repeats are not told from single writes")  # fmt: skip
add("scatter", lambda x, y, i: x.scatter(1, i, y), (2, 4), (2, 2), ints(2, 2, high=4), order=1, why="rows move with the input index")
add("scatter_add", lambda x, y, i: x.scatter_add(1, i, y), (2, 4), (2, 2), ints(2, 2, high=4), order=1, why="rows move with the input index")
add("scatter_reduce", lambda x, y, i: x.scatter_reduce(1, i, y, "amax"), (2, 4), (2, 2), ints(2, 2, high=4), order=0)
add("masked_scatter", lambda x, y: x.masked_scatter(torch.tensor([True, False, True]), y), (2, 3), (4,), order=0)
add("masked_scatter_rows", lambda x, y, i: x.masked_scatter((i == 1)[..., None].expand_as(x), y), (2, 2, 3), (2, 3), ints(2, 2, high=2))  # fmt: skip
add("masked_scatter_flat", lambda x, y, i: x.masked_scatter((i == 1)[..., None], y.flatten()), (2, 2, 3), (2, 3), ints(2, 2, high=2))
add("masked_scatter_blocks", lambda x, y, i: x.masked_scatter((i == 1)[..., None, None], y), (2, 2, 3), (2, 2, 3), ints(2, high=2))  # fmt: skip
add("masked_scatter_nothing", lambda x, y, i: x.masked_scatter((i == 5)[..., None], y), (2, 2, 3), (0, 3), ints(2, 2, high=2))
add("masked_scatter_long", lambda x, y, i: x.masked_scatter((i == 1)[..., None].expand_as(x), y), (2, 2, 3), (3, 4), ints(2, 2, high=2), order=0)
add("assign_by_index", lambda x, y, i: _assign(x, y, (_all, i)), (2, 4, 3), (2, 2, 3), ints(2, high=4))
add("assign_by_indices", lambda x, y, i: _assign(x, y, (i, _all, i % 2)), (4, 3, 2), (2, 3), ints(2, high=4))
add("assign_by_index_broadcast", lambda x, y, i: _assign(x, y, (_all, i)), (2, 4, 3), (2, 1, 3), ints(2, high=4))
add("add_by_index", lambda x, y, i: x.index_put((i,), y, accumulate=True), (4, 3), (2, 3), ints(2, high=4))
add("assign_by_mask", lambda x, y, i: _assign(x, y, (_all, i > 1)), (2, 4, 3), (2, 2, 3), torch.tensor([0, 3, 2, 1]))
add("assign_one_by_mask", lambda x, y, i: _assign(x, y, (_all, i > 1)), (2, 4, 3), (3,), torch.tensor([0, 3, 2, 1]))
add("assign_one_by_free_mask", lambda x, y: _assign(x, y, (_all, x[0, :, 0] > 0)), (2, 4, 3), (1, 3))
add("assign_by_two_masks", lambda x, y, i: _assign(x, y, (i > 0, i[:2] > 0)), (3, 2, 3), (2, 3), torch.tensor([0, 3, 2]), order=1, why="pinned")
add("index_reduce", lambda x, y: x.index_reduce(1, torch.tensor([2, 0]), y, "amax"), (2, 4), (2, 2), order=0)

# -- lookups --------------------------------------------------------------------------------------------------------

add("embedding", lambda w, i: F.embedding(i, w), (5, 3), ints(2, 2, high=5))
for _mode in ("sum", "mean", "max"):
    add(f"embedding_bag_{_mode}", lambda w, i, m=_mode: F.embedding_bag(i, w, mode=m), (5, 3), ints(2, 3, high=5),
        order=6, why="the oracle has no expansion")  # fmt: skip
add("embedding_bag_weighted", lambda w, s, i: F.embedding_bag(i, w, per_sample_weights=s, mode="sum"),
    (5, 3), (2, 3), ints(2, 3, high=5), order=6, why="the oracle has no expansion")  # fmt: skip
add("index_select", lambda x, i: x.index_select(1, i), (2, 4), ints(2, high=4))
add("index_constant", lambda x: x[:, torch.tensor([2, 0, 1])] * x, (2, 3), order=2, why="a cyclic group is none of ours")
add("index_constant_repeats", lambda x: x[:, torch.tensor([2, 0, 2])], (2, 3))
add("index_two", lambda x, i, j: x[i, :, j], (3, 2, 3), ints(2, high=3), ints(2, high=3))
add("index_mask_constant", lambda x: x[torch.tensor([True, False, True])], (3, 2))  # fmt: skip
add("gather", lambda x, i: x.gather(1, i), (2, 4), ints(2, 2, high=4))
add("take_along_dim", lambda x, i: torch.take_along_dim(x, i, 1), (2, 4), ints(2, 2, high=4))
add("take", lambda x, i: torch.take(x, i), (2, 3), ints(2, high=6), order=0)
add("searchsorted", lambda x, y: torch.searchsorted(x.sort(-1).values, y), (4,), (2, 3), order=0)
add("bucketize", lambda x: torch.bucketize(x, torch.tensor([-0.5, 0.5], dtype=x.dtype)), (2, 3), order=720)
add("index_mask_and_vector", lambda x, y: x[y.sum(0) > -99, torch.tensor([1, 0, 1])].sum(0), (3, 2, 2), (2, 3), order=16,
    why="the oracle has no expansion: what is indexed stays, what is summed does not")  # fmt: skip
add("index_mask_of_two", lambda x, y: x[:, y > -99, torch.arange(4)].sum(1), (2, 2, 2, 4), (2, 2), order=2,
    why="the oracle has no expansion")  # fmt: skip
add("repeat_interleave_data", lambda x, y: x.repeat_interleave(y.argsort() + 1, 1).cumsum(1)[:, -1], (2, 3), (3,), order=2,
    why="the oracle has no expansion")  # fmt: skip
add("repeat_interleave_of_constant", lambda x: x.repeat_interleave(torch.tensor([2, 2, 2]), 1), (2, 3))
add("masked_rows", lambda x, y: x[y.sum(1) > 0].sum(0), (4, 3), (4, 2), order=96, why="the oracle has no expansion")
add("one_hot", lambda x: F.one_hot(x.argmax(1), 3), (2, 3), order=2, why="the input that scales all of them may be zero: all are equal then")
add("isin", lambda x: torch.isin(x.round(), torch.tensor([0.0, 1.0], dtype=x.dtype)), (2, 3), order=720)
add("bincount", lambda x: torch.bincount((x.abs() > 0.5).long(), minlength=4), (3,), order=6, why="the oracle has no expansion")  # fmt: skip

# -- transforms and linear algebra, which depend on the order of what they transform ----------------------------------

add("fft", lambda x: torch.fft.fft(x, dim=1), (2, 3), order=2)
add("rfft2", lambda x: torch.fft.rfft2(x), (2, 2, 3), order=2)
add("irfft", lambda x: torch.fft.irfft(torch.fft.rfft(x, dim=1), dim=1), (2, 4), order=2)
add("fftshift", lambda x: torch.fft.fftshift(x, 1), (2, 3))
add("stft", lambda x: torch.stft(x, 4, return_complex=True, window=torch.ones(4).to(x)), (2, 8), order=2)
add("inverse", lambda x: torch.linalg.inv(x), (2, 3, 3), order=2)
add("solve", lambda a, b: torch.linalg.solve(a, b), (2, 3, 3), (2, 3, 2), order=8, constant=True, why="right-hand sides are solved one by one")
add("qr", lambda x: torch.linalg.qr(x), (2, 3, 3), order=2)
add("svd", lambda x: torch.linalg.svdvals(x), (2, 3, 3), order=2)
add("det", lambda x: torch.linalg.det(x), (2, 3, 3), order=2)
add("matrix_exp", lambda x: torch.matrix_exp(x), (2, 3, 3), order=2)
add("cholesky", lambda x: torch.linalg.cholesky(x @ x.mT + torch.eye(3).to(x)), (2, 3, 3), order=72, why="columns move in each matrix")
add("eigh", lambda x: torch.linalg.eigvalsh(x + x.mT), (2, 3, 3), order=2)
add("pinv", lambda x: torch.linalg.pinv(x), (2, 3), order=1)
add("matrix_power", lambda x: torch.linalg.matrix_power(x, 3), (3, 3))

# -- losses ---------------------------------------------------------------------------------------------------------

add("mse_loss", F.mse_loss, (2, 3), (2, 3), order=720, why="the oracle has no expansion")
add("l1_loss", lambda x, y: F.l1_loss(x, y, reduction="none"), (2, 3), (2, 3))
add("smooth_l1_loss", F.smooth_l1_loss, (2, 3), (2, 3), order=720, why="the oracle has no expansion")
add("huber_loss", F.huber_loss, (2, 3), (2, 3), order=720, why="the oracle has no expansion")
add("bce", lambda x, y: F.binary_cross_entropy(x.sigmoid(), y.sigmoid()), (2, 3), (2, 3), order=720, why="the oracle has no expansion")
add("bce_logits", lambda x, y: F.binary_cross_entropy_with_logits(x, y.sigmoid()), (2, 3), (2, 3))
add("kl_div", lambda x, y: F.kl_div(x, y.softmax(1), reduction="batchmean"), (2, 3), (2, 3))
add("cross_entropy", lambda x, t: F.cross_entropy(x, t), (2, 3), ints(2, high=3), order=0)
add("cross_entropy_soft", lambda x, y: F.cross_entropy(x, y.softmax(1)), (2, 3), (2, 3))
add("soft_margin", lambda x, y: F.soft_margin_loss(x, y), (2, 3), (2, 3), order=720, why="the oracle has no expansion")
add("triplet", F.triplet_margin_loss, (2, 3), (2, 3), (2, 3))

# -- random draws: the same ones each time, and each in its place -------------------------------------------------------


def _seeded(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*operands: Tensor) -> Any:
        torch.manual_seed(0)
        return function(*operands)

    return run


_aten = torch.ops.aten
for _op, _draw in {
    "dropout_train": lambda x: F.dropout(x, 0.5, training=True), "gumbel_softmax": lambda x: F.gumbel_softmax(x, dim=1),
    "native_dropout_train": lambda x: _aten.native_dropout(x, 0.5, True)[0], "rrelu_train": lambda x: F.rrelu(x, training=True),
    "feature_dropout_train": lambda x: F.dropout1d(x[..., None], 0.5, training=True)[..., 0], "alpha_dropout_train": lambda x: F.alpha_dropout(x, 0.5, True),
    "feature_alpha_dropout_train": lambda x: F.feature_alpha_dropout(x, 0.5, training=True),
    "binomial_of_constants": lambda x: x * torch.binomial(torch.full((2, 3), 3.0), torch.full((2, 3), 0.999)).to(x),
    "rand": lambda x: x + torch.rand(2, 3).to(x), "rand_like": lambda x: x * torch.rand_like(x), "randn": lambda x: x + torch.randn(2, 3).to(x),
    "randn_like": lambda x: x + torch.randn_like(x), "randint": lambda x: x * torch.randint(1, 9, (2, 3)),
    "randint_like": lambda x: x * torch.randint_like(x, 99), "randperm": lambda x: x * torch.randperm(6).view(2, 3),
    "uniform": lambda x: x * _aten.uniform(x), "exponential": lambda x: x * _aten.exponential(x), "cauchy": lambda x: x * _aten.cauchy(x),
    "normal_functional": lambda x: x * _aten.normal_functional(x), "geometric": lambda x: x * _aten.geometric(x, 0.01),
    "log_normal": lambda x: x * _aten.log_normal(x), "bernoulli_p": lambda x: x * (_aten.bernoulli(x, 0.5) + 1),
    "normal": lambda x: torch.normal(x, 1.0), "normal_both": lambda x: torch.normal(x, x.abs() + 1),
    "bernoulli": lambda x: x * torch.bernoulli(x.sigmoid()), "binomial": lambda x: x + torch.binomial(torch.full_like(x, 90), x.sigmoid()),
    "poisson": lambda x: x + torch.poisson(9 * x.abs()), "multinomial": lambda x: x * (torch.multinomial(x.abs(), 3) + 1),
}.items():  # fmt: skip
    add(_op, _seeded(_draw), (2, 3), order=1, why="noise")
add("drawn_for_rows", _seeded(lambda x: x * torch.rand(2, 1).to(x)), (2, 3), order=36, why="noise for each row")
add("drawn_for_columns", _seeded(lambda x: x * torch.rand(3).to(x)), (2, 3), order=8, why="noise for each column")
add("drawn_and_averaged", _seeded(lambda x: x * torch.rand_like(x).mean()), (2, 3), order=720, why="one number")
add("drawn_beside", _seeded(lambda x, y: (x + torch.rand(2, 3).to(x)) @ y), (2, 3), (3, 2), order=2, why="noise")

# -- control flow -----------------------------------------------------------------------------------------------------

add("branch", lambda x: x if x.abs().sum() > 0 else -x, (2, 3))
add("branch_all_close", lambda x: x if torch.allclose(x, x.abs()) else -x, (2, 3), order=1, why="what is compared stays")

# -- where a rule could say too much ------------------------------------------------------------------------------------

add("scalar_gate", lambda x, y: x * y.exp().sum(), (2, 3), (2, 2))
add("scalar_gate_of_part", lambda x, y: x * y[:, 1:].exp().sum() + y[:, :1], (2, 3), (2, 3))
add("causal_with_one_query", lambda q, k, v: F.scaled_dot_product_attention(q.expand(1, 1, 3, 2), k, v, is_causal=True),
    (1, 1, 1, 2), (1, 1, 3, 2), (1, 1, 3, 2))  # fmt: skip
add("causal_grouped", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True),
    (1, 4, 2, 2), (1, 2, 2, 2), (1, 2, 2, 2))  # fmt: skip
add("grouped_masked", lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m, enable_gqa=True),
    (1, 4, 2, 2), (1, 2, 3, 2), (1, 2, 3, 2), (2, 3))  # fmt: skip
add("mask_of_data", lambda x, y: _assign(x, torch.tensor(0.5), y > 0), (2, 3), (2, 3), order=720, why="the oracle has no expansion")
add("mask_of_leading_data", lambda x, y: _assign(x, torch.tensor(0.5), y > 0), (2, 3), (2,), order=72, why="the oracle has no expansion")
add("scatter_add_free", lambda x, y, z: x.scatter_add(1, z.argsort(1), y), (2, 3), (2, 3), (2, 3), order=0,
    why="the oracle has no expansion")  # fmt: skip
add("gather_free", lambda x, z: x.gather(1, z.argsort(1)), (2, 3), (2, 3), order=0, why="the oracle has no expansion")
add("unpool_free", lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), (1, 2, -2, -4),
    order=2, why="the oracle has no expansion")  # fmt: skip
add("pad_reflect_of_uniform", lambda x: F.pad(x[..., None].expand(1, 2, 3), (1, 1), "reflect"), (1, 2), space=1)
add("upsample_of_uniform", lambda x: F.interpolate(x[..., None].expand(1, 2, 3), scale_factor=2), (1, 2), space=1)
add("fft_of_uniform", lambda x: torch.fft.fft(x[:, None].expand(2, 3), dim=1), (2,), order=2)
add("sort_of_uniform", lambda x: x[:, None].expand(2, 3).sort(1), (2,), reads=(0,))
add("argmax_of_uniform", lambda x: x[:, None].expand(2, 3).argmax(1), (2,), constant=True)
add("max_index_beside", lambda x: x.max(1).values * x.argmax(1), (2, 3), order=2)
add("pdist_of_rows", lambda x: torch.pdist(x + 1), (3, 4), order=24, why="pairs of rows are in order")
add("tril_of_heads", lambda x: x.tril(), (2, -3, -3))
add("group_norm_of_groups", lambda x, w: F.group_norm(x * w, 2), (2, 4, -2), (4, 1))
add("stft_of_batch", lambda x: torch.stft(x, 4, center=False, return_complex=True, window=torch.ones(4).to(x)), (2, 8), order=2)
add("linalg_batch", lambda x: torch.linalg.det(x) * torch.linalg.inv(x).sum((-1, -2)), (3, 2, 2), order=6)
add("repeat_heads", lambda x, w: (x.repeat_interleave(2, 1) * w), (2, 2), (4,))

# -- what passes beside what is looked up or pooled ---------------------------------------------------------------------

_TURN = torch.tensor([[0, 2, 1]])
add("index_own_dimension", lambda x, i: x[:, i[:, None], torch.arange(3)[None]], (2, 4, 3), ints(2, high=4))  # fmt: skip
add("index_own_dimension_apart", lambda x, i: x[i[:, None], :, _TURN], (4, 2, 3), ints(2, high=4))
add("index_outer", lambda x: x[torch.tensor([[0], [2]]), _TURN[:, :2]], (3, 3))
add("index_outer_apart", lambda x: x[torch.tensor([[0], [-1]]), :, _TURN], (3, 2, 3))
add("index_diagonal", lambda x: x[torch.tensor([0, 2]), torch.tensor([1, 2])], (3, 3), order=0)
add("assign_own_dimension", lambda x, y, i: _assign(x, y, (_all, i[:, None], torch.arange(3)[None])), (2, 4, 3), (2, 2, 3), ints(2, high=4))  # fmt: skip
add("assign_turned_dimension", lambda x, y, i: _assign(x, y, (_all, i[:, None], _TURN)), (2, 4, 3), (2, 2, 3), ints(2, high=4), order=0)
add("add_own_dimension", lambda x, y, i: x.index_put((i[:, None], torch.arange(3)[None]), y, accumulate=True), (4, 3), (2, 3), ints(2, high=4))  # fmt: skip
for _pool in (F.avg_pool2d, F.max_pool2d):
    add(f"{_pool.__name__}_points", lambda x, pool=_pool: pool(x, (2, 1), (2, 1)), (2, -4, 3))
    add(f"{_pool.__name__}_strides", lambda x, pool=_pool: pool(x, (2, 1), (2, 2)), (2, -4, -4))
    add(f"{_pool.__name__}_margin", lambda x, pool=_pool: pool(x, (1, 2), 1, (0, 1)), (2, 3, -3))
add("max_pool2d_numbered", lambda x: F.max_pool2d(x, (2, 1), (2, 1), return_indices=True), (2, -4, -3), order=0)
add("adaptive_avg_pool2d_points", lambda x: F.adaptive_avg_pool2d(x, (2, None)), (2, -4, 3))
add("reflection_pad_one", lambda x: F.pad(x, (0, 0, 1, 1), mode="reflect"), (2, -3, 2), order=24, why="copies of one entry are not told apart")
add("replication_pad_one", lambda x: F.pad(x, (1, 1, 0, 0), mode="replicate"), (2, 3, -2))
