"""Whether rows can be taken not to be zero as a whole: what products compute of rows of zeros is equal, whatever the weights.

Inputs and weights are in general position, and so are products of rows that are not zero. Only ops with a rule in nonzero.py keep
them from zero: a ReLU, a mask, a padding, an op without one may not. Sums may cancel where they are made of the same
values (``x - x[:1]``), so that what keeps rows from zero is followed: inputs, and the weights of products.
"""

from __future__ import annotations

import operator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import fx

from autoperm.capture.clean import ancestors
from autoperm.rules.attention import is_attention
from autoperm.rules.nonzero import PRODUCTS, RULES, Sources, attention, is_never_zero, viewed
from autoperm.rules.op import Labels, Op, op_name

#: What cuts rows, or may, or makes columns of them.
_CUTS = frozenset(
    """
view reshape _unsafe_view slice select split split_with_sizes unbind chunk unflatten unfold index gather index_select as_strided
topk amax amin max min sort permute transpose t
""".split()  # noqa: SIM905
)
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
    found = {here for part in node.all_input_nodes if labels.is_weight(here := viewed(part))}
    return frozenset(found or [node])


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
            anew = op_name(here) in PRODUCTS or is_attention(here) or op_name(here) == "embedding"
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
        if is_never_zero(node):
            return False
        if op_name(node) == "constant_pad_nd" or (op_name(node) == "cat" and None in map(self.of, node.args[0])):  # type: ignore[arg-type]
            return True
        parts = [part in self._in_part for part in node.all_input_nodes]
        return all(parts) and bool(parts) if op_name(node) in ("add", "sub") else any(parts)

    def _parts(self, node: fx.Node, of: dict[fx.Node, frozenset[fx.Node]]) -> frozenset[fx.Node]:
        if node.op == "placeholder":
            return frozenset([node])
        if isinstance(node.meta.get("val"), torch.Tensor) and self.labels.value(node) is not None:
            return frozenset()  # zeros in the shape of a tensor are not made of it
        return frozenset().union(*(of[n] for n in node.all_input_nodes))

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
        rule = attention if is_attention(node) else RULES.get(op_name(node))
        return None if rule is None else rule(self, Op(self.labels, node))


def balanced(node: fx.Node) -> bool:
    """Whether anything between the products that a node comes from and the node sets its values in proportion to one another."""
    while node.op == "call_function":
        if node.target is operator.getitem:  # parts of what has a sum have none
            return str(node.args[0].target).startswith("aten.native_layer_norm")  # type: ignore[union-attr]
        name = str(node.target).split(".")[1]
        if name in PRODUCTS:
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
