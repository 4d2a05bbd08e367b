"""Norms move with the layer before them; groups of channels are exchangeable, and so are the channels within each."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.zoo.expected.acting import Acting, Axis
from benchmarks.zoo.expected.expectation import Expectation
from benchmarks.zoo.expected.grouped import in_blocks
from benchmarks.zoo.expected.layers import Layer, joined, layer_of

#: Norms of queries and keys, and those between two layers listed before them: they follow other layers.
_OF_OTHERS = re.compile(r"(q|k|query|key)_?(norm|ln|layer_?norm).*|inner_attn_ln|ffn_layer_?norm")


def expectations(model: nn.Module) -> Iterator[Expectation]:
    """One per norm that directly follows a layer of its width, in the same module."""
    for path, module in model.named_modules():
        before: Layer | None = None
        for name, inner in module.named_children():
            at = joined(path, name)
            if _OF_OTHERS.fullmatch(name):
                continue
            if isinstance(inner, _BatchNorm | nn.LayerNorm | nn.GroupNorm) and inner.weight is not None:
                if before is not None and (before.outs,) == tuple(inner.weight.shape):
                    yield _expected(at, inner, before)
                before = None
            else:
                layer = layer_of(at, inner)
                before = layer if layer is not None or any(True for _ in inner.parameters()) else before


def _expected(at: str, norm: nn.Module, before: Layer) -> Expectation:
    axis, blocks = Axis(f"{at}.weight", 0), getattr(norm, "num_groups", 1)
    if blocks in (1, before.outs):
        return Expectation("norm", at, lambda acting: _moves_with(acting, axis, before.out))
    return Expectation("groups", at, lambda acting: _moves_with(acting, axis, before.out) or in_blocks(acting, axis, blocks))


def _moves_with(acting: Acting, norm: Axis, layer: Axis) -> str | None:
    """The same leaves on the same channels, some of them free."""
    parts, of_layer = acting.parts(norm), acting.parts(layer)
    leaves = [leaf for part in parts for leaf in part.leaves]
    if not any(acting.group(leaf) for leaf in leaves):
        return f"{norm} is pinned: {acting.why(norm, leaves)}"
    if set(parts) != set(of_layer):
        return f"{norm} is {acting.shown(parts)}, {layer} is {acting.shown(of_layer)}"
    return None
