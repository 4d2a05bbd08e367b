"""From a captured graph of ATen ops to a DAG of scalars."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from . import attention, choices, contract, lookup, movement, norm, picking, placing, recurrent, reduce, scatter, spatial  # noqa: F401
from .pointwise import is_pointwise, pointwise
from .registry import RULES, Context, Ids, bind, has_ids, op_name
from .scalars import ScalarGraph


class Expander(fx.Interpreter):
    """Runs a captured graph on scalars instead of numbers. Constants are computed for real."""

    def __init__(self, capture: Any, swaps: bool = True, across: bool = False) -> None:
        super().__init__(capture.graph_module)
        self.capture = capture
        self.swaps, self.across = swaps, across
        self.scalars = ScalarGraph()
        self.leaves: dict[str, list[int]] = {}
        self.reads: list[Any] = []  # what control flow looks at is an output too

    def expand(self) -> list[int]:
        """The vertices of all output scalars, in order."""
        with torch.no_grad():
            outputs = pytree.tree_leaves(self.run(), is_leaf=lambda v: isinstance(v, Ids))
        return [v for out in [*outputs, *self.reads] if isinstance(out, Ids) for v in out.ids.reshape(-1).tolist()]

    def run_node(self, n: fx.Node) -> Any:
        self.node = n
        if n.op == "placeholder":
            return self._leaves(n)
        if n.op == "get_attr" and n.name in self.capture.constants:
            return self._constant(n.name)
        return super().run_node(n)

    def _constant(self, name: str) -> torch.Tensor:
        value = self.capture.constants[name]
        if value is None:
            raise NotImplementedError(
                f"the oracle needs the value of the constant {name}, which is on the meta device"
            )
        return value

    def _leaves(self, node: fx.Node) -> Ids | torch.Tensor:
        """State scalars share a label by tensor, or by its shape and type where they may move across tensors; user
        inputs are told apart; other placeholders are constants.
        """
        value = node.meta["val"]
        state = node.name in self.capture.states
        moves = self.across and value.is_floating_point()
        label = (tuple(value.shape), value.dtype) if moves else (node.name,)
        leaves = [
            self.scalars.leaf(label if state else (node.name, i), movable=state)
            for i in range(value.numel())
        ]
        if state:
            self.leaves[node.name] = leaves
        return Ids(torch.tensor(leaves, dtype=torch.int64).reshape(tuple(value.shape)))

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not isinstance(target, torch._ops.OpOverload):
            return target(*args, **kwargs)
        if not has_ids((args, kwargs)):
            return evaluate(target, args, kwargs)
        if op_name(target) in ("_local_scalar_dense", "equal", "is_nonzero"):
            self.reads += args
            return 0
        context, bound = Context(self.scalars, target, self.swaps, self.node), bind(target, args, kwargs)
        leaves = pytree.tree_leaves((args, kwargs), is_leaf=lambda v: isinstance(v, Ids))
        if any(isinstance(leaf, choices.Choice) for leaf in leaves) and op_name(target) in choices.RULES:
            found = choices.RULES[op_name(target)](context, bound)
            if found is not None:
                return found
        rule = RULES.get(op_name(target))
        if rule is None and is_pointwise(target) and not target._schema.is_mutable:
            rule = pointwise
        if rule is None:
            raise NotImplementedError(f"the oracle has no expansion for {target}")
        if any(isinstance(leaf, picking.Picked) for leaf in leaves):
            found = picking.expand(context, rule, bound)
            if found is not None:
                return found
        return rule(context, bound)


def evaluate(op: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A node that depends on constants only. It runs on the CPU even if the model was traced on ``meta``."""
    if "device" in kwargs:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    return op(*args, **kwargs)
