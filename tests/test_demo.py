"""The demo, with less training: it runs, it is honest, it leaves its files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autoperm.checkpoint import load_checkpoint
from autoperm.demo import run
from autoperm.demo.networks import mlp


def test_a_quick_run(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    lines: list[str] = []
    first, second = run(tmp_path / "out", quick=True, report=lines.append)
    assert [first.name, second.name] == ["MLP 3 x 64", "residual conv net"] and lines
    assert first.verification.relative < 1e-10 and second.verification.relative < 1e-10
    assert first.match.distance < first.distance_before
    assert set(second.curves) == {"naive", "permuted", "naive, norms reset", "permuted, norms reset"}
    for curve in first.curves.values():
        assert curve.curves["test loss"].shape == (25,)
    ends = [c.curves["test loss"][[0, -1]].round(5).tolist() for c in (first.curves["naive"], first.curves["permuted"])]
    assert ends[0] == ends[1], "the permuted model computes the same function"
    assert (tmp_path / "out" / "barrier.png").read_bytes().startswith(b"\x89PNG")
    weights = load_checkpoint(first.weights)
    model = mlp(64)
    model.load_state_dict(weights)
    assert torch.isfinite(model(torch.zeros(1, 1, 8, 8))).all()
