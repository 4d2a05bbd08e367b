"""Every matcher of the registry with the options that it cannot do without, and repaired midpoints."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import autoperm
from autoperm import PermutationSpec
from autoperm.demo.data import Split
from autoperm.demo.training import reset_norms
from autoperm.errors import AutopermError
from autoperm.matching import matchers

NAIVE = "naive"


@dataclass(frozen=True)
class Aligned:
    """Model b as a method brings it into model a's order.

    Attributes:
        model: the permuted model b; None where the method failed.
        seconds: that matching took, nan for the naive line.
        distance: from model a, in L2.
        problem: why it failed.
    """

    model: nn.Module | None
    seconds: float = float("nan")
    distance: float = float("nan")
    problem: str = ""


def align(method: str, a: nn.Module, b: nn.Module, spec: PermutationSpec, data: Split, *, seed: int) -> Aligned:
    """Align with one method; what it says where it cannot is kept.

    Arguments:
        data: for matchers that look at data.
    """
    if method == NAIVE:
        return Aligned(b, distance=distance(a, b))
    start = time.perf_counter()
    try:
        found = autoperm.match(a, b, spec, method=method, seed=seed, **options(method, data))
    except AutopermError as error:
        return Aligned(None, problem=str(error).splitlines()[0])
    return Aligned(found.permutation.apply(b), time.perf_counter() - start, found.distance)


def options(method: str, data: Split, batch: int = 100) -> dict[str, Any]:
    """What a matcher needs: batches of images, or of images and labels where it takes a loss."""
    takes = inspect.signature(matchers()[method]).parameters
    needed = {name for name, p in takes.items() if p.default is p.empty and p.kind is p.KEYWORD_ONLY}
    found: dict[str, Any] = {}
    if "data" in needed:
        images, labels = data.images.split(batch), data.labels.split(batch)
        found["data"] = list(zip(images, labels, strict=True)) if "loss" in takes else list(images)
    if "loss" in needed:
        found["loss"] = lambda output, pair: nn.functional.cross_entropy(output, pair[1])
    return found


def distance(a: nn.Module, b: nn.Module) -> float:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return sum(float(((x.detach() - y.detach()) ** 2).sum()) for x, y in pairs) ** 0.5


def repairing(a: nn.Module, b: nn.Module, data: Split) -> tuple[str, Callable[[nn.Module], None] | None]:
    """What brings the statistics of a model between a and b in order, as a function that changes it, and its name.

    REPAIR (Jordan et al. 2023) on the given images; where autoperm.merging has none, BatchNorm's statistics are reset, and
    nets without BatchNorm have nothing.
    """
    try:
        from autoperm.merging import repair  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        has_norms = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in a.modules())
        return ("BatchNorm reset", lambda model: reset_norms(model, data)) if has_norms else ("", None)
    batches = list(data.images.split(250))

    def prepare(model: nn.Module) -> None:
        position = _position(model, a, b)
        repaired = repair(model, (a, b), batches, weights=(1 - position, position))
        model.load_state_dict(repaired.state_dict())

    return "REPAIR", prepare


def _position(model: nn.Module, a: nn.Module, b: nn.Module) -> float:
    """Where on the line from a to b a model is, 0 to 1: interpolate does not say."""
    along = length = 0.0
    with torch.no_grad():
        for x, p, q in zip(model.parameters(), a.parameters(), b.parameters(), strict=True):
            along += float(((x - p).double() * (q - p).double()).sum())
            length += float(((q - p).double() ** 2).sum())
    return min(max(along / length, 0.0), 1.0) if length else 0.0


def chosen(methods: Sequence[str]) -> list[str]:
    """Naive first, then the given methods, or all of the registry."""
    known = sorted(matchers(), key=lambda name: (name != "weight", name))
    if unknown := set(methods) - set(known):
        raise AutopermError(f"no matcher is called {sorted(unknown)[0]!r}; there are {', '.join(known)}")
    return [NAIVE, *(methods or known)]
