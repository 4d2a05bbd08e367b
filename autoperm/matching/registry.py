"""Matchers by name. A matcher takes a :class:`Problem` and returns a :class:`Match`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autoperm.errors import AutopermError, StateError
from autoperm.matching.problem import Problem
from autoperm.permutation import Permutation
from autoperm.spec import PermutationSpec
from autoperm.state import check_finite, check_pair, check_same_kind, check_state, state_of

_MATCHERS: dict[str, Callable[..., Match]] = {}


@dataclass(frozen=True)
class Match:
    """What a matcher found.

    Attributes:
        permutation: apply it to model b to bring it towards model a.
        objective: the sum over parameters of <a, permuted b>, parameters counted once and buffers not at all.
        distance: the L2 distance between a's and permuted b's parameters.
        history: the objective before the first sweep and after each.
        interrupted: whether Ctrl-C ended the search, so that this is only the best until then.
    """

    permutation: Permutation
    objective: float
    distance: float
    history: tuple[float, ...]
    interrupted: bool = False

    def __repr__(self) -> str:
        sweeps = len(self.history) - 1
        return f"<Match: objective {self.objective:.6g}, distance {self.distance:.6g} after {sweeps} sweeps>"


def matcher(name: str) -> Callable[[Callable[..., Match]], Callable[..., Match]]:
    """Register a matcher; registering a name twice raises ValueError."""

    def register(function: Callable[..., Match]) -> Callable[..., Match]:
        if name in _MATCHERS:
            raise ValueError(f"there is a matcher called {name!r} already")
        _MATCHERS[name] = function
        return function

    return register


def matchers() -> Mapping[str, Callable[..., Match]]:
    """All matchers by name."""
    return dict(_MATCHERS)


def match(
    model_a: nn.Module | Mapping[str, torch.Tensor],
    model_b: nn.Module | Mapping[str, torch.Tensor],
    spec: PermutationSpec,
    *,
    method: str = "weight",
    seed: int = 0,
    template: nn.Module | None = None,
    **options: Any,
) -> Match:
    """Find the element of the group that brings model b closest to model a.

    Arguments:
        model_a, model_b: modules or state dicts of the spec's architecture; neither is changed.
        spec: from :func:`autoperm.infer`.
        method: the matcher; ``"weight"`` is weight matching (Ainsworth et al. 2023, Algorithm 1).
        seed: of all that is random; the same seed gives the same result.
        template: a module of the architecture, for matchers that run the models where both are state dicts.
        options: passed to the matcher, see its own documentation.

    Raises:
        AutopermError: no such matcher; the known ones are listed.
        StateError: keys, shapes, dtypes or devices differ, or parameters are not finite or on the meta device. The
            values of buffers are not looked at: masks may hold infinities.

    Example:
        >>> import torch, autoperm
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = autoperm.infer(mlp, torch.zeros(1, 4))
        >>> shuffled = spec.random(1).apply(mlp)
        >>> autoperm.match(mlp, shuffled, spec).distance
        0.0
    """
    if method not in _MATCHERS:
        raise AutopermError(f"no matcher is called {method!r}; there are {', '.join(sorted(_MATCHERS))}")
    a, b = state_of(model_a, "model_a"), state_of(model_b, "model_b")
    check_pair(a, b)
    check_state(spec, a, "model_a")
    for state, what in ((a, "model_a"), (b, "model_b")):
        _check_values({n: t for n, t in state.items() if spec.aliases.get(n) in spec.parameters}, what)
    check_same_kind(a, b)
    network = next((m for m in (template, model_a, model_b) if isinstance(m, nn.Module)), None)
    _check_options(method, options)
    return _MATCHERS[method](Problem(spec, a, b, network), seed=seed, **options)


def _check_options(method: str, options: Mapping[str, Any]) -> None:
    """Refuse options that a matcher does not have, and say which it has."""
    takes = inspect.signature(_MATCHERS[method]).parameters.values()
    known = [p.name for p in takes if p.kind is p.KEYWORD_ONLY and p.name != "seed"]
    needed = [p.name for p in takes if p.kind is p.KEYWORD_ONLY and p.default is p.empty and p.name != "seed"]
    if unknown := [name for name in options if name not in known]:
        raise AutopermError(f"method {method!r} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}")
    if missing := [name for name in needed if name not in options]:
        raise AutopermError(f"method {method!r} needs {', '.join(f'{name}=' for name in missing)}")


def _check_values(parameters: Mapping[str, torch.Tensor], what: str) -> None:
    for name, tensor in parameters.items():
        if tensor.is_meta:
            raise StateError(f"{what}: {name} is on the meta device and has no values to match; load its weights first")
    check_finite(parameters, what)
