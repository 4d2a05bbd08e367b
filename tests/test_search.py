"""Iterated local search ends higher than sweeps, within rounds or seconds."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matching_cases import CASES, pair, problem_of
from torch import nn

import autoperm
from autoperm.matching.ascent import Ascent
from autoperm.matching.search import Kicks
from autoperm.running import Run
from autoperm.trained import randomize_


@pytest.mark.parametrize("name", CASES)
def test_search_ends_above_weight_matching(name: str) -> None:
    a, b, spec = pair(name)
    once = autoperm.match(a, b, spec, seed=1, progress=False)
    found = autoperm.match(a, b, spec, method="search", seed=1, rounds=20, progress=False)
    assert found.objective >= once.objective * (1 - 1e-12)
    assert list(found.history) == sorted(found.history) and len(found.history) == 22
    assert found.objective == found.history[-1] == pytest.approx(
        autoperm.match(a, found.permutation.apply(b), spec, max_sweeps=0).objective, rel=1e-12
    )
    fw = autoperm.match(a, b, spec, method="search", start="frank-wolfe", rounds=3, progress=False)
    assert fw.objective >= autoperm.match(a, b, spec, method="frank-wolfe", progress=False).objective * (1 - 1e-12)


def test_search_on_trained_like_networks_is_much_better_than_sweeps() -> None:
    gains = []
    for seed in range(3):
        models = []
        for k in range(2):
            torch.manual_seed(10 * seed + k)
            models.append(nn.Sequential(*(layer for _ in range(3) for layer in (nn.Linear(16, 16), nn.ReLU())), nn.Linear(16, 4)))
            randomize_(models[-1], 10 * seed + k)
        spec = autoperm.infer(models[0], torch.zeros(1, 16))
        best = max(autoperm.match(*models, spec, start="identity", seed=s, progress=False).objective for s in range(20))
        gains.append(autoperm.match(*models, spec, method="search", rounds=100, progress=False).objective / best)
    assert min(gains) > 1.0 and np.mean(gains) > 1.005


def test_a_time_limit_ends_the_search() -> None:
    a, b, spec = pair("attention")
    start = autoperm.match(a, b, spec, method="search", time_limit=0.0, progress=False)
    assert len(start.history) == 2
    longer = autoperm.match(a, b, spec, method="search", time_limit=0.3, progress=False)
    assert len(longer.history) > 2 and longer.objective >= start.objective


def test_a_time_limit_ends_a_climb(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock goes on by a second with each look at it, before each visit of a block."""
    a, b, spec = pair("attention")
    first = autoperm.match(a, b, spec, method="search", time_limit=0.0, progress=False)
    clock = SimpleNamespace(monotonic=iter(range(10**6)).__next__)
    for module in ("autoperm.running", "autoperm.matching.search"):
        monkeypatch.setattr(f"{module}.time", clock)
    visits: list[float] = []
    visit = Ascent.visit
    monkeypatch.setattr(Ascent, "visit", lambda self, block: visits.append(clock.monotonic()) or visit(self, block))
    found = autoperm.match(a, b, spec, method="search", time_limit=300.0, progress=False)
    assert len(found.history) > 4 and found.objective >= first.objective and not found.interrupted
    assert 290 < visits[-1] <= 302


@pytest.mark.parametrize("method, more", [("weight", {"restarts": 50}), ("search", {"rounds": 50})])
def test_ctrl_c_returns_the_best_so_far(method: str, more: dict[str, int]) -> None:
    a, b, spec = pair("attention")
    told: list[float] = []

    def progress(done: int, value: float) -> None:
        told.append(value)
        if done == 4:
            signal.raise_signal(signal.SIGINT)

    found = autoperm.match(a, b, spec, method=method, progress=progress, **more)
    assert found.interrupted and len(told) == 4
    assert found.objective == pytest.approx(max(told), rel=1e-12)


def test_kicks_draw_what_helps_more_often() -> None:
    problem = problem_of("mlp")
    ascent = Ascent(problem, torch.Generator().manual_seed(0))
    kicks = Kicks(problem, ascent, torch.Generator().manual_seed(0))
    for _ in range(200):
        kicks.kick(Run(lambda done, value: None))
        if kicks._last == 1:
            kicks.praise()
    assert kicks._tried[1] > 100 > max(kicks._tried[0], kicks._tried[2])
