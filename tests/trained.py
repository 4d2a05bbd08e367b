"""Trained-like models, and the soundness oracle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils import _pytree as pytree

from autoperm import Inputs, PermutationSpec
from autoperm.trained import randomize_

Module = TypeVar("Module", bound=nn.Module)


def trained_like(model: Module, seed: int = 0) -> Module:
    """The model itself, in float64 and eval mode, with weights that hide nothing."""
    model = model.double().eval()
    randomize_(model, seed)
    return model


def run(model: nn.Module, inputs: Any) -> list[torch.Tensor]:
    """The tensors that a model returns."""
    if isinstance(inputs, Inputs):
        args, kwargs = inputs.args, inputs.kwargs
    elif isinstance(inputs, Mapping):
        args, kwargs = (), dict(inputs)
    else:
        args, kwargs = (inputs if isinstance(inputs, (tuple, list)) else (inputs,)), {}
    with torch.no_grad():
        result = model(*args, **kwargs)
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def soundness(model: nn.Module, spec: PermutationSpec, inputs: Any, samples: int = 3) -> float:
    """The worst relative error over random elements, over all outputs."""
    reference = run(model, inputs)
    assert reference, "the model returns no tensor"
    for value in reference:
        assert torch.isfinite(value).all(), "an output is not finite"
        assert value.numel() < 2 or bool((value != value.flatten()[0]).any()), "an output is constant"
        assert bool(value.any()), "an output is zero: no error is relative to it"
    worst = 0.0
    for seed in range(samples):
        permuted = spec.random(seed).apply(model)
        for value, expected in zip(run(permuted, inputs), reference, strict=True):
            assert torch.isfinite(value).all()
            if not (value.is_floating_point() or value.is_complex()):  # differences of booleans or of bytes are none
                value, expected = value.double(), expected.double()
            worst = max(worst, float((value - expected).abs().max() / expected.abs().max()))
    return worst
