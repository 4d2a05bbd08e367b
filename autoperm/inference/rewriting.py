"""Graphs in a form that the rules say more of, which compute the same: loops rolled up, lookups by plain indices, lists of rows
as all rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Hashable
from typing import Any

import torch
from torch import fx

from autoperm.capture import Capture
from autoperm.capture.clean import drop_dead_code
from autoperm.capture.sizes import plain_lookup
from autoperm.inference.forms import Forms
from autoperm.inference.lookups import simpler
from autoperm.inference.loops import loops
from autoperm.inference.rolling import roll_up
from autoperm.inference.stacks import is_stack, stack_up
from autoperm.inference.visits import unlist

_aten = torch.ops.aten
#: Modules in lists of modules in lists: how deep to go.
_MOST_LEVELS = 4
_VIEWS = tuple(getattr(_aten, name).default for name in ("view", "permute", "t", "unsqueeze", "alias"))


def rewritten(captured: Capture, apart: Collection[str] = ()) -> Capture:
    """The capture with a graph in that form; itself where there is nothing to rewrite. The given one stays as it is.

    Arguments:
        apart: names of stacks that are not to be made.
    """
    if not _has_other_form(captured.graph):
        return captured
    graph = fx.Graph()
    graph.output(graph.graph_copy(captured.graph, {}))
    _plain_lookups(graph)
    _share_views(graph)
    for node in list(graph.find_nodes(op="call_function", target=_aten.nonzero.default)):
        unlist(graph, node)
    captured = dataclasses.replace(captured, graph_module=fx.GraphModule(captured.graph_module, graph))
    for _ in range(_MOST_LEVELS):
        _roll_up(captured.graph)
        if (again := stack_up(captured, apart)) is captured:
            break
        captured = again
    return captured


def _has_other_form(graph: fx.Graph) -> bool:
    forms = Forms()
    return any(
        node.target is _aten.nonzero.default or simpler(node) or is_stack(node) or any(True for _ in loops(node, forms))
        for node in graph.nodes
    )


def _roll_up(graph: fx.Graph) -> None:
    forms = Forms()
    for node in list(graph.nodes):
        if other := simpler(node):
            with graph.inserting_before(node):
                new = graph.call_function(*other)
            new.meta = dict(node.meta)
            node.replace_all_uses_with(new)
        else:
            roll_up(graph, node, forms)
    drop_dead_code(graph)


def _plain_lookups(graph: fx.Graph) -> None:
    """``x[None, rows].reshape(-1, n)`` as ``x[rows]``."""
    for node in list(graph.nodes):
        if (found := plain_lookup(node)) is not None:
            with graph.inserting_before(node):
                plain = graph.call_function(_aten.index.Tensor, (found[0], [found[1]]))
            plain.meta = dict(node.meta)
            node.replace_all_uses_with(plain)
    drop_dead_code(graph)


def _share_views(graph: fx.Graph) -> None:
    """Let views that are taken anew in each turn of a loop be one node, so that turns are seen to read one tensor."""
    known: dict[Hashable, fx.Node] = {}
    for node in list(graph.nodes):
        if node.target in _VIEWS:
            key = node.target, _hashable(node.args), tuple(sorted(node.kwargs.items()))
            if (same := known.setdefault(key, node)) is not node:
                node.replace_all_uses_with(same)
                graph.erase_node(node)


def _hashable(args: Any) -> Hashable:
    return tuple(map(_hashable, args)) if isinstance(args, (list, tuple)) else args
