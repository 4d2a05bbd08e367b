"""Elementwise ops of any number of operands, broadcast."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from .registry import Context, Ids, expands, op_name
from .scalars import NOTHING, ScalarGraph

#: Ops of which several in a row are one sum or product. What is added in the midst of another op, such as a bias, is not.
CHAINS = {name: f"{name} in a row" for name in ("add", "mul", "maximum", "minimum")}
#: Numbers that an op with which leaves a tensor as it is.
NEUTRAL = {"add": 0, "sub": 0, "mul": 1, "div": 1}
COMMUTATIVE = frozenset(
    [
        "add",
        "mul",
        "multiply",
        "maximum",
        "minimum",
        "fmax",
        "fmin",
        "eq",
        "ne",
        "logical_and",
        "logical_or",
        "logical_xor",
        "bitwise_and",
        "bitwise_or",
        "bitwise_xor",
        "hypot",
        "logaddexp",
        "logaddexp2",
        "__and__",
        "__or__",
        "__xor__",
    ]
)
UNTAGGED = frozenset(
    [
        "floor_divide",
        "hardswish",
        "mish",
        "softplus",
        "prelu",
        "_prelu_kernel",
        "rrelu",
        "celu",
        "selu",
        "elu",
        "relu6",
        "logit",
        "special_erf",
        "__and__",
        "__or__",
        "__xor__",
        "__lshift__",
        "__rshift__",
        "fake_quantize_per_tensor_affine",
        "isin",
        "hardsigmoid",
        "hardtanh",
        "silu",
        "gelu",
        "isfinite",
        "isclose",
        "nan_to_num",
        "square",
        "log_sigmoid",
        "logsigmoid",
        "tanhshrink",
        "hardshrink",
        "softshrink",
        "conj_physical",
        "threshold",
        "multiply",
        "divide",
        "subtract",
        "clip",
    ]
)
IGNORED = ("dtype", "layout", "device", "pin_memory", "memory_format", "out", "generator", "non_blocking")
MINUS_INFINITY = float("-inf")


def is_pointwise(op: torch._ops.OpOverload) -> bool:
    """Tagged so by ATen, or one of those whose tag is missing. The other ops are not assumed to be
    elementwise.
    """
    return torch.Tag.pointwise in op.tags or op_name(op) in UNTAGGED


def pointwise(ctx: Context, a: SimpleNamespace) -> Ids:
    """Tensor operands are children, in order unless the op is symmetric; numbers are part of the label."""
    tensors = {k: v for k, v in vars(a).items() if isinstance(v, (Ids, torch.Tensor))}
    rest = tuple(
        (k, repr(v)) for k, v in vars(a).items() if k not in tensors and k not in IGNORED and v is not None
    )
    label = (ctx.name, tuple(tensors), rest)
    if len(tensors) == 1 and ctx.name in NEUTRAL and getattr(a, "other", None) == NEUTRAL[ctx.name]:
        return a.self
    if ctx.name == "exp":
        return exponential(ctx, label, a.self)
    symmetric = ctx.name in COMMUTATIVE and getattr(a, "alpha", 1) == 1 and len(tensors) == 2
    if symmetric:
        return combine(ctx, CHAINS.get(ctx.name, ctx.name), *tensors.values())
    return elementwise(ctx, label, *tensors.values())


def exponential(ctx: Context, label: Any, x: Ids) -> Ids:
    """Minus infinity is a mask here too: it leaves no weight."""
    hidden = ctx.graph.constant(MINUS_INFINITY)
    flat = [NOTHING if v == hidden else ctx.graph.unary(label, v) for v in x.ids.reshape(-1).tolist()]
    return shaped(flat, x.shape)


def flat_operands(ctx: Context, operands: tuple[Any, ...]) -> tuple[list[list[int]], torch.Size]:
    """Broadcast operands as flat lists of vertex numbers, and their common shape."""
    tensors = torch.broadcast_tensors(*[ctx.ids(operand) for operand in operands])
    return [t.reshape(-1).tolist() for t in tensors], tensors[0].shape


def shaped(flat: list[int], shape: Any) -> Ids:
    """A flat list of vertex numbers as a tensor."""
    return Ids(torch.tensor(flat, dtype=torch.int64).reshape(tuple(shape)))


def elementwise(ctx: Context, label: Any, *operands: Any) -> Ids:
    """A function of ordered operands, element by element."""
    lists, shape = flat_operands(ctx, operands)
    graph = ctx.graph
    if len(lists) == 1:
        number = graph.label_of(label)
        return shaped([graph.node(number, (v,)) for v in lists[0]], shape)
    return shaped([graph.call(label, args) for args in zip(*lists)], shape)


def combine(ctx: Context, label: str, left: Any, right: Any) -> Ids:
    """A symmetric function of two operands, element by element; ordered if the context allows no swaps."""
    (xs, ys), shape = flat_operands(ctx, (left, right))
    graph = ctx.graph
    if "add" in label:
        return shaped([add(graph, x, y, ctx.swaps, label) for x, y in zip(xs, ys)], shape)
    masks = "mul" in label  # what is multiplied by a masked weight is masked
    join = graph.bag if ctx.swaps else graph.call
    kind = label if ctx.swaps else ("ordered", label)
    return shaped([NOTHING if masks and NOTHING in pair else join(kind, pair) for pair in zip(xs, ys)], shape)


def add(graph: ScalarGraph, x: int, y: int, swaps: bool = True, label: str = "add") -> int:
    """x + y. A mask of minus infinity absorbs what it hides, which then counts as unused."""
    hidden = graph.constant(MINUS_INFINITY)
    if x == hidden or y == hidden:
        return hidden
    return graph.bag(label, (x, y)) if swaps else graph.call(("ordered", label), (x, y))


def scale(ctx: Context, factor: float, x: Any) -> Any:
    """A tensor times a number; nothing for 1."""
    return x if factor == 1 else elementwise(ctx, ("scale", float(factor)), x)


@expands("where")
def where(ctx: Context, a: SimpleNamespace) -> Ids:
    """A constant condition chooses between scalars; any other is the first of three ordered arguments."""
    if isinstance(a.condition, Ids):
        return elementwise(ctx, "where", a.condition, a.self, a.other)
    condition = a.condition.bool()
    tensors = torch.broadcast_tensors(condition, ctx.ids(a.self), ctx.ids(a.other))
    return Ids(torch.where(*tensors))


@expands("masked_fill")
def masked_fill(ctx: Context, a: SimpleNamespace) -> Ids:
    return where(ctx, SimpleNamespace(condition=a.mask, self=a.value, other=a.self))


@expands("addcmul")
def addcmul(ctx: Context, a: SimpleNamespace) -> Ids:
    product = scale(ctx, a.value, combine(ctx, "mul", a.tensor1, a.tensor2))
    return combine(ctx, "add", a.self, product)


@expands("log_sigmoid_forward")
def log_sigmoid(ctx: Context, a: SimpleNamespace) -> tuple[Ids, torch.Tensor]:
    """The second result is for the backward pass."""
    return elementwise(ctx, "log_sigmoid", a.self), torch.zeros(0)


@expands("glu")
def glu(ctx: Context, a: SimpleNamespace) -> Ids:
    first, second = a.self.ids.chunk(2, a.dim)
    return elementwise(ctx, "glu", Ids(first), Ids(second))


@expands("view_as_complex")
def view_as_complex(ctx: Context, a: SimpleNamespace) -> Ids:
    real, imaginary = a.self.ids.unbind(-1)
    return elementwise(ctx, "complex", Ids(real), Ids(imaginary))


@expands("view_as_real")
def view_as_real(ctx: Context, a: SimpleNamespace) -> Ids:
    parts = [elementwise(ctx, part, a.self).ids for part in ("real", "imag")]
    return Ids(torch.stack(parts, -1))
