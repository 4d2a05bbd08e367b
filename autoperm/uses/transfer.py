"""Carry a fine-tuning over to another network of the same architecture."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from autoperm.caches import copied
from autoperm.errors import AutopermError, StateError
from autoperm.gathering import gather
from autoperm.matching import match
from autoperm.options import check_number
from autoperm.permutation import Permutation
from autoperm.spec import PermutationSpec
from autoperm.stacks import by_name
from autoperm.state import like, state_of
from autoperm.uses.weights import weights_of_several

logger = logging.getLogger(__name__)

Model = TypeVar("Model", nn.Module, Mapping[str, torch.Tensor])


def transfer(
    base_a: nn.Module | Mapping[str, torch.Tensor],
    tuned_a: nn.Module | Mapping[str, torch.Tensor],
    base_b: Model,
    spec: PermutationSpec,
    *,
    scale: float = 1.0,
    method: str = "weight",
    **options: Any,
) -> Model:
    """Base b with the fine-tuning of base a: ``base_b + scale * pi(tuned_a - base_a)``, pi matching base a to base b.

    The difference is the task vector of Ilharco et al., "Editing models with task arithmetic" (ICLR 2023). Where base b
    is base a in another order, the result is ``tuned_a`` in that order, up to rounding.

    Floating-point parameters and the buffers that the forward reads (running statistics) are carried over; integers,
    and tensors on which no output depends, stay base b's. A buffer without negative entries in all three models, as
    variances are, stays without: where a sum would be negative base b's entry is kept, with a warning in the log. Sums are
    in float64.

    Arguments:
        base_a, tuned_a: a model and its fine-tuned version, modules or state dicts; neither is changed.
        base_b: the model to carry it over to; it is not changed.
        spec: from :func:`autoperm.infer`.
        scale: how much of the task vector to add.
        method, options: as for :func:`autoperm.match`, ``seed`` and ``template`` included.

    Returns:
        A new model of base b's kind.

    Raises:
        AutopermError: the scale is not finite, or there is no such matcher or option.
        StateError: names, shapes, dtypes or devices differ, parameters are not finite or on the meta device, or a
            buffer differs between ``tuned_a`` and ``base_a`` where it is not finite.

    Example:
        >>> import torch, autoperm
        >>> base, other = (torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)) for _ in "ab")
        >>> tuned = {name: tensor + 0.01 for name, tensor in base.state_dict().items()}
        >>> spec = autoperm.infer(base, torch.zeros(1, 4))
        >>> carried = autoperm.transfer(base, tuned, other, spec)
        >>> torch.allclose(carried[0].weight, other[0].weight + 0.01)
        True
    """
    check_number("scale", scale, nan=True)
    if not -float("inf") < scale < float("inf"):
        raise AutopermError(f"scale must be a finite number, got {scale}")
    given = {"base_a": base_a, "tuned_a": tuned_a, "base_b": base_b}
    base, tuned, target = weights_of_several(given, spec)
    found = match(base_b, base_a, spec, method=method, **options).permutation
    carried = {name: _carried(name, found, base[name], tuned[name], target[name], scale) for name in target}
    return _with(base_b, spec, carried)


def _carried(
    name: str, found: Permutation, base: torch.Tensor, tuned: torch.Tensor, target: torch.Tensor, scale: float
) -> torch.Tensor:
    """One tensor of the result."""
    spec = found.spec
    if not (target.is_floating_point() or target.is_complex()) or not spec.layouts[name].cells:
        return target
    wide = torch.promote_types(target.dtype, torch.float64)
    change = torch.where(tuned == base, 0.0, tuned.to(wide) - base.to(wide))  # equal infinities differ by nothing
    if not bool(torch.isfinite(change).all()):
        raise StateError(f"{name} is not finite where tuned_a differs from base_a; there is no difference to carry over")
    total = target.to(wide) + scale * gather(spec.action, spec.layouts[name], found.arrays, change)
    if name not in spec.parameters and not target.is_complex():
        total = _without_new_signs(name, total, base, tuned, target)
    return total.to(target.dtype)


def _without_new_signs(
    name: str, total: torch.Tensor, base: torch.Tensor, tuned: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """A buffer without negative entries stays so: a negative variance would make every output NaN."""
    negative = total < 0
    if not bool(negative.any()) or any(bool((t < 0).any()) for t in (base, tuned, target)):
        return total
    logger.warning(
        "%s: %d of %d entries would turn negative and stay base_b's; resetting the statistics on data may help",
        name, int(negative.sum()), total.numel(),
    )  # fmt: skip
    return torch.where(negative, target.to(total.dtype), total)


def _with(model: Model, spec: PermutationSpec, tensors: Mapping[str, torch.Tensor]) -> Model:
    """A model of the same kind with other tensors where the spec has them; tied names share theirs."""
    if isinstance(model, nn.Module):
        carried = copied(model, spec.caches)
        carried.load_state_dict(_with(model.state_dict(), spec, tensors))
        return carried  # type: ignore[return-value]
    state = state_of(model)
    new = by_name(spec, {home: tensor.clone() for home, tensor in tensors.items()}, state)
    out = {
        name: new[name] if name in new else (old.detach().clone() if isinstance(old, torch.Tensor) else old)
        for name, old in state.items()
    }
    return like(state, out)  # type: ignore[return-value]
