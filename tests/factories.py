"""Models and inputs for the command line to name, as ``factories:mlp``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import autoperm

BUILT = nn.Linear(2, 2)
NUMBER = 3


def mlp() -> nn.Module:
    """4 -> 8 -> 2; its group is S_8."""
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def wider() -> nn.Module:
    """The same with 9 hidden units."""
    return nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 2))


def deep() -> nn.Module:
    """30 hidden layers: more groups than are shown at once."""
    return nn.Sequential(*(layer for _ in range(30) for layer in (nn.Linear(3, 3), nn.Tanh())))


class TwoInputs(nn.Module):
    """Tokens and numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 6)
        self.linear = nn.Linear(3, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, tokens: Tensor, numbers: Tensor) -> Tensor:
        return self.head(self.embedding(tokens) * self.linear(numbers))


@torch.library.custom_op("autoperm_tests::odd", mutates_args=())
def odd(x: Tensor) -> Tensor:
    """An op without a rule."""
    return x * torch.arange(x.shape[-1]).to(x)


@odd.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Ranked(nn.Module):
    """A layer and an op without a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return odd(self.linear(x))


class model:
    """A namespace, for dotted names."""

    @staticmethod
    def mlp() -> nn.Module:
        return mlp()


def numbers() -> Tensor:
    """Inputs for ``mlp``."""
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def keywords() -> dict[str, Tensor]:
    """Inputs by name, for ``TwoInputs``."""
    return {"tokens": torch.tensor([1, 2]), "numbers": torch.ones(2, 3)}


def both() -> autoperm.Inputs:
    """Positional and named inputs, for ``TwoInputs``."""
    return autoperm.Inputs(torch.tensor([1, 2]), numbers=torch.ones(2, 3))


def sized(width: int) -> nn.Module:
    """A factory that needs an argument."""
    return nn.Linear(width, width)


def failing() -> nn.Module:
    """A factory that fails."""
    raise ValueError("no weights today")
