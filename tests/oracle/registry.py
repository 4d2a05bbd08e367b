"""Expansion rules, keyed by the name of the ATen op (``"add"`` for all overloads of ``aten.add``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from .scalars import ScalarGraph


@dataclass(frozen=True)
class Ids:
    """A tensor of scalars: the vertex number of each. Constant tensors stay torch tensors."""

    ids: torch.Tensor

    @property
    def shape(self) -> torch.Size:
        return self.ids.shape


@dataclass(frozen=True)
class Context:
    """What a rule needs beside its arguments: the graph, the op, whether symmetric pairs may be swapped, and
    the traced node.
    """

    graph: ScalarGraph
    op: torch._ops.OpOverload
    swaps: bool = True
    node: fx.Node | None = None

    @property
    def name(self) -> str:
        return op_name(self.op)

    def ids(self, value: Any) -> torch.Tensor:
        """Vertex numbers of scalars, of a constant tensor or of a number."""
        if isinstance(value, Ids):
            return value.ids
        value = torch.as_tensor(value)
        flat = [self.graph.constant(v) for v in value.reshape(-1).tolist()]
        return torch.tensor(flat, dtype=torch.int64).reshape(value.shape)


Rule = Callable[[Context, SimpleNamespace], Any]
RULES: dict[str, Rule] = {}


def expands(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for ops by name. A rule gets the op's arguments by their schema names, defaults filled
    in.
    """

    def register(rule: Rule) -> Rule:
        for name in names:
            if name in RULES:
                raise ValueError(f"two expansion rules for {name}")
            RULES[name] = rule
        return rule

    return register


def op_name(op: torch._ops.OpOverload) -> str:
    """``add`` for ``aten.add.Tensor``."""
    return op._schema.name.split("::")[-1]


def bind(op: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> SimpleNamespace:
    """The arguments of a call by their schema names, with the defaults."""
    bound = {}
    for i, argument in enumerate(op._schema.arguments):
        if i < len(args) and not argument.kwarg_only:
            bound[argument.name] = args[i]
        else:
            bound[argument.name] = kwargs.get(argument.name, argument.default_value)
    return SimpleNamespace(**bound)


def invoke(op: torch._ops.OpOverload, bound: dict[str, Any]) -> Any:
    """Run an op on bound arguments."""
    schema = op._schema.arguments
    args = [bound[a.name] for a in schema if not a.kwarg_only]
    return op(*args, **{a.name: bound[a.name] for a in schema if a.kwarg_only})


def has_ids(value: Any) -> bool:
    """Whether scalars that are not constant occur in an argument."""
    return any(
        isinstance(leaf, Ids) for leaf in pytree.tree_leaves(value, is_leaf=lambda v: isinstance(v, Ids))
    )


def is_mask(ctx: Context, number: int) -> bool:
    """Whether one of the indices of the traced op marks entries instead of saying where they are."""
    assert ctx.node is not None
    return ctx.node.args[1][number].meta["val"].dtype in (torch.bool, torch.uint8)  # type: ignore[index, union-attr]


def wrap(out: Any) -> Any:
    """Tensors of vertex numbers, one or several, as :class:`Ids`."""
    return pytree.tree_map(lambda t: Ids(t.long()) if isinstance(t, torch.Tensor) else t, out)
