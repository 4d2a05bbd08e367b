"""What is done to the axes of the input ties weights to it, however often those axes are cut."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import autoperm
from autoperm.capture import capture
from autoperm.inference import partition
from autoperm.inference.system import System
from tests.oracle import true_order
from tests.trained import soundness, trained_like

WIDTH = 3


class Programme(nn.Module):
    """Random ops along the tokens of (batch, tokens, width), between linear layers; a table of positions now and then."""

    def __init__(self, seed: int):
        super().__init__()
        self.seed = seed
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(12))
        self.table = nn.Parameter(torch.randn(40, WIDTH))
        self.mix = nn.Linear(3 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        rng = random.Random(self.seed)
        self.used = 0
        for _ in range(3):
            x = self.step(rng, torch.tanh(self.linear(x)))
        return self.linear(x)

    def linear(self, x: Tensor) -> Tensor:
        self.used += 1
        return self.layers[(self.used - 1) % len(self.layers)](x)  # type: ignore[no-any-return]

    def step(self, rng: random.Random, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        kind = rng.choice(["windows", "pad", "repeat", "roll", "flip", "slice", "stride", "table", "scores", "shift", "split"])
        if kind == "windows" and t > 3:
            parts = torch.stack([x[:, 2:], x[:, 1:-1], x[:, :-2]], 2)
            return self.mix(parts.flatten(2)) if rng.random() < 0.5 else torch.cat([parts, x[:, 2:, None]], 2).flatten(1, 2)
        if kind == "pad":
            return torch.cat([x.new_zeros(n, rng.randint(1, 3), WIDTH), x], 1)
        if kind == "repeat":
            return x[:, torch.arange(t + rng.randint(1, 7)) % min(t, rng.randint(2, 4))]
        if kind == "roll":
            return x + self.linear(x.roll(rng.randint(1, t), 1))
        if kind == "flip":
            return x + self.linear(x.flip(1))
        if kind == "slice" and t > 3:
            return torch.cat([x[:, 1:], self.linear(x[:, : rng.randint(1, t - 1)])], 1)
        if kind == "stride" and t > 3:
            return x[:, :: rng.randint(2, 3)]
        if kind == "table":
            return x * self.table[torch.arange(t) % rng.randint(2, 5)]
        if kind == "scores":
            return (self.linear(x) @ self.linear(x).mT + self.shifted(self.linear(x) @ self.table[: 2 * t - 1].T)).softmax(-1) @ x
        if kind == "shift":
            return self.shifted(self.linear(x) @ self.table[: 2 * t - 1].T) @ x
        if kind == "split" and t % 2 == 0:
            left, right = x.unflatten(1, (2, t // 2)).unbind(1)
            return torch.cat([right, self.linear(left + right)], 1)
        return x

    @staticmethod
    def shifted(scores: Tensor) -> Tensor:
        """Transformer-XL's relative shift of (batch, t, 2 t - 1)."""
        n, t, u = scores.shape
        padded = torch.cat([scores.new_zeros(n, t, 1), scores], -1)
        return padded.view(n, u + 1, t)[:, 1:].reshape(n, t, u)[:, :, :t]


@pytest.mark.parametrize("budget", [None, 1, 3])
def test_weights_stay_tied_to_the_axes_of_the_input(budget: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if budget is not None:
        monkeypatch.setattr(partition, "PINNED_BUDGET", budget)
    check(range(20))


@pytest.mark.slow
@pytest.mark.parametrize("budget", [1, 2, 3, 8])
def test_weights_stay_tied_many_times(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "PINNED_BUDGET", budget)
    check(range(20, 220))


def check(seeds: range) -> None:
    moved = 0
    for seed in seeds:
        torch.manual_seed(seed)
        model = trained_like(Programme(seed), seed=seed)
        x = torch.randn(2, random.Random(seed).randint(4, 9), WIDTH, dtype=torch.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("error", autoperm.UnsupportedOpWarning)
            spec = autoperm.infer(model, x)
        moved += spec.order > 1
        assert soundness(model, spec, x) < 1e-9, seed
    assert moved > len(seeds) // 2, "hardly anything moves, which shows little"


class Shifted(nn.Module):
    """Attention with tables of distances for keys and for values, shared by all heads (Shaw et al. 2018; VITS)."""

    HEADS, SIZE, TOKENS = 3, 2, 5

    def __init__(self) -> None:
        super().__init__()
        width = self.HEADS * self.SIZE
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.of_keys, self.of_values = (nn.Parameter(torch.randn(2 * self.TOKENS - 1, self.SIZE)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).view(self.TOKENS, self.HEADS, self.SIZE).transpose(0, 1) for layer in (self.query, self.key, self.value))
        weights = (q @ k.mT + self.by_place(q @ self.of_keys.T)).softmax(-1)
        found = weights @ v + self.by_distance(weights) @ self.of_values
        return self.out(found.transpose(0, 1).reshape(self.TOKENS, -1))  # type: ignore[no-any-return]

    def by_place(self, x: Tensor) -> Tensor:
        """From (heads, tokens, distances) to (heads, tokens, tokens), by padding and another view."""
        flat = nn.functional.pad(nn.functional.pad(x, (0, 1)).flatten(1), (0, self.TOKENS - 1))
        return flat.view(self.HEADS, self.TOKENS + 1, 2 * self.TOKENS - 1)[:, : self.TOKENS, self.TOKENS - 1 :]

    def by_distance(self, x: Tensor) -> Tensor:
        flat = nn.functional.pad(nn.functional.pad(x, (0, self.TOKENS - 1)).flatten(1), (self.TOKENS, 0))
        return flat.view(self.HEADS, self.TOKENS, 2 * self.TOKENS)[..., 1:]


def test_heads_move_where_distances_are_shifted_twice() -> None:
    """The tokens' axis is cut too often to be followed; what else it is flattened with is not given up for that."""
    torch.manual_seed(0)
    model = trained_like(Shifted(), seed=1)
    x = torch.randn(Shifted.TOKENS, Shifted.HEADS * Shifted.SIZE, dtype=torch.float64)
    spec = autoperm.infer(model, x)
    assert soundness(model, spec, x, samples=10) < 1e-10
    assert spec.order == 6 * 2 * 2  # heads, and the tables' dims
    assert spec.order == true_order(capture(model, x))


def test_views_of_views_are_given_up_together() -> None:
    """An axis of eight is 2 x 4 and 4 x 2, that four is 2 x 2, and of the twos some cannot be followed."""
    system = System()
    whole, four = system.axis(8), system.axis(4)
    system.products[(whole, (opaque := system.axis(2)), system.axis(4))] = None
    system.products[(whole, four, system.axis(2))] = None
    system.products[(four, opaque, system.axis(2))] = None
    system.make_opaque(opaque, "too many pieces")
    found = partition.Partition(system)
    found.refine(whole, np.arange(8))
    found.solve()
    assert whole in system.opaque or four in system.opaque
    again = partition.Partition(system).solve()
    assert not any(axis in again.colors for axis in system.opaque)
