"""Pooling, upsampling, padding and windows: spatial axes are pinned, channels pass."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autoperm.inference.equation import PIN
from autoperm.inference.views import View
from autoperm.rules.movement import reshaped
from autoperm.rules.op import Op, letters, moved_within
from autoperm.rules.registry import rule

_REASON = "a spatial axis"


def _pass_leading(op: Op, view: View, stays: Sequence[bool]) -> View:
    """Leading dimensions pass, and those of the trailing ones along which the op leaves everything as it is."""
    pinned = [k for k, same in enumerate(stays, start=view.ndim - len(stays)) if not same]
    return moved_within(op, view, pinned, op.shape(), f"{_REASON} of {op.name}")


def _spatial(rank: int):  # type: ignore[no-untyped-def]
    def apply(op: Op) -> object:
        view = op.labels.view(op.node.args[0])  # type: ignore[arg-type]
        if "_pad" in op.name:
            return _pass_leading(op, view, _unpadded(op["padding"]))
        found = _pass_leading(op, view, [_stays(op, view, k, rank) for k in range(rank)])
        return [found, found] if isinstance(op.node.meta["val"], (tuple, list)) else found

    return apply


def _stays(op: Op, view: View, k: int, rank: int) -> bool:
    """Whether everything stays as it is along an axis. Where positions are numbered nothing does."""
    if isinstance(op.node.meta["val"], (tuple, list)) and op.uses(1):
        return False
    if "kernel_size" in op.args:
        return _is_one_window(op, k)
    same = op.shape()[k - rank] == view.shape[k - rank]
    # The taps of other windows are exactly zero where positions are those of the input; those of Lanczos' are rounded.
    return same and ("upsample" not in op.name or ("lanczos" not in op.name and _scale(op, k, rank) in (None, 1.0)))


def _scale(op: Op, k: int, rank: int) -> float | None:
    """The factor that an upsampling was given for an axis, which counts before the sizes."""
    if op.get("scale_factors") is not None:
        return op["scale_factors"][k]  # type: ignore[no-any-return]
    return op.get("scales" if rank == 1 else f"scales_{'dhw'[k - rank]}")  # type: ignore[no-any-return]


def _is_one_window(op: Op, k: int) -> bool:
    """Whether each window of a pool holds one position along an axis."""

    def at(name: str, default: int) -> int:
        values = op.get(name)
        values = [values] if isinstance(values, int) else values or [default]
        return values[k] if len(values) > k else values[0]

    return at("kernel_size", 1) == 1 and at("stride", at("kernel_size", 1)) == 1 and at("padding", 0) == 0


_OPS = {
    1: "avg_pool1d max_pool1d max_pool1d_with_indices adaptive_max_pool1d upsample_linear1d upsample_nearest1d "
    "_upsample_nearest_exact1d reflection_pad1d replication_pad1d",
    2: "avg_pool2d max_pool2d max_pool2d_with_indices mkldnn_max_pool2d adaptive_max_pool2d upsample_bilinear2d "
    "upsample_nearest2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa _upsample_nearest_exact2d "
    "_upsample_lanczos2d_aa reflection_pad2d replication_pad2d",
    3: "avg_pool3d max_pool3d max_pool3d_with_indices adaptive_max_pool3d upsample_trilinear3d upsample_nearest3d "
    "_upsample_nearest_exact3d reflection_pad3d replication_pad3d",
}
for _rank, _names in _OPS.items():
    rule(*(f"aten.{name}" for name in _names.split()))(_spatial(_rank))


@rule("aten._adaptive_avg_pool2d", "aten._adaptive_avg_pool3d", "aten.adaptive_avg_pool1d", "aten.adaptive_avg_pool2d",
      "aten.adaptive_avg_pool3d")  # fmt: skip
def adaptive_average(op: Op) -> View:
    """Along an axis, size 1 averages the whole, which is symmetric, the input's own size nothing; any other pins."""
    view = op.view("self")
    size = op.args["output_size"]
    rank = len(size) if isinstance(size, (list, tuple)) else 1
    out = op.shape()
    names = letters(view.ndim)
    result = list(names)
    for k in range(view.ndim - rank, view.ndim):
        if out[k] == 1:
            result[k] = ()
        elif out[k] != view.shape[k]:
            names[k] = result[k] = PIN
    return op.state([(view, tuple(names))], [tuple(result)], [out], reason=f"{_REASON} of {op.name}")[0]


def padded(op: Op) -> View:
    """Reflection, replication or circular padding of the trailing dimensions."""
    return _pass_leading(op, op.view("self"), _unpadded(op["pad"]))


def _unpadded(pad: Sequence[int]) -> list[bool]:
    """Along which of the trailing dimensions nothing is added; ``pad`` has two numbers for each, the last dimension first."""
    return [not any(pad[k : k + 2]) for k in reversed(range(0, len(pad), 2))]


@rule("aten.im2col")
def im2col(op: Op) -> View:
    """(b, c, h, w) -> (b, c, kernel, positions), with channels and kernel as one dimension."""
    x = op.view("self")
    shape = (*x.shape[:-2], math.prod(op["kernel_size"]), op.shape()[-1])
    found = moved_within(op, x, [-2, -1], shape, "a position in a kernel")
    return reshaped(op, found, op.shape())


@rule("aten.col2im")
def col2im(op: Op) -> View:
    """(b, c, kernel, positions), with channels and kernel as one dimension -> (b, c, h, w)."""
    x, kernel = op.view("self"), math.prod(op["kernel_size"])
    *lead, columns, positions = x.shape
    split = reshaped(op, x, (*lead, columns // kernel, kernel, positions))
    return moved_within(op, split, [-2, -1], op.shape(), "a position in a kernel")


@rule("aten.max_unpool2d", "aten.max_unpool3d", "aten.fractional_max_pool2d", "aten.fractional_max_pool3d")
def guided_pool(op: Op) -> object:
    """Where each channel's values come from or go to is told by a second operand."""
    x = op.view("self")
    spatial = 3 if "3d" in op.name else 2
    lead = [(f"l{k}",) for k in range(x.ndim - spatial)]
    guide = op.view("indices" if "unpool" in op.name else "random_samples")
    of_guide = [*lead, *[PIN] * spatial] if "unpool" in op.name else [("l",), *lead, PIN][-3:]
    names = (*lead, *[PIN] * spatial)
    reason = f"{_REASON} of {op.name}"
    found = op.state([(x, names), (guide, tuple(of_guide))], [names], [op.shape()], reason=reason)[0]
    return [found, found] if isinstance(op.node.meta["val"], (tuple, list)) else found


@rule("aten.grid_sampler_2d", "aten.grid_sampler", "aten.grid_sampler_3d", "aten._grid_sampler_2d_cpu_fallback")
def grid_sampler(op: Op) -> View:
    """Channels pass, the batch, and the points of the grid; coordinates and the pixels that they are of are in order."""
    rank = op.view("input").ndim - 2
    pixels, points = " ".join("_" * rank), " ".join(f"p{k}" for k in range(rank))
    equation = f"b c {pixels}, b {points} _ -> b c {points}"
    return op.equation(equation, op.view("input"), op.view("grid"), reason="sampling positions")


@rule("aten.affine_grid_generator")
def affine_grid(op: Op) -> View:
    spatial = " ".join("_" * (len(op.shape()) - 2))
    return op.equation(f"b _ _ -> b {spatial} _", op.view("theta"), reason="coordinates in order")
