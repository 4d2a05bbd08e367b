"""Rows looked up or added to by an index that is spread over the other dimensions: as the ops that take the index itself.

``x.gather(0, i[:, None].expand(-1, n))`` is ``x[i]``, and ``scatter_add`` and ``index_put`` likewise
``index_add``, of which the rules know more.
"""

from __future__ import annotations

import torch
from torch import fx

_aten = torch.ops.aten
_SPREADS = (_aten.expand.default, _aten.repeat.default)
_VIEWS = (_aten.unsqueeze.default, _aten.view.default, _aten.reshape.default, _aten._unsafe_view.default)
_PUTS = (_aten.index_put.default, _aten._unsafe_index_put.default)


def simpler(node: fx.Node) -> tuple[torch._ops.OpOverload, tuple[object, ...]] | None:
    """An op that does the same as a node with an index of one dimension, and its arguments; None if there is none."""
    if node.target is _aten.gather.default:
        x, dim, spread = node.args[:3]
        index = _index(x, dim, spread)  # type: ignore[arg-type]
        return None if index is None else (_aten.index.Tensor, (x, [*[None] * _of(x, dim), index]))
    if node.target is _aten.scatter_add.default:
        x, dim, spread, source = node.args[:4]
        index = _index(x, dim, spread)  # type: ignore[arg-type]
        if index is None or source.meta["val"].shape != spread.meta["val"].shape:  # type: ignore[union-attr]
            return None
        return _aten.index_add.default, (x, _of(x, dim), index, source)
    if node.target in _PUTS and len(node.args) == 4 and node.args[3]:
        return _added(*node.args[:3])  # type: ignore[arg-type]
    return None


def _added(x: fx.Node, indices: list[fx.Node | None], values: fx.Node) -> tuple[torch._ops.OpOverload, tuple[object, ...]] | None:
    used = [k for k, index in enumerate(indices) if index is not None]
    index: fx.Node = indices[used[0]]  # type: ignore[assignment]
    like = index.meta["val"]
    if len(used) != 1 or like.ndim != 1 or like.dtype not in (torch.int64, torch.int32):
        return None
    shape = list(x.meta["val"].shape)
    shape[used[0]] = len(like)
    return (_aten.index_add.default, (x, used[0], index, values)) if list(values.meta["val"].shape) == shape else None


def _of(x: object, dim: object) -> int:
    return dim % x.meta["val"].ndim  # type: ignore[operator, attr-defined, no-any-return]


def _index(x: fx.Node, dim: int, spread: fx.Node) -> fx.Node | None:
    """The index of one dimension that is spread over all others of ``x``."""
    shape, wanted = x.meta["val"].shape, spread.meta["val"].shape
    dim %= max(len(shape), 1)
    same = len(shape) == len(wanted) and all(a == b for k, (a, b) in enumerate(zip(shape, wanted, strict=True)) if k != dim)
    if len(shape) < 2 or not same:
        return None
    found: fx.Node = spread.args[0] if spread.target in _SPREADS else spread  # type: ignore[assignment]
    sizes = list(found.meta["val"].shape)
    at = dim - len(wanted) + len(sizes)
    if at < 0 or sizes[at] != wanted[dim] or any(n != 1 for k, n in enumerate(sizes) if k != at):
        return None
    while found.meta["val"].ndim > 1 and found.target in _VIEWS:
        found = found.args[0]  # type: ignore[assignment]
    return found if tuple(found.meta["val"].shape) == (wanted[dim],) else None
