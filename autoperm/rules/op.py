"""What a rule sees of the op it is applied to."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import fx

from autoperm.inference import operands
from autoperm.inference.equation import PIN, Spec, Statement, expand_term, parse
from autoperm.inference.system import System
from autoperm.inference.views import View
from autoperm.rules.registry import NoRule


class Labels(Protocol):
    """Where an op finds the labels and constant values of its operands."""

    system: System

    def view(self, node: fx.Node) -> View: ...
    def raw(self, node: fx.Node) -> Any: ...
    def value(self, node: fx.Node) -> torch.Tensor | None: ...
    def is_weight(self, node: fx.Node) -> bool: ...
    def suppose(self, node: fx.Node, rows: list[fx.Node], otherwise: Callable[[], None]) -> None: ...


def op_name(node: fx.Node) -> str:
    """The name of a node's op without namespace and overload, ``relu``; empty where it is no ATen op."""
    return str(node.target).split(".")[1] if isinstance(node.target, torch._ops.OpOverload) else ""


@lru_cache(maxsize=4096)
def _schema(target: Any) -> tuple[tuple[str, Any], ...]:
    return tuple((a.name, a.default_value if a.has_default_value() else None) for a in target._schema.arguments)


class Op:
    """One node of the graph: its arguments by name, its operands' labels, and ways to state what ties them."""

    def __init__(self, labels: Labels, node: fx.Node):
        self.labels, self.node, self.system = labels, node, labels.system
        self.name = str(node.target)
        self.args = self.arguments(node)

    @staticmethod
    def arguments(node: fx.Node) -> dict[str, Any]:
        """The arguments of a node that is an op, by name."""
        names = _schema(node.target)
        found: dict[str, Any] = {name: default for name, default in names}
        found.update(zip((name for name, _ in names), node.args, strict=False))
        found.update(node.kwargs)
        return found

    def __getitem__(self, name: str) -> Any:
        return self.args[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.args.get(name, default)

    def view(self, name: str) -> View:
        """The label of a tensor argument."""
        return self.labels.view(self.args[name])

    def optional(self, name: str) -> View | None:
        argument = self.args.get(name)
        return self.labels.view(argument) if isinstance(argument, fx.Node) else None

    def tensors(self) -> list[View]:
        """The labels of all tensor arguments, those in lists included."""
        return [self.labels.view(node) for node in self.node.all_input_nodes]

    def tensors2(self) -> tuple[View, View]:
        """The labels of the first two arguments, which may be the same tensor."""
        first, second = list(self.args.values())[:2]
        return self.labels.view(first), self.labels.view(second)

    def value(self, name: str) -> torch.Tensor | None:
        """The value of an argument that is constant and known."""
        argument = self.args.get(name)
        return self.labels.value(argument) if isinstance(argument, fx.Node) else None

    def shape(self, result: int = 0) -> tuple[int, ...]:
        """The shape of a result."""
        value = self.node.meta["val"]
        if isinstance(value, (tuple, list)):
            value = value[result]
        return tuple(value.shape)

    def uses(self, result: int) -> bool:
        """Whether anything reads the given one of several results."""
        return any(user.target is operator.getitem and user.args[1] == result for user in self.node.users)

    def only(self, *results: int) -> None:
        """Decline the op where results other than these are read."""
        value = self.node.meta["val"]
        for k in range(len(value)):
            if k not in results and self.uses(k):
                raise NoRule(f"result {k} of {self.name} is read")

    def equation(
        self,
        equation: str,
        *operand_views: View | None,
        shapes: Sequence[Sequence[int]] | None = None,
        sizes: Mapping[str, int] | None = None,
        reason: str | None = None,
        reduces: Sequence[int] = (0,),
    ) -> Any:
        """Apply an equation (see :mod:`autoperm.inference.equation`); returns one label, or one per result."""
        specs, outputs, reduced = parse(equation, tuple(None if v is None else v.ndim for v in operand_views))
        shapes = [self.shape(k) for k in range(len(outputs))] if shapes is None else shapes
        out_specs = [expand_term(term, len(shape)) for term, shape in zip(outputs, shapes, strict=True)]
        found = self.state(list(zip(operand_views, specs, strict=True)), out_specs, shapes, reduced, sizes, reason, reduces)
        return found[0] if len(found) == 1 else found

    def state(
        self,
        inputs: Sequence[tuple[View | None, Spec]],
        outputs: Sequence[Spec],
        shapes: Sequence[Sequence[int]],
        reduced: Sequence[Spec] = (),
        sizes: Mapping[str, int] | None = None,
        reason: str | None = None,
        reduces: Sequence[int] = (0,),
    ) -> list[View]:
        """The same with the letters of every dimension spelled out.

        ``reduced`` are tensors that exist only inside the op (a norm's mean), computed from the inputs ``reduces``.
        """
        statement = Statement(self.system, self.node, sizes or {}, reason or f"{self.name} depends on the order")
        present = [k for k, (view, _) in enumerate(inputs) if view is not None]
        for k in present:
            statement.operand(inputs[k][0], inputs[k][1])  # type: ignore[arg-type]
        for spec in reduced:
            statement.reduce(spec, [present.index(k) for k in reduces if k in present])
        results = [statement.result(spec, shape) for spec, shape in zip(outputs, shapes, strict=True)]
        statement.close()
        return results

    def pin(self, view: View, reason: str | None = None, dims: Sequence[int] | None = None) -> None:
        """Let nothing move along the given dimensions (default: all)."""
        reason = reason or f"{self.name} depends on the order"
        operands.pin_view(self.system, view, reason, self.node, dims, final=dims is None)

    def pinned(self, shape: Sequence[int], reason: str | None = None) -> View:
        """A new label along which nothing moves."""
        return operands.pinned(self.system, shape, reason or f"result of {self.name}", self.node)


def dims_of(argument: Any, ndim: int) -> list[int]:
    """A ``dim`` argument as non-negative dimensions; None and () mean all."""
    if argument is None or argument == []:
        return list(range(ndim))
    listed = [argument] if isinstance(argument, int) else list(argument)
    return [d % ndim for d in listed] if ndim else []


def letters(ndim: int, prefix: str = "l") -> list[tuple[str, ...]]:
    """One letter per dimension."""
    return [(f"{prefix}{k}",) for k in range(ndim)]


def moved_within(op: Op, view: View, dims: Sequence[int], shape: Sequence[int], reason: str | None = None) -> View:
    """Nothing moves along ``dims``, before or after; the other dimensions pass."""
    names = letters(view.ndim)
    for dim in dims:
        names[dim] = PIN
    return op.state([(view, tuple(names))], [tuple(names)], [shape], reason=reason)[0]
