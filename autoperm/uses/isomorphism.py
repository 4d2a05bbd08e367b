"""Whether two models are the same network in another order, and in which."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from autoperm.errors import AutopermError
from autoperm.gathering import gather
from autoperm.matching import match
from autoperm.options import check_number
from autoperm.permutation import Permutation
from autoperm.spec import PermutationSpec
from autoperm.uses.search import Search
from autoperm.uses.structure import Structure
from autoperm.uses.weights import as_integers, weights_of_several

Weights = Mapping[str, torch.Tensor]


def is_permutation_of(
    model_a: nn.Module | Mapping[str, torch.Tensor],
    model_b: nn.Module | Mapping[str, torch.Tensor],
    spec: PermutationSpec,
    *,
    tolerance: float = 0.0,
) -> Permutation | None:
    """The permutation that turns model b into model a; None where there is none.

    At tolerance 0 the answer is exact and complete, tied units included: both models are brought into canonical order
    (see :func:`autoperm.canonicalize`), and every permutation that is returned has been applied and compared. 0.0 and
    -0.0 are equal here. Buffers on which no output depends, such as counts of batches, are not compared.

    With a tolerance, weight matching proposes a permutation, which is then checked. What is returned is right, but
    None only means that none was found: a tolerance is meant for rounding (a checkpoint that went through half
    precision), far below the distances between units.

    Arguments:
        model_a, model_b: modules or state dicts of the spec's architecture, in one dtype; neither is changed.
        spec: from :func:`autoperm.infer`.
        tolerance: the largest absolute difference of two entries that still count as equal.

    Raises:
        AutopermError: the tolerance is negative or not finite.
        StateError: names, shapes, dtypes or devices differ, or parameters are not finite or on the meta device.

    Example:
        >>> import torch, autoperm
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = autoperm.infer(mlp, torch.zeros(1, 4))
        >>> planted = spec.random(1)
        >>> autoperm.is_permutation_of(planted.apply(mlp), mlp, spec) == planted
        True
        >>> other = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> autoperm.is_permutation_of(other, mlp, spec) is None
        True
    """
    check_number("tolerance", tolerance, nan=True)
    if not 0 <= tolerance < float("inf"):
        raise AutopermError(f"tolerance must be a number of at least 0, got {tolerance}")
    a, b = weights_of_several({"model_a": model_a, "model_b": model_b}, spec)
    found = _exact(a, b, spec)
    if found is None and tolerance > 0:
        found = match(a, b, spec, progress=False).permutation
    return found if found is not None and _agree(found, a, b, tolerance) else None


def _exact(a: Weights, b: Weights, spec: PermutationSpec) -> Permutation | None:
    """The one witness that canonical orders give, or None; not checked yet."""
    first, second = (Search(Structure(spec, _labels(weights))) for weights in (a, b))
    if first.root.trace != second.root.trace:
        return None
    mine, theirs = first.canonical(), second.canonical()
    if mine.digest != theirs.digest:
        return None
    return Permutation(spec, mine.arrays).inverse() @ Permutation(spec, theirs.arrays)


def _labels(weights: Weights) -> dict[str, torch.Tensor]:
    return {name: as_integers(tensor, signed_zeros=False) for name, tensor in weights.items()}


def _agree(found: Permutation, a: Weights, b: Weights, tolerance: float) -> bool:
    spec = found.spec
    counted = [name for name in a if name in spec.parameters or spec.layouts[name].cells]
    return all(_close(a[name], gather(spec.action, spec.layouts[name], found.arrays, b[name]), tolerance) for name in counted)


def _close(x: torch.Tensor, y: torch.Tensor, tolerance: float) -> bool:
    """Whether entries differ by the tolerance at most; equal infinities and two NaNs (in buffers) are equal."""
    same = (x == y) | ((x != x) & (y != y))
    if tolerance > 0 and (x.is_floating_point() or x.is_complex()):
        wide = torch.promote_types(x.dtype, torch.float64)
        same |= (x.to(wide) - y.to(wide)).abs() <= tolerance
    return bool(same.all())
