"""The registry of op rules.

A rule is a function of an :class:`~autoperm.rules.op.Op`. It states how the op ties the axes of its operands
and returns the labels of its results. To teach autoperm an op, write such a function in the file of its family
and register it under the op's name; ``"aten.add"`` covers all overloads, ``"aten.add.Tensor"`` one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

#: A rule returns the label of the result, or a sequence with one per result (None where there is none).
Rule = Callable[[Any], object]

_RULES: dict[str, Rule] = {}


R = TypeVar("R", bound=Callable[..., Any])


class NoRule(Exception):
    """Raised by a rule for a case that it does not cover; the op is then treated as unknown."""


def registering(rules: dict[str, R], what: str = "a rule") -> Callable[..., Callable[[R], R]]:
    """A decorator that takes names of ops, each by itself or several in a string, and notes a function under them.

    Raises:
        ValueError: an op has one already.
    """

    def named(*names: str) -> Callable[[Any], Any]:
        def register(function: R) -> R:
            for name in " ".join(names).split():
                if (other := rules.get(name)) is not None:
                    raise ValueError(f"{name} has {what} already: {other.__module__}.{other.__qualname__}")
                rules[name] = function
            return function

        return register

    return named


#: Register a function as the rule of the named ops.
rule = registering(_RULES)


def find_rule(target: Any) -> Rule | None:
    """The rule of an ``OpOverload``: that of the overload if there is one, else that of all its overloads."""
    full = str(target)  # "aten.add.Tensor"
    found = _RULES.get(full)
    return found if found is not None else _RULES.get(full.rpartition(".")[0])


def registered() -> dict[str, Rule]:
    """All rules by name."""
    return dict(_RULES)
