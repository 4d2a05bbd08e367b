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
    "aten.thnn_conv2d", "aten._slow_conv2d_forward", "aten._conv_depthwise2d", "aten.cudnn_convolution",
    "aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d",
)  # fmt: skip
def convolution(op: Op) -> View:
    x, weight, bias = op.view(next(iter(op.args))), op.view("weight"), op.optional("bias")
    kernel = op.node.args[1].meta["val"].shape[2:]  # type: ignore[union-attr]
    lead, channel = ("b", 1) if x.ndim > len(kernel) + 1 else ("", 0)
    groups = x.shape[1] if "depthwise" in op.name else op.get("groups", 1)
    points = [_is_point(op, k, n) for k, n in enumerate(kernel)]
    space = " ".join(f"s{k}" if point else "_" for k, point in enumerate(points))
    window = " ".join("1" if n == 1 else "_" for n in kernel)
    transposed = op.get("transposed") or "conv_transpose" in op.name
    filters = f"(g i) o {window}" if transposed else f"(g o) i {window}"
    equation = f"{lead} (g i) {space}, {filters}, (g o) -> {lead} (g o) {space}"
    sizes = {"g": groups, "o": op.shape()[channel] // groups, "i": x.shape[channel] // groups}
    return op.equation(equation, x, weight, bias, sizes=sizes, reason="a spatial axis of a convolution")


@rule("aten.conv_tbc")
def conv_tbc(op: Op) -> View:
    reason = "a spatial axis of a convolution"
    return op.equation("_ b i, _ i o, o -> _ b o", op.view("self"), op.view("weight"), op.view("bias"), reason=reason)


def _is_point(op: Op, k: int, size: int) -> bool:
    def at(name: str, default: int) -> int:
        values = op.get(name)
        if not values or values == "valid":
            return default
        if isinstance(values, int):
            return values
        if isinstance(values, str):  # "same"
            return 0 if size == 1 else 1
        return values[k] if len(values) > k else values[0]

    return size == 1 and at("stride", 1) == 1 and at("padding", 0) == 0 and at("output_padding", 0) == 0
