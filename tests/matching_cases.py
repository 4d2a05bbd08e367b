"""Small models with groups of every kind to match, and what each matcher needs besides the models."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

import autoperm
from autoperm import PermutationSpec
from autoperm.matching.problem import Problem
from autoperm.stacks import stacked
from autoperm.trained import randomize_


class Attention(nn.Module):
    """Multi-head attention from its ATen ops; with ``residual`` on a stream between two linear layers."""

    def __init__(self, width: int, heads: int, inner: int, residual: bool, out: int = 2):
        super().__init__()
        self.heads, self.residual = heads, residual
        self.stem = nn.Linear(3, width) if residual else nn.Identity()
        self.q, self.k, self.v = (nn.Linear(width, inner) for _ in range(3))
        self.o = nn.Linear(inner, width if residual else out)
        self.head = nn.Linear(width, out) if residual else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = self.o(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))
        return self.head(x + y if self.residual else y)


class Mirrored(nn.Module):
    """A stream added to its mirror image, then cut in two heads: the heads can be exchanged, each turned around."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, 6), nn.Linear(6, 2)
        self.heads = nn.Conv1d(6, 6, 1, groups=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + torch.tanh(x).flip(-1)
        return self.head(torch.tanh(self.heads(x[..., None])[..., 0]))


class PerHead(nn.Module):
    """One MLP per head: the two inner dimensions of a head meet in one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(2, 3, 2))
        self.mid = nn.Parameter(torch.randn(2, 2, 3))
        self.down = nn.Parameter(torch.randn(2, 2, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.einsum("hdi,bi->bhd", self.up, x).relu()
        return torch.einsum("ohe,bhe->bo", self.down, torch.einsum("hed,bhd->bhe", self.mid, h).relu())


class Branches(nn.Module):
    """Modules of a list, each with a gate: they may trade places."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(3, 3)
        self.branches = nn.ModuleList(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gates = self.gate(x).softmax(-1)
        return sum(gates[..., k, None] * f(x) for k, f in enumerate(self.branches))  # type: ignore[return-value]


def mlp(width: int = 16) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))


def group_norm() -> nn.Module:
    body = [nn.Conv2d(3, 12, 3), nn.GroupNorm(4, 12), nn.ReLU(), nn.Conv2d(12, 8, 3), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


def grouped() -> nn.Module:
    body = [nn.Conv2d(3, 12, 1), nn.ReLU(), nn.Conv2d(12, 12, 3, groups=3), nn.ReLU(), nn.Conv2d(12, 2, 1)]
    return nn.Sequential(*body)


def recurrent() -> nn.Module:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.rnn(x)[0])

    return Recurrent()


CASES = {
    "mlp": (mlp, (2, 3)),
    "attention": (lambda: Attention(12, 3, 12, residual=True), (2, 4, 3)),
    "group_norm": (group_norm, (1, 3, 8, 8)),
    "grouped": (grouped, (1, 3, 5, 5)),
    "recurrent": (recurrent, (1, 4, 3)),
    "per_head": (PerHead, (2, 2)),
    "mirrored": (Mirrored, (2, 3)),
    "branches": (Branches, (2, 3)),
}


def pair(name: str) -> tuple[nn.Module, nn.Module, PermutationSpec]:
    build, shape = CASES[name]
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(build())
        randomize_(models[-1], seed)
    return models[0], models[1], autoperm.infer(models[0], torch.zeros(shape))


def by_home(spec: PermutationSpec, model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a model by their names in the spec's layouts."""
    return dict(stacked(spec.stacks, model.state_dict()))


def problem_of(name: str, dtype: torch.dtype = torch.float32) -> Problem:
    """The matching problem of a case."""
    a, b, spec = pair(name)
    return Problem(spec, by_home(spec, a.to(dtype)), by_home(spec, b.to(dtype)))


def random_step(problem: Problem, generator: torch.Generator, share: float) -> dict[int, np.ndarray]:
    """A random step on one group, of which a share of the positions move."""
    g = sorted(problem.matched)[int(torch.randint(len(problem.matched), (), generator=generator))]
    array = np.broadcast_to(np.arange(problem.spec.groups[g].size), problem.element[g].shape).copy()
    for row in array.reshape(-1, array.shape[-1]):
        some = torch.randperm(len(row), generator=generator)[: max(2, int(share * len(row)))].numpy()
        row[some] = np.roll(row[some], 1)
    return {g: array}


def batches(name: str, count: int = 4) -> list[torch.Tensor]:
    """Batches of inputs of a case."""
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(8, *CASES[name][1][1:], generator=generator) for _ in range(count)]


def taught(name: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches with the first model's outputs, where it has no loss."""
    model = pair(name)[0].eval()
    with torch.no_grad():
        return [(x, model(x)) for x in batches(name)]


def gap(output: torch.Tensor, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return (output - batch[1]).square().mean()


def options(method: str, name: str) -> dict[str, Any]:
    """The options that a matcher cannot do without, for a case."""
    return OPTIONS[method](name) if method in OPTIONS else {}


#: Options by matcher, as functions of the case's name.
OPTIONS: dict[str, Any] = {
    "activation": lambda name: {"data": batches(name)},
    "ste": lambda name: {"data": taught(name), "loss": gap, "inputs": lambda batch: batch[0], "steps": 5},
    "sinkhorn": lambda name: {"steps": 100},
}

#: Matchers that look at weights alone and never end below the objective of the identity.
ASCENTS = ("weight", "search", "frank-wolfe", "sinkhorn")
