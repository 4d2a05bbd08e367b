"""Rows that are listed by a mask, worked on one by one and added up: as all rows, times the mask.

``t, k = torch.where(mask)`` followed by ``out.index_add_(0, t, f(x[t]) * w[t, k])`` is how experts take the tokens that chose
them. Where f works on each row by itself, all pairs of t and k may be rows, and those where the mask is false count nothing.
Then it does not matter how many rows there are, and experts that are visited one after the other are a loop over slices
(``loops``).
"""

from __future__ import annotations

import functools
import logging
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from autoperm.capture.sizes import RESHAPES
from autoperm.inference.compared import as_comparison, read_as_a_set
from autoperm.inference.rolling import fake
from autoperm.rules.op import Op

logger = logging.getLogger(__name__)

_aten = torch.ops.aten

#: Products of matrices of which the first has a row for each row of the result, by the names of both.
_PRODUCTS = {_aten.mm.default: "self", _aten.addmm.default: "mat1"}
#: Ops that work along dimensions, by the argument that names them.
_ALONG = {
    _aten.split.Tensor: "dim",
    _aten.split_with_sizes.default: "dim",
    _aten.slice.Tensor: "dim",
    _aten.select.int: "dim",
    _aten._softmax.default: "dim",
    _aten.sum.dim_IntList: "dim",
    _aten.mean.dim: "dim",
}
_COPIES = (_aten._to_copy.default, _aten.clone.default, _aten.alias.default, _aten.detach.default)


def unlist(graph: fx.Graph, found: fx.Node) -> None:
    """Put ops on all rows in the place of those on rows listed by a ``nonzero``, if that is how it is used."""
    try:
        _unlist(graph, found)
    except Exception:  # an op that does not run without values, say: then the list stays as it is
        logger.debug("the list at %s stays", found, exc_info=True)


def _unlist(graph: fx.Graph, found: fx.Node) -> None:
    unbind = next(iter(found.users), None)
    if len(found.users) != 1 or unbind.target is not _aten.unbind.int:  # type: ignore[union-attr]
        return
    if unbind.args[1:] == (1,):  # type: ignore[union-attr]
        Rows(graph, found, unbind).rewrite()  # type: ignore[arg-type]
    elif found.args[0].meta["val"].ndim == 1:  # type: ignore[union-attr]
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        read_as_a_set(graph, found, functools.partial(call, graph, mode, found))


class Rows:
    """The rows that a mask lists, and what is computed of them."""

    def __init__(self, graph: fx.Graph, found: fx.Node, unbind: fx.Node):
        self._graph, self._found, self._unbind = graph, found, unbind
        self._mask: fx.Node = found.args[0]  # type: ignore[assignment]
        self._grid = list(self._mask.meta["val"].shape)
        self._places = {user: user.args[1] for user in unbind.users}  # of each row along a dimension of the mask
        self._all: dict[fx.Node, fx.Node] = {}  # nodes with a row for each that is listed: with one for each pair
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)

    def rewrite(self) -> None:
        """All of it, or nothing: nodes that are left over are dead."""
        sums: dict[fx.Node, fx.Node] = {}
        if self._found.meta.get("sized"):
            return
        node = self._unbind
        while (node := node.next).op != "root":
            inputs = node.all_input_nodes
            if node in self._places or not any(i in self._all or i in self._places for i in inputs):
                continue
            with self._graph.inserting_before(node):
                made = self._summed(node) if node.target is _aten.index_add.default else self._row(node)
            if made is None:
                return
            (sums if node.target is _aten.index_add.default else self._all)[node] = made
        for node, made in sums.items():
            node.replace_all_uses_with(made)
        for node in reversed([self._found, self._unbind, *self._places, *sorted([*self._all, *sums])] if sums else []):
            self._graph.erase_node(node)

    def _row(self, node: fx.Node) -> fx.Node | None:
        if node.target is _aten.index.Tensor:
            return self._looked_up(*node.args)  # type: ignore[arg-type]
        if any(i in self._places for i in node.all_input_nodes) or not self._is_by_row(node):
            return None
        if node.target in RESHAPES:
            return self._call(_aten.view.default, self._all[node.args[0]], [-1, *node.meta["val"].shape[1:]])  # type: ignore[index]
        args, kwargs = pytree.tree_map(lambda x: self._all.get(x, x) if isinstance(x, fx.Node) else x, (node.args, node.kwargs))
        return self._call(node.target, *args, **kwargs)

    def _is_by_row(self, node: fx.Node) -> bool:
        """Whether a row of the result is made of the same row of operands that have rows."""
        if node.target is operator.getitem:
            return True
        if not isinstance(node.target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded in node.target.tags:
            return False
        args, first, value = Op.arguments(node), node.args[0], node.meta["val"]
        with_rows = [name for name, x in args.items() if isinstance(x, fx.Node) and x in self._all]
        if node.target in _PRODUCTS:
            return with_rows == [_PRODUCTS[node.target]]
        if node.target in _ALONG:
            dims = [d] if isinstance(d := args[_ALONG[node.target]], int) else d
            return bool(dims) and all(d % first.meta["val"].ndim for d in dims)  # type: ignore[union-attr]
        if node.target is _aten.native_layer_norm.default:
            return with_rows == ["input"] and len(args["normalized_shape"]) < first.meta["val"].ndim  # type: ignore[union-attr]
        if node.target is _aten.unsqueeze.default:
            return args["dim"] % value.ndim != 0
        if node.target in RESHAPES:
            return value.shape[0] == first.meta["val"].shape[0]  # type: ignore[union-attr]
        return (node.target in _COPIES or torch.Tag.pointwise in node.target.tags) and all(
            n.meta["val"].ndim == value.ndim if n in self._all else n.meta["val"].ndim < value.ndim for n in node.all_input_nodes
        )

    def _looked_up(self, table: fx.Node, indices: Sequence[fx.Node | None]) -> fx.Node | None:
        """A table read at the rows' places along its first dimensions."""
        named = [i for i in indices if i is not None]
        places = [self._places.get(i) for i in named]
        if table in self._all or table in self._places or None in places or list(indices[: len(named)]) != named:
            return None
        shape, count = list(table.meta["val"].shape), len(places)
        if len(set(places)) < count or [self._grid[k] for k in places] != shape[:count]:  # type: ignore[index]
            return None
        order = sorted(range(count), key=lambda p: places[p])  # type: ignore[arg-type, return-value]
        made = self._call(_aten.permute.default, table, [*order, *range(count, len(shape))])
        for k in range(len(self._grid)):
            if k not in places:
                made = self._call(_aten.unsqueeze.default, made, k)
        made = self._call(_aten.expand.default, made, [*self._grid, *shape[count:]])
        made = self._call(_aten.clone.default, made, memory_format=torch.contiguous_format)
        return self._call(_aten.view.default, made, [-1, *shape[count:]])

    def _summed(self, node: fx.Node) -> fx.Node | None:
        """Rows added up at their places."""
        args = Op.arguments(node)
        before, index, rows = args["self"], args["index"], args["source"]
        shape = list(before.meta["val"].shape)
        if index not in self._places or rows not in self._all or before in self._all or args.get("alpha", 1) != 1:
            return None
        place = self._places[index]
        if args["dim"] % len(shape) or shape[0] != self._grid[place] or list(rows.meta["val"].shape[1:]) != shape[1:]:  # type: ignore[index]
            return None
        counts = as_comparison(self._mask, self._call) or self._mask
        if counts.meta["val"].dtype != torch.bool:
            counts = self._call(_aten.ne.Scalar, counts, 0)
        counts = self._call(_aten._to_copy.default, counts, dtype=rows.meta["val"].dtype)
        counts = self._call(_aten.view.default, counts, [*self._grid, *[1] * (len(shape) - 1)])
        made = self._call(_aten.view.default, self._all[rows], [*self._grid, *shape[1:]])
        made = self._call(_aten.mul.Tensor, made, counts)
        if others := [k for k in range(len(self._grid)) if k != place]:
            made = self._call(_aten.sum.dim_IntList, made, others)
        return self._call(_aten.add.Tensor, before, made)

    def _call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        return call(self._graph, self._mode, self._found, target, *args, **kwargs)


def call(graph: fx.Graph, mode: FakeTensorMode, like: fx.Node, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
    """A new node, with the shape of its result, in the place in the code of another one."""

    def given(x: Any) -> Any:
        if not isinstance(x, fx.Node):
            return x
        return pytree.tree_map(lambda part: fake(mode, part) if isinstance(part, Tensor) else part, x.meta["val"])

    node = graph.call_function(target, args, kwargs)
    operands, options = pytree.tree_map(given, (args, kwargs), is_leaf=lambda x: isinstance(x, fx.Node))
    with mode, torch.no_grad():
        value = target(*operands, **options)
    node.meta = {"val": value, **{key: like.meta.get(key, "") for key in ("module_path", "source")}}
    return node
