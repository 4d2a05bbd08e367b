"""Which output channel of a linear op every entry of its weight goes into, seen through views of the weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from autoperm.lockstep import op_name, rearranges

#: Weights with more entries than this are only followed through views that leave their dimensions whole.
_LARGE = 1 << 24

_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
_TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_SECOND = {"addmm": "mat2", "mm": "mat2", "bmm": "mat2", "matmul": "other"}  # where a product's weight is


@dataclass(frozen=True)
class Linear:
    """A linear op.

    Attributes:
        x: what the weight is applied to.
        weight: the node that the op takes for its weight.
        bias: the node that it adds, one entry per channel.
        channels: the dimensions of the result that the channels are.
        count: the number of channels.
        of_operand: for every entry of the weight's node the channel, in a shape that broadcasts to its.
    """

    x: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    channels: tuple[int, ...]
    count: int
    of_operand: Tensor


def linear(node: fx.Node) -> Linear | None:
    """A node as a linear op with the weight as its second operand; None if it is no such op."""
    name = op_name(node)
    if name == "linear":
        return _along(node, "input", "weight", "bias", (node.meta["val"].ndim - 1,), (0,))
    if name in ("convolution", *_CONVOLUTIONS, *_TRANSPOSED):
        return _convolution(node, name)
    return _product(node, name) if name in _SECOND else None


def _convolution(node: fx.Node, name: str) -> Linear | None:
    args = arguments(node)
    shape = args["weight"].meta["val"].shape
    channel = node.meta["val"].ndim - (len(shape) - 2) - 1
    if name not in _TRANSPOSED and not args.get("transposed", False):
        return _along(node, "input", "weight", "bias", (channel,), (0,))
    groups = args["groups"]
    outer = torch.arange(groups, device="cpu").repeat_interleave(shape[0] // groups)
    within = outer[:, None] * shape[1] + torch.arange(shape[1], device="cpu")
    count = groups * shape[1]
    return Linear(args["input"], args["weight"], args["bias"], (channel,), count, _spread(within, (0, 1), len(shape)))


def _product(node: fx.Node, name: str) -> Linear | None:
    args = arguments(node)
    if name == "addmm" and (args["beta"], args["alpha"]) != (1, 1):
        return None
    weight, ndim = args[_SECOND[name]], node.meta["val"].ndim
    if weight.meta["val"].ndim < 2 or args["mat1" if name == "addmm" else "self"].meta["val"].ndim < 2:
        return None
    bias = "self" if name == "addmm" else None
    x = "mat1" if name == "addmm" else "self"
    if name == "bmm" and not _repeats(weight):  # a weight per member of the batch: channels of their own
        return _along(node, x, "mat2", bias, (0, ndim - 1), (0, 2))
    return _along(node, x, _SECOND[name], bias, (ndim - 1,), (weight.meta["val"].ndim - 1,))


def _repeats(node: fx.Node) -> bool:
    """Whether a value is one matrix over and over."""
    value = node.meta["val"]
    return value.shape[0] == 1 or value.stride(0) == 0


def _along(node: fx.Node, x: str, weight: str, bias: str | None, channels: tuple[int, ...], dims: Sequence[int]) -> Linear:
    """A linear op whose channels are dimensions of its weight."""
    args = arguments(node)
    shape = args[weight].meta["val"].shape
    sizes = [shape[d] for d in dims]
    count = math.prod(sizes)
    of_operand = _spread(torch.arange(count, device="cpu").reshape(sizes), dims, len(shape))
    return Linear(args[x], args[weight], args[bias] if bias is not None else None, channels, count, of_operand)


def _spread(index: Tensor, dims: Sequence[int], ndim: int) -> Tensor:
    """An index over some dimensions, of size 1 along the others."""
    return index.reshape([index.shape[list(dims).index(d)] if d in dims else 1 for d in range(ndim)])


def arguments(node: fx.Node) -> dict[str, Any]:
    """A node's arguments by name, defaults included."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    found = {a.name: a.default_value if a.has_default_value() else None for a in schema}
    found.update(zip((a.name for a in schema), node.args, strict=False))
    return {**found, **node.kwargs}


def chain_of(node: fx.Node) -> list[fx.Node]:
    """The views that lead to a node, its origin first; each is used by the next one alone."""
    chain = [node]
    while rearranges(chain[-1]) and isinstance(chain[-1].args[0], fx.Node):
        chain.append(chain[-1].args[0])
    return chain[::-1] if all(len(n.users) == 1 for n in chain) else []


def follow(chain: Sequence[fx.Node], value: Tensor) -> Tensor:
    """What the views of a chain make of a value of its origin."""
    for node in chain[1:]:
        args = [value, *node.args[1:]]
        value = node.target(*args, **{k: v for k, v in node.kwargs.items() if k == "memory_format"})  # type: ignore[operator]
    return value


def placed(chain: Sequence[fx.Node], of_operand: Tensor) -> Tensor | None:
    """For every entry of a weight its channel, in a shape that broadcasts to the weight's.

    Arguments:
        chain: the views from the weight to the operand of the op.
        of_operand: the channel for every entry of the operand.

    Returns:
        None where an entry goes into several channels, or nobody can tell at reasonable cost.
    """
    shape = tuple(chain[0].meta["val"].shape)
    operand = tuple(chain[-1].meta["val"].shape)
    if len(chain) == 1:
        return of_operand
    dims = _whole_dims(chain, shape, of_operand)
    if dims is not None:
        index = of_operand.reshape([n for n in of_operand.shape if n > 1] or [1])
        order = sorted(range(len(dims)), key=dims.__getitem__)
        return _spread(index.permute(order) if dims else index, sorted(dims), len(shape))
    if math.prod(shape) > _LARGE or math.prod(operand) > _LARGE:
        return None
    entries = follow(chain, torch.arange(math.prod(shape), device="cpu").reshape(shape))
    found = torch.full((math.prod(shape),), -1, device="cpu")
    wanted = of_operand.expand(operand)
    found[entries] = wanted
    consistent = bool((found[entries] == wanted).all()) and bool((found >= 0).all())
    return _narrowed(found.reshape(shape)) if consistent else None


def _whole_dims(chain: Sequence[fx.Node], shape: tuple[int, ...], of_operand: Tensor) -> list[int] | None:
    """The weight's dimensions that are the operand's along which channels differ; None where views mix dimensions."""
    if any(not getattr(n.target, "is_view", False) for n in chain[1:]):
        return None
    probe = torch.empty(shape, device="meta")
    seen = follow(chain, probe)
    found = []
    for j, n in enumerate(of_operand.shape):
        if n > 1:
            same = [d for d in range(len(shape)) if shape[d] == n and probe.stride(d) == seen.stride(j)]
            if seen.shape[j] != n or len(same) != 1:
                return None
            found += same
    return found


def _narrowed(index: Tensor) -> Tensor:
    """An index without the dimensions along which it is constant."""
    for d in range(index.ndim):
        first = index.narrow(d, 0, 1)
        if bool((index == first).all()):
            index = first
    return index.clone()
