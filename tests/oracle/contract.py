"""Sums of products: matrix products, bilinear forms, convolutions."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import torch

from .pointwise import combine, elementwise, scale, shaped
from .registry import Context, Ids, expands
from .scalars import NOTHING, ZERO, ScalarGraph


def dot(graph: ScalarGraph, xs: list[int], ys: list[int], skip: int, mul: int, total: int) -> int:
    """The sum of the products of two lists, less those with the vertex to skip."""
    node = graph.node
    terms = []
    for x, y in zip(xs, ys):
        if x != skip and y != skip:
            terms.append(node(mul, (x, y) if x < y else (y, x)) if x != y else graph.bag("mul", (x, y)))
    if not terms:
        return ZERO
    terms.sort()
    if any(left == right for left, right in itertools.pairwise(terms)):
        return graph.bag("dot", terms)
    return node(total, tuple(terms))


def product(ctx: Context, left: torch.Tensor, right: torch.Tensor, skip: int = NOTHING) -> torch.Tensor:
    """Batched matrix product of vertex numbers: (..., m, k) and (..., k, n) to (..., m, n).

    Products with the constant 0 are terms like any other (a weight times the initial state of an RNN), except
    in convolutions, which skip it: it is padding, and a weight that only ever meets padding has no effect.
    """
    batch = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    (m, k), n = left.shape[-2:], right.shape[-1]
    rows = left.expand(*batch, m, k).reshape(batch.numel(), m, k).tolist()
    columns = right.mT.expand(*batch, n, k).reshape(batch.numel(), n, k).tolist()
    mul, total = ctx.graph.label_of("mul"), ctx.graph.label_of("dot")
    out = [dot(ctx.graph, x, y, skip, mul, total) for xs, ys in zip(rows, columns) for x in xs for y in ys]
    return torch.tensor(out, dtype=torch.int64).reshape(*batch, m, n)


def matmul(ctx: Context, left: Any, right: Any) -> Ids:
    """`torch.matmul`, vectors included."""
    x, y = ctx.ids(left), ctx.ids(right)
    vector_left, vector_right = x.dim() == 1, y.dim() == 1
    out = product(ctx, x.unsqueeze(0) if vector_left else x, y.unsqueeze(-1) if vector_right else y)
    if vector_right:
        out = out.squeeze(-1)
    return Ids(out.squeeze(-1 if vector_right else -2) if vector_left else out)


def affine(ctx: Context, x: Any, weight: Any, bias: Any = None) -> Ids:
    """x W^T + b."""
    out = matmul(ctx, x, Ids(ctx.ids(weight).mT))
    return out if bias is None else combine(ctx, "add", out, bias)


@expands("mm", "bmm", "matmul", "mv", "dot", "vdot", "inner")
def plain(ctx: Context, a: SimpleNamespace) -> Ids:
    operands = list(vars(a).values())
    return matmul(ctx, operands[0], operands[1])


@expands("addmm", "baddbmm", "addmv")
def biased(ctx: Context, a: SimpleNamespace) -> Ids:
    operands = [v for v in vars(a).values() if isinstance(v, (Ids, torch.Tensor))]
    out = scale(ctx, a.alpha, matmul(ctx, operands[1], operands[2]))
    return out if a.beta == 0 else combine(ctx, "add", scale(ctx, a.beta, operands[0]), out)


@expands("addbmm")
def summed_batches(ctx: Context, a: SimpleNamespace) -> Ids:
    """The batch is one more contracted dimension."""
    left, right = ctx.ids(a.batch1).transpose(0, 1).flatten(1), ctx.ids(a.batch2).flatten(0, 1)
    return combine(
        ctx, "add", scale(ctx, a.beta, a.self), scale(ctx, a.alpha, matmul(ctx, Ids(left), Ids(right)))
    )


@expands("linear")
def linear(ctx: Context, a: SimpleNamespace) -> Ids:
    return affine(ctx, a.input, a.weight, a.bias)


@expands("outer", "ger")
def outer(ctx: Context, a: SimpleNamespace) -> Ids:
    return combine(ctx, "mul", Ids(ctx.ids(a.self).unsqueeze(1)), Ids(ctx.ids(a.vec2)))


@expands("addr")
def add_outer(ctx: Context, a: SimpleNamespace) -> Ids:
    product = combine(ctx, "mul", Ids(ctx.ids(a.vec1).unsqueeze(1)), Ids(ctx.ids(a.vec2)))
    return combine(ctx, "add", scale(ctx, a.beta, a.self), scale(ctx, a.alpha, product))


@expands("_trilinear")
def trilinear(ctx: Context, a: SimpleNamespace) -> Ids:
    """Products of three broadcast operands, summed over some of their dimensions."""
    operands = []
    for operand, dims in ((a.i1, a.expand1), (a.i2, a.expand2), (a.i3, a.expand3)):
        ids = ctx.ids(operand)
        for dim in sorted(dims):
            ids = ids.unsqueeze(dim)
        operands.append(ids)
    tensors = torch.broadcast_tensors(*operands)
    products = [ctx.graph.bag("mul", triple) for triple in zip(*(t.reshape(-1).tolist() for t in tensors))]
    ids = torch.tensor(products, dtype=torch.int64).reshape(tensors[0].shape)
    kept = [d for d in range(ids.dim()) if d not in a.sumdim]
    shape = [ids.shape[d] for d in kept]
    rows = ids.permute(*kept, *a.sumdim).reshape(-1, *[ids.shape[d] for d in a.sumdim]).flatten(1)
    return shaped([ctx.graph.bag("dot", row) for row in rows.tolist()], shape)


@expands("linalg_solve_triangular")
def solve_triangular(ctx: Context, a: SimpleNamespace) -> Ids:
    """X with A X = B, row by row. The other triangle of A is not read, nor the diagonal where it is said to be 1."""
    matrix, right, upper = ctx.ids(a.self), ctx.ids(a.B), a.upper
    if not a.left:
        matrix, right, upper = matrix.mT, right.mT, not upper
    batch = torch.broadcast_shapes(matrix.shape[:-2], right.shape[:-2])
    matrix, right = matrix.expand(*batch, *matrix.shape[-2:]), right.expand(*batch, *right.shape[-2:])
    if upper:
        matrix, right = matrix.flip(-2, -1), right.flip(-2)
    out = _forward_substitution(ctx, matrix, right, a.unitriangular)
    out = out.flip(-2) if upper else out
    return Ids(out if a.left else out.mT)


def _forward_substitution(ctx: Context, lower: torch.Tensor, right: torch.Tensor, unit: bool) -> torch.Tensor:
    solved: list[torch.Tensor] = []
    for i in range(right.shape[-2]):
        row = Ids(right[..., i, :])
        if solved:
            known = product(ctx, lower[..., i : i + 1, :i], torch.stack(solved, -2)).squeeze(-2)
            row = elementwise(ctx, "sub", row, Ids(known))
        solved.append(row.ids if unit else elementwise(ctx, "div", row, Ids(lower[..., i, i, None])).ids)
    return torch.stack(solved, -2) if solved else right


def windows(ids: torch.Tensor, kernel: list[int], stride: list[int], dilation: list[int]) -> torch.Tensor:
    """(..., *spatial) to (..., *positions, *kernel)."""
    rank = len(kernel)
    first = ids.dim() - rank
    for i in range(rank):
        span = dilation[i] * (kernel[i] - 1) + 1
        ids = ids.unfold(first + i, span, stride[i])[..., :: dilation[i]]
    return ids


def pad_spatial(ids: torch.Tensor, low: list[int], high: list[int], fill: int) -> torch.Tensor:
    """Pad the last dimensions; a negative amount crops."""
    amounts = [amount for pair in zip(reversed(low), reversed(high)) for amount in pair]
    return torch.constant_pad_nd(ids, amounts, fill)


def correlate(
    ctx: Context, x: torch.Tensor, w: torch.Tensor, stride: Any, dilation: Any, groups: int
) -> torch.Tensor:
    """Convolution of padded (N, C, *spatial) with (O, C/G, *kernel)."""
    kernel = list(w.shape[2:])
    taps = windows(x, kernel, list(stride), list(dilation))
    n, positions = x.shape[0], taps.shape[2 : 2 + len(kernel)]
    patches = taps.reshape(n, groups, x.shape[1] // groups, positions.numel(), -1)
    patches = patches.permute(0, 1, 3, 2, 4).reshape(n, groups, positions.numel(), -1)
    filters = w.reshape(groups, w.shape[0] // groups, -1).mT
    out = product(ctx, patches, filters, skip=ZERO)  # (N, G, positions, O/G)
    return out.permute(0, 1, 3, 2).reshape(n, w.shape[0], *positions)


def dilated(x: torch.Tensor, stride: list[int]) -> torch.Tensor:
    """Put the zeros of a transposed convolution between the entries."""
    shape = [(size - 1) * s + 1 for size, s in zip(x.shape[2:], stride)]
    out = torch.full((*x.shape[:2], *shape), ZERO, dtype=torch.int64)
    every: Any = (..., *(slice(None, None, s) for s in stride))
    out[every] = x
    return out


def transposed_operands(
    a: SimpleNamespace, x: torch.Tensor, w: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The input and weight with which a plain convolution of stride 1 is the transposed one."""
    extent = [d * (k - 1) for d, k in zip(a.dilation, w.shape[2:])]
    low = [e - p for e, p in zip(extent, a.padding)]
    high = [amount + extra for amount, extra in zip(low, a.output_padding)]
    grouped = w.reshape(a.groups, w.shape[0] // a.groups, *w.shape[1:]).transpose(1, 2)
    flipped = grouped.flatten(0, 1).flip(*range(2, w.dim()))
    return pad_spatial(dilated(x, list(a.stride)), low, high, ZERO), flipped


@expands("convolution", "convolution_overrideable", "_convolution")
def convolution(ctx: Context, a: SimpleNamespace) -> Ids:
    x, w = ctx.ids(a.input), ctx.ids(a.weight)
    if a.transposed:
        x, w = transposed_operands(a, x, w)
        out = correlate(ctx, x, w, [1] * (w.dim() - 2), a.dilation, a.groups)
    else:
        x = pad_spatial(x, list(a.padding), list(a.padding), ZERO)
        out = correlate(ctx, x, w, a.stride, a.dilation, a.groups)
    return with_bias(ctx, out, a.bias)


@expands("conv1d", "conv2d", "conv3d")
def plain_convolution(ctx: Context, a: SimpleNamespace) -> Ids:
    """As a real trace has them; padding may be by name."""
    x, w = ctx.ids(a.input), ctx.ids(a.weight)
    rank = w.dim() - 2
    stride, dilation = (list(n) * rank if len(n) < rank else list(n) for n in (a.stride, a.dilation))
    if isinstance(a.padding, str):
        total = [d * (k - 1) * (a.padding == "same") for d, k in zip(dilation, w.shape[2:])]
        low = [n // 2 for n in total]
        high = [n - m for n, m in zip(total, low)]
    else:
        low = high = list(a.padding) * rank if len(a.padding) < rank else list(a.padding)
    return with_bias(ctx, correlate(ctx, pad_spatial(x, low, high, ZERO), w, stride, dilation, a.groups), a.bias)


def with_bias(ctx: Context, out: torch.Tensor, bias: Any) -> Ids:
    if bias is None:
        return Ids(out)
    return combine(ctx, "add", Ids(out), Ids(ctx.ids(bias).reshape(-1, *[1] * (out.dim() - 2))))
