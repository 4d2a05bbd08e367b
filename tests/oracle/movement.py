"""Ops that only move scalars: the op itself runs, on vertex numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch.utils import _pytree as pytree

from .pointwise import shaped
from .registry import Context, Ids, expands, has_ids, invoke, wrap

DATA = ("self", "tensors", "src", "values", "input", "value", "source", "tensor")

MOVES = [
    "_conj_physical",
    "_unsafe_index",
    "alias",
    "alias_copy",
    "atleast_1d",
    "atleast_2d",
    "atleast_3d",
    "block_diag",
    "broadcast_to",
    "cat",
    "channel_shuffle",
    "chunk",
    "clone",
    "concat",
    "constant_pad_nd",
    "contiguous",
    "detach",
    "detach_copy",
    "diag",
    "diag_embed",
    "diagonal",
    "diagonal_copy",
    "diagonal_scatter",
    "expand",
    "expand_as",
    "expand_copy",
    "fill",
    "flatten",
    "flip",
    "hstack",
    "im2col",
    "index_copy",
    "index_fill",
    "lift",
    "lift_fresh",
    "lift_fresh_copy",
    "movedim",
    "native_channel_shuffle",
    "narrow",
    "narrow_copy",
    "pad",
    "permute",
    "permute_copy",
    "pixel_shuffle",
    "pixel_unshuffle",
    "reflection_pad1d",
    "reflection_pad2d",
    "reflection_pad3d",
    "repeat",
    "repeat_interleave",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
    "roll",
    "rot90",
    "select",
    "select_copy",
    "select_scatter",
    "slice",
    "slice_copy",
    "slice_scatter",
    "split",
    "split_copy",
    "split_with_sizes",
    "split_with_sizes_copy",
    "squeeze",
    "squeeze_copy",
    "stack",
    "swapaxes",
    "swapdims",
    "t",
    "t_copy",
    "tensor_split",
    "tile",
    "transpose",
    "transpose_copy",
    "tril",
    "triu",
    "unbind",
    "unbind_copy",
    "unflatten",
    "unfold",
    "unfold_copy",
    "unsafe_chunk",
    "unsafe_split",
    "unsafe_split_with_sizes",
    "unsqueeze",
    "unsqueeze_copy",
    "vstack",
]


def run_moving(ctx: Context, bound: dict[str, Any]) -> Any:
    """Run an op on vertex numbers: as integers, so that views alias, or as doubles where it has no integer
    kernel.
    """
    try:
        return wrap(invoke(ctx.op, bound))
    except (RuntimeError, NotImplementedError):
        double = pytree.tree_map(lambda t: t.double() if is_int(t) else t, bound)
        return wrap(invoke(ctx.op, double))


def is_int(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.int64


def numbers(ctx: Context, value: Any) -> Any:
    """The data arguments as vertex numbers, a fill value included."""
    if isinstance(value, (list, tuple)):
        return [numbers(ctx, v) for v in value]
    if isinstance(value, (Ids, torch.Tensor)):
        return ctx.ids(value)
    return value if value is None else int(ctx.ids(value))


@expands(*MOVES)
def move(ctx: Context, a: SimpleNamespace) -> Any:
    """Indices must be constant here; `lookup` treats those that depend on the data."""
    bound = {name: numbers(ctx, v) if name in DATA else v for name, v in vars(a).items()}
    if has_ids(bound) and ctx.name == "repeat_interleave":
        return by_position(ctx, a)
    if has_ids(bound):
        raise NotImplementedError(f"the oracle has no {ctx.op} with positions that depend on the data")
    return run_moving(ctx, bound)


@expands("nonzero")
def by_position(ctx: Context, a: SimpleNamespace) -> Ids:
    """Positions as numbers: each is a function of all entries in order. How many there are is taken from the trace."""
    entries = [v for value in vars(a).values() if isinstance(value, Ids) for v in value.ids.reshape(-1).tolist()]
    shape, constants = ctx.node.meta["val"].shape, [repr(v) for v in vars(a).values() if not isinstance(v, Ids)]
    table = ctx.graph.call((ctx.name, *constants), entries)
    return shaped([ctx.graph.unary(("entry", p), table) for p in range(shape.numel())], shape)


@expands("view", "view_copy", "_unsafe_view", "reshape", "_reshape_copy", "_reshape_alias")
def view(ctx: Context, a: SimpleNamespace) -> Ids:
    """Aliases where the vertex numbers' strides allow it; they may differ from the tensor's after a fused
    op.
    """
    if not isinstance(getattr(a, "size", getattr(a, "shape", None)), (list, tuple)):
        raise NotImplementedError(f"the oracle does not reinterpret bits: {ctx.op}")
    return Ids(a.self.ids.reshape(list(a.size if hasattr(a, "size") else a.shape)))


@expands("as_strided", "as_strided_copy")
def as_strided(ctx: Context, a: SimpleNamespace) -> Ids:
    """Memory lies as the traced tensor's strides say: the vertex numbers' own may differ."""
    assert ctx.node is not None
    value = ctx.node.args[0].meta["val"]  # type: ignore[union-attr]
    order = sorted(range(value.dim()), key=lambda d: -value.stride(d))
    if not value.permute(order).is_contiguous():
        raise NotImplementedError(f"the oracle has no {ctx.op} of memory with gaps")
    memory = a.self.ids.permute(order).contiguous()
    start = 0 if a.storage_offset is None else a.storage_offset - value.storage_offset()
    return Ids(memory.as_strided(a.size, a.stride, start))


@expands("copy")
def copy(ctx: Context, a: SimpleNamespace) -> Ids:
    return Ids(ctx.ids(a.src).expand(tuple(a.self.shape)).clone())


@expands("dropout", "feature_dropout", "alpha_dropout")
def dropout(ctx: Context, a: SimpleNamespace) -> Ids:
    """The identity: models are traced in eval mode."""
    if a.train:
        raise NotImplementedError(f"the oracle does not expand {ctx.op} in training mode")
    return Ids(a.input.ids.clone())


@expands("native_dropout")
def native_dropout(ctx: Context, a: SimpleNamespace) -> tuple[Ids, torch.Tensor]:
    if a.train:
        raise NotImplementedError(f"the oracle does not expand {ctx.op} in training mode")
    return Ids(a.input.ids.clone()), torch.ones(a.input.shape, dtype=torch.bool)


@expands("_to_copy", "to", "type_as")
def to_copy(ctx: Context, a: SimpleNamespace) -> Ids:
    """A conversion between floating types keeps the scalar; any other is a function of it."""
    dtype = getattr(a, "dtype", None)
    if dtype is None or dtype.is_floating_point:
        return Ids(a.self.ids.clone())
    flat = [ctx.graph.unary(("to", str(dtype)), v) for v in a.self.ids.reshape(-1).tolist()]
    return Ids(torch.tensor(flat, dtype=torch.int64).reshape(a.self.shape))


@expands(
    "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty",
    "new_empty_strided",
)  # fmt: skip
def factory(ctx: Context, a: SimpleNamespace) -> torch.Tensor:
    """Only the shape and the type of the argument matter: the result is constant."""
    like = None if ctx.node is None else ctx.node.meta.get("val")
    dtype = like.dtype if isinstance(like, torch.Tensor) else a.dtype
    bound = {**vars(a), "self": torch.zeros(a.self.shape), "device": torch.device("cpu"), "dtype": dtype}
    return invoke(ctx.op, bound)


@expands("sym_size", "sym_numel", "sym_stride", "_assert_tensor_metadata", "_local_scalar_dense")
def metadata(ctx: Context, a: SimpleNamespace) -> Any:
    raise NotImplementedError(f"the oracle expands graphs of static shape only: {ctx.op}")
