"""Distance, transfer of a fine-tuning, and random batches."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from matching_cases import CASES, batches, by_home, options, pair
from torch import nn

import autoperm
from autoperm import AutopermError, PermutationSpec, distance, random_batch, transfer
from autoperm.errors import StateError
from autoperm.matching import matchers
from autoperm.trained import randomize_


def plain(spec: PermutationSpec, a: nn.Module, b: nn.Module) -> float:
    x, y = by_home(spec, a), by_home(spec, b)
    return sum(float(((x[n].double() - y[n].double()) ** 2).sum()) for n in spec.parameters) ** 0.5


def tuned(model: nn.Module, seed: int = 9) -> nn.Module:
    """The model after small changes of all parameters and statistics, and other counts."""
    generator = torch.Generator().manual_seed(seed)
    out = copy.deepcopy(model)
    for tensor in out.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.05 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.dtype))
        else:
            tensor.add_(5)
    return out


def normed() -> tuple[nn.Module, torch.Tensor, PermutationSpec]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 2)).eval()
    randomize_(model)
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    return model, x, autoperm.infer(model, x)


@pytest.mark.parametrize("name", CASES)
def test_distance(name: str) -> None:
    a, b, spec = pair(name)
    found = distance(a, b, spec)
    assert found == distance(b, a, spec)
    there, back = (autoperm.match(x, y, spec).distance for x, y in ((a, b), (b, a)))
    assert 0 < found == pytest.approx(min(there, back), rel=1e-12)
    assert found < plain(spec, a, b)
    assert distance(a, spec.random(1).apply(b), spec) == pytest.approx(found, rel=0.15)
    assert distance(spec.random(1).apply(a), a, spec) == 0.0


@pytest.mark.parametrize("method", matchers())
def test_distance_is_never_above_the_plain_one(method: str) -> None:
    a, _, spec = pair("mlp")
    near = tuned(a)
    found = distance(a, near, spec, method=method, **options(method, "mlp"))
    assert 0 < found <= plain(spec, a, near) * (1 + 1e-12)


def test_distance_takes_what_match_takes() -> None:
    a, b, spec = pair("attention")
    assert distance(a.state_dict(), b, spec, seed=2, max_sweeps=0) == pytest.approx(plain(spec, a, b), rel=1e-12)
    with pytest.raises(AutopermError, match="no matcher is called 'magic'"):
        distance(a, b, spec, method="magic")
    with pytest.raises(StateError, match=r"model_a and model_b: the two models differ:\n  - stem.weight: torch.float32 in the first, torch.float64"):
        distance(a, b.double(), spec)
    with pytest.raises(StateError, match="model_a: stem.weight holds NaN"):
        distance(a.state_dict() | {"stem.weight": torch.full((12, 3), float("nan"))}, a, spec)


@pytest.mark.parametrize("name", CASES)
def test_a_fine_tuning_follows_its_base_into_another_order(name: str) -> None:
    base, _, spec = pair(name)
    after = tuned(base)
    planted = spec.random(4)
    carried = transfer(base, after, planted.apply(base), spec, progress=False)
    expected = planted.apply(after)
    for key, tensor in carried.state_dict().items():
        torch.testing.assert_close(tensor, expected.state_dict()[key], rtol=1e-6, atol=1e-7)
    with torch.no_grad():
        for x in batches(name, 2):
            torch.testing.assert_close(carried(x), after(x), rtol=1e-5, atol=1e-5)
            assert not torch.allclose(carried(x), base(x), rtol=1e-4, atol=1e-4)


def test_statistics_are_carried_and_counts_are_not() -> None:
    base, x, spec = normed()
    after, planted = tuned(base), spec.random(2)
    target = planted.apply(base)
    target[1].num_batches_tracked.fill_(3)
    before = copy.deepcopy(target.state_dict())
    carried = transfer(base, after, target, spec)
    assert int(carried[1].num_batches_tracked) == 3
    torch.testing.assert_close(carried(x), after(x), rtol=1e-5, atol=1e-5)
    assert not torch.equal(carried[1].running_mean, target[1].running_mean)
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())


def test_a_variance_does_not_turn_negative(caplog: pytest.LogCaptureFixture) -> None:
    base, x, spec = normed()
    after = copy.deepcopy(base)
    after[1].running_var[3] -= 0.4
    with caplog.at_level(logging.WARNING, "autoperm"):
        carried = transfer(base, after, base, spec, scale=10.0)
    assert "1.running_var: 1 of 12 entries would turn negative and stay base_b's" in caplog.text
    assert bool((carried[1].running_var > 0).all()) and bool(torch.isfinite(carried(x)).all())


def test_scale_zero_gives_the_base_and_other_scales_are_linear() -> None:
    base, other, spec = pair("attention")
    after = tuned(base)
    none, half, whole = (transfer(base, after, other, spec, scale=s).state_dict() for s in (0.0, 0.5, 1.0))
    for key, tensor in other.state_dict().items():
        assert torch.equal(none[key], tensor)
        torch.testing.assert_close(half[key], (tensor + whole[key]) / 2)
    found = autoperm.match(other, base, spec).permutation
    change = {k: v - base.state_dict()[k] for k, v in after.state_dict().items()}
    for key, tensor in found.apply(change).items():
        torch.testing.assert_close(whole[key], other.state_dict()[key] + tensor, rtol=1e-5, atol=1e-6)


def test_half_precision_is_summed_in_wider() -> None:
    base, _, spec = pair("mlp")
    base = base.half()
    after = {k: (v * 3).half() for k, v in base.state_dict().items()}
    carried = transfer(base, after, base.state_dict(), spec, scale=1 / 3)
    for key, tensor in base.state_dict().items():
        wide = tensor.double() + (after[key].double() - tensor.double()) / 3
        assert carried[key].dtype == torch.float16 and torch.equal(carried[key], wide.half())


def test_tied_weights_stay_tied_and_masks_stay_infinite() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
            self.out.weight = self.table.weight
            self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.table(x).tanh()) + self.mask.repeat(3)

    base = Tied()
    spec = autoperm.infer(base, torch.zeros(1, 2, dtype=torch.long))
    after = copy.deepcopy(base)
    after.table.weight.data.mul_(1.5)
    carried = transfer(base, after, spec.random(1).apply(base), spec)
    assert carried.out.weight is carried.table.weight
    assert torch.equal(carried.mask, base.mask)
    after.mask[1] = 0.0
    with pytest.raises(StateError, match="mask is not finite where tuned_a differs from base_a; there is no difference to carry over"):
        transfer(base, after, base, spec)


def test_errors_of_transfer() -> None:
    base, other, spec = pair("mlp")
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(AutopermError, match=f"scale must be a finite number, got {wrong}"):
            transfer(base, base, other, spec, scale=wrong)
    with pytest.raises(StateError, match=r"base_a and tuned_a: the two models differ:\n  - 4.bias: only in the first"):
        transfer(base, {k: v for k, v in base.state_dict().items() if k != "4.bias"}, other, spec)
    with pytest.raises(StateError, match="base_a and base_b: the two models differ:\n  - 0.weight: torch.float32 in the first, torch.float16"):
        transfer(base, base, copy.deepcopy(other).half(), spec)
    broken = base.state_dict() | {"0.bias": torch.full((16,), float("inf"))}
    with pytest.raises(StateError, match=r"tuned_a: 0.bias holds infinity \(16 of 16 entries are not finite\)"):
        transfer(base, broken, other, spec)


@pytest.mark.parametrize("name", CASES)
def test_every_one_of_a_batch_computes_the_function(name: str) -> None:
    model, _, spec = pair(name)
    batch = random_batch(model, spec, 4, generator=3)
    x = batches(name, 1)[0]
    expected = model(x)
    for k in range(4):
        found = torch.func.functional_call(model, {n: t[k] for n, t in batch.items()}, (x,))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        element = autoperm.is_permutation_of({n: t[k] for n, t in batch.items()}, model, spec)
        assert element is not None and not element.is_identity
    assert not any(torch.equal(batch[n][0], batch[n][1]) for n in batch if spec.tensors[n].shape[:1] == (12,))


class Reused(nn.Module):
    """One weight on two layers, and with ``whole`` one layer under two names; a norm between them."""

    def __init__(self, whole: bool):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)
        self.again = self.first if whole else nn.Linear(3, 8)
        self.again.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.first(x)).relu() * self.again(x * x))


@pytest.mark.parametrize("whole", [False, True])
def test_a_batch_runs_under_vmap_with_tied_weights_and_buffers(whole: bool) -> None:
    torch.manual_seed(0)
    model = Reused(whole).eval()
    randomize_(model)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    expected, spec = model(x), autoperm.infer(model, x)
    batch = random_batch(model, spec, 3)
    assert [n for n in batch if n.endswith("weight")] == ["first.weight", "norm.weight", "last.weight"]
    # torch cannot put back a layer that it finds under two names; but that is one object, and needs no tying
    run = lambda weights: torch.func.functional_call(model, weights, (x,), tie_weights=not whole)
    torch.testing.assert_close(torch.func.vmap(run)(batch), expected.expand(3, -1, -1), rtol=1e-4, atol=1e-5)


def test_batches_repeat_with_a_seed_and_go_on_with_a_generator() -> None:
    model, _, spec = pair("mlp")
    before = torch.random.get_rng_state()
    first, again = (random_batch(model, spec, 2, generator=7)["0.weight"] for _ in "ab")
    generator = torch.Generator().manual_seed(7)
    moving, next_ = (random_batch(model, spec, 2, generator=generator)["0.weight"] for _ in "ab")
    assert torch.equal(first, again) and torch.equal(first, moving) and not torch.equal(moving, next_)
    assert torch.equal(torch.random.get_rng_state(), before)
    first.zero_()
    assert bool(model[0].weight.any())


def test_errors_of_batches() -> None:
    model, _, spec = pair("mlp")
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(AutopermError, match=f"count must be a whole number of at least 1, got {wrong}"):
            random_batch(model, spec, wrong)  # type: ignore[arg-type]
    with pytest.raises(StateError, match="the model does not fit the spec"):
        random_batch(pair("per_head")[0], spec, 1)
