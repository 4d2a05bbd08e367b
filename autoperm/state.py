"""Checks of state dicts against a spec and against one another."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from autoperm.capture.lift import identity, named_states
from autoperm.errors import StateError
from autoperm.options import check_spec

if TYPE_CHECKING:
    from autoperm.spec import PermutationSpec

_SHOWN = 5


def state_of(model: nn.Module | Mapping[str, torch.Tensor], what: str = "model") -> Mapping[str, torch.Tensor]:
    """The state dict of a module, or the mapping itself.

    Raises:
        StateError: ``model`` is neither, or has a lazy parameter that was not initialised.
    """
    if isinstance(model, nn.Module):
        state = model.state_dict()
        if lazy := [name for name, tensor in state.items() if is_lazy(tensor)]:
            raise StateError(f"{what}: {lazy[0]} has no shape yet; run the model once on data")
        return state
    if isinstance(model, Mapping):
        return model
    raise StateError(f"{what}: expected a module or a state dict, got {type(model).__name__}")


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters and persistent buffers of a module themselves, whatever its state dict makes of them."""
    return {name: tensor for name, tensor, _, _ in named_states(model)}


def put(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give parameters and persistent buffers other values, in place: their memory stays, which other attributes may share."""
    with torch.no_grad():
        for name, tensor, (held, key), _ in named_states(model):
            if torch._debug_has_internal_overlap(tensor) == 1:  # expanded: an entry stands for several
                held[key] = tensors[name].clone()
            else:
                tensor.detach().copy_(tensors[name])


def like(state: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of other tensors with the module versions that ``state`` carries, which some modules insist on."""
    new = OrderedDict(tensors)
    if hasattr(state, "_metadata"):
        new._metadata = state._metadata  # type: ignore[attr-defined]
    return new


def check_state(spec: PermutationSpec, state: Mapping[str, torch.Tensor], what: str = "the state dict") -> None:
    """Check that a state dict has the tensors and shapes of a spec, and that the same ones are tied.

    Raises:
        AutopermError: the spec is none.
        StateError: it does not; the first few differences are listed.
    """
    wrong = []
    check_spec(spec)
    present = {entry.first: name for name, entry in reversed(list(spec.tensors.items())) if name in state}
    for name, entry in spec.tensors.items():
        shape, first = entry.shape, entry.first
        if name not in state:
            if first not in present:
                wrong.append(f"{name}: missing (the spec has shape {shape})")
        elif not isinstance(state[name], torch.Tensor):
            wrong.append(f"{name}: a {type(state[name]).__name__}, the spec has a tensor of shape {shape}")
        elif tuple(state[name].shape) != shape:
            wrong.append(f"{name}: shape {tuple(state[name].shape)}, the spec has {shape}")
        elif name != present[first] and not same(state[name], state[present[first]]):
            wrong.append(f"{present[first]} and {name}: one tensor in the spec, with different entries here")
    if wrong:
        raise StateError(_listed(f"{what} does not fit the spec", wrong, "Infer the spec from the same architecture."))
    _check_apart(spec, state, what)


def with_tied(spec: PermutationSpec, state: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """A state dict with all names of tied tensors of which it has one."""
    there = {entry.first: state[name] for name, entry in spec.tensors.items() if name in state}
    missing = {name: there[e.first] for name, e in spec.tensors.items() if name not in state and e.first in there}
    return {**state, **missing}


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are one, or have the same dtype and entries."""
    if a is b or a.is_meta or b.is_meta or identity(a) == identity(b):
        return True
    return a.dtype == b.dtype and bool(torch.equal(a.detach(), b.detach().to(a.device)))


def _check_apart(spec: PermutationSpec, state: Mapping[str, torch.Tensor], what: str) -> None:
    """Check that what are several tensors in the spec are not one here: permuting one would permute the others."""
    names: dict[tuple[object, ...], str] = {}
    wrong = []
    for name in (n for n in spec.tensors if n in state):
        first = names.setdefault(identity(state[name]), name)
        if spec.tensors[first].first != spec.tensors[name].first and state[name].numel():
            wrong.append(f"{first} and {name}: two tensors in the spec, one here")
    if wrong:
        raise StateError(_listed(f"{what} does not fit the spec", wrong, "Infer the spec from the model that ties them."))


def check_module(spec: PermutationSpec, model: nn.Module, what: str = "the model") -> None:
    """:func:`check_state` for a module, all of whose parameters and persistent buffers the spec has to know.

    Raises:
        StateError: it does not fit; the first few differences are listed.
    """
    state = tensors_of(model)
    check_state(spec, state, what)
    if more := [f"{name}: not in the spec" for name in state if name not in spec.tensors]:
        raise StateError(_listed(f"{what} does not fit the spec", more, "Infer the spec from the model as it is now."))


def check_pair(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> None:
    """Check that two state dicts have the same keys and shapes.

    Raises:
        StateError: they do not; the first few differences are listed.
    """
    wrong = [f"{k}: only in the first" for k in a if k not in b] + [f"{k}: only in the second" for k in b if k not in a]
    mine, theirs = set(_tensors(a)), set(_tensors(b))
    wrong += [f"{k}: a tensor in one of them alone" for k in a if k in b and (k in mine) != (k in theirs)]
    if wrong:
        raise StateError(_listed("the two models differ", wrong, "Both must have the same architecture."))
    for k in _tensors(a):
        if k in b and tuple(a[k].shape) != tuple(b[k].shape):
            wrong.append(f"{k}: shape {tuple(a[k].shape)} in the first, {tuple(b[k].shape)} in the second")
    if wrong:
        raise StateError(_listed("the two models differ", wrong, "Both must have the same architecture."))


def _tensors(state: Mapping[str, torch.Tensor]) -> list[str]:
    """The names of tensors: modules may keep other things in state dicts, under ``_extra_state``."""
    return [name for name, value in state.items() if isinstance(value, torch.Tensor)]


def check_same_kind(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> None:
    """Check that the tensors of two state dicts of the same keys have the same dtypes and devices.

    Raises:
        StateError: they do not; the first few differences are listed.
    """
    wrong = []
    for k in _tensors(a):
        if a[k].dtype != b[k].dtype:
            wrong.append(f"{k}: {a[k].dtype} in the first, {b[k].dtype} in the second")
        elif a[k].device != b[k].device:
            wrong.append(f"{k}: on {a[k].device} in the first, on {b[k].device} in the second")
    if wrong:
        raise StateError(_listed("the two models differ", wrong, "Bring both to one dtype and device first, with .to(...)."))


def distance(spec: PermutationSpec, a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> float:
    """The L2 distance between the parameters of two models, tied ones counted once."""
    total = 0.0
    named = reversed(list(spec.tensors.items()))
    names = {entry.first: name for name, entry in named if name in a and spec.is_parameter(name)}
    for name in names.values():
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
