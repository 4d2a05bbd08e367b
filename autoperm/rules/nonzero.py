"""Op by op, what keeps the rows of a result from zero. An op without a rule here may make rows of zeros."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from torch import fx

from autoperm.rules.op import Labels, Op, op_name
from autoperm.rules.registry import registering

#: What keeps rows from zero; None where some may be zero.
Sources = frozenset[fx.Node] | None


class Known(Protocol):
    """What is known of the operands of an op.

    Attributes:
        within: the inputs and weights that a tensor is made of.
        back_to_products: the same, of products the weights alone.
    """

    labels: Labels
    within: dict[fx.Node, frozenset[fx.Node]]
    back_to_products: dict[fx.Node, frozenset[fx.Node]]

    def of(self, node: Any) -> Sources:
        """What keeps the rows of an operand from zero."""


Rule = Callable[[Known, Op], Sources]

#: Not zero where the first argument is not.
_FOLLOWING = """
view reshape _unsafe_view unsqueeze squeeze permute transpose t expand alias clone contiguous detach lift_fresh_copy slice select
flip roll repeat unfold flatten unflatten split split_with_sizes unbind chunk view_as_real view_as_complex real index gather
index_select neg abs tanh silu gelu elu square sin erf atan log1p expm1 mish sqrt native_dropout dropout cumsum topk sort amax
amin max min linalg_vector_norm rms_norm div avg_pool1d avg_pool2d _adaptive_avg_pool2d as_strided sinh asinh var std
_fft_r2c _fft_c2r _fft_c2c upsample_nearest1d upsample_nearest2d upsample_linear1d upsample_bilinear2d
"""
#: Never zero.
_NEVER_ZERO = frozenset("sigmoid exp exp2 softplus _softmax softmax _log_softmax log_softmax cos rsqrt reciprocal".split())  # noqa: SIM905
#: Sums of products.
PRODUCTS = frozenset("mm addmm bmm baddbmm linear convolution matmul einsum dot mv".split())  # noqa: SIM905
_VIEWS = frozenset("t transpose permute view reshape unsqueeze squeeze expand _to_copy clone".split())  # noqa: SIM905
_MASK_PASSES = frozenset(["view", "unsqueeze", "expand", "_to_copy", "squeeze"])

RULES: dict[str, Rule] = {}
_rule = registering(RULES)


@_rule(_FOLLOWING)
def _following(known: Known, op: Op) -> Sources:
    first = next(iter(op.args.values()), None)
    return known.of(first) if isinstance(first, fx.Node) else None


@_rule("sum mean")
def _summed(known: Known, op: Op) -> Sources:
    return None if _is_centred(op["self"]) else known.of(op["self"])


def _is_centred(node: fx.Node) -> bool:
    """Whether a norm that has no weight made the values' sum zero, and no product came after it."""
    while op_name(node) not in PRODUCTS and node.all_input_nodes:
        if "norm" in op_name(node) and "weight" in (args := Op.arguments(node)):
            return args["weight"] is None
        node = node.all_input_nodes[0]
    return False


@_rule("leaky_relu")
def _sloped(known: Known, op: Op) -> Sources:
    return known.of(op["self"]) if op["negative_slope"] != 0 else None


@_rule("pow")
def _power(known: Known, op: Op) -> Sources:
    if is_never_zero(op.node):
        return known.within[op["self"]]
    return known.of(op["self"]) if isinstance(op["self"], fx.Node) and isinstance(op["exponent"], (int, float)) else None


@_rule("_to_copy to")
def _cast(known: Known, op: Op) -> Sources:
    return known.of(op["self"])


def is_never_zero(node: fx.Node) -> bool:
    """Whether an op gives other numbers than zero for all that are finite."""
    if op_name(node) == "pow":
        args = Op.arguments(node)
        return isinstance(args["self"], fx.Node) and isinstance(args["exponent"], (int, float)) and args["exponent"] < 0
    return op_name(node) in _NEVER_ZERO


@_rule(*_NEVER_ZERO)
def _never_zero(known: Known, op: Op) -> Sources:
    return known.within[op["self"]]


@_rule("native_layer_norm layer_norm native_group_norm group_norm native_batch_norm _native_batch_norm_legit_no_training")
def _normalised(known: Known, op: Op) -> Sources:
    return known.of(op["input"]) if op.get("bias") is None else frozenset([op["bias"]]) | known.within[op["input"]]


@_rule(" ".join(PRODUCTS))
def _product(known: Known, op: Op) -> Sources:
    """With a bias, or of factors that are not zero."""
    bias = op.get("bias") if "bias" in op.args else op.get("self") if "mat1" in op.args or "batch1" in op.args else None
    if isinstance(bias, fx.Node) and known.labels.is_weight(viewed(bias)):
        return known.within[op.node]
    found = _all(known, [n for n in op.node.all_input_nodes if n is not bias])
    return found if bias is None else _together(known, [(bias, known.of(bias)), (op.node, found)])


def attention(known: Known, op: Op) -> Sources:
    return None if known.of(op["value"]) is None else known.within[op.node]


@_rule("embedding")
def _looked_up(known: Known, op: Op) -> Sources:
    return known.of(op["weight"]) if op.get("padding_idx", -1) < 0 else None


@_rule("mul")
def _scaled(known: Known, op: Op) -> Sources:
    if any(isinstance(part, (int, float)) and part == 0 for part in (op["self"], op["other"])):
        return None
    factors = op.node.all_input_nodes
    masked = len(factors) > 1 and any(is_mask(known.labels, part) for part in factors)
    return None if masked else _all(known, factors)


@_rule("add sub rsub")
def _added(known: Known, op: Op) -> Sources:
    return _together(known, [(part, known.of(part)) for part in op.node.all_input_nodes])


@_rule("index_add scatter_add")
def _added_at(known: Known, op: Op) -> Sources:
    part = op["source"] if "source" in op.args else op["src"]
    return _together(known, [(op["self"], known.of(op["self"])), (part, None)])


def _together(known: Known, parts: list[tuple[fx.Node, Sources]]) -> Sources:
    """Of a sum the summands that no other one can cancel."""
    kept = [own for k, (node, own) in enumerate(parts) if own is not None and all(
        not known.back_to_products[node] & known.back_to_products[other] or own - known.within[other]
        for j, (other, _) in enumerate(parts) if j != k
    )]  # fmt: skip
    return frozenset().union(*kept) if kept else None


@_rule("clamp hardtanh")
def _clipped(known: Known, op: Op) -> Sources:
    """Between bounds on both sides of zero."""
    low, high = (op["min_val"], op["max_val"]) if "min_val" in op.args else (op["min"], op["max"])
    around = (low is None or (_is_number(low) and low < 0)) and (high is None or (_is_number(high) and high > 0))
    return known.of(op["self"]) if around else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


@_rule("masked_scatter slice_scatter select_scatter")
def _written(known: Known, op: Op) -> Sources:
    return _all(known, [op["self"], op["source"] if "source" in op.args else op["src"]])


@_rule("where")
def _chosen(known: Known, op: Op) -> Sources:
    return _all(known, [op["self"], op["other"]])


@_rule("masked_fill")
def _filled(known: Known, op: Op) -> Sources:
    value = op["value"]
    is_zero = value == 0 if isinstance(value, (int, float)) else known.of(value) is None
    return None if is_zero else known.of(op["self"])


@_rule("cat stack concat")
def _beside(known: Known, op: Op) -> Sources:
    """Along the last dimension one of them is enough."""
    last = op_name(op.node) != "stack" and op["dim"] % len(op.shape()) == len(op.shape()) - 1
    found = [s for s in map(known.of, op["tensors"]) if s is not None]
    return frozenset().union(*found) if found and (last or len(found) == len(op["tensors"])) else None


@_rule("constant_pad_nd")
def _padded(known: Known, op: Op) -> Sources:
    return known.of(op["self"]) if op.get("value", 0) != 0 or not any(op["pad"][2:]) else None


def _all(known: Known, parts: Iterable[Any]) -> Sources:
    found: frozenset[fx.Node] = frozenset()
    for part in parts:
        own = known.of(part) if isinstance(part, fx.Node) else frozenset() if part else None
        if own is None:
            return None
        found |= own
    return found


def viewed(node: fx.Node) -> fx.Node:
    while op_name(node) in _VIEWS:
        node = node.all_input_nodes[0]
    return node


def is_mask(labels: Labels, node: fx.Node) -> bool:
    """Whether a factor is an input of the model, as masks are."""
    while op_name(node) in _MASK_PASSES:
        node = node.all_input_nodes[0]
    return node.op == "placeholder" and not labels.is_weight(node)
