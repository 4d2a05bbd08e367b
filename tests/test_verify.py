"""Verification: it passes what is right, catches what is wrong, and refuses to say nothing."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import nn

import autoperm
from autoperm import PermutationSpec
from autoperm.errors import StateError, VerificationError
from autoperm.trained import randomize_

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


CALLS = itertools.count(1)


class Net(nn.Module):
    """Linear, something, linear; ``finish`` makes the outputs of what comes out."""

    def __init__(self, finish: Any = lambda self, y: y, start: Any = lambda self, x: x):
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)
        self.finish, self.start, self.calls = finish, start, 0

    def forward(self, x: torch.Tensor) -> Any:
        self.calls += 1
        return self.finish(self, self.down(self.norm(self.up(self.start(self, x))).relu()))


def spec_of(model: nn.Module | None = None) -> PermutationSpec:
    return autoperm.infer(model or Net(), X)


def test_a_right_spec_passes_and_nothing_changes() -> None:
    model, spec, x = Net().train(), spec_of(), X.clone()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    found = autoperm.verify(model, spec, x)
    assert found and found.ok and found.relative < 1e-14 and found.samples == 3
    assert [e.name for e in found.errors] == ["output"]
    assert str(found).startswith("the function is unchanged: 3 permutations tried, worst relative error ")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training and model.calls == 0 and torch.equal(x, X) and torch.equal(random, torch.get_rng_state())


def test_the_seed_repeats_a_run_and_the_tolerance_decides() -> None:
    model, spec = Net(), spec_of()
    assert autoperm.verify(model, spec, X, seed=4) == autoperm.verify(model, spec, X, seed=4)
    assert not autoperm.verify(model, spec, X, tolerance=0.0).ok


def without(spec: PermutationSpec, name: str) -> PermutationSpec:
    """A wrong spec, which forgets that one tensor moves."""
    layout = dataclasses.replace(spec.layouts[name], cells={}, _plans={})
    return dataclasses.replace(spec, layouts={**spec.layouts, name: layout})


@pytest.mark.parametrize("name", ["up.bias", "norm.weight", "norm.running_mean", "norm.running_var", "down.weight"])
def test_a_wrong_spec_is_caught(name: str) -> None:
    found = autoperm.verify(Net(), without(spec_of(), name), X)
    assert not found and found.relative > 1e-3
    assert str(found).startswith("THE FUNCTION CHANGED: 3 permutations tried")


def test_fresh_statistics_would_hide_it() -> None:
    assert autoperm.verify(Net(), without(spec_of(), "norm.running_mean"), X, randomize=False).ok


def test_a_zero_gate_and_a_zero_head_hide_nothing() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down, self.gate = nn.Linear(4, 8), nn.Linear(8, 4), nn.Parameter(torch.zeros(()))
            self.head = nn.Linear(4, 2)
            nn.init.zeros_(self.head.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x + self.gate * self.down(self.up(x).relu()))

    spec = spec_of(Gated())
    assert autoperm.verify(Gated(), spec, X).ok
    assert not autoperm.verify(Gated(), without(spec, "down.weight"), X).ok


def test_one_permutation_is_checked_alone() -> None:
    spec = spec_of()
    assert autoperm.verify(Net(), spec.random(1), X).samples == 1
    assert not autoperm.verify(Net(), without(spec, "up.bias").random(1), X)
    assert autoperm.verify(Net(), without(spec, "up.bias").identity(), X).relative == 0.0


def test_nested_outputs_are_named_and_constant_ones_flagged() -> None:
    model = Net(lambda self, y: {"logits": y, "parts": [y.sum(), y * 0]})
    found = autoperm.verify(model, spec_of(model), X)
    assert [e.name for e in found.errors] == ["output['logits']", "output['parts'][0]", "output['parts'][1]"]
    assert [e.constant for e in found.errors] == [False, False, True]
    assert found.ok and str(found).endswith("(constant: its agreement says little)")


@pytest.mark.parametrize(
    ("finish", "message"),
    [
        (lambda self, y: y * 0, "every output is constant, so that the comparison would say nothing"),
        (lambda self, y: (y, y / 0), r"output\[1\] holds NaN or infinity"),
        (lambda self, y: None, "the model returns no tensors"),
        (lambda self, y: y * next(CALLS), "output differs between two calls with the same weights and inputs"),
        (lambda self, y: y.view(7), r"the copy of the model does not run \(RuntimeError: .*pass dtype=None"),
    ],
)
def test_checks_that_would_say_nothing_are_refused(finish: Any, message: str) -> None:
    with pytest.raises(VerificationError, match=f"(?s){message}"):
        autoperm.verify(Net(finish), spec_of(), X)


def test_other_refusals() -> None:
    with pytest.raises(VerificationError, match="samples must be at least 1, got 0: with none tried nothing is verified"):
        autoperm.verify(Net(), spec_of(), X, samples=0)
    with pytest.raises(VerificationError, match="on the meta device and has no values to compute with; build it on a real one"):
        autoperm.verify(Net().to("meta"), spec_of(), X)
    with pytest.raises(VerificationError, match="the model is a dict; only a torch.nn.Module can be run"):
        autoperm.verify({}, spec_of(), X)  # type: ignore[arg-type]
    with pytest.raises(StateError, match=r"the model does not fit the spec:\n  - up.weight: missing"):
        autoperm.verify(nn.Linear(4, 2), spec_of(), X)


def test_forwards_that_draw_numbers_or_write_to_their_inputs() -> None:
    noisy = Net(lambda self, y: y + torch.rand_like(y))
    assert autoperm.verify(noisy, spec_of(), X).ok
    x = X.double()
    assert autoperm.verify(Net(start=lambda self, x: x.add_(1)), spec_of(), x).ok
    assert torch.equal(x, X.double())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_half_precision_models_are_checked_in_double(dtype: str) -> None:
    model = Net().to(getattr(torch, dtype))
    assert autoperm.verify(model, spec_of(), X.to(getattr(torch, dtype))).relative < 1e-14
    assert model.up.weight.dtype == getattr(torch, dtype)


def test_trained_like_weights_leave_nothing_constant() -> None:
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 6), nn.PReLU())
    nn.init.zeros_(model[1].weight)
    randomize_(model, 1)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert all(t.numel() < 2 or t.unique().numel() > 1 for t in tensors.values())
    assert float(model[0].running_var.min()) > 0 and float(model[2].weight) != 0.25


def test_what_a_forward_caches_is_of_its_own_weights() -> None:
    class Cached(nn.Module):
        """Keeps what it computed from its weights in eval mode, as LeViT keeps its attention biases."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last, self.cache = nn.Linear(3, 4), nn.Linear(4, 2), {}

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if "scale" not in self.cache:
                self.cache["scale"] = self.first.bias.exp()
            return self.last(self.first(x).relu() * self.cache["scale"])

    torch.manual_seed(0)
    model = Cached()
    spec = autoperm.infer(model, torch.randn(2, 3))
    assert spec.order == 24
    assert autoperm.verify(model, spec, torch.randn(2, 3)).ok
    assert not model.cache
    with torch.no_grad():
        model(torch.randn(2, 3))
    assert autoperm.infer(model, torch.randn(2, 3)).order == 24
    assert autoperm.verify(model, spec, torch.randn(2, 3)).ok
    assert model.cache
