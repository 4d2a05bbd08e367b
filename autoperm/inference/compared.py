"""One-hot forms of indices, and what is read of them, as comparisons of the index with numbers."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch import fx

_aten = torch.ops.aten
Call = Callable[..., fx.Node]

_COPIES = (_aten._to_copy.default, _aten.alias.default, _aten.clone.default, _aten.detach.default)
#: Ops that pass on the indices that they are given, in whatever shape.
_PASSES = (*_COPIES, _aten.view.default, _aten.reshape.default, _aten.permute.default, _aten.t.default, _aten.unsqueeze.default)
#: What Python may make of a number before it reads it.
_COMPARES = (_aten.eq.Scalar, _aten.ne.Scalar, _aten.lt.Scalar, _aten.ge.Scalar)
_READ = _aten._local_scalar_dense.default


def one_hot(node: fx.Node) -> fx.Node | None:
    """The index of which a node is the one-hot form, along its last dimension."""
    while node.target in _COPIES:
        node = node.args[0]  # type: ignore[assignment]
    if node.target is not _aten.eq.Tensor:
        return None
    index, numbers = node.args
    if not (isinstance(index, fx.Node) and isinstance(numbers, fx.Node)) or numbers.target is not _aten.arange.default:
        return None
    last = index.meta["val"].ndim - 1
    spread = index.target is _aten.unsqueeze.default and index.args[1] in (-1, last)
    if not spread or numbers.args != tuple(node.meta["val"].shape[-1:]):
        return None
    return index.args[0]  # type: ignore[return-value]


def _turned(node: fx.Node) -> tuple[fx.Node | None, list[int]]:
    """The index of which a node is the one-hot form with its dimensions in another order, and that order."""
    order = list(range(node.meta["val"].ndim))
    if node.target is _aten.permute.default:
        order = [d % len(order) for d in node.args[1]]  # type: ignore[union-attr]
        node = node.args[0]  # type: ignore[assignment]
    return one_hot(node), order


def as_comparison(mask: fx.Node, call: Call) -> fx.Node | None:
    """One class of a one-hot form, as a comparison of the index with its number; None if it is not that."""
    if mask.target is not _aten.select.int:
        return None
    base, dim, number = mask.args
    index, order = _turned(base)  # type: ignore[arg-type]
    if index is None or order[dim] != len(order) - 1:  # type: ignore[index]
        return None
    rest = [d for d in order if d != len(order) - 1]
    made = call(_aten.eq.Scalar, index, number)
    return made if rest == sorted(rest) else call(_aten.permute.default, made, rest)


def read_as_a_set(graph: fx.Graph, found: fx.Node, call: Call) -> None:
    """Where Python reads the numbers of the classes that were chosen, and all of them were, let it read that alone.

    ``for e in one_hot(index).sum(...).gt(0).nonzero(): ...`` reads 0, 1, 2 ... Those are what they are for just the inputs for
    which each class is chosen by some; in which order, the numbers do not say.

    Arguments:
        found: the ``nonzero``.
        call: makes a node, see :func:`autoperm.inference.visits.call`.
    """
    index = _counted(found.args[0])  # type: ignore[arg-type]
    if index is None or _options(index) != found.meta["val"].shape[0]:
        return
    below, taken = _only_read(found)
    if below is None:
        return
    with graph.inserting_before(found):
        numbers = call(_aten.arange.default, found.meta["val"].shape[0], device=index.meta["val"].device)
        chosen = call(_aten.eq.Tensor, call(_aten.unsqueeze.default, index, -1), numbers)
        for _ in range(index.meta["val"].ndim):
            chosen = call(_aten.any.dim, chosen, 0)
        all_of_them = call(_aten.all.default, chosen)
        read = graph.call_function(_READ, (all_of_them,))
        read.meta = {**found.meta, "val": None}
    for node in taken:
        _take(graph, node, call)
    for node in reversed(below):
        graph.erase_node(node)


def _take(graph: fx.Graph, node: fx.Node, call: Call) -> None:
    """``table[e]``, where e is one of all the classes and so is its own place in the list of them, as a slice of the table."""
    table, (number,) = node.args  # type: ignore[misc]
    with graph.inserting_before(node):
        taken = call(_aten.select.int, table, 0, number.args[1])
        kept = call(_aten.unsqueeze.default, taken, 0)
    for user in list(node.users):
        if user.target is _aten.squeeze.dim and user.args[1] in (0, -node.meta["val"].ndim):
            user.replace_all_uses_with(taken)
            graph.erase_node(user)
    node.replace_all_uses_with(kept)


def _counted(node: fx.Node) -> fx.Node | None:
    """The index of which a node says whether each class is there at all."""
    if node.target is not _aten.gt.Scalar or node.args[1] != 0:
        return None
    total: fx.Node = node.args[0]  # type: ignore[assignment]
    if total.target is not _aten.sum.dim_IntList or node.meta["val"].ndim != 1:
        return None
    index, order = _turned(total.args[0])  # type: ignore[arg-type]
    gone = {d % len(order) for d in total.args[1]}  # type: ignore[union-attr]
    return index if [order[k] for k in range(len(order)) if k not in gone] == [len(order) - 1] else None


def _options(index: fx.Node) -> int | None:
    """Of how many an index is the number of one."""
    while index.target in _PASSES:
        index = index.args[0]  # type: ignore[assignment]
    if index.target is operator.getitem and index.args[1] == 1:
        source: fx.Node = index.args[0]  # type: ignore[assignment]
        if source.target in (_aten.topk.default, _aten.sort.default, _aten.max.dim):
            dim = source.kwargs.get("dim", source.args[_DIMS[source.target]] if len(source.args) > _DIMS[source.target] else -1)
            return int(source.args[0].meta["val"].shape[dim])  # type: ignore[union-attr, index]
    return None


_DIMS = {_aten.topk.default: 2, _aten.sort.default: 1, _aten.max.dim: 1}


def _only_read(found: fx.Node) -> tuple[list[fx.Node] | None, list[fx.Node]]:
    """All that is made of a list of positions, if that is nothing but numbers which Python reads; the list first.

    A table may be looked up by one of them too: such nodes come second.
    """
    below, taken, waiting = {found}, [], [found]
    while waiting:
        here = waiting.pop()
        for user in here.users:
            if _looks_up(user, here, found):
                taken.append(user)
            elif user.target in (_aten.unbind.int, operator.getitem, _aten.select.int, *_COMPARES):
                waiting.append(user)
            elif user.target is not _READ:
                return None, []
            below.add(user)
    return sorted(below), taken


def _looks_up(node: fx.Node, number: fx.Node, found: fx.Node) -> bool:
    """Whether a node is ``table[number]``, with an entry of the list of positions that was taken off it by itself."""
    if node.target is not _aten.index.Tensor or list(node.args[1]) != [number] or number.target is not operator.getitem:  # type: ignore[call-overload]
        return False
    unbind: fx.Node = number.args[0]  # type: ignore[assignment]
    return unbind.target is _aten.unbind.int and unbind.args[1:] in ((), (0,)) and unbind.args[0] is found
