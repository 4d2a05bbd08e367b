"""Ops that only rearrange entries. They stay symbolic views, and so constrain nothing by themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autoperm.inference import views
from autoperm.inference.operands import solidify
from autoperm.inference.views import View
from autoperm.rules.op import Op, dims_of
from autoperm.rules.registry import rule


@rule(
    "aten.alias", "aten.clone", "aten.contiguous", "aten.detach", "aten.lift_fresh", "aten.lift_fresh_copy", "aten.lift",
    "aten.alias_copy", "aten.detach_copy", "aten.resolve_conj", "aten.resolve_neg", "aten.conj", "aten._conj",
    "aten._neg_view", "aten.pin_memory", "aten.type_as",
)  # fmt: skip
def same(op: Op) -> View:
    return op.labels.view(op.node.args[0])  # type: ignore[arg-type]


def reshaped(op: Op, view: View, shape: Sequence[int]) -> View:
    """A view with another shape; where the shapes do not fit, through the finest shape that both flatten."""
    found = views.reshape(view, shape)
    if found is None:
        common = views.aligned(view.shape, shape)
        flat = _flatten(op, view, common)
        found = views.reshape(flat, shape)
    if found is None:
        raise RuntimeError(f"internal error: {op.name} cannot reshape {view.shape} to {tuple(shape)}")
    return found


def _flatten(op: Op, view: View, common: Sequence[int]) -> View:
    """Materialise a view as a tensor of the given, coarser shape."""
    grouped = views.reshape(view, common)
    if grouped is None:  # only a digit that straddles a boundary can be in the way: make it an axis of its own
        grouped = views.reshape(solidify(op.system, view, op.node, flat=True), common)
    assert grouped is not None, "the common shape flattens whole digits"
    return solidify(op.system, grouped, op.node, flat=True)


@rule("aten.view", "aten.reshape", "aten._unsafe_view", "aten._reshape_alias", "aten.view_copy", "aten._reshape_copy")
def view(op: Op) -> View:
    source = op.view("self")
    if op.name == "aten.view.dtype":
        if source.shape != op.shape():
            op.pin(source, "its numbers are read as those of a type of another width")
            return op.pinned(op.shape())
        return source
    return reshaped(op, source, op.shape())


@rule("aten.flatten", "aten.unflatten", "aten.squeeze", "aten.squeeze_copy", "aten.unsqueeze", "aten.unsqueeze_copy")
def regrouped(op: Op) -> View:
    return reshaped(op, op.view("self"), op.shape())


def reordered(op: Op, ndim: int) -> list[int]:
    """The order in which ``permute``, ``transpose`` and ``t`` list the dimensions of their operand."""
    if op.name.startswith("aten.permute"):
        return [d % ndim for d in op["dims"]]
    order = list(range(ndim))
    if ndim > 1:
        a, b = (0, 1) if op.name.startswith("aten.t.") else (op["dim0"] % ndim, op["dim1"] % ndim)
        order[a], order[b] = order[b], order[a]
    return order


@rule("aten.permute", "aten.permute_copy")
def permute(op: Op) -> View:
    source = op.view("self")
    return views.permute(source, reordered(op, source.ndim))


@rule("aten.t", "aten.numpy_T", "aten.t_copy", "aten.adjoint", "aten.mT", "aten.mH")
def transpose_last(op: Op) -> View:
    source = op.view("self")
    order = list(range(source.ndim))
    if "numpy_T" in op.name:
        order.reverse()
    elif source.ndim >= 2:
        order[-2:] = order[:-3:-1]
    return views.permute(source, order)


@rule("aten.transpose", "aten.swapaxes", "aten.swapdims", "aten.transpose_copy")
def transpose(op: Op) -> View:
    source = op.view("self")
    order = list(range(source.ndim))
    if order:
        a, b = (int(d) % source.ndim for d in list(op.args.values())[1:3])
        order[a], order[b] = order[b], order[a]
    return views.permute(source, order)


@rule("aten.movedim", "aten.moveaxis")
def movedim(op: Op) -> View:
    source = op.view("self")
    moved, to = dims_of(op["source"], source.ndim), dims_of(op["destination"], source.ndim)
    rest = [d for d in range(source.ndim) if d not in moved]
    for target, dim in sorted(zip(to, moved, strict=True)):
        rest.insert(target, dim)
    return views.permute(source, rest)


@rule("aten.expand", "aten.broadcast_to", "aten.expand_as", "aten.expand_copy")
def expand(op: Op) -> View:
    return views.expand(op.view("self"), op.shape())


@rule("aten.repeat", "aten.tile")
def repeat(op: Op) -> View:
    """(n) repeated r times is a product (r, n), uniform along r."""
    source, shape = op.view("self"), op.shape()
    padded = [1] * (len(shape) - source.ndim) + list(source.shape)
    times = [n // old if old else 1 for n, old in zip(shape, padded, strict=True)]
    return _interleaved(source, [[(t, True), (n, False)] for t, n in zip(times, padded, strict=True)])


@rule("aten.repeat_interleave.self_int")
def repeat_interleave(op: Op) -> View:
    """(n) with every entry r times in a row is a product (n, r), uniform along r."""
    source = op.view("self")
    if op["dim"] is None:
        source = reshaped(op, source, (math.prod(source.shape),))
    dim = (op["dim"] or 0) % source.ndim
    plan = [[(n, False)] + ([(op["repeats"], True)] if k == dim else []) for k, n in enumerate(source.shape)]
    return _interleaved(source, plan)


def _interleaved(source: View, plan: Sequence[Sequence[tuple[int, bool]]]) -> View:
    """Each dimension as factors, in order, that are either new and uniform or the source's own dimension."""
    pad = len(plan) - source.ndim
    old: list[tuple[views.Digit, ...]] = [()] * pad + list(source.dims)
    dims = []
    for factors, digits in zip(plan, old, strict=True):
        run: list[views.Digit] = []
        for size, uniform in factors:
            run.extend(([views.Digit(None, 1, size)] if size > 1 else []) if uniform else digits)
        dims.append(tuple(run))
    return View(source.source, tuple(dims), source.offsets)


def narrowed(op: Op, view: View, dim: int, start: int, length: int, step: int = 1) -> View:
    """Part of a dimension; where it cuts through a product, the product becomes an axis first."""
    found = views.narrow(view, dim, start, length, step)
    if found is None:
        found = views.narrow(solidify(op.system, view, op.node, flat=True), dim, start, length, step)
    assert found is not None, "one digit can be cut anywhere"
    return found


@rule("aten.slice", "aten.slice_copy")
def slice_(op: Op) -> View:
    source = op.view("self")
    dim, size = op["dim"] % source.ndim, source.shape[op["dim"]]
    start = op["start"] or 0
    start = max(0, min(size, start + size if start < 0 else start))
    return narrowed(op, source, dim, start, op.shape()[dim], op["step"])


@rule("aten.narrow", "aten.narrow_copy")
def narrow(op: Op) -> View:
    source = op.view("self")
    dim = op["dim"] % source.ndim
    return narrowed(op, source, dim, op["start"] % max(source.shape[dim], 1), op["length"])


@rule("aten.select", "aten.select_copy")
def select(op: Op) -> View:
    source = op.view("self")
    dim = op["dim"] % source.ndim
    return selected(source, dim, op["index"] % source.shape[dim])


def selected(source: View, dim: int, index: int) -> View:
    found = views.select(source, dim, index)
    assert found is not None
    return found


@rule("aten.unbind", "aten.unbind_copy")
def unbind(op: Op) -> list[View]:
    source = op.view("self")
    dim = op["dim"] % source.ndim
    return [selected(source, dim, k) for k in range(source.shape[dim])]


@rule(
    "aten.split", "aten.split_with_sizes", "aten.chunk", "aten.unsafe_split", "aten.unsafe_chunk", "aten.tensor_split",
    "aten.unsafe_split_with_sizes", "aten.split_copy", "aten.split_with_sizes_copy", "aten.hsplit", "aten.vsplit",
)  # fmt: skip
def split(op: Op) -> list[View]:
    source = op.view("self")
    dim = min(1, source.ndim - 1) if "hsplit" in op.name else op.get("dim", 0) % source.ndim
    parts, start = [], 0
    for k in range(len(op.node.meta["val"])):
        length = op.shape(k)[dim]
        parts.append(narrowed(op, source, dim, start, length))
        start += length
    return parts


@rule("aten.flip")
def flip(op: Op) -> View:
    view = op.view("self")
    for dim in dims_of(op["dims"], view.ndim):
        view = views.flip(view, dim)
    return view


@rule("aten.rot90")
def rot90(op: Op) -> View:
    view, turns = op.view("self"), op["k"] % 4
    a, b = dims_of(op["dims"], view.ndim)
    for dim in {0: (), 1: (b,), 2: (a, b), 3: (a,)}[turns]:
        view = views.flip(view, dim)
    order = list(range(view.ndim))
    if turns % 2:
        order[a], order[b] = b, a
    return views.permute(view, order)


@rule("aten.unfold", "aten.unfold_copy")
def unfold(op: Op) -> View:
    """Windows of a dimension: a view where they are disjoint, else nothing moves along it."""
    source = op.view("self")
    if not source.ndim:
        return op.pinned(op.shape())
    dim = op["dimension"] % source.ndim
    found = views.window(source, dim, op["size"], op["step"])
    if found is not None:
        return found
    names = [(f"l{k}",) for k in range(source.ndim)]
    names[dim] = ("_",)
    return op.state([(source, tuple(names))], [(*names, ("_",))], [op.shape()], reason="overlapping windows")[0]


@rule("aten.diagonal", "aten.diagonal_copy")
def diagonal(op: Op) -> View:
    """Both dimensions of the square that the diagonal crosses are one along it."""
    source = op.view("self")
    a, b = op["dim1"] % source.ndim, op["dim2"] % source.ndim
    names = [(f"l{k}",) for k in range(source.ndim)]
    names[a] = names[b] = last = ("d",)
    size, offset = op.shape()[-1], op["offset"]
    for dim, start in ((a, max(-offset, 0)), (b, max(offset, 0))):
        source = narrowed(op, source, dim, start, size)
    rest = [name for k, name in enumerate(names) if k not in (a, b)]
    return op.state([(source, tuple(names))], [(*rest, last)], [op.shape()])[0]


@rule("aten.trace")
def trace(op: Op) -> View:
    size = min(op.view("self").shape)
    square = narrowed(op, narrowed(op, op.view("self"), 0, 0, size), 1, 0, size)
    return op.equation("d d -> ", square)


@rule("aten.diag_embed")
def diag_embed(op: Op) -> View:
    """A diagonal matrix: one axis twice, if it is the main diagonal."""
    source, rank = op.view("self"), len(op.shape())
    a, b = op["dim1"] % rank, op["dim2"] % rank
    letter = ("_",) if op["offset"] else ("d",)
    rest = iter([(f"l{k}",) for k in range(source.ndim - 1)])
    names = tuple(letter if k in (a, b) else next(rest) for k in range(rank))
    spec = (*(f for k, f in enumerate(names) if k not in (a, b)), letter)
    return op.state([(source, spec)], [names], [op.shape()], reason="a diagonal beside the main one")[0]


@rule("aten.pixel_shuffle", "aten.pixel_unshuffle")
def pixel_shuffle(op: Op) -> View:
    """Channels become pixels, or pixels channels: a view, as written in the op's documentation."""
    source = op.view("self")
    *batch, c, h, w = source.shape
    n = len(batch)
    lead = list(range(n))
    if "unshuffle" in op.name:
        r = op["downscale_factor"]
        split = reshaped(op, source, (*batch, c, h // r, r, w // r, r))
        order = [*lead, n, n + 2, n + 4, n + 1, n + 3]
    else:
        r = op["upscale_factor"]
        split = reshaped(op, source, (*batch, c // (r * r), r, r, h, w))
        order = [*lead, n, n + 3, n + 1, n + 4, n + 2]
    return reshaped(op, views.permute(split, order), op.shape())


@rule("aten.channel_shuffle", "aten.native_channel_shuffle")
def channel_shuffle(op: Op) -> View:
    source = op.view("self")
    b, c, *rest = source.shape
    split = reshaped(op, source, (b, op["groups"], c // op["groups"], *rest))
    return reshaped(op, views.permute(split, [0, 2, 1, *range(3, split.ndim)]), op.shape())
