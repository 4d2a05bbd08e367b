"""Checks of what a user passes: numbers, seeds, specs."""

from __future__ import annotations

import numbers
import operator
from typing import TYPE_CHECKING, Any

import torch

from autoperm.errors import AutopermError

if TYPE_CHECKING:
    from autoperm.spec import PermutationSpec


def check_number(name: str, value: Any, *, whole: bool = False, least: float | None = None, nan: bool = False) -> None:
    """Check that an option is a number, a whole one if asked for, and not too small.

    Arguments:
        nan: whether NaN passes, for callers that say more of it.

    Raises:
        AutopermError: the option, and what it was given.
    """
    kind = numbers.Integral if whole else numbers.Real
    if not isinstance(value, kind) or isinstance(value, bool) or (value != value and not nan):
        raise AutopermError(f"{name} must be a {'whole number' if whole else 'number'}, not {value!r}")
    if least is not None and value < least:  # type: ignore[operator]
        raise AutopermError(f"{name} must be {least:g} or more, not {value}")


def check_seed(seed: Any, name: str = "seed") -> int:
    """The seed as an integer.

    Raises:
        AutopermError: it is no whole number of at most 64 bits.
    """
    if isinstance(seed, numbers.Integral) and not isinstance(seed, bool) and -(2**63) <= seed < 2**63:  # type: ignore[operator]
        return operator.index(seed)  # type: ignore[arg-type]
    raise AutopermError(f"{name} must be a whole number of at most 64 bits, not {seed!r}")


def check_spec(spec: Any) -> PermutationSpec:
    """The spec.

    Raises:
        AutopermError: it is something else.
    """
    from autoperm.spec import PermutationSpec

    if not isinstance(spec, PermutationSpec):
        raise AutopermError(f"spec is a {type(spec).__name__}; pass what autoperm.infer returns")
    return spec


def generator_of(seed: Any, name: str = "generator") -> torch.Generator | None:
    """A generator on the CPU: the given one, or a fresh one for a seed; None for torch's own.

    Raises:
        AutopermError: it is neither.
    """
    if seed is None or isinstance(seed, torch.Generator):
        return seed
    return torch.Generator("cpu").manual_seed(check_seed(seed, name))
