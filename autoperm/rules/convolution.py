"""Convolutions of any rank, plain, transposed and grouped.

Channels contract as in a matrix product; with groups both channel axes are products (group, channel in group).
Spatial and kernel axes are pinned, except where the kernel is a single point and so the op is a matrix product.
"""

from __future__ import annotations

from autoperm.inference.views import View
from autoperm.rules.op import Op
from autoperm.rules.registry import rule


@rule(
    "aten.convolution", "aten._convolution", "aten.mkldnn_convolution", "aten.convolution_overrideable",
    "aten.thnn_conv2d", "aten._conv_depthwise2d", "aten.cudnn_convolution",
)  # fmt: skip
def convolution(op: Op) -> View:
    x, weight, bias = op.view(next(iter(op.args))), op.view("weight"), op.optional("bias")
    kernel = op.node.args[1].meta["val"].shape[2:]  # type: ignore[union-attr]
    groups = op.get("groups", 1)
    points = [_is_point(op, k, n) for k, n in enumerate(kernel)]
    space = " ".join(f"s{k}" if point else "_" for k, point in enumerate(points))
    window = " ".join("1" if n == 1 else "_" for n in kernel)
    filters = f"(g i) o {window}" if op.get("transposed") else f"(g o) i {window}"
    equation = f"b (g i) {space}, {filters}, (g o) -> b (g o) {space}"
    channels = op.shape()[1] // groups
    sizes = {"g": groups, "o": channels, "i": x.shape[1] // groups}
    return op.equation(equation, x, weight, bias, sizes=sizes, reason="a spatial axis of a convolution")


@rule("aten.conv_tbc")
def conv_tbc(op: Op) -> View:
    reason = "a spatial axis of a convolution"
    return op.equation("_ b i, _ i o, o -> _ b o", op.view("self"), op.view("weight"), op.view("bias"), reason=reason)


def _is_point(op: Op, k: int, size: int) -> bool:
    def at(name: str, default: int) -> int:
        values = op.get(name)
        if not values:
            return default
        return values[k] if len(values) > k else values[0]

    return size == 1 and at("stride", 1) == 1 and at("padding", 0) == 0 and at("output_padding", 0) == 0
