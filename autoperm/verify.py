"""Check by computation that permutations leave a model's outputs as they are."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autoperm.caches import copied
from autoperm.capture.guard import same_random_state, untouched
from autoperm.capture.inputs import split_inputs
from autoperm.capture.structure import map_leaves, tensors
from autoperm.errors import AutopermError, VerificationError
from autoperm.options import check_number, check_seed, check_spec
from autoperm.permutation import Permutation
from autoperm.precision import InDoubles
from autoperm.spec import PermutationSpec
from autoperm.state import check_module
from autoperm.trained import randomize_


@dataclass(frozen=True)
class OutputError:
    """The largest difference that a permutation made in one output.

    Attributes:
        name: the output, such as ``output.logits``.
        absolute: the largest absolute difference.
        relative: that over the largest absolute value of the output.
        constant: whether all entries of the output are equal, so that agreement says little.
    """

    name: str
    absolute: float
    relative: float
    constant: bool = False

    def __str__(self) -> str:
        note = " (constant: its agreement says little)" if self.constant else ""
        return f"{self.name}: absolute {self.absolute:.1e}, relative {self.relative:.1e}{note}"


@dataclass(frozen=True)
class Verification:
    """What :func:`verify` found.

    Attributes:
        errors: one record per output, the worst over the elements tried.
        tolerance: the largest relative error that passes.
        samples: how many elements were tried.

    Example:
        >>> import torch, autoperm
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = autoperm.infer(mlp, torch.zeros(1, 4))
        >>> found = autoperm.verify(mlp, spec, torch.randn(3, 4))
        >>> found.ok, found.samples, [error.name for error in found.errors]
        (True, 3, ['output'])
    """

    errors: tuple[OutputError, ...]
    tolerance: float
    samples: int

    @property
    def relative(self) -> float:
        """The worst relative error."""
        return max((e.relative for e in self.errors), default=0.0)

    @property
    def ok(self) -> bool:
        """Whether every output agrees."""
        return self.relative <= self.tolerance

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        verdict = "the function is unchanged" if self.ok else "THE FUNCTION CHANGED"
        lines = [f"{verdict}: {self.samples} permutations tried, worst relative error {self.relative:.1e}"]
        lines += [f"  {error}" for error in self.errors]
        return "\n".join(lines)


def verify(
    model: nn.Module,
    spec: PermutationSpec | Permutation,
    example_inputs: Any,
    *,
    samples: int = 3,
    seed: int = 0,
    tolerance: float = 1e-10,
    dtype: torch.dtype | None = torch.float64,
    randomize: bool = True,
) -> Verification:
    """Compare a model's outputs before and after permuting its weights.

    Works on a copy, in float64, with weights made trained-like: fresh norm statistics (mean 0, variance 1), zero
    biases and zero-initialised heads hide errors.

    Arguments:
        model: the model; it is not changed.
        spec: a spec, of which random elements are tried, or one permutation.
        example_inputs: as for :func:`autoperm.infer`.
        samples: how many random elements to try.
        seed: of the elements and of the randomised weights.
        tolerance: the largest relative error that passes.
        dtype: what to compute in; None keeps the model's.
        randomize: whether to make the copy's weights trained-like.

    Raises:
        AutopermError: an option or the spec is of another kind.
        VerificationError: the check would say nothing (no samples, only constant outputs, a non-finite one, or a
            forward that does not repeat itself), or the copy does not run.
        StateError: the spec is of another architecture.

    Example:
        >>> import torch, autoperm
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = autoperm.infer(mlp, torch.zeros(1, 4))
        >>> autoperm.verify(mlp, spec, torch.randn(3, 4)).ok
        True
    """
    check_number("tolerance", tolerance, least=0)
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise VerificationError(f"dtype must be a floating-point torch.dtype or None, not {dtype!r}")
    seed = check_seed(seed)
    elements = [spec] if isinstance(spec, Permutation) else _elements(check_spec(spec), samples, seed)
    if not isinstance(model, nn.Module):
        raise VerificationError(f"the model is a {type(model).__name__}; only a torch.nn.Module can be run")
    check_module(elements[0].spec, model)
    working = _copy(model, elements[0].spec, dtype)
    if randomize:
        randomize_(working, seed)
    args, kwargs = map_leaves(lambda leaf: _cast(leaf, dtype), split_inputs(example_inputs))
    reference = _outputs(working, args, kwargs)
    _check_telling(reference)
    _check_repeats(reference, _outputs(working, args, kwargs), tolerance)
    worst = {name: OutputError(name, 0.0, 0.0, _is_constant(value)) for name, value in reference.items()}
    for element in elements:
        for name, value in _outputs(element.apply(working), args, kwargs).items():
            worst[name] = max(worst[name], _difference(name, value, reference[name]), key=lambda e: e.relative)
    return Verification(tuple(worst.values()), tolerance, len(elements))


def _elements(spec: PermutationSpec, samples: int, seed: int) -> list[Permutation]:
    check_number("samples", samples, whole=True)
    if samples < 1:
        raise VerificationError(f"samples must be at least 1, got {samples}: with none tried nothing is verified")
    generator = torch.Generator("cpu").manual_seed(seed)
    return [spec.random(generator) for _ in range(samples)]


def _copy(model: nn.Module, spec: PermutationSpec, dtype: torch.dtype | None) -> nn.Module:
    if any(t.is_meta for t in (*model.parameters(), *model.buffers())):
        raise VerificationError("the model is on the meta device and has no values to compute with; build it on a real one")
    try:
        working = copied(model, spec.caches).eval()
    except AutopermError as error:
        raise VerificationError(str(error)) from error
    if dtype is not None:
        _convert(working, dtype)
    return working


def _convert(model: nn.Module, dtype: torch.dtype) -> None:
    """As ``model.to(dtype)``, but complex tensors become complex ones of that precision."""
    wide = torch.promote_types(dtype, torch.complex32)
    model._apply(lambda t: t.to(wide) if t.is_complex() else t.to(dtype) if t.is_floating_point() else t)


def _cast(leaf: Any, dtype: torch.dtype | None) -> Any:
    if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and dtype is not None:
        return leaf.to(dtype)
    return leaf


def _outputs(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, torch.Tensor]:
    try:
        # Copies, since a forward may write to its inputs; one random state, since it may draw numbers.
        args, kwargs = map_leaves(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, (args, kwargs))
        wide = InDoubles() if any(p.dtype == torch.float64 for p in model.parameters()) else contextlib.nullcontext()
        # What the forward caches on its modules (biases that it gathered from a table) belongs to the weights of this run.
        with torch.no_grad(), same_random_state(), untouched(model), wide:
            torch.manual_seed(0)
            result = model(*args, **kwargs)
    except Exception as error:
        raise VerificationError(
            f"the copy of the model does not run ({type(error).__name__}: {error}). If it only runs in its own dtype, "
            "pass dtype=None and a tolerance to match"
        ) from error
    return dict(tensors(result, "output"))


def _check_telling(outputs: dict[str, torch.Tensor]) -> None:
    """Refuse a comparison that could not fail."""
    if not any(v.numel() for v in outputs.values()):
        raise VerificationError("the model returns no tensors with entries, so that there is nothing to compare")
    numeric = {k: v for k, v in outputs.items() if (v.is_floating_point() or v.is_complex()) and v.numel()}
    for name, value in numeric.items():
        if not bool(torch.isfinite(value).all()):
            raise VerificationError(f"{name} holds NaN or infinity: there is nothing to compare. Try other example inputs")
    if all(_is_constant(v) for v in outputs.values() if v.numel()):
        raise VerificationError("every output is constant, so that the comparison would say nothing. Try other example inputs")


def _is_constant(value: torch.Tensor) -> bool:
    """Whether all entries are equal; a single number only counts as constant where it is zero."""
    if value.numel() < 2:
        return value.numel() == 0 or not bool(value.any())
    return bool((value == value.flatten()[0]).all())


def _check_repeats(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], tolerance: float) -> None:
    """Refuse a model whose outputs change from one call to the next: the permutations would get the blame."""
    changed = [n for n in first if n not in second or first[n].shape != second[n].shape]
    changed += [n for n in first if n not in changed and _difference(n, second[n], first[n]).relative > tolerance]
    if changed:
        raise VerificationError(
            f"{changed[0]} differs between two calls with the same weights and inputs: the forward keeps state or draws "
            "random numbers of its own. Pass a model that repeats itself"
        )


def _difference(name: str, value: torch.Tensor, reference: torch.Tensor) -> OutputError:
    if not reference.numel():
        return OutputError(name, 0.0, 0.0, True)
    wide = torch.complex128 if reference.is_complex() else torch.float64
    value, reference = value.to(wide), reference.to(wide)
    if not bool(torch.isfinite(value).all()):
        return OutputError(name, float("inf"), float("inf"), _is_constant(reference))
    absolute = float((value - reference).abs().max())
    scale = float(reference.abs().max())
    return OutputError(name, absolute, absolute / scale if scale > 0 else absolute, _is_constant(reference))
