"""Models of one or several inputs as a function of their parts, and the attention that several of them share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.architectures.registry import CASES, Case, heads


class Net(nn.Module):
    """Parts (modules, parameters, or tensors that become parameters) and a forward function of them and the inputs."""

    def __init__(self, function: Callable[..., Tensor], **parts: nn.Module | Tensor):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if type(part) is Tensor else part)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self, *inputs)


def architecture(*shapes: tuple[int, ...], order: int | None = None) -> Callable:
    """Register a factory under its name, with the shapes of its inputs and the order worked out by hand."""

    def inputs() -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(1)
        return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)

    def register(factory: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        if factory.__name__ in CASES:
            raise ValueError(f"two architectures are called {factory.__name__}")
        CASES[factory.__name__] = Case(factory, inputs, order)
        return factory

    return register


PLAIN = 24 * 2 * (2 * 2) ** 2  # of attention: width 4, two heads, and in each head two dims of q and k and two of v


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """Attention written out, over (b, h, t, d), as (b, t, h d)."""
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def block(attention: Callable[..., Tensor], c: int = 4, inner: int = 4, **parts: nn.Module | Tensor) -> nn.Module:
    """A width of c, one residual attention, and the way in and out."""

    def forward(m: nn.Module, x: Tensor, *more: Tensor) -> Tensor:
        x = m.first(x)
        return m.last(x + m.o(attention(m, x, *more)))

    return Net(forward, first=nn.Linear(2, c), last=nn.Linear(c, 2), o=nn.Linear(inner, c), **parts)


def separate(c: int = 4, q: int = 4, kv: int = 4, source: int = 4) -> dict[str, nn.Module]:
    """Layers for queries, keys and values."""
    return {"q": nn.Linear(c, q, bias=False), "k": nn.Linear(source, kv), "v": nn.Linear(source, kv, bias=False)}


def split_heads(x: Tensor, n: int = 2) -> Tensor:
    return heads(x, n)
