"""What is done to the axes of the input ties weights to it, however often those axes are cut."""

from __future__ import annotations

import random
import warnings

import pytest
import torch
from torch import Tensor, nn

import autoperm
from autoperm.inference import partition
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
