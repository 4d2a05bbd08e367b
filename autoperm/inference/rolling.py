"""Loops over slices, rolled up again: one op with one more dimension in place of a copy of it for each slice.

Code that takes a tensor apart, does the same to each part and puts the results together (heads by ``split``, experts by
``w[e]``, a gate ``a * b`` of two halves) treats its parts alike, so that they can trade places. A traced graph holds each
turn of the loop apart; with a dimension for the turns, the rules see what is alike.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from autoperm.capture import Capture
from autoperm.capture.clean import drop_dead_code
from autoperm.inference.lanes import Lane, lane

logger = logging.getLogger(__name__)

_aten = torch.ops.aten

#: Ops that put operands together in any order, how they do so along a dimension, and the operand that changes nothing.
_FOLDS: dict[Any, tuple[Callable[[Tensor], Tensor], float | None]] = {
    _aten.add.Tensor: (lambda t: t.sum(0), 0),
    _aten.mul.Tensor: (lambda t: t.prod(0), 1),
    _aten.maximum.default: (lambda t: t.amax(0), None),
    _aten.minimum.default: (lambda t: t.amin(0), None),
}


@dataclass(frozen=True)
class Loop:
    """Lanes that a node puts together.

    Attributes:
        sink: the node.
        lane: what the lanes are.
        join: from the values of the lanes along a first dimension to the node's, as far as they go.
        rest: operands of the node that are no lanes.
    """

    sink: fx.Node
    lane: Lane
    join: Callable[[Tensor], Tensor]
    rest: tuple[fx.Node, ...] = ()

    def run(self, sources: Sequence[fx.Node], values: Sequence[Tensor]) -> Tensor:
        """The sink's value from those of the lane's sources and of the rest."""
        of = dict(zip(sources, values, strict=True))
        found = self.join(self.lane.run(of))
        for node in self.rest:
            found = self.sink.target(found, of[node])  # type: ignore[operator]
        return _laid_out(found, self.sink.meta["val"])


def _laid_out(value: Tensor, like: Tensor) -> Tensor:
    """A value in memory as another one is: what follows may view it."""
    forms = {4: torch.channels_last, 5: torch.channels_last_3d}
    for form in (torch.contiguous_format, forms.get(like.ndim)):
        if form is not None and value.stride() != like.stride() and like.is_contiguous(memory_format=form):
            return value.contiguous(memory_format=form)
    return value


def rolled(captured: Capture) -> Capture:
    """The capture with its loops over slices rolled up; itself where there are none. It computes the same."""
    if not any(True for node in captured.graph.nodes for _ in _loops(node)):
        return captured
    graph = _copied(captured.graph)
    for node in list(graph.nodes):
        for loop in _loops(node):
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


def _loops(node: fx.Node) -> Iterator[Loop]:
    """The loops whose turns a node puts together."""
    if node.op != "call_function":
        return
    if node.target in (_aten.cat.default, _aten.stack.default):
        yield from _joined(node)
    elif node.target in _FOLDS and _is_whole(node):
        yield from _folded(node)


def _joined(node: fx.Node) -> Iterator[Loop]:
    parts = tuple(node.args[0])  # type: ignore[arg-type]
    dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    if len(parts) < 2 or len({part.meta["val"].shape for part in parts}) > 1 or not isinstance(dim, int):
        return
    found = lane(parts)
    dim %= node.meta["val"].ndim
    if found is None:
        return
    order = [found.order.index(k) for k in range(len(parts))]

    def join(t: Tensor) -> Tensor:
        if order == sorted(order, reverse=True):
            t = t.flip(0)
        elif order != sorted(order):
            t = torch.stack([t[k] for k in order])
        t = t.movedim(0, dim)
        return t if node.target is _aten.stack.default else t.flatten(dim, dim + 1)

    yield Loop(node, found, join)


def _is_fold(node: fx.Node, target: Any) -> bool:
    """Whether a node puts two nodes together by an op, as tensors of numbers of its own kind."""
    value = node.meta.get("val")
    if node.op != "call_function" or node.target is not target or not isinstance(value, Tensor) or len(node.args) != 2:
        return False
    return not node.kwargs and value.is_floating_point()


def _is_whole(node: fx.Node) -> bool:
    """Whether a node is the last of a chain of equal ops."""
    users = list(node.users)
    return _is_fold(node, node.target) and not (len(users) == 1 and _is_fold(users[0], node.target))


def _folded(node: fx.Node) -> Iterator[Loop]:
    join, neutral = _FOLDS[node.target]
    terms = _terms(node, neutral)
    alike: dict[Hashable, list[fx.Node]] = defaultdict(list)
    for term in terms:
        alike[term.target if term.op == "call_function" else term, term.meta["val"].shape, term.meta["val"].dtype].append(term)
    for some in alike.values():
        found = lane(tuple(some)) if len(some) > 1 and len(set(some)) == len(some) else None
        if found is not None:
            yield Loop(node, found, join, tuple(term for term in terms if term not in some))


def _terms(node: fx.Node, neutral: float | None) -> list[fx.Node]:
    """What a chain of equal ops puts together, in order."""
    found: list[fx.Node] = []
    waiting = [node]
    while waiting:
        here = waiting.pop()
        if here is node or (_is_fold(here, node.target) and len(here.users) == 1):
            one, other = here.args
            if all(isinstance(x, fx.Node) and x.meta["val"].is_floating_point() for x in (one, other)):
                waiting += [other, one]  # type: ignore[list-item]
                continue
            same = isinstance(one, fx.Node) and one.meta["val"].dtype == here.meta["val"].dtype
            if same and neutral is not None and not isinstance(other, fx.Node) and other == neutral:
                waiting.append(one)  # type: ignore[arg-type]
                continue
        found.append(here)
    return found


def _roll(graph: fx.Graph, loop: Loop) -> None:
    """Put ops with one more dimension in the place of a loop."""
    sources = list(dict.fromkeys([*loop.lane.sources, *loop.rest]))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
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
