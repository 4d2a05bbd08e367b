"""Lanes: values that are computed alike, each from a slice of its own of the same tensors, or from weights of its own."""

from __future__ import annotations

import contextlib
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from autoperm.inference.forms import COMPARES
from autoperm.inference.slices import Slice, distance, slice_of, stacked, starts_of
from autoperm.inference.stacks import is_weight
from autoperm.rules.attention import is_attention
from autoperm.rules.op import Op

#: One node for each lane.
Lanes = tuple[fx.Node, ...]

#: The most ops of a lane.
MOST_OPS = 2000


@dataclass(frozen=True)
class Cut:
    """Slices of one tensor at equal distances."""

    first: Slice
    step: int


@dataclass(frozen=True)
class Own:
    """Weights of one shape, one for each lane."""


@dataclass(frozen=True)
class Lane:
    """What lanes compute, from the slices and weights on.

    Attributes:
        lanes: the results.
        cuts: slices that they start from.
        own: weights of which each lane has one.
        shared: what all of them read, by the lanes that are one node.
        ops: what they compute, in order.
        order: for each of them, in the order of the slices, which of the given ones it is.
    """

    lanes: Lanes
    cuts: Mapping[Lanes, Cut]
    own: Sequence[Lanes]
    shared: Mapping[Lanes, fx.Node]
    ops: Sequence[Lanes]
    order: tuple[int, ...] = ()

    @property
    def sources(self) -> list[fx.Node]:
        """The nodes outside that the lanes are computed from."""
        bases = (cut.first.base for cut in self.cuts.values())
        return list(dict.fromkeys([*bases, *itertools.chain(*self.own), *self.shared.values()]))

    @property
    def is_even(self) -> bool:
        """Whether each lane is read in as many places, its own weights and what is made of them: no lane is read apart."""
        return not self.own or all(len({len(node.users) for node in lanes}) == 1 for lanes in (*self.own, *self.ops))

    def run(self, values: Mapping[fx.Node, Tensor]) -> Tensor:
        """All lanes at once from the values of the sources, along a new first dimension."""
        parts = [stacked(values[cut.first.base], cut.first, cut.step, len(self.lanes)) for cut in self.cuts.values()]
        parts += [torch.stack([values[node] for node in lanes]) for lanes in self.own]
        numbers = torch.arange(len(self.lanes), device=parts[0].device)
        with _no_fallback():
            return torch.vmap(lambda number, *own: self._one(values, number, own))(numbers, *parts)

    def _one(self, values: Mapping[fx.Node, Tensor], number: Tensor, own: Sequence[Tensor]) -> Tensor:
        found: dict[Lanes, Any] = dict(zip([*self.cuts, *self.own], own, strict=True))
        found |= {lanes: values[node] for lanes, node in self.shared.items()}
        for op in self.ops:
            flat = [found[x] if isinstance(x, tuple) else number if x is _NUMBER else x for x in _operands(op)]
            args, kwargs = pytree.tree_unflatten(flat, _structure(op[0]))
            found[op] = _batched(op[0])(*args, **kwargs)
        return found[self.lanes]  # type: ignore[no-any-return]


@contextlib.contextmanager
def _no_fallback() -> Iterator[None]:
    """Ops that ``vmap`` can only run in a loop are an error: nothing would be gained."""
    before = torch._C._functorch._is_vmap_fallback_enabled()
    torch._C._functorch._set_vmap_fallback_enabled(False)
    try:
        yield
    finally:
        torch._C._functorch._set_vmap_fallback_enabled(before)


def lane(given: Lanes) -> Lane | None:
    """How some nodes are lanes, in the order of their slices; None if they are not."""
    order = tuple(range(len(given)))
    found = _lane(given)
    if isinstance(found, list):
        order = tuple(sorted(order, key=found.__getitem__))
        found = _lane(tuple(given[k] for k in order))
    return replace(found, order=order) if isinstance(found, Lane) else None


def _lane(lanes: Lanes) -> Lane | list[int] | None:
    """The same in the given order; where slices start if that is another order."""
    found: dict[Lanes, Cut | Own | fx.Node | None] = {}  # None for an op
    waiting = [lanes]
    while waiting:
        here = waiting[-1]
        if here in found:
            waiting.pop()
            continue
        leaf = _leaf(here)
        if leaf is None and not _alike(here):
            return starts if (starts := starts_of([slice_of(node) for node in here])) and starts != sorted(starts) else None
        operands = [x for x in _operands(here) if isinstance(x, tuple)] if leaf is None else []
        if unknown := [x for x in operands if x not in found]:
            waiting += unknown
            if len(found) + len(waiting) > MOST_OPS:
                return None
            continue
        if leaf is None and all(isinstance(found[x], fx.Node) for x in operands) and _NUMBER not in _operands(here):
            leaf = here[0]  # the same, computed anew for each lane
        found[here] = leaf
    if isinstance(found[lanes], (fx.Node, Own)):
        return None
    return Lane(
        lanes,
        {k: v for k, v in found.items() if isinstance(v, Cut)},
        [k for k, v in found.items() if isinstance(v, Own)],
        {k: v for k, v in found.items() if isinstance(v, fx.Node)},
        [k for k, v in found.items() if v is None],
    )


def _leaf(lanes: Lanes) -> Cut | Own | fx.Node | None:
    if all(node is lanes[0] for node in lanes):
        return lanes[0]
    if all(is_weight(node) and _kind(node) == _kind(lanes[0]) for node in lanes) and len(set(lanes)) == len(lanes):
        return Own()
    slices = [slice_of(node) for node in lanes]
    step = distance(slices)
    return None if step is None else Cut(slices[0], step)  # type: ignore[arg-type]


def _alike(lanes: Lanes) -> bool:
    """Whether nodes are the same op with the same arguments, but for the nodes among them."""
    first = lanes[0]
    if not all(node.op == "call_function" and node.target == first.target and _kind(node) == _kind(first) for node in lanes):
        return False
    if first.target is not operator.getitem and not _is_pure(first.target) and not all(map(_is_plain_attention, lanes)):
        return False
    if any(_structure(node) != _structure(first) for node in lanes[1:]):
        return False
    return all(x is not _DIFFERENT for x in _operands(lanes))


def _kind(node: fx.Node) -> list[Any]:
    return [(v.shape, v.dtype, v.device) if isinstance(v, Tensor) else v for v in pytree.tree_leaves(node.meta.get("val"))]


def _is_pure(target: Any) -> bool:
    """Whether a result depends on the values of the operands alone, whatever they are."""
    if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable or target.overloadpacket in _BY_MEMORY:
        return False
    return _IMPURE.isdisjoint(target.tags)


#: Ops that read the memory of an operand, which may hold more than its values and in another order.
_BY_MEMORY = {getattr(torch.ops.aten, name) for name in ("as_strided", "as_strided_copy", "as_strided_scatter", "_reshape_alias")}
_IMPURE = {torch.Tag.nondeterministic_seeded, torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}
_DIFFERENT, _NUMBER = object(), object()


def _is_plain_attention(node: fx.Node) -> bool:
    """Whether a node is fused attention without dropout, of which nothing but the result is read."""
    if not is_attention(node):
        return False
    whole = isinstance(node.meta["val"], Tensor) or all(user.args[1] == 0 for user in node.users)
    return whole and not Op.arguments(node).get("dropout_p")


def _batched(node: fx.Node) -> Callable[..., Any]:
    """What ``vmap`` makes one op of: of fused attention what it is made of, of a comparison with a number that with a tensor."""
    target: Any = node.target
    if target in COMPARES:
        return target.overloadpacket  # type: ignore[no-any-return]
    if not is_attention(node):
        return target  # type: ignore[no-any-return]

    def attention(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(Op.arguments(node), args, strict=False)), **kwargs}
        options = {name: given[name] for name in ("attn_mask", "is_causal", "scale", "enable_gqa") if name in given}
        mask = {"attn_mask": given["attn_bias"]} if "attn_bias" in given else {}
        read = (given["query"], given["key"], given["value"])
        found = torch.ops.aten._scaled_dot_product_attention_math(*read, **options, **mask)
        return found[0] if len(target._schema.returns) == 1 else found

    return attention


def _operands(lanes: Lanes) -> list[Any]:
    """The arguments, flat: nodes as lanes, the rest as it is.

    ``_NUMBER`` stands for the number of the lane, ``_DIFFERENT`` for anything else that is not the same in all.
    """
    found: list[Any] = []
    for parts in zip(*(_flat(node) for node in lanes), strict=True):
        if all(isinstance(part, fx.Node) for part in parts):
            found.append(tuple(parts))
        elif lanes[0].target in COMPARES and parts == tuple(range(len(parts))):
            found.append(_NUMBER)
        else:
            same = all(type(part) is type(parts[0]) and part == parts[0] for part in parts)
            found.append(parts[0] if same and not isinstance(parts[0], tuple) else _DIFFERENT)
    return found


def _flat(node: fx.Node) -> list[Any]:
    return pytree.tree_flatten((tuple(node.args), dict(node.kwargs)))[0]


def _structure(node: fx.Node) -> pytree.TreeSpec:
    return pytree.tree_flatten((tuple(node.args), dict(node.kwargs)))[1]
