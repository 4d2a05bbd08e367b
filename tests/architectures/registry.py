"""A registry of tiny architectures, each small enough for the completeness oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.random_ops import Apply


@dataclass(frozen=True)
class Case:
    """A model's factory, its example inputs, and the order worked out by hand where that was done."""

    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    order: int | None = None


CASES: dict[str, Case] = {}


def case(*shape: int, order: int | None = None, integers: int = 0) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Register a factory under its name; inputs of ``shape`` are normal, or integers below ``integers``."""

    def inputs() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        if integers:
            return torch.randint(0, integers, shape, generator=generator)
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    def register(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        CASES[build.__name__] = Case(build, inputs, order)
        return build

    return register


def net(function: Callable[[Any, Tensor], Any], **parts: Any) -> nn.Module:
    """A module from a function of itself and its input; tensors become parameters."""
    return Apply(function, **parts)


def heads(x: Tensor, n: int) -> Tensor:
    """(b, t, n d) -> (b, n, t, d)."""
    return x.unflatten(-1, (n, -1)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention over (b, h, t, d), flattened to (b, t, h d)."""
    return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
