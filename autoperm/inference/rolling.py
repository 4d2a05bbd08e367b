"""Loops over slices, rolled up again: one op with one more dimension in place of a copy of it for each slice.

Code that takes a tensor apart, does the same to each part and puts the results together (heads by ``split``, experts by
``w[e]``, a gate ``a * b`` of two halves) treats its parts alike, so that they can trade places. A traced graph holds each
turn of the loop apart; with a dimension for the turns, the rules see what is alike.
"""

from __future__ import annotations

import dataclasses
import logging

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from autoperm.capture import Capture
from autoperm.capture.clean import drop_dead_code
from autoperm.capture.guard import quiet_torch
from autoperm.inference.loops import Loop, loops

logger = logging.getLogger(__name__)


def rolled(captured: Capture) -> Capture:
    """The capture with its loops over slices rolled up; itself where there are none. It computes the same."""
    if not any(True for node in captured.graph.nodes for _ in loops(node)):
        return captured
    graph = _copied(captured.graph)
    for node in list(graph.nodes):
        for loop in loops(node):
            try:
                _roll(graph, loop)
                break
            except Exception:  # an op that vmap does not take, say: then the loop stays as it is
                logger.debug("the loop at %s is not rolled up", node, exc_info=True)
    drop_dead_code(graph)
    return dataclasses.replace(captured, graph_module=fx.GraphModule(captured.graph_module, graph))


def _copied(graph: fx.Graph) -> fx.Graph:
    """A copy with the same names."""
    new = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        values[node] = new.node_copy(node, values.__getitem__)
    return new


def _roll(graph: fx.Graph, loop: Loop) -> None:
    """Put ops with one more dimension in the place of a loop."""
    sources = list(dict.fromkeys([*loop.lane.sources, *loop.rest]))
    # The graph has the casts of autocast already.
    with quiet_torch(), torch._C._DisableAutocast(), FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        values = [_fake(mode, node.meta["val"]) for node in sources]
        traced = make_fx(lambda *given: loop.run(sources, given))(*values)
    wanted = loop.sink.meta["val"]
    (output,) = traced.graph.find_nodes(op="output")
    value = output.args[0].meta["val"]
    if value.shape != wanted.shape or value.dtype != wanted.dtype or traced.graph.find_nodes(op="get_attr"):
        raise ValueError(f"{loop.sink} would be {value.dtype} {tuple(value.shape)}")
    placed = dict(zip(traced.graph.find_nodes(op="placeholder"), sources, strict=True))
    with graph.inserting_before(loop.sink):
        for node in traced.graph.nodes:
            if node.op == "call_function":
                placed[node] = graph.node_copy(node, placed.__getitem__)
                places = {key: loop.sink.meta.get(key, "") for key in ("module_path", "source")}
                placed[node].meta = {"val": node.meta["val"], **places}
    loop.sink.replace_all_uses_with(placed[output.args[0]])


def _fake(mode: FakeTensorMode, value: Tensor) -> Tensor:
    with mode:
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)
