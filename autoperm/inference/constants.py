"""Values in the graph that do not depend on weights or inputs: masks, position tables, index tensors."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import fx

from autoperm.capture import Capture

#: Constants with more entries than this are not evaluated: their axes are pinned.
LIMIT = 1 << 22

#: What factories fill with. What memory holds that nobody has written to is no part of a function: zeros will do.
_FILLS = {
    "aten.empty": 0,
    "aten.empty_like": 0,
    "aten.new_empty": 0,
    "aten.empty_strided": 0,
    "aten.new_empty_strided": 0,
    "aten.zeros": 0,
    "aten.zeros_like": 0,
    "aten.new_zeros": 0,
    "aten.ones": 1,
    "aten.ones_like": 1,
    "aten.new_ones": 1,
    "aten.full": None,
    "aten.full_like": None,
    "aten.new_full": None,
    "aten.scalar_tensor": None,
}


class Constants:
    """Which nodes are constant, and their values where they are small enough to know."""

    def __init__(self, capture: Capture):
        # What the forward changes may have any value in the next call.
        self._attributes = {name: None if name in capture.changing else value for name, value in capture.constants.items()}
        self._constant: dict[fx.Node, bool] = {}
        self._values: dict[fx.Node, Any] = {}

    def is_constant(self, node: fx.Node) -> bool:
        found = self._constant.get(node)
        if found is None:
            found = self._constant[node] = self._decide(node)
        return found

    def _decide(self, node: fx.Node) -> bool:
        if node.op == "get_attr":
            return True
        if node.op != "call_function":
            return False
        if _packet(node) in _FILLS:
            return True
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):  # random numbers
            return False
        return all(self.is_constant(source) for source in node.all_input_nodes)

    def value(self, node: fx.Node) -> torch.Tensor | None:
        """The value of a constant node, None where it is not constant or not known."""
        if not self.is_constant(node):
            return None
        if node not in self._values:
            self._values[node] = self._evaluate(node)
        found = self._values[node]
        return found if isinstance(found, torch.Tensor) else None

    def uniform(self, node: fx.Node) -> list[bool]:
        """For each dimension whether the value is the same all along it."""
        value = node.meta["val"]
        if _packet(node) in _FILLS:
            return [True] * value.ndim
        known = self.value(node)
        if known is None or known.numel() == 0:
            return [False] * value.ndim
        return [bool((known == known.narrow(d, 0, 1)).all()) for d in range(known.ndim)]

    def _evaluate(self, node: fx.Node) -> Any:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and math.prod(value.shape) > LIMIT:
            return None
        if node.op == "get_attr":
            return self._attributes.get(node.name)
        try:
            if _packet(node) in _FILLS:
                return self._fill(node)
            args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), self._need)
            kwargs = {k: ("cpu" if k == "device" and v is not None else v) for k, v in kwargs.items()}
            return node.target(*args, **kwargs)  # type: ignore[operator]
        except Exception:  # a value that cannot be computed is one we do not know: its axes are pinned
            return None

    def _need(self, node: fx.Node) -> Any:
        if node not in self._values:
            self._values[node] = self._evaluate(node)
        if self._values[node] is None:
            raise LookupError(node.name)
        return self._values[node]

    @staticmethod
    def _fill(node: fx.Node) -> torch.Tensor:
        value = node.meta["val"]
        number = _FILLS[_packet(node)]
        if number is None:
            at = {"aten.scalar_tensor": 0, "aten.new_full": 2}.get(_packet(node), 1)  # scalar; self, size, fill; size, fill
            number = node.args[at]
            if isinstance(number, fx.Node):
                raise LookupError(node.name)
        return torch.full(tuple(value.shape), number, dtype=value.dtype, device="cpu")


def _packet(node: fx.Node) -> str:
    return "" if node.target is operator.getitem else str(node.target).rpartition(".")[0]
