"""Whether rows may be zero as a whole: what is computed of them by products is equal then, whatever the weights."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from autoperm.rules.op import Labels, Op

#: Ops that keep zero what is, and ops that make zeros.
_ZERO_STAYS = frozenset(
    """
view reshape _unsafe_view unsqueeze squeeze permute transpose t expand alias clone contiguous detach slice select flip roll neg
abs tanh silu gelu elu leaky_relu square sqrt split split_with_sizes unbind _to_copy native_dropout dropout rms_norm layer_norm
sum mean cumsum mish sin erf atan mm linear div native_layer_norm mul pow
""".split()  # noqa: SIM905
)
_ZERO_COMES = frozenset("relu threshold clamp clamp_min hardtanh hardswish masked_fill where scatter".split())  # noqa: SIM905
_MASK_PASSES = frozenset(["view", "unsqueeze", "expand", "_to_copy", "squeeze"])


def may_vanish(labels: Labels, node: Any, known: dict[fx.Node, bool] | None = None) -> bool:
    """Whether a row may be zero as a whole for more than a few single inputs: after a ReLU or a mask, or by a padding index.

    Arguments:
        known: what was found before of the operands of sums and products.
    """
    known = {} if known is None else known
    if node not in known:
        known[node] = False  # of itself, in the meantime
        known[node] = _may_vanish(labels, node, known)
    return known[node]


def _may_vanish(labels: Labels, node: Any, known: dict[fx.Node, bool]) -> bool:
    while isinstance(node, fx.Node) and node.op == "call_function":
        if node.target is operator.getitem:
            node = node.args[0]
            continue
        name, op = str(node.target).split(".")[1], Op(labels, node)
        if name in _ZERO_COMES:
            return True
        if name == "masked_scatter":  # rows of either
            return any(may_vanish(labels, op[part], known) for part in ("self", "source"))
        if name == "embedding":
            return op.get("padding_idx", -1) >= 0
        if name == "_to_copy" and not op["self"].meta["val"].is_floating_point():
            return labels.value(op["self"]) is None
        if name in ("mul", "add", "sub") and len(node.all_input_nodes) > 1:
            parts = node.all_input_nodes
            if name == "mul":
                return any(is_mask(labels, part) or may_vanish(labels, part, known) for part in parts)
            return all(may_vanish(labels, part, known) for part in parts)
        if (name in ("native_layer_norm", "layer_norm") and op.get("bias") is not None) or (name == "linear" and op.get("bias")):
            return False
        if name not in _ZERO_STAYS:
            return False
        node = node.all_input_nodes[0]
    return False


def is_mask(labels: Labels, node: fx.Node) -> bool:
    """Whether a factor is an input of the model, as masks are."""
    while isinstance(node.target, torch._ops.OpOverload) and str(node.target).split(".")[1] in _MASK_PASSES:
        node = node.all_input_nodes[0]
    return node.op == "placeholder" and not labels.is_weight(node)
