"""Checks of state dicts against a spec and against one another."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from autoperm.errors import StateError

if TYPE_CHECKING:
    from autoperm.spec import PermutationSpec

_SHOWN = 5


def state_of(model: nn.Module | Mapping[str, torch.Tensor], what: str = "model") -> Mapping[str, torch.Tensor]:
    """The state dict of a module, or the mapping itself.

    Raises:
        StateError: ``model`` is neither.
    """
    if isinstance(model, nn.Module):
        return model.state_dict()
    if isinstance(model, Mapping):
        return model
    raise StateError(f"{what}: expected a module or a state dict, got {type(model).__name__}")


def like(state: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of other tensors with the module versions that ``state`` carries, which some modules insist on."""
    new = OrderedDict(tensors)
    if hasattr(state, "_metadata"):
        new._metadata = state._metadata  # type: ignore[attr-defined]
    return new


def check_state(spec: PermutationSpec, state: Mapping[str, torch.Tensor], what: str = "the state dict") -> None:
    """Check that a state dict has the tensors and shapes of a spec.

    Raises:
        StateError: it does not; the first few differences are listed.
    """
    wrong = []
    for name, home in spec.aliases.items():
        shape = spec.layouts[home].shape
        if name not in state:
            if not any(other in state for other, h in spec.aliases.items() if h == home):
                wrong.append(f"{name}: missing (the spec has shape {shape})")
        elif tuple(state[name].shape) != shape:
            wrong.append(f"{name}: shape {tuple(state[name].shape)}, the spec has {shape}")
    if wrong:
        raise StateError(_listed(f"{what} does not fit the spec", wrong, "Infer the spec from the same architecture."))


def check_pair(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> None:
    """Check that two state dicts have the same keys and shapes.

    Raises:
        StateError: they do not; the first few differences are listed.
    """
    wrong = [f"{k}: only in the first" for k in a if k not in b] + [f"{k}: only in the second" for k in b if k not in a]
    for k in a:
        if k in b and tuple(a[k].shape) != tuple(b[k].shape):
            wrong.append(f"{k}: shape {tuple(a[k].shape)} in the first, {tuple(b[k].shape)} in the second")
    if wrong:
        raise StateError(_listed("the two models differ", wrong, "Both must have the same architecture."))


def check_same_kind(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> None:
    """Check that the tensors of two state dicts of the same keys have the same dtypes and devices.

    Raises:
        StateError: they do not; the first few differences are listed.
    """
    wrong = []
    for k in a:
        if a[k].dtype != b[k].dtype:
            wrong.append(f"{k}: {a[k].dtype} in the first, {b[k].dtype} in the second")
        elif a[k].device != b[k].device:
            wrong.append(f"{k}: on {a[k].device} in the first, on {b[k].device} in the second")
    if wrong:
        raise StateError(_listed("the two models differ", wrong, "Bring both to one dtype and device first, with .to(...)."))


def distance(spec: PermutationSpec, a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> float:
    """The L2 distance between the parameters of two models, tied ones counted once."""
    total = 0.0
    for home in spec.parameters:
        name = next(n for n, h in spec.aliases.items() if h == home and n in a)
        total += float((_wide(a[name]) - _wide(b[name])).abs().square().sum())
    return total**0.5


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float64))


def check_finite(state: Mapping[str, torch.Tensor], what: str) -> None:
    """Check that all weights are finite.

    Raises:
        StateError: one is not; it is named.
    """
    for name, tensor in state.items():
        if isinstance(tensor, torch.Tensor) and not _is_finite(tensor):
            kind = "NaN" if bool(torch.isnan(tensor).any()) else "infinity"
            bad = int((~torch.isfinite(tensor)).sum())
            raise StateError(f"{what}: {name} holds {kind} ({bad} of {tensor.numel()} entries are not finite)")


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether all entries are: their sum says so, many times faster and without a copy, unless it overflows."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or bool(torch.isfinite(tensor.sum())):
        return True
    return bool(torch.isfinite(tensor).all())


def _listed(head: str, wrong: list[str], advice: str) -> str:
    shown = "".join(f"\n  - {w}" for w in wrong[:_SHOWN])
    more = f"\n  - and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return f"{head}:{shown}{more}\n{advice}"
