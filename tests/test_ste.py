"""Matching by a straight-through estimator: the lowest midpoint loss is kept, gradients are those of the midpoint."""

from __future__ import annotations

import signal

import numpy as np
import pytest
import torch
from matching_cases import CASES, by_home, gap, pair, taught
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import autoperm
from autoperm import AutopermError, Permutation, PermutationSpec
from autoperm.matching.problem import Problem
from autoperm.matching.ste import Midpoint, _Free
from autoperm.stacks import stacked
from autoperm.trained import randomize_

Batch = tuple[torch.Tensor, torch.Tensor]


def first(batch: Batch) -> torch.Tensor:
    return batch[0]


def blobs(seed: int, count: int = 512) -> Batch:
    """Eight clusters in four classes."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    which = torch.randint(8, (count,), generator=generator)
    return centres[which] + 0.7 * torch.randn(count, 6, generator=generator), which % 4


def trained(seed: int, norm: bool = False) -> nn.Module:
    torch.manual_seed(seed)
    norms = [nn.BatchNorm1d(12)] if norm else []
    model = nn.Sequential(nn.Linear(6, 12), *norms, nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 4))
    randomize_(model, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(60):
        x, y = blobs(1000 * seed + step, 64)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


def midpoint_loss(a: nn.Module, b: nn.Module, permutation: Permutation, data: list[Batch]) -> float:
    """From the definition, with a module of its own."""
    model = autoperm.merge([a, permutation.apply(b)], permutation.spec, align="none").model.eval()
    with torch.no_grad():
        return float(np.mean([float(nn.functional.cross_entropy(model(x), y)) for x, y in data]))


def data_of(count: int = 4) -> list[Batch]:
    return [blobs(77 + k, 64) for k in range(count)]


@pytest.mark.parametrize("norm", [False, True])
def test_the_midpoint_is_better_than_that_of_weight_matching(norm: bool) -> None:
    """Never worse, and better for most pairs."""
    better = 0
    for seed in range(4):
        a, b = trained(2 * seed, norm), trained(2 * seed + 1, norm)
        spec, data = autoperm.infer(a, torch.zeros(2, 6)), data_of()
        found = autoperm.match(a, b, spec, method="ste", data=data, steps=60, lr=1e-2)
        weight = autoperm.match(a, b, spec).permutation
        assert found.history[0] == pytest.approx(midpoint_loss(a, b, spec.identity(), data), rel=1e-5)
        assert found.history[1] == pytest.approx(min(found.history[0], midpoint_loss(a, b, weight, data)), rel=1e-5)
        assert found.history[-1] == pytest.approx(midpoint_loss(a, b, found.permutation, data), rel=1e-5)
        assert list(found.history) == sorted(found.history, reverse=True)
        better += found.history[-1] < found.history[1]
    assert better >= 3


def test_the_best_is_kept_and_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a large step the losses go up and down."""
    a, b = trained(2), trained(3)
    spec, data = autoperm.infer(a, torch.zeros(2, 6)), data_of()
    seen: list[float] = []
    fixed = Midpoint.fixed

    def recorded(self: Midpoint, projection: Problem, where: str) -> float:
        seen.append(fixed(self, projection, where))
        return seen[-1]

    monkeypatch.setattr(Midpoint, "fixed", recorded)
    found = autoperm.match(a, b, spec, method="ste", data=data, steps=40, lr=0.3)
    assert min(seen) < seen[1] and min(seen) < seen[-1] and len(set(seen)) > 5
    assert found.history[-1] == min(seen) == pytest.approx(midpoint_loss(a, b, found.permutation, data), rel=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_goes_straight_through(name: str) -> None:
    """The first step of SGD would move the free copy by half the gradient of the loss at the midpoint."""
    a, b, spec = pair(name)
    data = taught(name)
    problem = Problem(spec, by_home(spec, a), by_home(spec, b), a)
    midpoint, free = Midpoint(problem, data, gap, first, 1), _Free(problem, 1e-3)
    free.project(0, "propagate")
    free.step(midpoint, data[0], "at step 1")
    element = Permutation(spec, free.projection.element)
    middle = autoperm.merge([a, element.apply(b)], spec, align="none").model.eval()
    loss = gap(middle(data[0][0]), data[0])
    loss.backward()
    expected = stacked(spec.stacks, {name: weight.grad for name, weight in middle.named_parameters()})
    assert set(free._weights) == set(problem.a) and not element.is_identity
    for home, weight in free._weights.items():
        assert weight.grad is not None and weight.grad.abs().max() > 0
        assert torch.allclose(weight.grad, expected[home] / 2, atol=1e-6), home


def test_buffers_are_interpolated_and_models_run_in_eval_mode() -> None:
    a, b = trained(0, norm=True).train(), trained(1, norm=True).train()
    spec = autoperm.infer(a, torch.zeros(2, 6))
    problem = Problem(spec, by_home(spec, a), by_home(spec, b), a)
    midpoint, free = Midpoint(problem, data_of(), None, None, 4), _Free(problem, 1e-3)
    free.project(0, "propagate")
    state = midpoint._state(free.projection, free.projection.b)
    moved = Permutation(spec, free.projection.element).apply(b).state_dict()
    for name in ("1.running_mean", "1.running_var", "1.weight", "0.weight"):
        assert torch.allclose(state[name], (a.state_dict()[name] + moved[name]) / 2, atol=1e-6)
    assert torch.equal(state["1.num_batches_tracked"], a.state_dict()["1.num_batches_tracked"])
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in (a, b)]
    autoperm.match(a, b, spec, method="ste", data=data_of(), steps=2)
    assert a.training and b.training
    assert all(torch.equal(v, kept[k]) for m, kept in zip((a, b), before) for k, v in m.state_dict().items())


def setup() -> tuple[nn.Module, nn.Module, PermutationSpec]:
    a, b = trained(0), trained(1)
    return a, b, autoperm.infer(a, torch.zeros(2, 6))


def test_a_run_repeats_whatever_the_global_generator_holds() -> None:
    """A shuffling loader and noise in the network draw from torch's generator, which is put back."""
    a, b, spec = setup()
    loader = DataLoader(TensorDataset(*blobs(5)), batch_size=64, shuffle=True)
    found = []
    for seed in (11, 12):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(autoperm.match(a, b, spec, method="ste", data=loader, seed=4, steps=20))
        assert torch.equal(torch.get_rng_state(), before)
    assert found[0].history == found[1].history and found[0].permutation == found[1].permutation


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    a, b, spec = setup()
    a, b = a.to(dtype), b.to(dtype)
    data = [(x.to(dtype), y) for x, y in data_of()]
    found = autoperm.match(a, b, spec, method="ste", data=data, steps=10, lr=1e-2)
    assert found.history[-1] <= found.history[1] < found.history[0]
    problem = Problem(spec, a.state_dict(), b.state_dict(), a)
    expected = torch.promote_types(dtype, torch.float32)
    assert all(weight.dtype == expected for weight in _Free(problem, 1e-3)._weights.values())


def test_state_dicts_with_a_template() -> None:
    a, b, spec = setup()
    states = a.state_dict(), b.state_dict()
    found = autoperm.match(*states, spec, method="ste", data=data_of(), steps=3, template=trained(2))
    assert found.permutation == autoperm.match(a, b, spec, method="ste", data=data_of(), steps=3).permutation
    with pytest.raises(AutopermError, match="a loss needs a network to run, but both models are state dicts: pass template=, a module"):
        autoperm.match(*states, spec, method="ste", data=data_of())


def test_an_interrupt_returns_the_best_so_far() -> None:
    a, b, spec = setup()

    def progress(step: int, value: float) -> None:
        if step == 7:
            signal.raise_signal(signal.SIGINT)

    found = autoperm.match(a, b, spec, method="ste", data=data_of(), steps=50, lr=1e-2, progress=progress)
    assert found.interrupted and len(found.history) == 7 + 2
    whole = autoperm.match(a, b, spec, method="ste", data=data_of(), steps=7, lr=1e-2)
    assert not whole.interrupted and whole.history == found.history and whole.permutation == found.permutation


def test_losses_that_are_not_finite_name_the_step() -> None:
    a, b, spec = setup()
    calls = []

    def broken(output: torch.Tensor, batch: Batch) -> torch.Tensor:
        calls.append(1)
        return output.square().mean() * (float("nan") if len(calls) > 2 * 1 + 2 else 1.0)

    with pytest.raises(AutopermError, match="the loss at the midpoint is nan at step 3; check the data, or lower lr="):
        autoperm.match(a, b, spec, method="ste", data=data_of(), loss=broken, inputs=first, evaluated=1, lr=1e-9)
    with pytest.raises(AutopermError, match="the loss at the midpoint is -inf with model b as it is"):
        autoperm.match(a, b, spec, method="ste", data=data_of(), loss=lambda out, batch: -out.square().sum() / 0, inputs=first)


def test_errors() -> None:
    a, b, spec = setup()

    def run(**options: object) -> None:
        autoperm.match(a, b, spec, method="ste", **{"data": data_of(), **options})  # type: ignore[arg-type]

    with pytest.raises(AutopermError, match="method 'ste' needs data="):
        autoperm.match(a, b, spec, method="ste")
    with pytest.raises(AutopermError, match="data gave no batch: it is empty"):
        run(data=[])
    with pytest.raises(AutopermError, match="data gave no batch: .*an iterator that was used up before"):
        run(data=iter(data_of()), steps=9)
    with pytest.raises(AutopermError, match=r"without loss=, batches must be pairs \(x, labels\), not Tensor; pass loss= and inputs="):
        run(data=[torch.zeros(2, 6)])
    with pytest.raises(AutopermError, match=r"loss= must return a tensor of one number, not a tensor of shape \(64, 4\); take the mean"):
        run(loss=lambda output, batch: output, inputs=first)
    with pytest.raises(AutopermError, match="loss= must return a tensor of one number, not a float; take the mean"):
        run(loss=lambda output, batch: 1.0, inputs=first)
    with pytest.raises(AutopermError, match="steps= must be at least 0 and lr= above 0, not -1 and 0.1"):
        run(steps=-1, lr=0.1)
    with pytest.raises(AutopermError, match="evaluated= must be at least 1 batch, not 0"):
        run(evaluated=0)


def test_an_output_that_is_no_tensor_needs_a_loss() -> None:
    class Several(nn.Module):
        def __init__(self, inner: nn.Module):
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.inner(x)}

    a, b = Several(trained(0)), Several(trained(1))
    spec = autoperm.infer(a, torch.zeros(2, 6))
    with pytest.raises(AutopermError, match="the output is a dict, not logits; pass loss=, called with that and the batch"):
        autoperm.match(a, b, spec, method="ste", data=data_of())
    entropy = lambda output, batch: nn.functional.cross_entropy(output["logits"], batch[1])
    found = autoperm.match(a, b, spec, method="ste", data=data_of(), loss=entropy, inputs=first, steps=4)
    same = autoperm.match(*setup(), method="ste", data=data_of(), steps=4)
    assert found.history == pytest.approx(same.history, rel=1e-6)


def test_a_model_without_symmetry() -> None:
    a, b = nn.Linear(6, 4), nn.Linear(6, 4)
    found = autoperm.match(a, b, autoperm.infer(a, torch.zeros(2, 6)), method="ste", data=data_of(), steps=2)
    assert found.permutation.is_identity and len(found.history) == 4
