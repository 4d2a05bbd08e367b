"""Where a graph is cut: the nodes that are computed from merged units and merged weights alone."""

from __future__ import annotations

import operator
from collections.abc import Collection

from torch import fx

from autoperm.activations import Taps
from autoperm.layout import Layout
from autoperm.merging.roles import Roles, weights_of
from autoperm.spec import PermutationSpec


class Cut:
    """The cut of one trace behind the units of some groups.

    A node is in the trunk if the activations that it reads are, every group that moves its weights is merged, and its value
    shows a merged group. Where its value shows none, it must come before weights that make one: the scale of an input does,
    output layers do not.

    Attributes:
        trunk: the nodes that depend on the inputs, and are computed once.
        live: all nodes that depend on the inputs.
        weights: for each node that does not, the placeholders of the weights that it is computed from.
    """

    def __init__(self, taps: Taps, spec: PermutationSpec, part: Roles, chosen: Collection[int]):
        self._taps, self._spec, self._part, self._chosen = taps, spec, part, set(chosen)
        self.live: set[fx.Node] = set()
        self.weights: dict[fx.Node, set[str]] = {}
        self.trunk: set[fx.Node] = set()
        nodes = list(taps.captured.graph.nodes)
        self._find_live(nodes)
        before = self._before(nodes)
        for node in nodes:
            if node in self.live and node.op != "output" and self._reads_trunk(node) and self._is_merged(node, before):
                self.trunk.add(node)

    def _find_live(self, nodes: list[fx.Node]) -> None:
        captured = self._taps.captured
        for node in nodes:
            if node.name in captured.inputs and node.op == "placeholder":
                self.live.add(node)
            elif node.op == "placeholder":
                self.weights[node] = {node.name}
            elif self.live.isdisjoint(node.all_input_nodes):
                self.weights[node] = weights_of(node.all_input_nodes, self.weights)
            else:
                self.live.add(node)

    def _reads_trunk(self, node: fx.Node) -> bool:
        return self.live.intersection(node.all_input_nodes) <= self.trunk

    def _before(self, nodes: list[fx.Node]) -> set[fx.Node]:
        """The nodes after which a merged group is made."""
        found: set[fx.Node] = set()
        for node in reversed(nodes):
            if node in self.live and any(user in found or self._makes(user) for user in node.users):
                found.add(node)
        return found

    def _makes(self, node: fx.Node) -> bool:
        homes = self._homes(node)
        return any(
            name in homes and self._part.of[name, dim] in ("made", "both")
            for g in self._chosen
            for name, dim in self._spec.groups[g].moves
        )

    def _homes(self, node: fx.Node) -> set[str]:
        states = self._taps.captured.states
        return {self._spec.aliases[states[p][0]] for p in weights_of(node.all_input_nodes, self.weights)}

    def _is_merged(self, node: fx.Node, before: set[fx.Node]) -> bool:
        homes = self._homes(node)
        if not homes:
            return True
        if any(not self._groups(self._spec.layouts[home]) <= self._chosen for home in homes):
            return False
        shown = [self._groups(layout) for layout in self._layouts(node)]
        if any(not groups <= self._chosen for groups in shown):
            return False
        return any(shown) or node in before

    def _layouts(self, node: fx.Node) -> list[Layout]:
        """The layouts of a node's value, or of its results where there are several."""
        activations = self._taps.activations
        return [activations[n.name].layout for n in (node, *node.users) if n.name in activations and (n is node or _is_result(n))]

    def _groups(self, layout: Layout) -> set[int]:
        of_leaf = self._taps.action.group_of
        return {of_leaf[leaf] for leaf in layout.leaves() if leaf in of_leaf}


def _is_result(node: fx.Node) -> bool:
    return node.target is operator.getitem
