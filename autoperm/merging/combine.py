"""The weighted mean of models that are in one order, tensor by tensor."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoperm.caches import copied
from autoperm.errors import AutopermError
from autoperm.merging.models import Model, Models, squared_gap
from autoperm.permutation import Permutation
from autoperm.stacks import unstacked
from autoperm.state import like


def normalised(weights: Sequence[float] | None, count: int) -> list[float]:
    """Weights that sum to one; equal ones for None.

    Raises:
        AutopermError: there is not one weight per model, one is not finite, or their sum is not positive.
    """
    if weights is None:
        return [1 / count] * count
    try:
        given = [float(w) for w in weights]
        total = math.fsum(given)
    except OverflowError:
        total = math.inf
    except (TypeError, ValueError) as error:
        raise AutopermError(f"weights= must be a list of numbers, one per model, not {weights!r}") from error
    if len(given) != count:
        raise AutopermError(f"weights= holds {len(given)} weights for {count} models; give one per model")
    if not math.isfinite(total) or total <= 0:
        raise AutopermError(f"weights= must be finite and have a positive sum, not {given}")
    return [w / total for w in given]


def combined(models: Models, first: Model, permutations: Sequence[Permutation], weights: Sequence[float]) -> Model:
    """The weighted mean of the models, each under its element, as a new module or state dict of the first's kind.

    Parameters and floating-point buffers are summed in double precision, one tensor at a time, and rounded once. Integer
    buffers, and what is no tensor, are the first model's. Weights below zero count for parameters only: there may be no
    norm statistics beyond those of the models, a variance least of all.
    """
    tensors: Iterable[tuple[str, Any]] = _combined_tensors(models, permutations, weights)
    if stacks := models.spec.stacks:
        tensors = unstacked(stacks, dict(tensors), models.given[0]).items()
    if isinstance(first, nn.Module):
        return _filled(copied(first, models.spec.caches), tensors)
    return like(first, dict(tensors))


def _combined_tensors(
    models: Models, permutations: Sequence[Permutation], weights: Sequence[float]
) -> Iterator[tuple[str, Any]]:
    """Each entry of the state dict; tied ones are one tensor."""
    first, aliases, inside = models.states[0], models.spec.aliases, _inside(weights)
    names = Counter(aliases[name] for name in first if name in aliases)
    done: dict[str, Tensor] = {}
    for name, tensor in first.items():
        home = aliases.get(name)
        out = done.get(home) if home is not None else None
        if out is None:
            used = weights if home in models.spec.parameters else inside
            out = _mean(tensor, _each(models, name, home, permutations), used) if _blends(tensor) else _kept(tensor)
        if home is not None and names[home] > 1:
            done[home] = out
        yield name, out


def _each(models: Models, name: str, home: str | None, permutations: Sequence[Permutation]) -> Iterator[Tensor]:
    """The tensor of every model; one that the forward never reads has no layout and is taken as it is."""
    for k, state in enumerate(models.states):
        yield state[name].detach() if home is None else models.permuted(k, home, permutations[k])


def _blends(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and (tensor.is_floating_point() or tensor.is_complex())


def _kept(entry: Any) -> Any:
    return entry.detach().clone() if isinstance(entry, Tensor) else copy.deepcopy(entry)


def _mean(first: Tensor, tensors: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted sum, added up in double precision and rounded to the first tensor's dtype."""
    total = torch.zeros(first.shape, dtype=torch.promote_types(first.dtype, torch.float64), device=first.device)
    for weight, tensor in zip(weights, tensors, strict=True):
        if weight != 0:  # zero times infinity is NaN
            total.add_(tensor, alpha=weight)
    return total.to(first.dtype)


def _inside(weights: Sequence[float]) -> list[float]:
    """The weights without the negative ones, summing to one again."""
    total = math.fsum(w for w in weights if w > 0)
    return [max(w, 0.0) / total for w in weights]


def _filled(new: nn.Module, tensors: Iterable[tuple[str, Any]]) -> nn.Module:
    """A module given other tensors, written one at a time where its state dict is its own memory."""
    held = new.state_dict()
    own = {t.untyped_storage().data_ptr() for t in (*new.parameters(), *new.buffers())}
    if not all(isinstance(t, Tensor) and t.untyped_storage().data_ptr() in own for t in held.values()):
        new.load_state_dict(like(held, dict(tensors)))
        return new
    with torch.no_grad():
        for name, tensor in tensors:
            held[name].copy_(tensor)
    return new


def distance_between(models: Models, k: int, permutation: Permutation, merged: Mapping[str, Tensor]) -> float:
    """The L2 distance from the parameters of model k, under its element, to those of the merged one."""
    names = models.names
    gaps = (squared_gap(models.permuted(k, home, permutation), merged[names[home]]) for home in models.parameters)
    return math.sqrt(math.fsum(gaps))
