"""Grouped convolutions: the groups are exchangeable as blocks, and so are the channels within each."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from benchmarks.zoo.expected.acting import Acting, Axis
from benchmarks.zoo.expected.expectation import Expectation
from benchmarks.zoo.expected.layers import layer_of


def expectations(model: nn.Module) -> Iterator[Expectation]:
    """One per convolution of several groups that is not depthwise (nor aggregates queries, keys and values: these differ)."""
    for path, module in model.named_modules():
        layer = layer_of(path, module)
        if layer is not None and "aggreg" not in path and 1 < layer.groups < min(layer.ins, layer.outs):
            out, groups = layer.out, layer.groups
            yield Expectation("groups", path, lambda acting, out=out, groups=groups: in_blocks(acting, out, groups))  # type: ignore[misc]


def in_blocks(acting: Acting, axis: Axis, blocks: int) -> str | None:
    """Whether a dimension is ``blocks`` exchangeable blocks with a free order within each."""
    parts = acting.parts(axis)
    width = sum(len(part.positions) for part in parts)
    sizes = [n for n in (blocks, width // blocks) if n > 1]
    leaves = parts[0].leaves
    if len(parts) > 1 or [acting.size(leaf) for leaf in leaves] != sizes:
        return f"{axis} is {acting.shown(parts)}, not {' x '.join(map(str, sizes))}"
    still = [leaf for leaf in leaves if acting.group(leaf) is None]
    if still:
        return f"{axis} is {acting.shown(parts)}: {acting.why(axis, still)}"
    inner = acting.group(leaves[-1])
    if len(leaves) > 1 and inner is not None and leaves[0] not in (*inner.parents, *inner.leaves):
        return f"{axis}: all blocks have one order within"
    return None
