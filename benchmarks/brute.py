"""Tiny networks whose whole group can be tried: how often each matcher finds the optimum. Part of matching.py."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

import autoperm
from autoperm import AutopermError, PermutationSpec
from autoperm.matching.current import Current
from autoperm.matching.problem import Problem
from autoperm.trained import randomize_


def mlp(*widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Attention(nn.Module):
    """A stream of four units with two heads of two dimensions: 4! x 2! x (2! x 2!)^2 = 768 elements."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.q, self.k, self.v, self.o = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        q, k, v = (f(x).unflatten(-1, (2, 2)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.head(x + self.o(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2)))


def convs() -> nn.Module:
    """Four channels, then a grouped convolution of two groups of two: 4! x 2! x (2! x 2!)^2 elements."""
    body = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2)]
    return nn.Sequential(*body, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


KINDS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "mlp 3-4-4-2": (lambda: mlp(3, 4, 4, 2), (1, 3)),
    "mlp 2-3-3-3-2": (lambda: mlp(2, 3, 3, 3, 2), (1, 2)),
    "attention": (Attention, (1, 3, 3)),
    "grouped convolution": (convs, (1, 2, 5, 5)),
}

#: Matchers with their options.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "weight, from the identity": ("weight", {"start": "identity"}),
    "weight": ("weight", {}),
    "weight, 10 restarts": ("weight", {"restarts": 10}),
    "weight, 50 restarts": ("weight", {"restarts": 50}),
    "search, 50 rounds": ("search", {"rounds": 50}),
    "frank-wolfe": ("frank-wolfe", {}),
}


def instance(kind: str, seed: int) -> tuple[nn.Module, nn.Module, PermutationSpec]:
    build, shape = KINDS[kind]
    models = []
    for k in range(2):
        torch.manual_seed(2 * seed + k)
        models.append(build().eval())
        randomize_(models[-1], 2 * seed + k)
    return models[0], models[1], autoperm.infer(models[0], torch.zeros(shape))


def optimum(a: nn.Module, b: nn.Module, spec: PermutationSpec) -> float:
    """The largest objective of all elements."""
    problem, best = Problem(spec, a.state_dict(), b.state_dict()), -math.inf
    constant = problem.objective - _moving(problem, problem.b)
    for element in elements(spec):
        moved = Current(problem.action, spec.layouts, problem.given[1], problem.dtypes, element)
        moved.changed(problem.given[1])
        best = max(best, _moving(problem, moved))
    return constant + best


def _moving(problem: Problem, b: Mapping[str, torch.Tensor]) -> float:
    return math.fsum(float((problem.given[0][n].double() * b[n].double()).sum()) for n in problem.given[0])


def elements(spec: PermutationSpec) -> Iterator[list[np.ndarray]]:
    choices = []
    for group in spec.groups:
        orders = [np.array(p) for p in itertools.permutations(range(group.size))]
        shape = (*(spec.leaves[p].size for p in group.parents), group.size)
        choices.append([np.stack(rows).reshape(shape) for rows in itertools.product(orders, repeat=group.copies)])
    for arrays in itertools.product(*choices):
        yield list(arrays)


def rows(count: int, kinds: Sequence[str] = ()) -> list[dict[str, object]]:
    """For each matcher the share of instances in which it finds the optimum, overall and by kind of network."""
    kinds = kinds or tuple(KINDS)
    hits: dict[str, dict[str, list[bool]]] = {name: {kind: [] for kind in kinds} for name in METHODS}
    seconds = dict.fromkeys(METHODS, 0.0)
    for kind in kinds:
        for seed in range(max(1, count // len(kinds))):
            a, b, spec = instance(kind, seed)
            best = optimum(a, b, spec)
            for name, (method, more) in METHODS.items():
                start = time.process_time()
                found = autoperm.match(a, b, spec, method=method, progress=False, **more).objective
                seconds[name] += time.process_time() - start
                if found > best + 1e-6 * abs(best):
                    raise AutopermError(f"{name} ends above the best of all elements on {kind}, seed {seed}: the count is wrong")
                hits[name][kind].append(found >= best - 1e-6 * abs(best))
    every = {name: [hit for found in own.values() for hit in found] for name, own in hits.items()}
    return [
        {
            "method": name,
            "optimum found": f"{sum(every[name])} of {len(every[name])}",
            **{kind: f"{sum(own)} of {len(own)}" for kind, own in hits[name].items()},
            "time / weight's": f"{seconds[name] / seconds['weight']:.1f}",
        }
        for name in METHODS
    ]
