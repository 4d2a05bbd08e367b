"""A graph with one trunk and two heads, built from a graph that is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from autoperm.activations import Activation, Taps
from autoperm.gathering import gather
from autoperm.layout import Action, identity_element
from autoperm.merging.cut import Cut
from autoperm.spec import PermutationSpec

#: None for the trunk's, otherwise the number of the head.
Where = int | None


@dataclass(frozen=True)
class Spliced:
    """A graph of a trunk and two heads.

    Attributes:
        module: takes the weights and then the inputs; returns the outputs of the first head, then those of the second.
        weights: which weights it takes: the trunk's (None) or a head's, and the name in the model's state dict.
        outputs: the names of the outputs of one head.
    """

    module: fx.GraphModule
    weights: tuple[tuple[Where, str], ...]
    outputs: tuple[str, ...]


def splice(
    taps: Taps, spec: PermutationSpec, cut: Cut, labels: Mapping[int, np.ndarray], names: Mapping[str, str]
) -> Spliced:
    """Build the graph.

    Arguments:
        labels: for each zipped group the merged unit of every unit, shape (2, n).
        names: for each tensor of the spec its name in the state dict.
    """
    return _Splicer(taps, spec, cut, labels, names).build()


class _Splicer:
    """The graph while it is built: for the trunk and for each head the new node of every old one."""

    def __init__(
        self, taps: Taps, spec: PermutationSpec, cut: Cut, labels: Mapping[int, np.ndarray], names: Mapping[str, str]
    ):
        self._taps, self._spec, self._cut, self._names = taps, spec, cut, names
        self._old = taps.captured.graph
        self._new = fx.Graph()
        self._trunk: dict[fx.Node, fx.Node] = {}
        self._heads: list[dict[fx.Node, fx.Node]] = [{}, {}]
        self._placeholders: dict[fx.Node, tuple[Where, str]] = {}
        self._elements = [_element(spec, {g: own[k] for g, own in labels.items()}) for k in (0, 1)]
        still = [group if g in labels else replace(group, leaves=(), parents=()) for g, group in enumerate(spec.groups)]
        self._action = Action(taps.action.leaves, still)  # the second model is permuted already
        self._constants: dict[str, Tensor] = {}

    def build(self) -> Spliced:
        self._put_placeholders()
        for node in self._old.nodes:
            if node.op == "output":
                flat = [self._heads[k][result] for k in (0, 1) for result in node.args[0]]
                self._new.output(tuple(flat))
            elif node.op != "placeholder":
                self._put(node)
        root: dict[str, Any] = dict(self._constants)
        for node in self._old.find_nodes(op="get_attr"):
            root[str(node.target)] = getattr(self._taps.captured.graph_module, str(node.target))
        self._new.eliminate_dead_code()
        used = {n: key for n, key in self._placeholders.items() if n.users}
        for node in self._placeholders:
            if node not in used:
                self._new.erase_node(node)
        module = fx.GraphModule(root, self._new)
        return Spliced(module, tuple(used.values()), tuple(self._taps.captured.outputs))

    def _put_placeholders(self) -> None:
        """Weights first, one placeholder for the trunk and one for each head; then the inputs, which all share."""
        captured = self._taps.captured
        placeholders = self._old.find_nodes(op="placeholder")
        for node in (n for n in placeholders if n.name not in captured.inputs):
            name = self._names[self._spec.aliases[captured.states[node.name][0]]]
            for where, env in ((None, self._trunk), (0, self._heads[0]), (1, self._heads[1])):
                env[node] = self._copied(node, {}, f"{node.name}_{'trunk' if where is None else where}")
                self._placeholders[env[node]] = (where, name)
        for node in (n for n in placeholders if n.name in captured.inputs):
            self._trunk[node] = self._heads[0][node] = self._heads[1][node] = self._copied(node, {}, node.name)

    def _put(self, node: fx.Node) -> None:
        """A node in the trunk and in both heads, as far as it is there; what is not used is erased afterwards."""
        shared = not self._cut.weights.get(node, {""})
        if shared or node in self._cut.trunk or node not in self._cut.live:
            self._trunk[node] = self._copied(node, self._trunk)
        for k, env in enumerate(self._heads):
            if shared:
                env[node] = self._trunk[node]
            elif node in self._cut.trunk and node.name in self._taps.activations:
                env[node] = self._unmerged(k, node)
            else:
                env[node] = self._copied(node, env)

    def _copied(self, node: fx.Node, env: Mapping[fx.Node, fx.Node], name: str | None = None) -> fx.Node:
        if node.op == "placeholder":
            return self._new.placeholder(name or node.name)
        new = self._new.node_copy(node, lambda n: env[n])
        new.meta = {}  # shapes, but no activations of the model that it was traced from
        return new

    def _unmerged(self, k: int, node: fx.Node) -> fx.Node:
        """The activation of one model, read off that of the trunk."""
        value, shape = self._trunk[node], tuple(node.meta["val"].shape)
        index = _positions(self._action, self._taps.activations[node.name], shape, self._elements[k])
        if index is None:
            return value
        found = _along_dimensions(index)
        if found is None:
            flat = self._call(torch.ops.aten.reshape.default, value, [-1])
            flat = self._call(torch.ops.aten.index_select.default, flat, 0, self._constant(index.flatten(), node))
            return self._call(torch.ops.aten.reshape.default, flat, list(shape))
        for dim, at in found:
            value = self._call(torch.ops.aten.index_select.default, value, dim, self._constant(at, node))
        return value

    def _call(self, target: Any, *args: Any) -> fx.Node:
        return self._new.call_function(target, args)

    def _constant(self, tensor: Tensor, node: fx.Node) -> fx.Node:
        name = f"_unmerge{len(self._constants)}"
        self._constants[name] = tensor.to(node.meta["val"].device)
        return self._new.create_node("get_attr", name)


def _element(spec: PermutationSpec, own: Mapping[int, np.ndarray]) -> list[np.ndarray]:
    """Where every unit of a model is read from: no permutation where two units are one merged unit."""
    still = identity_element(spec.leaves, spec.groups)
    return [own.get(g, array) for g, array in enumerate(still)]


def _positions(
    action: Action, activation: Activation, shape: Sequence[int], element: Sequence[np.ndarray]
) -> Tensor | None:
    """For every entry of a node's value the flat position of the merged one; None where nothing moves."""
    here = torch.arange(int(np.prod(shape)), device="cpu").reshape(*shape)
    inner = activation.arranged(here)
    index = torch.empty(here.numel(), dtype=torch.int64, device="cpu")
    index[inner.flatten()] = gather(action, activation.layout, element, inner).flatten()
    return None if torch.equal(index, here.flatten()) else index.reshape(*shape)


def _along_dimensions(index: Tensor) -> list[tuple[int, Tensor]] | None:
    """The same as one index per dimension, where it is: it is much smaller."""
    at = torch.unravel_index(index, index.shape)
    lines = [a[tuple(slice(None) if j == d else 0 for j in range(index.ndim))] for d, a in enumerate(at)]
    for d, (line, whole) in enumerate(zip(lines, at, strict=True)):
        if not torch.equal(line.reshape([-1 if j == d else 1 for j in range(index.ndim)]).expand_as(whole), whole):
            return None
    return [(d, line) for d, line in enumerate(lines) if not torch.equal(line, torch.arange(len(line), device="cpu"))]
