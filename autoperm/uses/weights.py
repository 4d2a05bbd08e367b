"""A model's weights as the uses of a group need them: checked, once for each tensor, and as integers to compare."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import nn

from autoperm.errors import StateError
from autoperm.spec import PermutationSpec
from autoperm.stacks import stacked
from autoperm.state import check_finite, check_pair, check_same_kind, check_state, state_of

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_MULTIPLIER = 0x9E3779B97F4A7C15


def weights(
    model: nn.Module | Mapping[str, torch.Tensor], spec: PermutationSpec, what: str = "the model"
) -> dict[str, torch.Tensor]:
    """The tensors that the forward reads, by the names in ``spec.layouts``; tied ones once.

    Raises:
        StateError: names or shapes are not the spec's, or parameters are not finite or on the meta device. The values
            of buffers are not looked at: masks may hold infinities.
    """
    state = state_of(model, what)
    check_state(spec, state, what)
    if held := [name for name in spec.tensors if name in state and state[name].is_meta]:
        raise StateError(f"{what}: {held[0]} is on the meta device and has no values; load its weights first")
    state = stacked(spec.stacks, state, what)
    found: dict[str, torch.Tensor] = {}
    for name, home in spec.aliases.items():
        if name in state and (home not in found or name == home):
            found[home] = state[name].detach()
    check_finite({name: tensor for name, tensor in found.items() if name in spec.parameters}, what)
    return {home: found[home] for home in spec.layouts}


def weights_of_several(
    models: Mapping[str, nn.Module | Mapping[str, torch.Tensor]], spec: PermutationSpec
) -> list[dict[str, torch.Tensor]]:
    """The :func:`weights` of models by what to call them in an error; all must be of one architecture and dtype.

    Raises:
        StateError: as for :func:`weights`, or two models differ in names, shapes, dtypes or devices.
    """
    states = {what: state_of(model, what) for what, model in models.items()}
    first = next(iter(models))
    for what in list(models)[1:]:
        with _between(first, what):
            check_pair(states[first], states[what])
    found = {what: weights(model, spec, what) for what, model in models.items()}
    for what in list(models)[1:]:
        with _between(first, what):
            check_same_kind(found[first], found[what])
    return list(found.values())


@contextlib.contextmanager
def _between(first: str, second: str) -> Iterator[None]:
    """Say in an error which two models differ."""
    try:
        yield
    except StateError as error:
        raise StateError(f"{first} and {second}: {error}") from None


def as_integers(tensor: torch.Tensor, *, signed_zeros: bool) -> torch.Tensor:
    """Integers of the tensor's shape, on the CPU, equal where its entries have the same bits.

    Without ``signed_zeros`` -0.0 counts as 0.0. Entries of 16 bytes are hashed to 8.
    """
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    if not signed_zeros and (plain.is_floating_point() or plain.is_complex()):
        plain = _without_signed_zeros(plain)
    plain = plain.contiguous()
    if plain.element_size() <= 8:
        return plain.view(_INTEGERS[plain.element_size()])
    halves = torch.view_as_real(plain).view(torch.int64).numpy().view(np.uint64)
    return torch.from_numpy((mixed(halves[..., 0]) * np.uint64(_MULTIPLIER) + halves[..., 1]).view(np.int64))


def _without_signed_zeros(tensor: torch.Tensor) -> torch.Tensor:
    parts = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    parts = torch.where(parts == 0, torch.zeros_like(parts), parts)
    return torch.view_as_complex(parts) if tensor.is_complex() else parts


def mixed(values: np.ndarray) -> np.ndarray:
    """A hash of each 64-bit number (the finaliser of SplitMix64, Steele, Lea and Flood 2014)."""
    out = values ^ (values >> np.uint64(30))
    out *= np.uint64(0xBF58476D1CE4E5B9)
    out ^= out >> np.uint64(27)
    out *= np.uint64(0x94D049BB133111EB)
    out ^= out >> np.uint64(31)
    return out
