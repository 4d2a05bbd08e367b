"""Evaluating a module at affine combinations of several models' weights: points of a line, of a plane."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn

from autoperm.caches import Entry, computed_again, entries, take_out
from autoperm.capture.guard import untouched
from autoperm.capture.lift import identity
from autoperm.errors import AutopermError, StateError
from autoperm.state import check_pair, check_same_kind, like, same, state_of

Metrics = float | Mapping[str, float]
Model: TypeAlias = "nn.Module | Mapping[str, torch.Tensor]"


class Points:
    """Models of one architecture, and a copy of a module that takes on combinations of their weights.

    Attributes:
        states: the models' state dicts.
        working: the module that is evaluated.
        metrics: the names of the metrics, known after the first point.
        upwards: those of them that count upwards.

    Raises:
        StateError: the models differ in keys, shapes, dtypes or devices.
        AutopermError: the first model is a state dict and there is no template.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        evaluate: Callable[[nn.Module], Metrics],
        template: nn.Module | None = None,
        prepare: Callable[[nn.Module], None] | None = None,
        higher_is_better: bool | str | Collection[str] = (),
    ):
        if not callable(evaluate):
            raise AutopermError(f"evaluate must be a function of a module, not a {type(evaluate).__name__}")
        self.states = [state_of(model, name) for name, model in models.items()]
        for other in self.states[1:]:
            check_pair(self.states[0], other)
            check_same_kind(self.states[0], other)
        self.working = _working(*next(iter(models.items())), template)
        self.states = [_fitting(state, self.working, name) for name, state in zip(models, self.states, strict=True)]
        self.metrics: tuple[str, ...] = ()
        self.upwards: frozenset[str] = frozenset()
        self._evaluate, self._prepare, self._higher_is_better = evaluate, prepare, higher_is_better
        self._parameters = {name for name, _ in self.working.named_parameters(remove_duplicate=False)}
        self._stale = computed_again(entries(self.working), self._kept_without)

    def _kept_without(self, gone: frozenset[Entry]) -> dict[Entry, torch.Tensor]:
        """What the module keeps after it is evaluated without some of what it keeps now."""
        with untouched(self.working), torch.no_grad():
            take_out(self.working, gone)
            with contextlib.suppress(Exception):
                self._evaluate(self.working)
            return entries(self.working)

    def at(self, weights: Sequence[float], where: str) -> dict[str, float]:
        """The metrics of the module with sum_k weights[k] * model k for weights; the weights sum to one.

        Buffers outside the models' convex hull are taken from its boundary: there may be no norm statistics beyond it, a
        variance least of all. Integer tensors are the first model's. Half precision is combined in float32.

        Raises:
            AutopermError: ``evaluate`` returned NaN or other metrics than before, and ``where`` is named; or
                ``higher_is_better`` names a metric that is not among them.
        """
        inside, first = _clipped(weights), self.states[0]
        mixed = {n: combine([s[n] for s in self.states], weights if n in self._parameters else inside) for n in first}
        self.working.load_state_dict(like(first, mixed))
        with untouched(self.working):  # what a forward keeps is of these weights alone
            take_out(self.working, self._stale)
            if self._prepare is not None:
                self._prepare(self.working)
            self.working.zero_grad(set_to_none=True)  # of the last point, where evaluate takes gradients
            with torch.no_grad():
                found = _named(self._evaluate(self.working.eval()), where)
        if self.metrics and set(found) != set(self.metrics):
            raise AutopermError(f"evaluate returned {_list(found)} at {where} but {_list(self.metrics)} before")
        if not found:
            raise AutopermError(f"evaluate returned an empty dict at {where}; it should hold a number for each metric")
        for name, value in found.items():
            if math.isnan(value):
                raise AutopermError(f"evaluate returned NaN for {name!r} at {where}")
        if not self.metrics:
            self.metrics, self.upwards = tuple(found), _upwards(self._higher_is_better, found)
        return {name: found[name] for name in self.metrics}


def combine(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """sum_k weights[k] * tensors[k], in float32 at least and rounded once; integers, and what is no tensor, are the first's."""
    first = tensors[0]
    if not isinstance(first, torch.Tensor) or not (first.is_floating_point() or first.is_complex()):
        return first
    used = [(w, t) for w, t in zip(weights, tensors, strict=True) if w != 0.0]
    if len(used) == 1 and used[0][0] == 1.0:
        return used[0][1]
    wide = torch.promote_types(first.dtype, torch.float32)
    total = used[0][0] * used[0][1].to(wide)
    for w, t in used[1:]:
        total = total + w * t.to(wide)
    return total.to(first.dtype)


def _working(name: str, model: Model, template: nn.Module | None) -> nn.Module:
    source = template if template is not None else model
    if not isinstance(source, nn.Module):
        raise AutopermError(f"{name} is a state dict: pass template=, a module of the same architecture to evaluate with")
    return copy.deepcopy(source).eval()


def _fitting(state: Mapping[str, torch.Tensor], module: nn.Module, name: str) -> Mapping[str, torch.Tensor]:
    """A state dict with all names of a module's, of which tied ones may be missing, and with no others.

    Raises:
        StateError: names or shapes are others, or what the module ties has different entries.
    """
    wanted, found = module.state_dict(), dict[str, torch.Tensor]()
    names: dict[object, list[str]] = {}
    for key, value in wanted.items():
        names.setdefault(identity(value) if isinstance(value, torch.Tensor) and value.numel() else key, []).append(key)
    for tied in names.values():
        given = [key for key in tied if key in state]
        if apart := [key for key in given[1:] if not same(state[given[0]], state[key])]:
            raise StateError(
                f"{name}: {given[0]} and {apart[0]} are one tensor in the module that is evaluated, with different entries here"
            )
        found |= {key: state.get(key, state[given[0]]) for key in tied if given}
    try:
        check_pair(wanted, {**found, **{k: v for k, v in state.items() if k not in wanted}})
    except StateError as error:
        raise StateError(f"the module that is evaluated, and {name}: {error}") from error
    return like(state, found)


def _clipped(weights: Sequence[float]) -> Sequence[float]:
    """The weights without the negative ones, summing to one again."""
    if min(weights) >= 0.0:
        return weights
    total = math.fsum(w for w in weights if w > 0.0)
    return [max(w, 0.0) / total for w in weights]


def _upwards(higher_is_better: bool | str | Collection[str], metrics: Collection[str]) -> frozenset[str]:
    if isinstance(higher_is_better, bool):
        return frozenset(metrics) if higher_is_better else frozenset()
    if not isinstance(higher_is_better, Collection):
        raise AutopermError(f"higher_is_better must be True, False or names of metrics, not {higher_is_better!r}")
    named = {higher_is_better} if isinstance(higher_is_better, str) else set(higher_is_better)
    if unknown := named - set(metrics):
        raise AutopermError(f"higher_is_better names {_list(unknown)}, but evaluate returned {_list(metrics)}")
    return frozenset(named)


def _named(found: Any, where: str) -> dict[str, float]:
    if isinstance(found, Mapping):
        return {str(k): _number(v, f"{k!r}: ", where) for k, v in found.items()}
    return {"loss": _number(found, "", where)}


def _number(value: Any, name: str, where: str) -> float:
    """A number, or a tensor or an array of one.

    Raises:
        AutopermError: it is none; what it is, and where.
    """
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
        raise AutopermError(
            f"evaluate returned {name}a {type(value).__name__}{shape} at {where}; it should return a number, or a dict of numbers"
        ) from error


def _list(names: Collection[str]) -> str:
    return ", ".join(sorted(map(repr, names))) or "nothing"
