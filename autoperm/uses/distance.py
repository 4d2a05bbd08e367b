"""How far apart two networks are, whatever order their units are in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from autoperm.matching import match
from autoperm.matching.problem import Problem
from autoperm.spec import PermutationSpec
from autoperm.uses.weights import weights_of_several


def distance(
    model_a: nn.Module | Mapping[str, torch.Tensor],
    model_b: nn.Module | Mapping[str, torch.Tensor],
    spec: PermutationSpec,
    *,
    method: str = "weight",
    **options: Any,
) -> float:
    """The L2 distance between two models' parameters over the permutations of one of them: an upper bound.

    The distance that is meant is the least over the whole group. It is bounded by the best of three: a matched to b, b
    matched to a (a permutation and its inverse give the same distance), and both as they are. So the result is
    symmetric, never above the plain distance, and 0 where matching finds that the two are one network; matching is a
    local search, so that it may lie above the least. Tied parameters count once, buffers not at all.

    Arguments:
        model_a, model_b: modules or state dicts of the spec's architecture, in one dtype; neither is changed.
        spec: from :func:`autoperm.infer`.
        method, options: as for :func:`autoperm.match`, ``seed`` and ``template`` included.

    Raises:
        AutopermError: no such matcher or option.
        StateError: names, shapes, dtypes or devices differ, or parameters are not finite or on the meta device.

    Example:
        >>> import torch, autoperm
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = autoperm.infer(mlp, torch.zeros(1, 4))
        >>> autoperm.distance(mlp, spec.random(1).apply(mlp), spec)
        0.0
    """
    a, b = weights_of_several({"model_a": model_a, "model_b": model_b}, spec)
    there = match(model_a, model_b, spec, method=method, **options)
    found = [Problem(spec, a, b).distance, there.distance]
    if not there.interrupted:
        found.append(match(model_b, model_a, spec, method=method, **options).distance)
    return min(found)
