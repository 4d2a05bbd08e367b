"""Lengths that depend on values, as Python sees them: of what ``nonzero`` lists, and of all that is as long."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import get_proxy_mode, get_proxy_slot

from autoperm.capture.clean import sized_by

_aten = torch.ops.aten

#: What tells Python how large a tensor is.
_SIZES = frozenset([
    Tensor.shape.__get__, Tensor.nbytes.__get__, Tensor.size, Tensor.__len__, Tensor.numel, Tensor.nelement,  # type: ignore[attr-defined]
    Tensor.stride, Tensor.is_contiguous, Tensor.is_same_size, Tensor.storage, Tensor.untyped_storage, torch.numel,
    torch._shape_as_tensor, Tensor.unsafe_chunk, Tensor.unsafe_split, torch.unsafe_chunk, torch.unsafe_split,
    Tensor.tensor_split, Tensor.hsplit, Tensor.vsplit, Tensor.dsplit, torch.tensor_split, torch.hsplit, torch.vsplit,
    torch.dsplit,
])  # fmt: skip
#: What gives Python as many tensors as a dimension is long, or has parts, by the place of the argument that names it.
_PARTS = {Tensor.__iter__: 1, Tensor.unbind: 1, torch.unbind: 1, Tensor.split: 2, torch.split: 2, Tensor.chunk: 2, torch.chunk: 2}
#: What tells it how many dimensions there are, which ``squeeze`` may have made depend on their lengths.
_DIMS = frozenset([Tensor.dim, Tensor.ndimension, Tensor.ndim.__get__])  # type: ignore[attr-defined]


#: Ops that give a tensor another shape.
RESHAPES = (_aten.view.default, _aten._unsafe_view.default, _aten.reshape.default)


class Sizes:
    """Marks the nodes of lists whose length Python has seen as ``sized`` in their ``meta``."""

    def __init__(self) -> None:
        # The lists that a node is as long as, and whether that is in its first dimension alone.
        self._lists: dict[fx.Node, tuple[frozenset[fx.Node], bool]] = {}

    def note(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Mark them, if a torch function tells Python of sizes."""
        if func in _SIZES:
            self._mark(args[0], lambda first: True)
        elif func in _DIMS:
            self._mark(args[0], lambda first: not first)
        elif func in _PARTS and args and isinstance(args[0], Tensor):
            place = _PARTS[func]
            dim = kwargs.get("dim", args[place] if len(args) > place else 0)
            self._mark(args[0], lambda first: not first or not isinstance(dim, int) or dim % args[0].dim() == 0)

    def _mark(self, tensor: Any, is_seen: Any) -> None:
        node = _node_of(tensor)
        lists, first = (frozenset[fx.Node](), True) if node is None else self._of(node)
        if lists and is_seen(first):
            for found in lists:
                found.meta["sized"] = True

    def _of(self, node: fx.Node) -> tuple[frozenset[fx.Node], bool]:
        waiting = [node]
        while waiting:
            here = waiting[-1]
            inputs = _as_long_as(here)
            missing = [n for n in inputs if isinstance(n, fx.Node) and n not in self._lists]
            if here not in self._lists and missing:
                waiting += missing
                continue
            waiting.pop()
            self._lists.setdefault(here, self._find(here, [self._lists[n] for n in inputs if isinstance(n, fx.Node)]))
        return self._lists[node]

    def _find(self, node: fx.Node, inputs: Sequence[tuple[frozenset[fx.Node], bool]]) -> tuple[frozenset[fx.Node], bool]:
        if node.target is _aten.nonzero.default:
            return frozenset([node]), True  # as long as it finds entries, not as what it looks at
        lists = frozenset().union(*(found for found, _ in inputs))
        first = all(first for found, first in inputs if found) and self._keeps_first(node)
        return (lists | {node}, first) if node.op == "call_function" and sized_by(node) else (lists, first)

    def _keeps_first(self, node: fx.Node) -> bool:
        """Whether the first dimension of a result is the one with an entry for each that is listed; not all that do are known."""
        listed = [n for n in node.all_input_nodes if n in self._lists and self._lists[n][0]]
        if not listed or plain_lookup(node) is not None or node.target in (operator.getitem, _aten.nonzero.default):
            return True
        if node.target is _aten.unbind.int:
            return listed[0].target is _aten.nonzero.default and node.args[1:] == (1,)
        if node.target is _aten.index.Tensor:
            return node.args[1][0] is not None  # type: ignore[index]
        if node.target in (_aten.mm.default, _aten.addmm.default):
            return listed == [node.args[-2]]
        pointwise = isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags
        return pointwise and all(n.meta["val"].ndim == node.meta["val"].ndim for n in listed)


def _as_long_as(node: fx.Node) -> Sequence[Any]:
    """What a node's value may be as long as."""
    if node.target is _aten.index_add.default:
        return node.args[:1]
    found = plain_lookup(node)
    return node.all_input_nodes if found is None else found


def plain_lookup(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The table and the rows of ``table[None, rows].reshape(-1, n)``, which is ``table[rows]``; None for anything else."""
    read = node.args[0] if node.target in RESHAPES else None
    if not isinstance(read, fx.Node) or read.target is not _aten.index.Tensor:
        return None
    if node.meta["val"].shape != read.meta["val"].shape[1:]:
        return None
    table, indices = read.args
    if table.target is not _aten.unsqueeze.default or table.args[1] != 0 or len(indices) != 2 or indices[0] is not None:  # type: ignore[union-attr, arg-type, index]
        return None
    return table.args[0], indices[1]  # type: ignore[union-attr, index, return-value]


def _node_of(tensor: Any) -> fx.Node | None:
    """The node of a tensor in the graph that is being traced, if it has one."""
    mode = get_proxy_mode()
    if mode is None or not isinstance(tensor, Tensor):
        return None
    if torch._is_functional_tensor(tensor):
        torch._sync(tensor)
        tensor = torch._from_functional_tensor(tensor)
    proxy = get_proxy_slot(tensor, mode.tracer, None)
    return None if proxy is None else proxy.proxy.node
