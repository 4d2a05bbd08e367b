"""From a captured graph of ATen ops to a DAG of scalars."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from . import attention, contract, lookup, movement, norm, recurrent, reduce, spatial  # noqa: F401  (they register)
from .pointwise import is_pointwise, pointwise
from .registry import RULES, Context, Ids, bind, has_ids, op_name
from .scalars import ScalarGraph


class Expander(fx.Interpreter):
    """Runs a captured graph on scalars instead of numbers. Constants are computed for real."""

    def __init__(self, capture: Any, swaps: bool = True) -> None:
        super().__init__(capture.graph_module)
        self.capture = capture
        self.swaps = swaps
        self.scalars = ScalarGraph()

    def expand(self) -> list[int]:
        """The vertices of all output scalars, in order."""
        with torch.no_grad():
            outputs = pytree.tree_leaves(self.run(), is_leaf=lambda v: isinstance(v, Ids))
        return [v for out in outputs if isinstance(out, Ids) for v in out.ids.reshape(-1).tolist()]

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "placeholder":
            return self._leaves(n)
        if n.op == "get_attr" and n.name in self.capture.constants:
            return self.capture.constants[n.name]
        return super().run_node(n)

    def _leaves(self, node: fx.Node) -> Ids | torch.Tensor:
        """State scalars share a label by tensor; user inputs are told apart; other placeholders are constants."""
        value = node.meta["val"]
        state = node.name in self.capture.states
        leaves = [
            self.scalars.leaf((node.name,) if state else (node.name, i), movable=state) for i in range(value.numel())
        ]
        return Ids(torch.tensor(leaves, dtype=torch.int64).reshape(tuple(value.shape)))

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not isinstance(target, torch._ops.OpOverload):
            return target(*args, **kwargs)
        if not has_ids((args, kwargs)):
            return evaluate(target, args, kwargs)
        name = op_name(target)
        if name.endswith("_") and not name.endswith("__") and name not in RULES:
            return self._in_place(target, args, kwargs)
        return self._apply(target, args, kwargs)

    def _apply(self, op: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rule = RULES.get(op_name(op))
        if rule is None and is_pointwise(op):
            rule = pointwise
        if rule is None:
            raise NotImplementedError(f"the oracle has no expansion for {op}")
        return rule(Context(self.scalars, op, self.swaps), bind(op, args, kwargs))

    def _in_place(self, op: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Written through to the vertex numbers: views of them alias as the tensors themselves would."""
        if not isinstance(args[0], Ids):
            raise NotImplementedError(f"the oracle does not expand {op} into a constant tensor")
        functional = getattr(getattr(torch.ops.aten, op_name(op)[:-1]), op._overloadname)
        args[0].ids.copy_(self._apply(functional, args, kwargs).ids)
        return args[0]


def evaluate(op: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A node that depends on constants only. It runs on the CPU even if the model was traced on ``meta``."""
    if "device" in kwargs:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    return op(*args, **kwargs)
