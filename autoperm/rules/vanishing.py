"""Whether rows can be taken not to be zero as a whole: what products compute of rows of zeros is equal, whatever the weights.

Inputs and weights are in general position, and so are products of rows that are not zero. Only ops that this file knows keep
them from zero: a ReLU, a mask, a padding, an op that it does not know may not. Sums may cancel where they are made of the same
values (``x - x[:1]``), so that what keeps rows from zero is followed: inputs, and the weights of products.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import fx

from autoperm.capture.clean import ancestors
from autoperm.rules.attention import is_attention
from autoperm.rules.op import Labels, Op, op_name

#: What keeps rows from zero; None where some may be zero.
Sources = frozenset[fx.Node] | None

#: Not zero where the first argument is not.
_FOLLOWING = """
view reshape _unsafe_view unsqueeze squeeze permute transpose t expand alias clone contiguous detach lift_fresh_copy slice select
flip roll repeat unfold flatten unflatten split split_with_sizes unbind chunk view_as_real view_as_complex real index gather
index_select neg abs tanh silu gelu elu square sin erf atan log1p expm1 mish sqrt native_dropout dropout cumsum topk sort amax
amin max min linalg_vector_norm rms_norm div avg_pool1d avg_pool2d _adaptive_avg_pool2d as_strided sinh asinh var std
_fft_r2c _fft_c2r _fft_c2c upsample_nearest1d upsample_nearest2d upsample_linear1d upsample_bilinear2d
"""
#: What cuts rows, or may, or makes columns of them.
_CUTS = frozenset(
    """
view reshape _unsafe_view slice select split split_with_sizes unbind chunk unflatten unfold index gather index_select as_strided
topk amax amin max min sort permute transpose t
""".split()  # noqa: SIM905
)
#: Never zero.
_POSITIVE = "sigmoid exp exp2 softplus _softmax softmax _log_softmax log_softmax cos rsqrt reciprocal"
_PRODUCTS = frozenset("mm addmm bmm baddbmm linear convolution matmul einsum dot mv".split())  # noqa: SIM905
_VIEWS = frozenset("t transpose permute view reshape unsqueeze squeeze expand _to_copy clone".split())  # noqa: SIM905
_MASK_PASSES = frozenset(["view", "unsqueeze", "expand", "_to_copy", "squeeze"])

_RULES: dict[str, Callable[[NonZero, Op], Sources]] = {}
_KNOWN: WeakKeyDictionary[Labels, NonZero] = WeakKeyDictionary()


def sources(labels: Labels, node: fx.Node) -> Sources:
    """What keeps the rows of a tensor from zero; None where some may be zero for more than a few single inputs."""
    return _known(labels, node).of(node)


def made_of(labels: Labels, node: fx.Node) -> frozenset[fx.Node]:
    """The inputs and weights that a tensor is made of."""
    known = _known(labels, node)
    known.of(node)
    return known.within[node]


def _known(labels: Labels, node: fx.Node) -> NonZero:
    found = _KNOWN.get(labels)
    if found is None:
        found = _KNOWN[labels] = NonZero(labels, node.graph)
    return found


def weights_of(labels: Labels, node: fx.Node) -> frozenset[fx.Node]:
    """The weights that a product multiplies or adds; the product itself where there are none."""
    found = {here for part in node.all_input_nodes if labels.is_weight(here := _viewed(part))}
    return frozenset(found or [node])


def _viewed(node: fx.Node) -> fx.Node:
    while op_name(node) in _VIEWS:
        node = node.all_input_nodes[0]
    return node


def _keeps_rows(node: fx.Node) -> bool:
    """Whether a reshape leaves the last dimension as it is."""
    if op_name(node) not in ("view", "reshape", "_unsafe_view"):
        return False
    return node.meta["val"].shape[-1:] == node.all_input_nodes[0].meta["val"].shape[-1:]


class NonZero:
    """What keeps the tensors of a graph from zero, in the order of computation, as far as it was asked for."""

    def __init__(self, labels: Labels, graph: fx.Graph):
        self.labels = labels
        self._next = iter(graph.nodes)
        self._of: dict[fx.Node, Sources] = {}
        self.within: dict[fx.Node, frozenset[fx.Node]] = {}  # the inputs and weights that a tensor is made of
        self._in_part: set[fx.Node] = set()  # rows of which parts may be zero, whatever keeps the whole from it
        self.back_to_products: dict[fx.Node, frozenset[fx.Node]] = {}  # of products the weights alone

    def of(self, node: Any) -> Sources:
        while node not in self._of:
            here = next(self._next)
            anew = op_name(here) in _PRODUCTS or is_attention(here) or op_name(here) == "embedding"
            near = self._parts(here, self.back_to_products)
            self.back_to_products[here] = weights_of(self.labels, here) if anew else near
            self.within[here] = self._parts(here, self.within)
            self._of[here] = self._find(here)
            if not anew and self._has_zeros(here):
                self._in_part.add(here)
        return self._of[node]

    def _has_zeros(self, node: fx.Node) -> bool:
        """Whether parts of rows may be zero: beside what may be, padded, constants, and what is made of such."""
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and not (value.is_floating_point() or value.is_complex()):
            return False  # what is made of masks is not known to be other than zero in any case
        known = self.labels.value(node) if isinstance(value, torch.Tensor) else None
        if known is not None:
            return not bool((known != 0).all())
        if op_name(node) in _POSITIVE.split():
            return False
        if op_name(node) == "constant_pad_nd" or (op_name(node) == "cat" and None in map(self.of, node.args[0])):  # type: ignore[arg-type]
            return True
        parts = [part in self._in_part for part in node.all_input_nodes]
        return all(parts) and bool(parts) if op_name(node) in ("add", "sub") else any(parts)

    def _parts(self, node: fx.Node, of: dict[fx.Node, frozenset[fx.Node]]) -> frozenset[fx.Node]:
        return frozenset([node]) if node.op == "placeholder" else frozenset().union(*(of[n] for n in node.all_input_nodes))

    def _find(self, node: fx.Node) -> Sources:
        value = node.meta.get("val")
        if node.target is operator.getitem:
            return self._of[node.args[0]]  # type: ignore[index]
        if isinstance(value, torch.Tensor) and not (value.is_floating_point() or value.is_complex()):
            return None
        if node.op == "placeholder":
            return frozenset([node])
        known = self.labels.value(node) if isinstance(value, torch.Tensor) else None
        if known is not None:
            rows = (known != 0).any(-1) if known.ndim else known != 0
            return frozenset() if bool(rows.all()) else None
        if not isinstance(node.target, torch._ops.OpOverload):
            return None
        if op_name(node) in _CUTS and self._in_part & set(node.all_input_nodes) and not _keeps_rows(node):
            return None
        if op_name(node) == "mul" and len(self._in_part & set(node.all_input_nodes)) > 1:
            return None
        rule = _attention if is_attention(node) else _RULES.get(op_name(node))
        return None if rule is None else rule(self, Op(self.labels, node))

def _rule(names: str) -> Callable[[Callable[[NonZero, Op], Sources]], Callable[[NonZero, Op], Sources]]:
    def register(function: Callable[[NonZero, Op], Sources]) -> Callable[[NonZero, Op], Sources]:
        _RULES.update(dict.fromkeys(names.split(), function))
        return function

    return register


@_rule(_FOLLOWING)
def _following(known: NonZero, op: Op) -> Sources:
    first = next(iter(op.args.values()), None)
    return known.of(first) if isinstance(first, fx.Node) else None


@_rule("sum mean")
def _summed(known: NonZero, op: Op) -> Sources:
    return None if _is_centred(op["self"]) else known.of(op["self"])


def _is_centred(node: fx.Node) -> bool:
    """Whether a norm that has no weight made the values' sum zero, and no product came after it."""
    while op_name(node) not in _PRODUCTS and node.all_input_nodes:
        if "norm" in op_name(node) and "weight" in (args := Op.arguments(node)):
            return args["weight"] is None
        node = node.all_input_nodes[0]
    return False


@_rule("leaky_relu")
def _sloped(known: NonZero, op: Op) -> Sources:
    return known.of(op["self"]) if op["negative_slope"] != 0 else None


@_rule("pow")
def _power(known: NonZero, op: Op) -> Sources:
    return known.of(op["self"]) if isinstance(op["self"], fx.Node) and isinstance(op["exponent"], (int, float)) else None


@_rule("_to_copy to")
def _cast(known: NonZero, op: Op) -> Sources:
    return known.of(op["self"])


@_rule(_POSITIVE)
def _positive(known: NonZero, op: Op) -> Sources:
    return known.within[op["self"]]


@_rule("native_layer_norm layer_norm native_group_norm group_norm native_batch_norm _native_batch_norm_legit_no_training")
def _normalised(known: NonZero, op: Op) -> Sources:
    return known.of(op["input"]) if op.get("bias") is None else frozenset([op["bias"]]) | known.within[op["input"]]


@_rule(" ".join(_PRODUCTS))
def _product(known: NonZero, op: Op) -> Sources:
    """With a bias, or of factors that are not zero."""
    bias = op.get("bias") if "bias" in op.args else op.get("self") if "mat1" in op.args or "batch1" in op.args else None
    if isinstance(bias, fx.Node) and known.labels.is_weight(_viewed(bias)):
        return known.within[op.node]
    found = _all(known, [n for n in op.node.all_input_nodes if n is not bias])
    return found if bias is None else _together(known, [(bias, known.of(bias)), (op.node, found)])


def _attention(known: NonZero, op: Op) -> Sources:
    return None if known.of(op["value"]) is None else known.within[op.node]


@_rule("embedding")
def _looked_up(known: NonZero, op: Op) -> Sources:
    return known.of(op["weight"]) if op.get("padding_idx", -1) < 0 else None


@_rule("mul")
def _scaled(known: NonZero, op: Op) -> Sources:
    if any(isinstance(part, (int, float)) and part == 0 for part in (op["self"], op["other"])):
        return None
    factors = op.node.all_input_nodes
    masked = len(factors) > 1 and any(is_mask(known.labels, part) for part in factors)
    return None if masked else _all(known, factors)


@_rule("add sub rsub")
def _added(known: NonZero, op: Op) -> Sources:
    return _together(known, [(part, known.of(part)) for part in op.node.all_input_nodes])


@_rule("index_add scatter_add")
def _added_at(known: NonZero, op: Op) -> Sources:
    part = op["source"] if "source" in op.args else op["src"]
    return _together(known, [(op["self"], known.of(op["self"])), (part, None)])


def _together(known: NonZero, parts: list[tuple[fx.Node, Sources]]) -> Sources:
    """Of a sum the summands that no other one can cancel."""
    kept = [own for k, (node, own) in enumerate(parts) if own is not None and all(
        not known.back_to_products[node] & known.back_to_products[other] or own - known.within[other]
        for j, (other, _) in enumerate(parts) if j != k
    )]  # fmt: skip
    return frozenset().union(*kept) if kept else None


@_rule("clamp hardtanh")
def _clipped(known: NonZero, op: Op) -> Sources:
    """Between bounds on both sides of zero."""
    low, high = (op["min_val"], op["max_val"]) if "min_val" in op.args else (op["min"], op["max"])
    around = (low is None or (_is_number(low) and low < 0)) and (high is None or (_is_number(high) and high > 0))
    return known.of(op["self"]) if around else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


@_rule("masked_scatter slice_scatter select_scatter")
def _written(known: NonZero, op: Op) -> Sources:
    return _all(known, [op["self"], op["source"] if "source" in op.args else op["src"]])


@_rule("where")
def _chosen(known: NonZero, op: Op) -> Sources:
    return _all(known, [op["self"], op["other"]])


@_rule("masked_fill")
def _filled(known: NonZero, op: Op) -> Sources:
    value = op["value"]
    is_zero = value == 0 if isinstance(value, (int, float)) else known.of(value) is None
    return None if is_zero else known.of(op["self"])


@_rule("cat stack concat")
def _beside(known: NonZero, op: Op) -> Sources:
    """Along the last dimension one of them is enough."""
    last = op_name(op.node) != "stack" and op["dim"] % len(op.shape()) == len(op.shape()) - 1
    found = [s for s in map(known.of, op["tensors"]) if s is not None]
    return frozenset().union(*found) if found and (last or len(found) == len(op["tensors"])) else None


@_rule("constant_pad_nd")
def _padded(known: NonZero, op: Op) -> Sources:
    return known.of(op["self"]) if op.get("value", 0) != 0 or not any(op["pad"][2:]) else None


def _all(known: NonZero, parts: Iterable[Any]) -> Sources:
    found: frozenset[fx.Node] = frozenset()
    for part in parts:
        own = known.of(part) if isinstance(part, fx.Node) else frozenset() if part else None
        if own is None:
            return None
        found |= own
    return found


def balanced(node: fx.Node) -> bool:
    """Whether anything between the products that a node comes from and the node sets its values in proportion to one another."""
    while node.op == "call_function":
        if node.target is operator.getitem:  # parts of what has a sum have none
            return str(node.args[0].target).startswith("aten.native_layer_norm")  # type: ignore[union-attr]
        name = str(node.target).split(".")[1]
        if name in _PRODUCTS:
            return False
        if "softmax" in name or "norm" in name:
            return True
        if name in ("add", "sub", "mul", "div") and len(node.all_input_nodes) > 1:
            one, other = node.all_input_nodes[:2]
            return bool(ancestors([one]) & ancestors([other])) or balanced(one) or balanced(other)
        if not node.all_input_nodes:
            return False
        node = node.all_input_nodes[0]
    return False


def is_mask(labels: Labels, node: fx.Node) -> bool:
    """Whether a factor is an input of the model, as masks are."""
    while op_name(node) in _MASK_PASSES:
        node = node.all_input_nodes[0]
    return node.op == "placeholder" and not labels.is_weight(node)
