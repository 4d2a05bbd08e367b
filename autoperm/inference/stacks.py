"""Weights that a graph reads side by side alone, as one tensor with a dimension for them.

Then modules of a list, each with weights of its own, are positions of a dimension, and may trade places.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor, fx

from autoperm.capture import Capture
from autoperm.stacks import Parts, name_of

_aten = torch.ops.aten


def is_weight(node: fx.Node) -> bool:
    """Whether a node is a placeholder of the state dict that may move."""
    return node.op == "placeholder" and bool(node.meta.get("weight"))


def stack_up(captured: Capture, apart: Collection[str] = ()) -> Capture:
    """The capture with a placeholder for each ``stack`` of weights that nothing else reads; itself if there is none.

    Its graph is changed in place.

    Arguments:
        apart: names of stacks that are not to be made.
    """
    graph = captured.graph
    found = {weights: nodes for weights, nodes in _found(captured) if name_of(_parts(captured, weights)) not in apart}
    if not found:
        return captured
    stacks: dict[str, Parts] = {}
    states, parameters = dict(captured.states), set(captured.parameters)
    for weights, nodes in found.items():
        parts = _parts(captured, weights)
        name = name_of(parts)
        with graph.inserting_before(weights[0]):
            whole = graph.placeholder(f"stack_of_{weights[0].name}")
        whole.meta = {**weights[0].meta, "val": nodes[0].meta["val"]}
        for node in nodes:
            node.replace_all_uses_with(whole)
            graph.erase_node(node)
        for node in weights:
            graph.erase_node(node)
        stacks[name], states[whole.name] = parts, (name,)
        if parts[0][0] in parameters:
            parameters.add(name)
    order = [node.name for node in graph.find_nodes(op="placeholder")]
    return dataclasses.replace(
        captured,
        graph_module=fx.GraphModule(captured.graph_module, graph),
        states={name: states[name] for name in order if name in states},
        parameters=frozenset(parameters),
        stacks={**captured.stacks, **stacks},
    )


def _parts(captured: Capture, weights: Sequence[fx.Node]) -> Parts:
    return tuple(captured.states[node.name] for node in weights)


def _found(captured: Capture) -> Iterator[tuple[tuple[fx.Node, ...], list[fx.Node]]]:
    """Weights that are read in stacks of one kind alone, with these."""
    stacks: Mapping[tuple[fx.Node, ...], list[fx.Node]] = defaultdict(list)
    for node in captured.graph.find_nodes(op="call_function", target=_aten.stack.default):
        if is_stack(node) and _may_trade(captured, node.args[0]):  # type: ignore[arg-type]
            stacks[tuple(node.args[0])].append(node)  # type: ignore[arg-type]
    for weights, nodes in stacks.items():
        if all(set(weight.users) <= set(nodes) for weight in weights):
            yield weights, nodes


def is_stack(node: fx.Node) -> bool:
    """Whether a node puts several weights side by side, along a first dimension."""
    if node.target is not _aten.stack.default or node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0) != 0:
        return False
    nodes: list[fx.Node] = node.args[0]  # type: ignore[assignment]
    return len(nodes) > 1 and len(set(nodes)) == len(nodes) and all(map(is_weight, nodes))


def _may_trade(captured: Capture, nodes: list[fx.Node]) -> bool:
    """Whether weights are of one kind, and none has to stay."""
    if any(node.name in captured.changing for node in nodes):
        return False
    kinds = {(_kind(node.meta["val"]), captured.states[node.name][0] in captured.parameters) for node in nodes}
    return len(kinds) == 1 and (nodes[0].meta["val"].is_floating_point() or nodes[0].meta["val"].is_complex())


def _kind(value: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return value.shape, value.dtype, value.device
