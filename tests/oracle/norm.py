"""Normalizations: the entry, and a vertex for the statistics of its set."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from .pointwise import combine, elementwise
from .reduce import reduction
from .registry import Context, Ids, expands


def standardize(ctx: Context, label: Any, ids: torch.Tensor, dims: list[int]) -> tuple[Ids, Ids]:
    """Entries with the statistics of the multiset over some dimensions; the statistics keep those
    dimensions.
    """
    statistics = reduction(ctx, ("statistics", label), ids, dims, keepdim=True)
    return elementwise(ctx, ("normalize", label), Ids(ids), statistics), statistics


def scale_and_shift(ctx: Context, x: Ids, weight: Any, bias: Any) -> Ids:
    """Broadcast weight and bias, each optional."""
    if weight is not None:
        x = combine(ctx, "mul", x, weight)
    return x if bias is None else combine(ctx, "add", x, bias)


def moments(ctx: Context, statistics: Ids) -> tuple[Ids, Ids]:
    return elementwise(ctx, "mean of", statistics), elementwise(ctx, "deviation of", statistics)


@expands("native_layer_norm", "layer_norm")
def layer_norm(ctx: Context, a: SimpleNamespace) -> Any:
    dims = list(range(-len(a.normalized_shape), 0))
    x, statistics = standardize(ctx, ("layer", a.eps), ctx.ids(a.input), dims)
    out = scale_and_shift(ctx, x, a.weight, a.bias)
    return (out, *moments(ctx, statistics)) if ctx.name == "native_layer_norm" else out


@expands("rms_norm", "_fused_rms_norm")
def rms_norm(ctx: Context, a: SimpleNamespace) -> Any:
    dims = list(range(-len(a.normalized_shape), 0))
    x, statistics = standardize(ctx, ("rms", a.eps), ctx.ids(a.input), dims)
    out = scale_and_shift(ctx, x, a.weight, None)
    return (out, statistics) if ctx.name == "_fused_rms_norm" else out


@expands("native_group_norm", "group_norm")
def group_norm(ctx: Context, a: SimpleNamespace) -> Any:
    ids = (a.input if hasattr(a, "input") else a.self).ids
    groups = a.group if hasattr(a, "group") else a.num_groups
    x, statistics = standardize(ctx, ("group", a.eps), ids.reshape(ids.shape[0], groups, -1), [2])
    out = scale_and_shift(ctx, Ids(x.ids.reshape(ids.shape)), *per_channel(ctx, a, ids.dim()))
    flat = Ids(statistics.ids.squeeze(-1))
    return (out, *moments(ctx, flat)) if ctx.name == "native_group_norm" else out


def per_channel(ctx: Context, a: SimpleNamespace, rank: int) -> list[Ids | None]:
    """Weight and bias along dimension 1."""
    return [channels(ctx, v, rank) for v in (a.weight, a.bias)]


def channels(ctx: Context, value: Any, rank: int) -> Ids | None:
    return None if value is None else Ids(ctx.ids(value).reshape(-1, *[1] * (rank - 2)))


@expands(
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "batch_norm",
    "cudnn_batch_norm", "_batch_norm_no_update", "instance_norm",
)  # fmt: skip
def batch_norm(ctx: Context, a: SimpleNamespace) -> Any:
    """Running statistics are two more arguments; without them (or in training mode) those of the batch are
    used.
    """
    ids = a.input.ids
    training = getattr(a, "training", False) or getattr(a, "use_input_stats", False)
    eps = getattr(a, "eps", getattr(a, "epsilon", None))
    if training or a.running_mean is None:
        spatial = list(range(2, ids.dim()))
        x, _ = standardize(
            ctx, ("batch", eps), ids, spatial if ctx.name == "instance_norm" else [0, *spatial]
        )
    else:
        mean, variance = (channels(ctx, v, ids.dim()) for v in (a.running_mean, a.running_var))
        x = elementwise(ctx, ("batch", eps), Ids(ids), mean, variance)
    out = scale_and_shift(ctx, x, *per_channel(ctx, a, ids.dim()))
    if ctx.name in ("batch_norm", "instance_norm"):
        return out
    return (
        out,
        *[torch.zeros(0)] * (len(ctx.op._schema.returns) - 1),
    )  # saved for backward; empty in eval mode


@expands("_weight_norm_interface", "_weight_norm")
def weight_norm(ctx: Context, a: SimpleNamespace) -> Any:
    """g v / |v|, the norm over all dimensions but one."""
    v = a.v.ids
    norm = norm_except(ctx, v, a.dim)
    out = combine(ctx, "mul", a.g, elementwise(ctx, "div", a.v, norm))
    return (out, norm) if ctx.name == "_weight_norm_interface" else out


@expands("norm_except_dim")
def norm_except_dim(ctx: Context, a: SimpleNamespace) -> Ids:
    return norm_except(ctx, a.v.ids, a.dim)


def norm_except(ctx: Context, ids: torch.Tensor, dim: int) -> Ids:
    dims = [d for d in range(ids.dim()) if dim == -1 or d != dim % ids.dim()]
    return reduction(ctx, "norm", ids, dims, keepdim=True)
