"""Whether what a model makes of ``topk(sorted=False)`` is the same in any order.

Such a topk gives its results in an order of the implementation's, which looks at positions. That is no matter where they are
summed over, or mark the chosen ones in a mask. The dimension of the k results is followed from op to op; what this file does
not know of ends in a no.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from autoperm.rules.movement import reordered
from autoperm.rules.op import Labels, Op, dims_of
from autoperm.rules.registry import registering
from autoperm.rules.ties import is_chosen


@dataclass(frozen=True)
class Along:
    """Where the k results are in a tensor: a dimension, or a digit of one that was flattened, of so many before and after.

    Where other things were put beside them, ``at`` says how many come first, and ``beside`` how many there are.
    """

    dim: int
    before: int = 1
    after: int = 1
    at: int = 0
    beside: int = 0


class _Ordered(Exception):
    """The order may matter."""


#: From the op and which of its inputs have the results where, to where its result has them; None if nowhere.
Follow = Callable[["_Walk", Op, dict[fx.Node, Along]], Along | None]

_RULES: dict[str, Follow] = {}
_following = registering(_RULES)


def in_any_order(labels: Labels, topk: fx.Node, dim: int) -> bool:
    """Whether the outputs of the graph are the same in whatever order a topk gives its results."""
    try:
        if (k := Op(labels, topk)["k"]) > 1:
            _Walk(labels, k).follow(topk, dim)
    except _Ordered:
        return False
    return True


class _Walk:
    def __init__(self, labels: Labels, k: int):
        self.labels, self.k = labels, k

    def follow(self, topk: fx.Node, dim: int) -> None:
        found: dict[fx.Node, Along] = {}
        for node in topk.graph.nodes:
            if topk in node.all_input_nodes:
                found[node] = Along(dim)
                continue
            read = {n: found[n] for n in node.all_input_nodes if n in found}
            if read and (along := self._through(node, read)) is not None:
                found[node] = along

    def _through(self, node: fx.Node, read: dict[fx.Node, Along]) -> Along | None:
        if node.target is operator.getitem:
            return read[node.args[0]]  # type: ignore[index]
        if not isinstance(node.target, torch._ops.OpOverload):
            raise _Ordered
        name = str(node.target).split(".")[1]
        rule = _RULES.get(name) or (_pointwise if torch.Tag.pointwise in node.target.tags else None)
        if rule is None or (any(a.beside for a in read.values()) and rule not in _WITH_OTHERS):
            raise _Ordered
        return rule(self, Op(self.labels, node), read)

    def is_even(self, node: Any, along: Along) -> bool:
        """Whether a tensor that has not the results is the same for each of them, along a dimension counted from its own."""
        if not isinstance(node, fx.Node) or along.dim < 0 or node.meta["val"].shape[along.dim] == 1:
            return True
        if along.beside:
            value = self.labels.value(node)
            mine = None if value is None else value.narrow(along.dim, along.at, self.k)
            return mine is not None and bool((mine == mine.narrow(along.dim, 0, 1)).all())
        if (value := self.labels.value(node)) is not None:
            parts = value.movedim(along.dim, 0).reshape(along.before, self.k, along.after, -1)
            return bool((parts == parts[:, :1]).all())
        name = str(node.target).split(".")[1] if node.op == "call_function" and node.target is not operator.getitem else ""
        if name in ("index", "index_select", "embedding"):
            op = Op(self.labels, node)
            index = op["indices"] if name != "index" else (op["indices"][0] if len(op["indices"]) == 1 else None)
            return isinstance(index, fx.Node) and along.dim < index.meta["val"].ndim and self.is_even(index, along)
        if name == "expand":
            inside = along.dim - node.meta["val"].ndim + node.args[0].meta["val"].ndim  # type: ignore[union-attr]
            return self.is_even(node.args[0], Along(inside, along.before, along.after))
        if name in ("unsqueeze", "_to_copy", "clone", "view", "reshape"):
            inner = _moved(node.meta["val"].shape, along, node.all_input_nodes[0].meta["val"].shape, self.k)
            return inner is not None and self.is_even(node.all_input_nodes[0], inner)
        return False


def _moved(old: Sequence[int], along: Along, new: Sequence[int], k: int) -> Along | None:
    """Where the results are after a reshape; None where their dimension is cut."""
    before = math.prod(old[: along.dim]) * along.before
    for dim, size in enumerate(new):
        outer = math.prod(new[:dim])
        if before % outer == 0 and size % (before // outer * k) == 0 and before // outer * k <= size:
            inside = before // outer
            return Along(dim, inside, size // (inside * k))
    return None


@_following("_to_copy clone alias detach contiguous one_hot log_sigmoid_forward _softmax _log_softmax _safe_softmax")
def _same(walk: _Walk, op: Op, read: dict[fx.Node, Along]) -> Along | None:
    return next(iter(read.values()))


@_following("cat")
def _joined(walk: _Walk, op: Op, read: dict[fx.Node, Along]) -> Along | None:
    """The results with other things beside them; along another dimension all parts have them."""
    dim, parts = op["dim"] % len(op.shape()), op["tensors"]
    places = {read.get(part) for part in parts}
    if len(places) == 1 and None not in places and (along := read[parts[0]]).dim != dim:
        return along
    mine = [k for k, part in enumerate(parts) if part in read]
    if len(mine) != 1 or read[parts[mine[0]]] != Along(dim):
        raise _Ordered
    sizes = [part.meta["val"].shape[dim] for part in parts]
    return Along(dim, at=sum(sizes[: mine[0]]), beside=sum(sizes) - walk.k)


@_following("split split_with_sizes slice")
def _cut(walk: _Walk, op: Op, read: dict[fx.Node, Along]) -> Along | None:
    """Along another dimension; or the results apart from what is beside them."""
    ((node, along),) = read.items()
    shape = node.meta["val"].shape
    if op["dim"] % len(shape) != along.dim:
        return along
    if not along.beside or "slice" not in op.name:
        raise _Ordered
    taken = set(range(shape[along.dim])[slice(op["start"], op["end"], op["step"])])
    mine = set(range(along.at, along.at + walk.k))
    if taken & mine and taken != mine:
        raise _Ordered
    return Along(along.dim) if taken == mine else None


def _pointwise(walk: _Walk, op: Op, read: dict[fx.Node, Along]) -> Along | None:
    ndim = len(op.shape())
    places = {replace(a, dim=a.dim + ndim - n.meta["val"].ndim) for n, a in read.items()}
    if len(places) != 1:
        raise _Ordered
    (along,) = places
    for node in op.node.all_input_nodes:
        own = replace(along, dim=along.dim - ndim + node.meta["val"].ndim)
        if node not in read and not walk.is_even(node, own):
            raise _Ordered
    return along


@_following("view reshape _unsafe_view unsqueeze squeeze flatten unflatten")
def _reshaped(walk: _Walk, op: Op, read: dict[fx.Node, Along]) -> Along | None:
    ((node, along),) = read.items()
    found = _moved(node.meta["val"].shape, along, op.shape(), walk.k)
    if found is None:
        raise _Ordered
    return found


@_following("permute transpose t")
def _permuted(walk: _Walk, op: Op, read: dict[fx.Node, Along]) -> Along | None:
    ((node, along),) = read.items()
    return Along(reordered(op, node.meta["val"].ndim).index(along.dim), along.before, along.after)


@_following("expand")
def _expanded(walk: _Walk, op: Op, read: dict[fx.Node, Along]) -> Along | None:
    ((node, along),) = read.items()
    return Along(along.dim + len(op.shape()) - node.meta["val"].ndim, along.before, along.after)


@_following("sum mean amax amin prod any logsumexp")
def _reduced(walk: _Walk, op: Op, read: dict[fx.Node, Along]) -> Along | None:
    ((node, along),) = read.items()
    dims = dims_of(op.get("dim"), node.meta["val"].ndim)
    if along.dim in dims:
        return None
    gone = 0 if len(op.shape()) == node.meta["val"].ndim else sum(d < along.dim for d in dims)
    return replace(along, dim=along.dim - gone)


@_following("gather")
def _gathered(walk: _Walk, op: Op, read: dict[fx.Node, Along]) -> Along | None:
    if set(read) != {op["index"]} or op["dim"] % len(op.shape()) != read[op["index"]].dim:
        raise _Ordered
    return read[op["index"]]


@_following("index embedding index_select")
def _looked_up(walk: _Walk, op: Op, read: dict[fx.Node, Along]) -> Along | None:
    indices = op["indices"] if op.name.startswith("aten.index.") else [op["index"] if "index" in op.args else op["indices"]]
    if len(indices) != 1 or set(read) != {indices[0]}:
        raise _Ordered
    along = read[indices[0]]
    return Along(op["dim"], along.before, along.after) if op.name.startswith("aten.index_select") else along


@_following("scatter scatter_add")
def _marked(walk: _Walk, op: Op, read: dict[fx.Node, Along]) -> Along | None:
    """Different positions, each written to once or added to."""
    along, source = read.get(op["index"]), op.get("src")
    if along != Along(op["dim"] % len(op.shape())) or op["self"] in read:
        raise _Ordered
    if isinstance(source, fx.Node) and read.get(source) != along and not (source not in read and walk.is_even(source, along)):
        raise _Ordered
    apart = op.name.startswith("aten.scatter_add") or is_chosen(walk.labels, op["index"], along.dim, len(op.shape()))
    if source in read and not apart:  # what was made of the positions may be the same for two of them: the last one stays
        raise _Ordered
    return None


@_following("index_add")
def _added(walk: _Walk, op: Op, read: dict[fx.Node, Along]) -> Along | None:
    along, index = read.get(op["source"]), op["index"]
    if along is None or op["self"] in read or along.dim != op["dim"] % len(op.shape()):
        raise _Ordered
    own = Along(0, along.before, along.after)
    if read.get(index) != own and not (index not in read and walk.is_even(index, own)):
        raise _Ordered
    return None


@_following("bmm mm")
def _multiplied(walk: _Walk, op: Op, read: dict[fx.Node, Along]) -> Along | None:
    """Along rows, columns or the batch; or both summed over."""
    left, right = op.node.all_input_nodes if len(op.node.all_input_nodes) == 2 else (None, None)
    last = len(op.shape()) - 1
    a, b = read.get(left), read.get(right)  # type: ignore[arg-type]
    if left is None or right is None:
        raise _Ordered
    if a is not None and b is not None and a.dim == last and b.dim == last - 1 and (a.before, a.after) == (b.before, b.after):
        return None
    for along, other, own in ((a, b, 0), (b, a, 1)):
        if along is None:
            continue
        if along.dim == 0 and last == 2:  # the batch
            if other == along or (other is None and walk.is_even((left, right)[1 - own], along)):
                return along
        elif other is None and along.dim == (last if own else last - 1):
            return along
    raise _Ordered


#: What follows results that have other things beside them.
_WITH_OTHERS = {_same, _pointwise, _joined, _cut, _reduced}
