"""The linear layers of a graph whose output channels can be scaled and shifted through their own parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from autoperm.capture import Capture
from autoperm.lockstep import op_name, rearranges
from autoperm.merging.placing import Linear, arguments, chain_of, follow, linear, placed

_NORMS = (
    "_batch_norm_no_update",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "batch_norm",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "native_batch_norm",
)


@dataclass(frozen=True, eq=False)
class Bias:
    """A bias of a layer's own.

    Attributes:
        name: its name in the state dict.
        channels: for every entry its channel.
        inside: whether the value of the layer's node holds it already; otherwise a later node adds it.
    """

    name: str
    channels: Tensor
    inside: bool

    def by_channel(self, bias: Tensor) -> Tensor:
        """A value of the bias in the order of the channels, in double precision; shape (channels,)."""
        found = torch.empty(bias.numel(), dtype=torch.float64, device=bias.device)
        found[self.channels.to(bias.device).flatten()] = bias.detach().double().flatten()
        return found


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear layer with a weight of its own, which nothing else uses.

    Attributes:
        node: the node that computes it.
        place: the path of its module.
        weight: the weight's name in the state dict.
        bias: the bias; None where there is none, or other ops use it too.
        channels: the dimensions of the value that the channels are, the others are samples.
        count: the number of channels.
        of_weight: for every entry of the weight its channel, in a shape that broadcasts to the weight's.
        level: one more than the highest level of the layers before it: layers of one level do not see one another.
        after: the highest level of the layers before any BatchNorm before it; 0 if there are none.
    """

    node: str
    place: str
    weight: str
    bias: Bias | None
    channels: tuple[int, ...]
    count: int
    of_weight: Tensor
    level: int
    after: int

    def by_channel(self, value: Tensor) -> Tensor:
        """A value of the node as one row per channel; shape (channels, samples)."""
        rest = [k for k in range(value.ndim) if k not in self.channels]
        return value.permute(*self.channels, *rest).reshape(self.count, -1)


@dataclass(frozen=True)
class Network:
    """The layers of one trace.

    Attributes:
        captured: the trace.
        layers: the layers in order, those apart that feed nothing but BatchNorm.
        normalised: the highest level of the layers before any BatchNorm; -1 where there is no BatchNorm.
        depth: of every node that is computed from the inputs, the highest level of the layers up to it.
    """

    captured: Capture
    layers: tuple[Layer, ...]
    normalised: int
    depth: Mapping[fx.Node, int]

    def border(self, level: int) -> set[fx.Node]:
        """The nodes below a level that layers of it or above are computed from: with their values, the rest can be run."""
        names = {x.node for x in self.layers if x.level >= level}
        ahead = {node for node in self.captured.graph.nodes if node.name in names}
        waiting = list(ahead)
        while waiting:
            fresh = {s for s in waiting.pop().all_input_nodes if self.depth.get(s, -1) >= level} - ahead
            ahead |= fresh
            waiting += fresh
        return {s for node in ahead for s in node.all_input_nodes if -1 < self.depth.get(s, -1) < level}


def network(captured: Capture) -> Network:
    """Find the layers of a trace."""
    level: dict[fx.Node, int] = {}
    after: dict[fx.Node, int] = {}
    live = {node for node in captured.graph.nodes if node.name in captured.inputs}
    found: list[Layer] = []
    normalised = -1
    for node in captured.graph.nodes:
        sources = node.all_input_nodes
        level[node] = max((level[s] for s in sources), default=0)
        after[node] = max((after[s] for s in sources), default=0)
        if live.isdisjoint(sources):
            continue
        live.add(node)
        if op_name(node) in _NORMS:
            after[node] = max(after[node], level[node])
            normalised = max(normalised, level[node])
        layer = _layer(captured, node, live, level[node] + 1, after[node])
        if layer is not None:
            level[node] += 1
            found.append(layer)
    return Network(captured, tuple(found), normalised, {node: level[node] for node in live})


def _layer(captured: Capture, node: fx.Node, live: set[fx.Node], level: int, after: int) -> Layer | None:
    op = linear(node) if node.op == "call_function" else None
    if op is None or op.x not in live or not node.meta["val"].is_floating_point():
        return None
    chain = _own(captured, op.weight)
    of_weight = placed(chain, op.of_operand) if chain else None
    if of_weight is None:
        return None
    last, bias = _bias(captured, node, op)
    reading = list(_readers(last.users))
    if reading and all(op_name(reader) in _NORMS for reader in reading):
        return None
    return Layer(
        node=node.name,
        place=node.meta.get("module_path") or "the forward of the model itself",
        weight=captured.states[chain[0].name][0],
        bias=bias,
        channels=op.channels,
        count=op.count,
        of_weight=of_weight,
        level=level,
        after=after,
    )


def _own(captured: Capture, node: fx.Node) -> list[fx.Node]:
    """The views from a parameter to a node; empty if it is no parameter, or is used elsewhere too."""
    chain = chain_of(node)
    names = captured.states.get(chain[0].name, ()) if chain else ()
    return chain if any(name in captured.parameters for name in names) else []


def _bias(captured: Capture, node: fx.Node, op: Linear) -> tuple[fx.Node, Bias | None]:
    """The node that holds the result with its bias, and the bias with its entries' channels if it is the layer's own."""
    if op.bias is not None:
        return node, _entries(captured, _own(captured, op.bias), torch.arange(op.count, device="cpu"), inside=True)
    path = [node]
    while len(path[-1].users) == 1 and rearranges(user := next(iter(path[-1].users))):
        path.append(user)
    adding = next(iter(path[-1].users)) if len(path[-1].users) == 1 else path[-1]
    if op_name(adding) != "add" or not all(isinstance(a, fx.Node) for a in adding.args) or arguments(adding)["alpha"] != 1:
        return node, None
    other = next((a for a in adding.args if a is not path[-1]), path[-1])
    chain = _own(captured, other)  # type: ignore[arg-type]
    if not chain or chain[0].meta["val"].numel() != op.count or adding.meta["val"].shape != path[-1].meta["val"].shape:
        return node, None
    found = _entries(captured, chain, follow(path, _labels(node, op)), inside=False)
    return (node, None) if found is None else (adding, found)


def _labels(node: fx.Node, op: Linear) -> Tensor:
    """For every entry of a node's value its channel."""
    shape = node.meta["val"].shape
    index = torch.arange(op.count, device="cpu").reshape([n if k in op.channels else 1 for k, n in enumerate(shape)])
    return index.expand(shape).contiguous()


def _entries(captured: Capture, chain: Sequence[fx.Node], labels: Tensor, *, inside: bool) -> Bias | None:
    """A bias that is added to values of the given channels; None unless it has one entry per channel."""
    if not chain:
        return None
    shape = chain[0].meta["val"].shape
    entries, labels = torch.broadcast_tensors(follow(chain, torch.arange(shape.numel(), device="cpu").reshape(shape)), labels)
    found = torch.full((shape.numel(),), -1, device="cpu")
    found[entries] = labels
    every = torch.arange(int(labels.max()) + 1, device="cpu")
    if not torch.equal(found[entries], labels) or not torch.equal(found.sort().values, every):
        return None
    return Bias(captured.states[chain[0].name][0], found.reshape(shape), inside)


def _readers(nodes: Iterable[fx.Node]) -> Iterator[fx.Node]:
    """The nodes that compute with a value, seen through views."""
    for node in nodes:
        if rearranges(node):
            yield from _readers(node.users)
        else:
            yield node
