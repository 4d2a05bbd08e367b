"""What is looked up by a choice: a scalar for everything that could have been chosen, and which of them it is.

A function of scalars that were all looked up by the same choice is that choice among the functions. Which scalars an op
joins is found by running its expansion on marks, one for each choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from .registry import Context, Ids
from .scalars import ScalarGraph


@dataclass(frozen=True)
class Picked(Ids):
    """Scalars, and for each the vertices among which it was chosen and those of the one-hot choice."""

    options: torch.Tensor
    onehot: torch.Tensor


def is_ids(value: Any) -> bool:
    return isinstance(value, Ids)


def picked(ctx: Context, options: torch.Tensor, onehot: torch.Tensor) -> Picked:
    """By itself such a scalar is a function of the multiset of (whether it is this one, what it is)."""
    graph, count = ctx.graph, options.shape[-1]
    rows = zip(options.reshape(-1, count).tolist(), onehot.reshape(-1, count).tolist())
    flat = [graph.bag("read", [graph.call("if", pair) for pair in zip(o, v)]) for v, o in rows]
    return Picked(torch.tensor(flat, dtype=torch.int64).reshape(options.shape[:-1]), options, onehot)


def expand(ctx: Context, rule: Callable[[Context, Any], Any], arguments: Any) -> Any:
    """The result of a rule for each option, where every scalar of the result depends on one choice; else None."""
    choices, marks = _marked(arguments)
    scratch = Context(ScalarGraph(), ctx.op, ctx.swaps, ctx.node)
    leaves = [scratch.graph.leaf(("choice", k), movable=True) for k in range(len(choices))]
    other = scratch.graph.leaf("other", movable=True)
    marked = _replaced(arguments, lambda v: Ids(torch.tensor(leaves)[marks[id(v)]] if id(v) in marks
                                                else torch.full(v.ids.shape, other)))  # fmt: skip
    shapes = rule(scratch, marked)
    which = [_single(scratch.graph, out.ids, leaves) for out in pytree.tree_leaves(shapes, is_leaf=is_ids)]
    if any(found is None for found in which):
        return None
    count = len(choices[0])
    per_option = [
        pytree.tree_leaves(rule(ctx, _replaced(arguments, lambda v, e=e: Ids(v.options[..., e]) if isinstance(v, Picked) else v)),
                           is_leaf=is_ids)
        for e in range(count)
    ]  # fmt: skip
    table = torch.tensor(choices)
    results = [picked(ctx, torch.stack([o.ids for o in outs], -1), table[at]) for outs, at in zip(zip(*per_option), which)]
    return results if isinstance(shapes, (list, tuple)) else results[0]


def _marked(arguments: Any) -> tuple[list[tuple[int, ...]], dict[int, torch.Tensor]]:
    """All choices that occur, and for each operand that was looked up the number of the choice of each scalar."""
    numbers: dict[tuple[int, ...], int] = {}
    marks = {}
    for leaf in pytree.tree_leaves(vars(arguments), is_leaf=is_ids):
        if isinstance(leaf, Picked):
            rows = [tuple(row) for row in leaf.onehot.reshape(-1, leaf.onehot.shape[-1]).tolist()]
            found = [numbers.setdefault(row, len(numbers)) for row in rows]
            marks[id(leaf)] = torch.tensor(found).reshape(leaf.ids.shape)
    return list(numbers), marks


def _replaced(arguments: Any, new: Callable[[Ids], Ids]) -> Any:
    return type(arguments)(**pytree.tree_map(lambda v: new(v) if is_ids(v) else v, vars(arguments), is_leaf=is_ids))


def _single(graph: ScalarGraph, vertices: torch.Tensor, leaves: list[int]) -> torch.Tensor | None:
    """For each vertex the number of the one choice on which it depends; None where one depends on none or on several."""
    numbers = {leaf: k for k, leaf in enumerate(leaves)}
    below: dict[int, frozenset[int]] = {}

    def choices_of(v: int) -> frozenset[int]:
        if v not in below:
            found = {numbers[v]} if v in numbers else set()
            below[v] = frozenset(found.union(*(choices_of(child) for child in graph.children[v])))
        return below[v]

    sets = [choices_of(v) for v in vertices.reshape(-1).tolist()]
    if any(len(found) != 1 for found in sets):
        return None
    return torch.tensor([next(iter(found)) for found in sets], dtype=torch.int64).reshape(vertices.shape)
