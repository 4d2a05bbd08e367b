"""Weights as training leaves them, for checks that fresh weights would pass for the wrong reason."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def randomize_(model: nn.Module, seed: int = 0) -> None:
    """Make a model's weights trained-like, in place.

    Norm statistics, norm weights and biases get random values, and so does every parameter that is constant (zero
    biases, zero-initialised heads, layer scales). What is random already stays.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.copy_(_like(buffer, generator).abs() * 0.5 + 0.75)
        elif name.endswith("running_mean"):
            buffer.copy_(_like(buffer, generator) * 0.3)
    for parameter in model.parameters():
        # A single number counts as constant too: a zero gate on a residual branch would hide the whole branch.
        if parameter.is_floating_point() and parameter.numel() and bool((parameter == parameter.flatten()[0]).all()):
            spread = 0.2 if parameter.ndim < 2 else parameter.shape[-1] ** -0.5
            parameter.add_(_like(parameter, generator) * spread)


def _like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(tensor.shape, generator=generator, dtype=torch.float64, device="cpu").to(tensor.device, tensor.dtype)
