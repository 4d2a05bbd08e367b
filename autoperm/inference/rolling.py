"""Loops over slices, rolled up again: one op with one more dimension in place of a copy of it for each slice.

Code that takes a tensor apart, does the same to each part and puts the results together (heads by ``split``, experts by
``w[e]``, a gate ``a * b`` of two halves) treats its parts alike, so that they can trade places. A traced graph holds each
turn of the loop apart; with a dimension for the turns, the rules see what is alike.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from autoperm.capture.guard import quiet_torch
from autoperm.inference.forms import Forms
from autoperm.inference.loops import Loop, loops

logger = logging.getLogger(__name__)


def roll_up(graph: fx.Graph, node: fx.Node, forms: Forms) -> None:
    """Put ops with one more dimension in the place of a loop whose turns a node puts together, if it does."""
    for loop in loops(node, forms):
        try:
            return _roll(graph, loop)
        except Exception:  # an op that vmap does not take, say: then the loop stays as it is
            logger.debug("the loop at %s is not rolled up", node, exc_info=True)


def _roll(graph: fx.Graph, loop: Loop) -> None:
    sources = list(dict.fromkeys([*loop.lane.sources, *loop.rest]))
    # The graph has the casts of autocast already.
    with quiet_torch(), torch._C._DisableAutocast(), FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        values = [fake(mode, node.meta["val"]) for node in sources]
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


def fake(mode: FakeTensorMode, value: Tensor) -> Tensor:
    """A tensor without memory, laid out as a value."""
    with mode:
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)
