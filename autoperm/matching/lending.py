"""Where a layer of model b can read what the same layer of model a reads.

What two models answer differs more with every layer, though their weights may differ by the same in each. Once the groups
are matched, however roughly, model a's values can stand for model b's as the input of every layer: what then differs is
due to that layer alone, as in the reconstruction of pruned networks layer by layer (He, Zhang and Sun, ICCV 2017, 3.1).
"""

from __future__ import annotations

from torch import fx

from autoperm.activations import Taps
from autoperm.lockstep import rearranges


def lenders(taps: Taps) -> dict[str, frozenset[fx.Node]]:
    """For each node that computes with weights, the inputs of it that model b can take from model a.

    No group may be both in them and in the result: its positions in model b would then answer like those of model a at the
    same places, whatever they are, as in a depthwise convolution. Such nodes go on with model b's own values.

    Returns:
        By the node's name the nodes that it reads and that depend on the data.
    """
    captured = taps.captured
    reached = {n for n in captured.graph.nodes if n.op == "placeholder" and n.name in captured.inputs}
    found = {}
    for node in captured.graph.nodes:
        read = reached.intersection(node.all_input_nodes)
        if not read or node.op != "call_function":
            continue
        reached.add(node)
        if len(read) == len(node.all_input_nodes) or node.name not in taps.activations or rearranges(node):
            continue
        moving = [_groups(taps, _origin(source)) for source in read]
        own = _at(taps, node.name)
        if all(groups is not None and not groups & own for groups in moving) and any(moving):
            found[node.name] = frozenset(read)
    return found


def _origin(node: fx.Node) -> fx.Node:
    """What a view or a copy was made of."""
    while rearranges(node):
        node = node.args[0]  # type: ignore[assignment]
    return node


def _groups(taps: Taps, node: fx.Node) -> frozenset[int] | None:
    """The groups that act on a node's value; none on the data's own, and None where they are not known."""
    if node.op == "placeholder":
        return frozenset()
    return _at(taps, node.name) if node.name in taps.activations else None


def _at(taps: Taps, name: str) -> frozenset[int]:
    leaves = {f.leaf for dims in taps.activations[name].layout.cells.values() for factors in dims for f in factors}
    return frozenset(taps.action.group_of[leaf] for leaf in leaves if leaf in taps.action.group_of)
