"""Merging: what was planted is undone, the agreement never falls, cycles close, and averages are as defined."""

from __future__ import annotations

import copy
import itertools
import signal

import pytest
import torch
from matching_cases import CASES, by_home, pair, taught
from matching_cases import gap as squared_gap
from torch import nn

import autoperm
from autoperm import AutopermError, Group, PermutationSpec
from autoperm.errors import StateError
from autoperm.merging import merger, mergers
from autoperm.trained import randomize_

#: Enough where it does not matter how far a merger gets.
FEW: dict[str, dict[str, int]] = {"average": {}, "many": {}, "universe": {"max_steps": 8}}


def inner(spec: PermutationSpec, a: nn.Module, b: nn.Module) -> float:
    x, y = by_home(spec, a), by_home(spec, b)
    return sum(float((x[n].double() * y[n].double()).sum()) for n in spec.parameters)


def fresh(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = CASES[name][0]()
    randomize_(model, seed)
    return model


def agreement(spec: PermutationSpec, models: list[nn.Module]) -> float:
    """From the definition: the sum over the models of <model, mean of the others>, in doubles."""
    states = [by_home(spec, m) for m in models]
    total = 0.0
    for k, own in enumerate(states):
        for n in spec.parameters:
            others = sum(s[n].double() for j, s in enumerate(states) if j != k) / (len(states) - 1)
            total += float((own[n].double() * others).sum())
    return total


def gap(a: nn.Module, b: nn.Module) -> float:
    x, y = a.state_dict(), b.state_dict()
    return sum(float(((x[n].double() - y[n].double()) ** 2).sum()) for n in x) ** 0.5


class Normed(nn.Module):
    """Convolutions with BatchNorm, integer buffers and an infinite mask."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 1), nn.BatchNorm2d(5), nn.ReLU())
        self.head = nn.Linear(5, 3)
        self.register_buffer("mask", torch.tensor([0.0, float("-inf"), 0.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.head(self.body(x).mean((2, 3))) + self.mask).softmax(-1)


def normed(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = Normed()
    randomize_(model, seed)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.num_batches_tracked.fill_(10 + seed)
    return model.eval()


IMAGES = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("method", mergers())
def test_planted_permutations_of_one_model_merge_back_to_it(method: str, name: str) -> None:
    a, _, spec = pair(name)
    planted = [spec.random(seed) for seed in (3, 4, 5, 6)]
    models = [p.apply(a) for p in planted]
    found = autoperm.merge(models, spec, method=method, seed=1)
    assert all(torch.equal(t, models[0].state_dict()[n]) for n, t in found.model.state_dict().items())
    assert found.distances == (0.0,) * 4 and not found.interrupted
    assert found.permutations == tuple(planted[0] @ p.inverse() for p in planted)
    assert found.history[0] < found.history[-1] == pytest.approx(4 * inner(spec, a, a), rel=1e-9)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("method", mergers())
def test_laws_of_a_merge(method: str, name: str) -> None:
    spec = pair(name)[2]
    models = [fresh(name, seed) for seed in range(4)]
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in models]
    torch.manual_seed(9)
    state = torch.get_rng_state()
    found = autoperm.merge(models, spec, method=method, seed=2, **FEW[method])
    again = autoperm.merge(models, spec, method=method, seed=2, **FEW[method])
    assert torch.equal(torch.get_rng_state(), state)
    assert again.permutations == found.permutations and again.history == found.history
    assert all(torch.equal(v, kept[k]) for m, kept in zip(models, before) for k, v in m.state_dict().items())
    moved = [p.apply(m) for p, m in zip(found.permutations, models)]
    assert found.permutations[0].is_identity and all(p.spec is spec for p in found.permutations)
    for n, tensor in found.model.state_dict().items():
        assert torch.allclose(tensor, sum(m.state_dict()[n] for m in moved) / 4, atol=1e-6)
    assert found.distances == pytest.approx([gap(m, found.model) for m in moved], rel=1e-5)
    assert found.history[0] == pytest.approx(agreement(spec, models), rel=1e-9)
    assert found.history[-1] == pytest.approx(agreement(spec, moved), rel=1e-9)
    assert found.history[-1] > found.history[0]
    if method != "average":
        assert list(found.history) == sorted(found.history)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("method", ["many", "universe"])
def test_nothing_is_left_to_gain_after_merging(method: str, name: str) -> None:
    """No model can be brought nearer to the mean of the others by weight matching."""
    spec = pair(name)[2]
    models = [fresh(name, seed) for seed in range(3)]
    found = autoperm.merge(models, spec, method=method)
    moved = [p.apply(m) for p, m in zip(found.permutations, models)]
    for k, mine in enumerate(moved):
        others = autoperm.merge(moved[:k] + moved[k + 1 :], spec, align="none").model
        assert autoperm.match(others, mine, spec, start="identity", seed=5).permutation.is_identity


@pytest.mark.parametrize("name", ["mlp", "attention", "per_head"])
@pytest.mark.parametrize("method", mergers())
def test_matches_close_around_every_cycle(method: str, name: str) -> None:
    spec = pair(name)[2]
    found = autoperm.merge([fresh(name, seed) for seed in range(5)], spec, method=method, **FEW[method])
    assert not all(p.is_identity for p in found.permutations)
    for p, q, r in itertools.permutations(range(5), 3):
        assert found.pairwise(p, q) @ found.pairwise(q, r) == found.pairwise(p, r)
        assert (found.pairwise(p, q) @ found.pairwise(q, r) @ found.pairwise(r, p)).is_identity


def test_matching_pair_by_pair_does_not_close() -> None:
    """What the universe is for."""
    spec = pair("mlp")[2]
    models = [fresh("mlp", seed) for seed in range(3)]
    p, q, r = (autoperm.match(models[i], models[j], spec).permutation for i, j in ((0, 1), (1, 2), (2, 0)))
    assert not (p @ q @ r).is_identity


@pytest.mark.parametrize("name", ["mlp", "attention"])
@pytest.mark.parametrize("method", mergers())
def test_the_order_of_the_models_is_no_matter(method: str, name: str) -> None:
    """Near one another's permutations, all orders find the same merge, in the order of whichever model is first."""
    a, _, spec = pair(name)
    generator = torch.Generator().manual_seed(0)
    models = []
    for seed in range(4):
        noisy = {n: t + 0.05 * t.std() * torch.randn(t.shape, generator=generator) for n, t in a.state_dict().items()}
        models.append(spec.random(seed).apply(noisy))
    first = autoperm.merge(models, spec, method=method, seed=0, **FEW[method])
    for order in ([1, 2, 3, 0], [3, 2, 1, 0]):
        other = autoperm.merge([models[k] for k in order], spec, method=method, seed=3, **FEW[method])
        back = first.pairwise(0, order[0]).apply(other.model)
        assert all(torch.allclose(back[n], t, atol=1e-6) for n, t in first.model.items())


def test_weights() -> None:
    spec = pair("mlp")[2]
    models = [fresh("mlp", seed) for seed in range(3)]
    states = [m.state_dict() for m in models]
    for weights in ([2.0, 1.0, 1.0], [1.5, -0.25, -0.25], [0, 0, 3]):
        found = autoperm.merge(models, spec, align="none", weights=weights).model.state_dict()
        shares = [w / sum(weights) for w in weights]
        for n, tensor in found.items():
            exact = sum(w * s[n].double() for w, s in zip(shares, states))
            assert torch.equal(tensor, exact.float())
    many = autoperm.merge(models, spec, method="many", weights=[1, 0, 0])
    assert all(torch.equal(t, states[0][n]) for n, t in many.model.state_dict().items())
    assert many.permutations == autoperm.merge(models, spec, method="many").permutations


@pytest.mark.parametrize("weights, message", [
    ([1.0, 2.0], "weights= holds 2 weights for 3 models; give one per model"),
    ([1.0, -2.0, 0.5], r"weights= must be finite and have a positive sum, not \[1.0, -2.0, 0.5\]"),
    ([0.0, 0.0, 0.0], "weights= must be finite and have a positive sum"),
    ([1.0, float("nan"), 1.0], "weights= must be finite and have a positive sum"),
])  # fmt: skip
def test_weights_that_cannot_be_normalised(weights: list[float], message: str) -> None:
    spec = pair("mlp")[2]
    with pytest.raises(AutopermError, match=message):
        autoperm.merge([fresh("mlp", seed) for seed in range(3)], spec, weights=weights)


@pytest.mark.parametrize("method", mergers())
def test_buffers(method: str) -> None:
    """Norm statistics move with their channels and are averaged; integers and masks are the first model's."""
    first = normed(0)
    spec = autoperm.infer(first, IMAGES)
    models = [first, *(spec.random(k).apply(normed(0)) for k in (1, 2))]
    models[1].body[1].num_batches_tracked.fill_(99)
    found = autoperm.merge(models, spec, method=method)
    assert torch.equal(found.model(IMAGES), first(IMAGES)) and int(found.model.body[1].num_batches_tracked) == 10
    models = [normed(k) for k in range(3)]
    found = autoperm.merge(models, spec, method=method, weights=[3, -1, 2])
    moved = [p.apply(m) for p, m in zip(found.permutations, models)]
    variances = [m.body[1].running_var.double() for m in moved]
    assert torch.allclose(found.model.body[1].running_var.double(), 0.6 * variances[0] + 0.4 * variances[2], atol=1e-6)
    weights = [m.body[1].weight.double() for m in moved]
    assert torch.allclose(found.model.body[1].weight.double(), (3 * weights[0] - weights[1] + 2 * weights[2]) / 4, atol=1e-6)
    assert torch.equal(found.model.mask, first.mask) and found.model(IMAGES).isfinite().all()


@pytest.mark.parametrize("method", mergers())
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_are_summed_wide_and_rounded_once(dtype: torch.dtype, method: str) -> None:
    spec = pair("attention")[2]
    models = [fresh("attention", seed).to(dtype) for seed in range(5)]
    found = autoperm.merge(models, spec, method=method, **FEW[method])
    moved = [p.apply(m).state_dict() for p, m in zip(found.permutations, models)]
    for n, tensor in found.model.state_dict().items():
        exact = sum(s[n].double() for s in moved) / 5
        half = 0.5 * torch.finfo(dtype).eps * 2.0 ** (torch.frexp(exact).exponent - 1)  # half a unit in the last place
        assert tensor.dtype == dtype
        assert ((tensor.double() - exact).abs() <= half + torch.finfo(dtype).smallest_normal + 1e-15).all()


def test_modules_and_state_dicts() -> None:
    a, b, spec = pair("mlp")
    a.train()
    module = autoperm.merge([a, b.state_dict()], spec)
    state = autoperm.merge([a.state_dict(), b], spec)
    assert isinstance(module.model, nn.Sequential) and module.model.training and module.model is not a
    assert isinstance(state.model, dict) and state.model._metadata == a.state_dict()._metadata  # type: ignore[attr-defined]
    assert all(torch.equal(t, state.model[n]) for n, t in module.model.state_dict().items())
    assert all(p.requires_grad and p.is_leaf for p in module.model.parameters())


def test_tied_weights_stay_tied_and_what_the_forward_never_reads_is_averaged() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
            self.out.weight = self.table.weight
            self.unused = nn.Parameter(torch.randn(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.table(x).tanh())

    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        models.append(Tied())
    spec = autoperm.infer(models[0], torch.zeros(1, 2, dtype=torch.long))
    found = autoperm.merge(models, spec)
    assert found.model.out.weight is found.model.table.weight and not found.permutations[1].is_identity
    assert torch.allclose(found.model.unused, (models[0].unused + models[1].unused) / 2)
    state = autoperm.merge([m.state_dict() for m in models], spec).model
    assert state["out.weight"] is state["table.weight"] and torch.equal(state["out.weight"], found.model.out.weight)


def test_a_state_dict_that_is_not_the_module_s_own_memory() -> None:
    """Some modules give copies; those are loaded as a whole."""

    class Halved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
            self._register_state_dict_hook(lambda module, state, prefix, local: {k: v / 2 for k, v in state.items()})
            self.register_load_state_dict_pre_hook(lambda module, state, *rest: state.update({k: v * 2 for k, v in state.items()}))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x)

    torch.manual_seed(0)
    models = [Halved(), Halved()]
    spec = autoperm.infer(models[0], torch.zeros(1, 3))
    merged = autoperm.merge(models, spec, align="none").model
    expected = (models[0].body[0].weight + models[1].body[0].weight) / 2
    assert torch.allclose(merged.body[0].weight, expected, atol=1e-7)


@pytest.mark.parametrize("method", mergers())
@pytest.mark.parametrize("kind", ["parents", "dependents"])
def test_part_of_the_groups(kind: str, method: str) -> None:
    def chosen(group: Group) -> bool:
        return bool(group.parents) == (kind == "dependents")

    spec = pair("attention")[2]
    models = [fresh("attention", seed) for seed in range(3)]
    found = autoperm.merge(models, spec, method=method, groups=chosen)
    moved = {name for p in found.permutations for name, share in p.moved().items() if share}
    assert moved and moved <= {group.name for group in spec.groups if chosen(group)}
    assert found.history[-1] > found.history[0]
    with pytest.raises(AutopermError, match="groups= names 'stem', which is no group of the spec; the nearest are stem.weight"):
        autoperm.merge(models, spec, method=method, groups=["stem"])


def test_other_matchers_align() -> None:
    a, b, spec = pair("mlp")
    labelled = taught("mlp")
    needs = {"data": labelled, "loss": squared_gap, "inputs": lambda batch: batch[0], "steps": 3}
    found = autoperm.merge([a.state_dict(), b.state_dict()], spec, align="ste", template=b, **needs)
    alone = autoperm.match(a, b, spec, method="ste", **needs)
    assert found.permutations[1] == alone.permutation
    assert 2 * found.distances[1] == pytest.approx(alone.distance, rel=1e-5)


@pytest.mark.parametrize("method", mergers())
def test_an_interrupt_returns_the_best_so_far(method: str) -> None:
    spec = pair("mlp")[2]
    models = [fresh("mlp", seed) for seed in range(4)]
    told: list[float] = []

    def progress(done: int, value: float) -> None:
        told.append(value)
        signal.raise_signal(signal.SIGINT)

    found = autoperm.merge(models, spec, method=method, progress=progress)
    whole = autoperm.merge(models, spec, method=method)
    assert found.interrupted and not whole.interrupted and len(told) == 1
    assert found.history[0] < found.history[-1] < whole.history[-1]
    moved = [p.apply(m) for p, m in zip(found.permutations, models)]
    assert found.history[-1] == pytest.approx(agreement(spec, moved), rel=1e-9)


def test_starts() -> None:
    spec = pair("mlp")[2]
    models = [fresh("mlp", seed) for seed in range(4)]
    for method, starts in (("many", ("identity", "propagate")), ("universe", ("identity", "barycentre", "propagate"))):
        found = [autoperm.merge(models, spec, method=method, start=start) for start in starts]
        assert all(list(f.history) == sorted(f.history) for f in found)
        assert len({f.history for f in found}) == len(starts)
    still = autoperm.merge(models, spec, method="many", max_sweeps=0)
    assert all(p.is_identity for p in still.permutations)
    with pytest.raises(AutopermError, match='start must be "identity" or "propagate", not \'middle\''):
        autoperm.merge(models, spec, method="many", start="middle")
    with pytest.raises(AutopermError, match='start must be "identity", "barycentre" or "propagate", not \'middle\''):
        autoperm.merge(models, spec, method="universe", start="middle")


def test_models_that_do_not_fit_are_named() -> None:
    a, b, spec = pair("mlp")
    small = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    with pytest.raises(AutopermError, match="merging needs a list of at least 2 models, got"):
        autoperm.merge([a], spec)
    with pytest.raises(AutopermError, match="merging needs a list of at least 2 models, got"):
        autoperm.merge(a, spec)  # type: ignore[arg-type]
    with pytest.raises(StateError, match=r"models\[0\] and models\[2\]: the two models differ:\n  - 0.weight: shape \(16, 3\) in the first, \(8, 3\)"):
        autoperm.merge([a, b, small], spec)
    with pytest.raises(StateError, match=r"models\[0\] does not fit the spec:\n  - 0.weight: shape \(8, 3\), the spec has \(16, 3\)"):
        autoperm.merge([small, small], spec)
    with pytest.raises(StateError, match=r"models\[0\] and models\[1\]: the two models differ:\n  - 0.weight: torch.float32 in the first, torch.float64"):
        autoperm.merge([a, copy.deepcopy(b).double()], spec)
    with pytest.raises(StateError, match=r"models\[1\]: expected a module or a state dict, got int"):
        autoperm.merge([a, 3], spec)  # type: ignore[list-item]
    broken = b.state_dict() | {"2.bias": torch.full((16,), float("nan"))}
    with pytest.raises(StateError, match=r"models\[2\]: 2.bias holds NaN \(16 of 16 entries are not finite\)"):
        autoperm.merge([a, b, broken], spec)
    meta = copy.deepcopy(b).to("meta")
    with pytest.raises(StateError, match=r"models\[0\] and models\[1\]: the two models differ:\n  - 0.weight: on cpu in the first, on meta"):
        autoperm.merge([a, meta], spec)


def test_statistics_that_are_nan_are_named() -> None:
    models = [normed(0), normed(1)]
    models[1].body[1].running_var[2] = float("nan")
    with pytest.raises(StateError, match=r"models\[1\]: body.1.running_var holds NaN \(1 of 6 entries\)"):
        autoperm.merge(models, autoperm.infer(normed(0), IMAGES))


def test_registry() -> None:
    a, b, spec = pair("mlp")
    with pytest.raises(AutopermError, match="no merger is called 'magic'; there are average, many, universe"):
        autoperm.merge([a, b], spec, method="magic")
    with pytest.raises(AutopermError, match="method 'many' has no option 'magic'; it has start, max_sweeps, progress"):
        autoperm.merge([a, b], spec, method="many", magic=1)
    with pytest.raises(AutopermError, match="method 'weight' has no option 'magic'; it has max_sweeps, start, "):
        autoperm.merge([a, b], spec, magic=1)
    with pytest.raises(AutopermError, match='no matcher is called \'magic\'; align= is "none" or one of activation, '):
        autoperm.merge([a, b], spec, align="magic")
    with pytest.raises(AutopermError, match='align="none" takes no options, got max_sweeps'):
        autoperm.merge([a, b], spec, align="none", max_sweeps=3)
    with pytest.raises(AutopermError, match="method 'activation' needs data="):
        autoperm.merge([a, b], spec, align="activation")
    with pytest.raises(ValueError, match="there is a merger called 'many' already"):
        merger("many")(lambda models: None)  # type: ignore[arg-type, return-value]


def test_without_symmetry_and_repr() -> None:
    a, b = nn.Linear(3, 2), nn.Linear(3, 2)
    spec = autoperm.infer(a, torch.zeros(1, 3))
    for method in mergers():
        found = autoperm.merge([a, b], spec, method=method)
        assert torch.allclose(found.model.weight, (a.weight + b.weight) / 2)
        value = agreement(spec, [a, b])
        assert repr(found) == f"<Merge: 2 models, agreement {value:.6g} -> {value:.6g}>"
