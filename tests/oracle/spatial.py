"""Pooling and resampling over the last dimensions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from .contract import pad_spatial, windows
from .pointwise import elementwise, shaped
from .registry import Context, Ids, expands, invoke

LINEAR = [
    f"{kind}{rank}d" for rank in (1, 2, 3) for kind in ("avg_pool", "adaptive_avg_pool", "_adaptive_avg_pool")
]
LINEAR += [f"{kind}{rank}d" for rank in (1, 2, 3) for kind in ("upsample_nearest", "_upsample_nearest_exact")]
LINEAR += ["upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d"]
LINEAR += ["_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "_upsample_lanczos2d_aa"]


def linear_map(ctx: Context, a: SimpleNamespace, spatial: torch.Size, lead: list[int]) -> torch.Tensor:
    """What a linear op does to each unit vector of its last dimensions: (inputs, *output shape)."""
    basis = torch.eye(spatial.numel(), dtype=torch.float64).reshape(-1, *lead, *spatial)
    bound = vars(a)
    data = next(iter(bound))
    return invoke(ctx.op, {**bound, data: basis})


def weighted(ctx: Context, rows: list[list[int]], matrix: torch.Tensor) -> list[list[int]]:
    """Each row of scalars times a constant matrix (inputs, outputs): a multiset of scalars with their
    weights.
    """
    graph = ctx.graph
    columns = [
        [(i, ("scale", float(f"{w:.9g}"))) for i, w in enumerate(column) if abs(w) > 1e-12]
        for column in matrix.T.tolist()
    ]
    return [
        [graph.bag("dot", [graph.unary(weight, row[i]) for i, weight in column]) for column in columns]
        for row in rows
    ]


@expands(*LINEAR)
def resample(ctx: Context, a: SimpleNamespace) -> Ids:
    """Every channel goes through the same linear map."""
    rank = int(ctx.name.split("d_aa")[0].rstrip("d")[-1])
    ids = next(iter(vars(a).values())).ids
    lead, spatial = ids.shape[:-rank], ids.shape[-rank:]
    matrix = linear_map(ctx, a, spatial, [1])
    out = weighted(ctx, ids.reshape(-1, spatial.numel()).tolist(), matrix.flatten(1))
    return shaped([v for row in out for v in row], (*lead, *matrix.shape[2:]))


@expands("col2im")
def col2im(ctx: Context, a: SimpleNamespace) -> Ids:
    ids = a.self.ids
    lead, last = ids.shape[:-2], ids.shape[-2:]
    matrix = linear_map(ctx, a, last, [])
    out = weighted(ctx, ids.reshape(-1, last.numel()).tolist(), matrix.flatten(1))
    return shaped([v for row in out for v in row], (*lead, *matrix.shape[1:]))


@expands("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def grid_sampler(ctx: Context, a: SimpleNamespace) -> Ids:
    """Linear in the input if the grid is constant; otherwise a function of a channel's ordered pixels and the
    point.
    """
    ids = ctx.ids(a.input)
    rank = ids.dim() - 2
    channels = ids.flatten(2)  # (N, C, pixels)
    if isinstance(a.grid, Ids):
        points = a.grid.ids.flatten(1, -2).tolist()
        columns = [[ctx.graph.call("column", pixels) for pixels in image] for image in channels.tolist()]
        pairs = [(c, p) for image, grid in zip(columns, points) for c in image for p in grid]
        flat = [ctx.graph.call("sample", (column, *point)) for column, point in pairs]
    else:
        basis = torch.eye(channels.shape[-1], dtype=torch.float64).reshape(1, -1, *ids.shape[2:])
        grids = [g.double().unsqueeze(0) for g in a.grid]
        matrices = [invoke(ctx.op, {**vars(a), "input": basis, "grid": g})[0].flatten(1) for g in grids]
        out = [weighted(ctx, image, matrix) for image, matrix in zip(channels.tolist(), matrices)]
        flat = [v for image in out for row in image for v in row]
    return shaped(flat, (*ids.shape[:2], *a.grid.shape[1 : 1 + rank]))


def per_dim(value: Any, rank: int, default: list[int]) -> list[int]:
    """A pooling argument as one number per spatial dimension."""
    if isinstance(value, int):
        value = [value]
    return list(default) if not value else list(value) * (rank if len(value) == 1 else 1)


@expands("max_pool1d", "max_pool2d", "max_pool3d", "max_pool1d_with_indices", "max_pool2d_with_indices",
         "max_pool3d_with_indices", "mkldnn_max_pool2d")  # fmt: skip
def max_pool(ctx: Context, a: SimpleNamespace) -> Any:
    """The multiset of each window; what lies outside is left out."""
    rank = int(ctx.name.split("pool")[1][0])
    ids = a.self.ids
    kernel = per_dim(a.kernel_size, rank, [])
    stride, padding, dilation = (
        per_dim(v, rank, d)
        for v, d in ((a.stride, kernel), (a.padding, [0] * rank), (a.dilation, [1] * rank))
    )
    probe = invoke(ctx.op, {**vars(a), "self": torch.zeros(1, 1, *ids.shape[-rank:])})
    sizes = (probe[0] if isinstance(probe, tuple) else probe).shape[2:]
    needed = [(o - 1) * s + d * (k - 1) + 1 for o, s, d, k in zip(sizes, stride, dilation, kernel)]
    high = [need - size - low for need, size, low in zip(needed, ids.shape[-rank:], padding)]
    taps = windows(pad_spatial(ids, padding, high, -1), kernel, stride, dilation).flatten(-rank)
    rows = taps.reshape(-1, taps.shape[-1]).tolist()
    values = shaped([ctx.graph.bag("amax", [v for v in row if v >= 0]) for row in rows], taps.shape[:-1])
    if not isinstance(probe, tuple):
        return values
    return values, elementwise(ctx, "position", values)


@expands("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def adaptive_max_pool(ctx: Context, a: SimpleNamespace) -> tuple[Ids, Ids]:
    """Windows as in adaptive average pooling."""
    rank = int(ctx.name[-2])
    average = getattr(torch.nn.functional, f"adaptive_avg_pool{rank}d")
    ids = a.self.ids
    spatial = ids.shape[-rank:]
    matrix = average(torch.eye(spatial.numel()).reshape(-1, 1, *spatial), tuple(a.output_size))
    members = [[i for i, w in enumerate(column) if w] for column in matrix.flatten(1).T.tolist()]
    rows = ids.reshape(-1, spatial.numel()).tolist()
    flat = [ctx.graph.bag("amax", [row[i] for i in window]) for row in rows for window in members]
    values = shaped(flat, (*ids.shape[:-rank], *matrix.shape[2:]))
    return values, elementwise(ctx, "position", values)
