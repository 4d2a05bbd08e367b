"""The registry of op rules.

A rule is a function of an :class:`~autoperm.rules.op.Op`. It states how the op ties the axes of its operands
and returns the labels of its results. To teach autoperm an op, write such a function in the file of its family
and register it under the op's name; ``"aten.add"`` covers all overloads, ``"aten.add.Tensor"`` one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: A rule returns the label of the result, or a sequence with one per result (None where there is none).
Rule = Callable[[Any], object]

_RULES: dict[str, Rule] = {}


class NoRule(Exception):
    """Raised by a rule for a case that it does not cover; the op is then treated as unknown."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of the named ops.

    Raises:
        ValueError: an op has a rule already.
    """

    def register(function: Rule) -> Rule:
        for name in names:
            if name in _RULES:
                raise ValueError(f"{name} has a rule already: {_RULES[name].__module__}.{_RULES[name].__qualname__}")
            _RULES[name] = function
        return function

    return register


def find_rule(target: Any) -> Rule | None:
    """The rule of an ``OpOverload``: that of the overload if there is one, else that of all its overloads."""
    full = str(target)  # "aten.add.Tensor"
    found = _RULES.get(full)
    return found if found is not None else _RULES.get(full.rpartition(".")[0])


def registered() -> dict[str, Rule]:
    """All rules by name."""
    return dict(_RULES)
