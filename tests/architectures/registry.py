"""The registry of tiny architectures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Architecture(NamedTuple):
    """How to make a model and its example inputs, and its order where it was worked out by hand."""

    factory: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    order: int | None = None


ARCHITECTURES: dict[str, Architecture] = {}


class Net(nn.Module):
    """Parts (modules, parameters, or tensors that become parameters) and a forward function of them and the inputs."""

    def __init__(self, function: Callable[..., Tensor], **parts: nn.Module | Tensor):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if type(part) is Tensor else part)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self, *inputs)


def architecture(*shapes: tuple[int, ...], ids: int = 0, order: int | None = None) -> Callable:
    """Register a factory under its name.

    Arguments:
        shapes: the shapes of the inputs.
        ids: where positive, the first input holds integers below it.
        order: the order worked out by hand.
    """

    def register(factory: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        if factory.__name__ in ARCHITECTURES:
            raise ValueError(f"two architectures are called {factory.__name__}")
        ARCHITECTURES[factory.__name__] = Architecture(factory, lambda: _inputs(shapes, ids), order)
        return factory

    return register


def _inputs(shapes: tuple[tuple[int, ...], ...], ids: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    if ids:
        made[0] = torch.arange(made[0].numel()).reshape(shapes[0]) % ids
    return tuple(made)


def seeded(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    """A fresh model, the same every time, and its inputs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ARCHITECTURES[name].factory(), ARCHITECTURES[name].inputs()
