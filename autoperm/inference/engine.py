"""Walks a captured graph, applies the op rules, and collects the statements they make."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from autoperm.capture import Capture
from autoperm.capture.clean import sized_by
from autoperm.errors import AutopermError, RuleError
from autoperm.inference import views
from autoperm.inference.constants import Constants
from autoperm.inference.operands import operand, pin_view, pinned
from autoperm.inference.system import System, Tensor
from autoperm.inference.views import View
from autoperm.rules import NoRule, Op, choices, find_rule, idle, listing, picking
from autoperm.rules.deferred import Deferred

#: Results that are more than a label, and what ops make of them: first those that say most.
_KINDS = ((listing.Tracked, listing.apply), (picking.Picked, picking.apply), (choices.Choice, choices.apply))


@dataclass(frozen=True)
class Unsupported:
    """An op without a rule: everything it touches is pinned."""

    op: str
    node: str
    module_path: str
    source: str
    shapes: tuple[tuple[int, ...], ...]
    why: str = ""

    def __str__(self) -> str:
        shapes = ", ".join(str(s) for s in self.shapes)
        place = self.module_path or "the model's own forward"
        source = f" ({self.source})" if self.source else ""
        why = f": {self.why}" if self.why else ""
        return f"{self.op} at node {self.node} in {place}{source}, operand shapes {shapes}{why}"


def _described(node: fx.Node, why: str) -> Unsupported:
    values = [source.meta.get("val") for source in node.all_input_nodes]
    shapes = tuple(tuple(value.shape) for value in values if isinstance(value, torch.Tensor))
    return Unsupported(str(node.target), node.name, node.meta.get("module_path", ""), node.meta.get("source", ""), shapes, why)


def _bug(node: fx.Node, error: Exception) -> RuleError:
    told = _described(node, f"{type(error).__name__}: {error}")
    return RuleError(
        f"the rule of {told}. This is a bug of autoperm's: please report it with this message. Other example inputs, or "
        "the op written in another way, may go around it"
    )


class Engine:
    """One pass over the graph. ``system`` then holds the statements, ``states`` the tensors of the weights."""

    def __init__(self, capture: Capture):
        self.capture = capture
        self.system = System()
        self.constants = Constants(capture)
        self.states: dict[str, Tensor] = {}  # placeholder name -> tensor
        self.unsupported: list[Unsupported] = []
        self._env: dict[fx.Node, Any] = {}
        self._suppositions: list[tuple[fx.Node, list[fx.Node], Callable[[], None]]] = []

    def run(self) -> Engine:
        with torch.no_grad():
            for node in self.capture.graph.nodes:
                self._visit(node)
            for node, rows, otherwise in self._suppositions:
                if not self._are_idle(node, rows):
                    otherwise()
        return self

    def _are_idle(self, node: fx.Node, rows: list[fx.Node]) -> bool:
        try:
            return all(idle.is_idle(self, node, which) for which in rows)
        except Exception as error:
            raise _bug(node, error) from error

    def suppose(self, node: fx.Node, rows: list[fx.Node], otherwise: Callable[[], None]) -> None:
        """Take it that what an op chooses for rows of zeros is no matter; in the end, where it is, something else is done."""
        self._suppositions.append((node, rows, otherwise))

    def view(self, node: fx.Node) -> View:
        """The label of a tensor-valued node."""
        found = self.raw(node)
        if found is None:
            found = self._env[node] = self._constant(node)
        if isinstance(found, Deferred):
            found = self._env[node] = found.settle(self, node)
        if not isinstance(found, View):
            raise NoRule(f"{node.name} has no label")
        return found

    def raw(self, node: fx.Node) -> Any:
        """What is known of a node, where that is more than a label can say."""
        return self._env.get(node)

    def value(self, node: fx.Node) -> torch.Tensor | None:
        return self.constants.value(node)

    def is_weight(self, node: fx.Node) -> bool:
        """Whether a placeholder stands for a tensor of the state dict."""
        return node.name in self.capture.states

    # -- the kinds of node ---------------------------------------------------------------------------------

    def _visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self._placeholder(node)
        elif node.op == "output":
            self._output(node)
        elif node.op == "call_function" and not self.constants.is_constant(node):
            self._env[node] = self._call(node)

    def _placeholder(self, node: fx.Node) -> None:
        value = node.meta["val"]
        if not isinstance(value, torch.Tensor):
            return
        if node.name in self.capture.states:
            names = self.capture.states[node.name]
            tensor = self.system.fresh(value.shape, node, names[0])
            self.states[node.name] = tensor
            if node.name in self.capture.changing:
                self._fix(tensor, "the forward changes it, for the next call")
            elif names[0] in self.capture.fixed:
                self._fix(tensor, self.capture.fixed[names[0]])
            elif not (value.is_floating_point() or value.is_complex()):
                self._fix(tensor, f"{names[0]} is an integer tensor ({str(value.dtype).removeprefix('torch.')})")
        else:
            name = self.capture.inputs.get(node.name, node.name)
            tensor = self.system.fresh(value.shape, node, name)
            self._fix(tensor, f"axis {{}} of the input {name}")
        self._env[node] = views.identity(tensor)

    def _fix(self, tensor: Tensor, reason: str) -> None:
        for j, axis in enumerate(tensor.dims):
            if axis is not None:
                self.system.fix(axis)
                self.system.pin(tensor, j, reason.format(j), tensor.node)

    def _constant(self, node: fx.Node) -> View:
        """The label of a constant: uniform along a dimension where its value is, else pinned."""
        shape = tuple(node.meta["val"].shape)
        uniform = self.constants.uniform(node)
        tensor = self.system.tensor(
            shape, [None if n == 1 or u else self.system.axis(n) for n, u in zip(shape, uniform, strict=True)], node
        )
        self._fix(tensor, "a constant of the model differs along this axis")
        return views.identity(tensor)

    def _call(self, node: fx.Node) -> Any:
        if node.target is operator.getitem:
            results = self._env.get(node.args[0])  # type: ignore[arg-type]
            return results[node.args[1]] if isinstance(results, (tuple, list)) else None
        value = node.meta.get("val")
        masks = sized_by(node)
        if isinstance(value, torch.Tensor) and (not value.numel() or (masks and not node.users)):
            for source in masks:  # no entries, or none that is used: nothing else to tie or to move
                pin_view(self.system, self.view(source), "how many there are is seen by Python", node, final=True)
            return views.identity(self.system.tensor(tuple(value.shape), [None] * value.ndim, node))
        found = find_rule(node.target)
        if found is None:
            return self._unknown(node, "")
        try:
            op = Op(self, node)
            for kind, apply in _KINDS:
                if any(isinstance(self._env.get(source), kind) for source in node.all_input_nodes):
                    result = apply(op)
                    if result is not None:
                        return result
            return found(op)
        except NoRule as error:
            return self._unknown(node, str(error))
        except AutopermError:
            raise
        except Exception as error:
            raise _bug(node, error) from error

    def _unknown(self, node: fx.Node, why: str) -> Any:
        reason = f"{node.target} has no rule"
        for source in node.all_input_nodes:
            if isinstance(source.meta.get("val"), torch.Tensor):
                pin_view(self.system, self.view(source), reason, node, final=True)
        self.unsupported.append(_described(node, why))
        value = node.meta.get("val")
        for source in node.all_input_nodes:
            choices.pin(self.system, self._env.get(source), node, reason)
        if isinstance(value, (tuple, list)):
            return [self._pinned(node, v, reason) for v in value]
        return self._pinned(node, value, reason)

    def _pinned(self, node: fx.Node, value: Any, reason: str) -> View | None:
        if not isinstance(value, torch.Tensor):
            return None
        return pinned(self.system, value.shape, reason, node)

    def _output(self, node: fx.Node) -> None:
        results: Sequence[Any] = node.args[0] if isinstance(node.args[0], (tuple, list)) else node.args  # type: ignore[assignment]
        for k, result in enumerate(results):
            if isinstance(result, fx.Node) and isinstance(result.meta.get("val"), torch.Tensor):
                name = self.capture.outputs[k] if k < len(self.capture.outputs) else f"output[{k}]"
                self._pin_output(node, result, name)

    def _pin_output(self, node: fx.Node, result: fx.Node, name: str) -> None:
        choices.pin(self.system, self.view(result), node, f"the output {name} has positions as numbers")
        tensor, projection = operand(self.system, self.view(result), node, plain=True)
        self.system.roots.append(tensor)
        for j, dims in enumerate(projection):
            if dims is not None:
                self.system.pin(tensor, j, f"axis {dims[0]} of the output {name}", node)
