"""Which nodes are made alike, from slices and weights on."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from autoperm.inference.slices import slice_of
from autoperm.inference.stacks import is_weight

_aten = torch.ops.aten
#: Ops that compare with a number, which may be that of a turn.
COMPARES = (_aten.eq.Scalar, _aten.ne.Scalar)


class Forms:
    """A number for each node: equal for nodes that may be turns of one loop."""

    def __init__(self) -> None:
        self._of: dict[fx.Node, int] = {}
        self._numbers: dict[Hashable, int] = {}

    def of(self, node: fx.Node) -> int:
        waiting = [node]
        while waiting:
            here = waiting[-1]
            if missing := [n for n in here.all_input_nodes if n not in self._of]:
                waiting += missing
                continue
            waiting.pop()
            self._of[here] = self._numbers.setdefault(self._form(here), len(self._numbers))
        return self._of[node]

    def _form(self, node: fx.Node) -> Hashable:
        value = node.meta.get("val")
        kind = (tuple(value.shape), value.dtype) if isinstance(value, torch.Tensor) else None
        if is_weight(node):
            return "weight", kind, len(node.users)
        if node.op != "call_function":
            return node
        if (part := slice_of(node)) is not None:
            return "slice", self._of[part.base], part.dim, part.step, part.length, part.keeps
        args: list[Any] = list(node.args[:1] if node.target in COMPARES else node.args)
        flat, structure = pytree.tree_flatten((args, dict(node.kwargs)))
        operands = tuple(self._of[x] if isinstance(x, fx.Node) else repr(x) for x in flat)
        return node.target, kind, len(node.users), repr(structure), operands
