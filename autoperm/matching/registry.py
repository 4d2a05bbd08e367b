"""Matchers by name. A matcher takes a :class:`Problem` and returns a :class:`Match`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from autoperm.capture.guard import same_random_state
from autoperm.errors import AutopermError, StateError
from autoperm.matching.problem import Groups, Problem, part_of
from autoperm.options import check_number, check_seed, check_spec
from autoperm.permutation import Permutation
from autoperm.spec import PermutationSpec
from autoperm.stacks import stacked
from autoperm.state import check_finite, check_pair, check_same_kind, check_state, state_of, with_tied

_MATCHERS: dict[str, Callable[..., Match]] = {}


@dataclass(frozen=True)
class Match:
    """What a matcher found.

    Attributes:
        permutation: apply it to model b to bring it towards model a.
        objective: the sum over parameters of <a, permuted b>, parameters counted once and buffers not at all.
        distance: the L2 distance between a's and permuted b's parameters.
        history: the objective before the first sweep and after each; a matcher that improves something else says what.
        interrupted: whether Ctrl-C ended the search, so that this is only the best until then.

    Example:
        >>> import torch, autoperm
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = autoperm.infer(mlp, torch.zeros(1, 4))
        >>> found = autoperm.match(mlp, spec.random(1).apply(mlp), spec)
        >>> found.distance, found.permutation == spec.random(1).inverse()
        (0.0, True)
    """

    permutation: Permutation
    objective: float
    distance: float
    history: tuple[float, ...]
    interrupted: bool = False

    def __repr__(self) -> str:
        return f"<Match: objective {self.objective:.6g}, distance {self.distance:.6g} after {len(self.history) - 1} steps>"


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
    groups: Groups = None,
    **options: Any,
) -> Match:
    """Find the element of the group that brings model b closest to model a.

    Arguments:
        model_a, model_b: modules or state dicts of the spec's architecture; neither is changed.
        spec: from :func:`autoperm.infer`.
        method: the matcher; ``"weight"`` is weight matching (Ainsworth et al. 2023, Algorithm 1).
        seed: of all that is random; the same seed gives the same result.
        template: a module of the architecture, for matchers that run the models where both are state dicts.
        groups: names of groups, or a predicate on :class:`autoperm.Group`: only these are matched, and all others stay
            as they are. Dependents can be matched without their parent, and the other way round.
        options: passed to the matcher: ``help(autoperm.matching.matchers()[method])`` shows them.

    Raises:
        AutopermError: no such matcher, option or group; the known ones are listed.
        StateError: keys, shapes, dtypes or devices differ, or parameters are not finite or on the meta device. The
            values of buffers are not looked at: masks may hold infinities.

    Example:
        >>> import torch, autoperm
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = autoperm.infer(mlp, torch.zeros(1, 4))
        >>> shuffled = spec.random(1).apply(mlp)
        >>> autoperm.match(mlp, shuffled, spec).distance
        0.0
        >>> autoperm.match(mlp, shuffled, spec, groups=lambda group: group.size < 8)
        Traceback (most recent call last):
        autoperm.errors.AutopermError: groups= chooses none of the spec's 1 groups; leave it out to match all
    """
    if not isinstance(method, str) or method not in _MATCHERS:
        raise AutopermError(f"no matcher is called {method!r}; there are {', '.join(sorted(_MATCHERS))}")
    check_spec(spec)
    seed = check_seed(seed)
    a, b = state_of(model_a, _WHAT[0]), state_of(model_b, _WHAT[1])
    if a.keys() != b.keys():  # one of them may lack second names of tied tensors
        a, b = with_tied(spec, a), with_tied(spec, b)
    check_pair(a, b)
    for state, what in zip((a, b), _WHAT, strict=True):
        check_state(spec, state, what)
        check_values(spec, state, what)
    check_same_kind(a, b)
    network = next((m for m in (template, model_a, model_b) if isinstance(m, nn.Module)), None)
    check_options(method, _MATCHERS[method], options)
    with same_random_state(), torch.inference_mode(False), torch.enable_grad():  # whatever mode match is called in
        torch.manual_seed(seed)  # data loaders draw from torch's own generator
        a, b = (stacked(spec.stacks, {n: _ordinary(t) for n, t in s.items()}, w) for s, w in zip((a, b), _WHAT, strict=True))
        found = _MATCHERS[method](Problem(part_of(spec, groups), a, b, network), seed=seed, **options)
    return found if groups is None else replace(found, permutation=_of_whole(spec, found.permutation))


#: What the two models are called in errors.
_WHAT = ("model_a", "model_b")


def _ordinary(value: Any) -> Any:
    """A tensor of inference mode as one that gradients can go through."""
    return value.clone() if isinstance(value, torch.Tensor) and value.is_inference() else value


def _of_whole(spec: PermutationSpec, part: Permutation) -> Permutation:
    """The same element of the whole spec: what is not matched is left alone, whatever the arrays say."""
    free = set(part.spec.action.group_of.values())
    pairs = enumerate(zip(part.arrays, spec.identity().arrays, strict=True))
    return Permutation(spec, [array if g in free else still for g, (array, still) in pairs])


def check_options(method: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse options that a method does not have, and say which it has; those it cannot do without must be there.

    A method with ``**options`` of its own checks them itself.
    """
    takes = inspect.signature(function).parameters.values()
    passes_on = any(p.kind is p.VAR_KEYWORD for p in takes)
    known = [p.name for p in takes if p.kind is p.KEYWORD_ONLY and p.name != "seed"]
    needed = [p.name for p in takes if p.kind is p.KEYWORD_ONLY and p.default is p.empty and p.name != "seed"]
    if unknown := [name for name in options if name not in known and not passes_on]:
        raise AutopermError(f"method {method!r} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}")
    if missing := [name for name in needed if name not in options]:
        raise AutopermError(f"method {method!r} needs {', '.join(f'{name}=' for name in missing)}")
    for p in takes:
        if p.name in options:
            _check_number(p.name, str(p.annotation), options[p.name])


#: Options that are numbers of 0 or more.
_NOT_NEGATIVE = frozenset(["max_sweeps", "max_steps", "restarts", "rounds", "time_limit", "tolerance"])


def _check_number(name: str, annotation: str, value: Any) -> None:
    """Refuse what is not a number where one is asked for, and numbers below zero where these make no sense.

    Raises:
        AutopermError: the option, and what it was given.
    """
    kinds = annotation.split(" | ")
    if not {"int", "float"} & set(kinds) or (value is None and "None" in kinds) or (isinstance(value, str) and "str" in kinds):
        return
    check_number(name, value, whole="float" not in kinds, least=0 if name in _NOT_NEGATIVE else None)


def check_values(spec: PermutationSpec, state: Mapping[str, torch.Tensor], what: str) -> None:
    """Check that the parameters of a state dict have values, and finite ones.

    Raises:
        StateError: one has not; it is named.
    """
    parameters = {n: t for n, t in state.items() if spec.is_parameter(n)}
    for name, tensor in parameters.items():
        if tensor.is_meta:
            raise StateError(f"{what}: {name} is on the meta device and has no values to match; load its weights first")
        if tensor.layout is not torch.strided or str(tensor.dtype).startswith("torch.float8"):
            kind = tensor.dtype if tensor.layout is torch.strided else tensor.layout
            raise StateError(f"{what}: {name} is {kind}, which cannot be matched; convert it to a dense one of 16 bits or more")
    check_finite(parameters, what)
