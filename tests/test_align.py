"""The one-line form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import autoperm
from autoperm import AutopermError

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def mlp(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2)).eval()


def test_the_same_function_nearer_by() -> None:
    a, b = mlp(0), mlp(1)
    before = b(X)
    aligned = autoperm.align(a, b, X)
    spec = autoperm.infer(a, X)

    def gap(model: nn.Module) -> float:
        return sum(float(((p - q) ** 2).sum()) for p, q in zip(a.parameters(), model.parameters())) ** 0.5

    assert isinstance(aligned, nn.Sequential) and aligned is not b
    assert torch.allclose(aligned(X), before, atol=1e-6) and torch.equal(b(X), before)
    assert gap(aligned) == pytest.approx(autoperm.match(a, b, spec).distance, rel=1e-5)
    assert gap(aligned) < gap(b)


def test_what_was_shuffled_is_put_back() -> None:
    a = mlp(0)
    shuffled = autoperm.infer(a, X).random(3).apply(a)
    back = autoperm.align(a, shuffled, X).state_dict()
    assert not torch.equal(shuffled[0].weight, a[0].weight)
    assert all(torch.equal(v, back[k]) for k, v in a.state_dict().items())


def test_state_dicts_give_state_dicts_and_need_a_spec() -> None:
    a, b = mlp(0), mlp(1)
    spec = autoperm.infer(a, X)
    aligned = autoperm.align(a.state_dict(), b.state_dict(), spec=spec)
    assert not isinstance(aligned, nn.Module)
    expected = autoperm.align(a, b, X).state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in aligned.items())
    for first, inputs in ((a.state_dict(), X), (a, None)):
        with pytest.raises(AutopermError, match="align needs a module and example inputs to infer the spec from, or spec="):
            autoperm.align(first, b, inputs)


def test_method_seed_and_options_reach_the_matcher() -> None:
    a, b = mlp(0), mlp(1)
    told: list[int] = []
    autoperm.align(a, b, X, seed=2, max_sweeps=1, progress=lambda sweep, value: told.append(sweep))
    assert told == [1]
    with pytest.raises(AutopermError, match="no matcher is called 'magic'"):
        autoperm.align(a, b, X, method="magic")
