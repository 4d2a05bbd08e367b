"""Matching: what was planted is found, steps are exact where that is claimed, the objective never falls."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from matching_cases import ASCENTS, CASES, Attention, by_home, mlp, options, pair
from torch import nn

import autoperm
from autoperm import AutopermError, Permutation, PermutationSpec
from autoperm.errors import StateError
from autoperm.matching import matcher, matchers
from autoperm.matching.problem import Problem
from autoperm.matching.weight import blocks
from autoperm.state import check_finite

#: Every matcher on every case; matchers that take steps by gradients only on two where tests are to be fast.
EVERY = [
    pytest.param(m, c, id=f"{m}-{c}", marks=[pytest.mark.slow] if m in ("sinkhorn", "ste") and c not in ("mlp", "per_head") else [])
    for m in matchers()
    for c in CASES
]


def inner(spec: PermutationSpec, a: nn.Module, b: nn.Module) -> float:
    x, y = by_home(spec, a), by_home(spec, b)
    return sum(float((x[n].double() * y[n].double()).sum()) for n in spec.parameters)


def elements(spec: PermutationSpec) -> Iterator[Permutation]:
    """All of a tiny group."""
    choices = []
    for group in spec.groups:
        one = [np.array(p) for p in itertools.permutations(range(group.size))]
        shape = (*(spec.leaves[p].size for p in group.parents), group.size)
        choices.append([np.stack(rows).reshape(shape) for rows in itertools.product(one, repeat=group.copies)])
    for arrays in itertools.product(*choices):
        yield Permutation(spec, arrays)


@pytest.mark.parametrize(("method", "name"), EVERY)
def test_a_planted_permutation_is_found_exactly(name: str, method: str) -> None:
    a, _, spec = pair(name)
    planted = spec.random(5)
    found = autoperm.match(a, planted.apply(a), spec, method=method, **options(method, name))
    assert found.distance == 0.0
    assert found.permutation == planted.inverse()
    assert found.objective == pytest.approx(inner(spec, a, a), rel=1e-12)


@pytest.mark.parametrize(("method", "name"), EVERY)
def test_laws_of_a_match(name: str, method: str) -> None:
    a, b, spec = pair(name)
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in (a, b)]
    found = autoperm.match(a, b, spec, method=method, seed=3, **options(method, name))
    moved = found.permutation.apply(b)
    parameters = [spec.aliases[n] for n in spec.parameters]
    x, y = by_home(spec, a), by_home(spec, moved)
    gap = sum(float(((x[n] - y[n]).double() ** 2).sum()) for n in parameters)
    assert found.objective == pytest.approx(inner(spec, a, moved), rel=1e-12)
    assert found.distance == pytest.approx(gap**0.5, rel=1e-6)
    again = autoperm.match(a, b, spec, method=method, seed=3, **options(method, name))
    assert again.permutation == found.permutation and again.history == found.history
    for model, kept in zip((a, b), before):
        assert all(torch.equal(v, kept[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(("method", "name"), [p for p in EVERY if p.values[0] in ASCENTS])
def test_an_ascent_never_falls(name: str, method: str) -> None:
    a, b, spec = pair(name)
    found = autoperm.match(a, b, spec, method=method, seed=3)
    assert found.history[-1] == found.objective >= found.history[0] >= inner(spec, a, b) - 1e-9
    assert found.objective > inner(spec, a, b)
    assert all(y >= x - 1e-9 * abs(x) for x, y in itertools.pairwise(found.history))


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_left_to_gain(name: str) -> None:
    """From where it ends, no block has a better step: one more sweep, which moves nothing."""
    a, b, spec = pair(name)
    found = autoperm.match(a, b, spec)
    again = autoperm.match(a, found.permutation.apply(b), spec, seed=9)
    assert again.permutation.is_identity and len(again.history) == 2


@pytest.mark.parametrize("seed", range(4))
def test_one_layer_is_solved_to_the_optimum(seed: int) -> None:
    torch.manual_seed(seed)
    a, b = (nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)) for _ in "ab")
    spec = autoperm.infer(a, torch.zeros(1, 2))
    best = max(inner(spec, a, g.apply(b)) for g in elements(spec))
    assert spec.order == 24
    assert autoperm.match(a, b, spec, max_sweeps=1).objective == pytest.approx(best, rel=1e-9)


def test_two_layers_end_in_a_local_optimum_below_the_global_one() -> None:
    torch.manual_seed(0)
    a, b = mlp(3), mlp(3)
    spec = autoperm.infer(a, torch.zeros(1, 3))
    values = [inner(spec, a, g.apply(b)) for g in elements(spec)]
    assert len(values) == spec.order == 36
    found = [autoperm.match(a, b, spec, seed=s).objective for s in range(5)]
    assert max(found) <= max(values) + 1e-9
    assert all(min(abs(v - f) for v in values) < 1e-9 for f in found)
    assert max(found) == pytest.approx(max(values), rel=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_the_step_on_heads_and_their_dimensions_is_exact(seed: int) -> None:
    """Two heads of two dimensions, inputs and outputs pinned: one step is the best of all 32 elements."""
    torch.manual_seed(seed)
    a, b = (Attention(3, 2, 4, residual=False) for _ in "ab")
    spec = autoperm.infer(a, torch.zeros(1, 4, 3))
    assert spec.order == 2 * (2 * 2) * (2 * 2)
    best = max(inner(spec, a, g.apply(b)) for g in elements(spec))
    found = autoperm.match(a, b, spec, max_sweeps=1)
    assert found.objective == pytest.approx(best, rel=1e-9)


def test_wreaths_are_one_block_unless_dependents_are_coupled() -> None:
    def found(name: str) -> list[int]:
        a, b, spec = pair(name)
        return sorted(len(dependents) for _, dependents in blocks(Problem(spec, a.state_dict(), b.state_dict())))

    assert found("attention") == [0, 2]  # the stream; heads with query-key and value dimensions
    assert found("group_norm") == [0, 1]
    assert found("grouped") == [1, 1]  # both sides meet in the grouped weight
    assert found("per_head") == [1, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    a, _, spec = pair("attention")
    planted = spec.random(2)
    first, second = copy.deepcopy(a).to(dtype), planted.apply(a).to(dtype)
    found = autoperm.match(first, second, spec)
    assert found.permutation == planted.inverse()
    assert found.permutation.apply(second).q.weight.dtype == dtype
    with pytest.raises(StateError, match=rf"the two models differ:\n  - stem.weight: {dtype} in the first, torch.float32 in the second"):
        autoperm.match(first, pair("attention")[1], spec)


def test_state_dicts_and_tied_weights_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
            self.out.weight = self.table.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.table(x).tanh())

    torch.manual_seed(0)
    a, b = Tied(), Tied()
    spec = autoperm.infer(a, torch.zeros(1, 2, dtype=torch.long))
    found = autoperm.match(a.state_dict(), b.state_dict(), spec)
    moved = found.permutation.apply(b)
    assert found.objective == pytest.approx(float((a.table.weight * moved.table.weight).sum()), rel=1e-5)


def test_unreadable_values_are_named() -> None:
    a, b, spec = pair("mlp")
    broken = b.state_dict() | {"2.weight": torch.full((16, 16), float("nan"))}
    with pytest.raises(StateError, match=r"model_b: 2.weight holds NaN \(256 of 256 entries are not finite\)"):
        autoperm.match(a, broken, spec)
    with pytest.raises(StateError, match=r"model_a: 0.weight is on the meta device"):
        autoperm.match(mlp().to("meta"), b, spec)


def test_large_finite_values_and_complex_ones_are_told_apart() -> None:
    """The sum of finite entries may overflow, and a complex entry may be NaN in one part only."""
    huge = torch.full((40,), 3e38)
    check_finite({"huge": huge, "whole": torch.ones(3, dtype=torch.long)}, "model_a")
    with pytest.raises(StateError, match=r"model_a: half holds infinity \(1 of 40 entries are not finite\)"):
        check_finite({"half": torch.where(torch.arange(40) == 7, float("inf"), huge)}, "model_a")
    with pytest.raises(StateError, match=r"model_a: spectrum holds NaN \(2 of 2 entries are not finite\)"):
        check_finite({"spectrum": torch.complex(torch.ones(2), torch.full((2,), float("nan")))}, "model_a")


def test_infinities_in_buffers_are_no_matter() -> None:
    a, b, spec = pair("mlp")
    mask = {"mask": torch.full((2,), float("-inf"))}
    assert autoperm.match(a.state_dict() | mask, b.state_dict() | mask, spec).objective == autoperm.match(a, b, spec).objective


def test_other_architectures_are_listed() -> None:
    a, _, spec = pair("mlp")
    with pytest.raises(StateError, match=r"the two models differ:\n  - 0.weight: shape \(16, 3\) in the first, \(8, 3\) in the second"):
        autoperm.match(a, mlp(8), spec)
    with pytest.raises(StateError, match=r"the two models differ:\n  - 4.weight: only in the first"):
        autoperm.match(a, nn.Sequential(*list(a)[:4]), spec)
    with pytest.raises(StateError, match=r"model_a does not fit the spec:\n  - 0.weight: shape \(8, 3\), the spec has \(16, 3\)"):
        autoperm.match(mlp(8), mlp(8), spec)


def test_registry() -> None:
    a, b, spec = pair("mlp")
    with pytest.raises(AutopermError, match="method 'weight' has no option 'magic'; it has max_sweeps, start, restarts, normalize, progress"):
        autoperm.match(a, b, spec, magic=1)
    with pytest.raises(AutopermError, match="no matcher is called 'magic'; there are .*weight"):
        autoperm.match(a, b, spec, method="magic")
    with pytest.raises(ValueError, match="there is a matcher called 'weight' already"):
        matcher("weight")(lambda problem: None)  # type: ignore[arg-type, return-value]


def test_a_model_without_symmetry_is_matched_by_the_identity() -> None:
    a, b = nn.Linear(3, 2), nn.Linear(3, 2)
    spec = autoperm.infer(a, torch.zeros(1, 3))
    found = autoperm.match(a, b, spec)
    assert spec.order == 1 and found.permutation.is_identity
    assert found.objective == pytest.approx(inner(spec, a, b), rel=1e-12)


def test_starts() -> None:
    """Both starts end where no block can gain; the paper's begins with model b as it is."""
    a, b, spec = pair("mlp")
    plain = autoperm.match(a, b, spec, start="identity")
    assert plain.history[0] == pytest.approx(inner(spec, a, b), rel=1e-12)
    assert autoperm.match(a, b, spec, max_sweeps=0).permutation.is_identity
    with pytest.raises(AutopermError, match='start must be "propagate" or "identity", not \'middle\''):
        autoperm.match(a, b, spec, start="middle")


def test_a_wreath_too_large_for_one_gram_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, spec = pair("attention")
    expected = autoperm.match(a, b, spec)
    monkeypatch.setattr("autoperm.matching.steps._LARGE", 1)
    assert autoperm.match(a, b, spec).permutation == expected.permutation


@pytest.mark.parametrize("name", CASES)
def test_terms_that_are_kept_are_the_ones_that_would_be_computed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, spec = pair(name)
    a, b = a.double(), b.double()
    kept = autoperm.match(a, b, spec, seed=1)
    monkeypatch.setattr("autoperm.matching.grams.KEPT_BYTES", 0)
    fresh = autoperm.match(a, b, spec, seed=1)
    assert kept.permutation == fresh.permutation and kept.history == fresh.history


def test_sweeps_and_progress() -> None:
    a, b, spec = pair("attention")
    told: list[tuple[int, float]] = []
    found = autoperm.match(a, b, spec, max_sweeps=1, progress=lambda sweep, value: told.append((sweep, value)))
    assert told == [(1, found.objective)] and len(found.history) == 2
    assert repr(found) == f"<Match: objective {found.objective:.6g}, distance {found.distance:.6g} after 1 steps>"
