"""The one-line form: bring one model into another's order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from autoperm.errors import AutopermError
from autoperm.infer import infer
from autoperm.matching import match
from autoperm.spec import PermutationSpec

Model = TypeVar("Model", nn.Module, Mapping[str, torch.Tensor])


def align(
    model_a: nn.Module | Mapping[str, torch.Tensor],
    model_b: Model,
    example_inputs: Any = None,
    *,
    spec: PermutationSpec | None = None,
    method: str = "weight",
    seed: int = 0,
    **options: Any,
) -> Model:
    """Model b, permuted towards model a: the same function, in model a's order.

    Arguments:
        model_a: the model to align to; a module, unless a spec is given.
        model_b: a module or state dict of the same architecture; it is not changed.
        example_inputs: as for :func:`autoperm.infer`; not needed with a spec.
        spec: to use instead of inferring one from model a.
        method, seed, options: as for :func:`autoperm.match`.

    Returns:
        A new model of model b's kind.

    Raises:
        AutopermError: neither a spec nor a module to infer one from.

    Example:
        >>> import torch, autoperm
        >>> a, b = (torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)) for _ in "ab")
        >>> x = torch.randn(3, 4)
        >>> aligned = autoperm.align(a, b, x)
        >>> torch.allclose(aligned(x), b(x), atol=1e-6)
        True
    """
    if spec is None:
        if not isinstance(model_a, nn.Module) or example_inputs is None:
            raise AutopermError("align needs a module and example inputs to infer the spec from, or spec=autoperm.infer(...)")
        spec = infer(model_a, example_inputs)
    return match(model_a, model_b, spec, method=method, seed=seed, **options).permutation.apply(model_b)
