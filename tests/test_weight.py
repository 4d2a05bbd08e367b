"""Weight matching: restarts, cosines, and what is not done twice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from matching_cases import CASES, pair, problem_of, random_step
from torch import nn

import autoperm
from autoperm import AutopermError
from autoperm.matching import steps
from autoperm.matching.blocks import blocks
from autoperm.matching.cosine import Cosines
from autoperm.matching.problem import Problem
from autoperm.trained import randomize_


def two_layers(seed: int) -> tuple[nn.Module, nn.Module, autoperm.PermutationSpec]:
    """Hidden layers of 4 and 4: 576 elements."""
    models = []
    for k in range(2):
        torch.manual_seed(2 * seed + k)
        models.append(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
        randomize_(models[-1], 2 * seed + k)
    return models[0], models[1], autoperm.infer(models[0], torch.zeros(1, 3))


def optimum(a: nn.Module, b: nn.Module) -> float:
    """By trying all orders of both layers."""
    x, y = ([t.detach().double().numpy() for t in m.state_dict().values()] for m in (a, b))
    orders = [np.array(p) for p in itertools.permutations(range(4))]
    ends = {tuple(p): (x[0] * y[0][p]).sum() + x[1] @ y[1][p] for p in orders}
    heads = {tuple(q): x[3] @ y[3][q] + (x[4] * y[4][:, q]).sum() + x[5] @ y[5] for q in orders}
    return max(ends[tuple(p)] + heads[tuple(q)] + (x[2] * y[2][np.ix_(q, p)]).sum() for p in orders for q in orders)


@pytest.mark.parametrize("method, more", [("weight", {"restarts": 30}), ("search", {"rounds": 60})])
def test_starting_again_finds_the_optimum(method: str, more: dict[str, int]) -> None:
    found, once = 0, 0
    for seed in range(20):
        a, b, spec = two_layers(seed)
        best = optimum(a, b)
        reached = autoperm.match(a, b, spec, method=method, progress=False, **more)
        assert reached.objective <= best + 1e-6
        found += reached.objective > best - 1e-6
        once += autoperm.match(a, b, spec, progress=False).objective > best - 1e-6
    assert found == 20 > once


@pytest.mark.parametrize("name", CASES)
def test_restarts_never_end_lower(name: str) -> None:
    a, b, spec = pair(name)
    once = autoperm.match(a, b, spec, progress=False)
    again = autoperm.match(a, b, spec, restarts=4, progress=False)
    assert again.objective >= once.objective
    assert again.history[: len(once.history)] == once.history and len(again.history) > len(once.history)
    assert list(again.history) == sorted(again.history) and again.history[-1] == again.objective
    assert autoperm.match(a, b, spec, restarts=4, progress=False).permutation == again.permutation
    moved = again.permutation.apply(b)
    assert again.objective == pytest.approx(autoperm.match(a, moved, spec, max_sweeps=0).objective, rel=1e-12)


def test_cosines_do_not_see_the_size_of_units() -> None:
    """Units that differ in size and noise: inner products bring the large ones together, cosines each with its own."""
    a, _, spec = pair("mlp")
    planted = spec.random(4)
    b = planted.apply(a)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in b.parameters():
            p += 0.5 * p.std() * torch.randn(p.shape, generator=generator)
        for model in (a, b):
            model[4].weight.zero_()
            model[2].weight *= torch.exp(2 * torch.randn(16, generator=generator))[:, None]
    plain = autoperm.match(a, b, spec, progress=False)
    cosine = autoperm.match(a, b, spec, normalize=True, progress=False)
    right = [float((m.permutation.arrays[1] == planted.inverse().arrays[1]).mean()) for m in (plain, cosine)]
    assert right[1] > right[0]
    assert list(cosine.history) == sorted(cosine.history)


@pytest.mark.parametrize("name", CASES)
def test_the_sum_of_cosines(name: str) -> None:
    """Each unit counts at most 1, norms follow the units as they move, and what was planted is found."""
    problem, generator = problem_of(name, torch.float64), torch.Generator().manual_seed(2)
    problem.apply(random_step(problem, generator, 1.0), always=True)
    found = blocks(problem)
    cosines = Cosines(problem, found)
    problem.apply(random_step(problem, generator, 1.0), always=True)
    fresh = Cosines(problem, found)
    assert cosines.total() == pytest.approx(fresh.total(), rel=1e-12)
    units = sum(problem.spec.groups[g].copies * problem.spec.groups[g].size for block in found for g in (block[0], *block[1]))
    assert cosines.total() <= units
    same = Problem(problem.spec, problem.states[0], problem.states[0])
    whole = Cosines(same, found).total()
    assert whole == pytest.approx(round(whole), abs=1e-9) and whole <= units
    planted = problem.spec.random(6)
    match = autoperm.match(pair(name)[0], planted.apply(pair(name)[0]), problem.spec, normalize=True, progress=False)
    assert match.permutation == planted.inverse()


@pytest.mark.parametrize("seed", range(3))
def test_one_layer_is_brought_to_the_largest_sum_of_cosines(seed: int) -> None:
    torch.manual_seed(seed)
    a, b = (nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 2)) for _ in "ab")
    spec = autoperm.infer(a, torch.zeros(1, 2))
    x, y = (torch.cat([m[0].weight, m[0].bias[:, None], m[2].weight.T], 1).detach().double() for m in (a, b))
    cosines = torch.nn.functional.cosine_similarity(x[:, None], y[None], dim=2).numpy()
    best = max(cosines[range(5), list(p)].sum() for p in itertools.permutations(range(5)))
    found = autoperm.match(a, b, spec, normalize=True, progress=False)
    assert cosines[range(5), found.permutation.arrays[0]].sum() == pytest.approx(best, rel=1e-6)
    assert found.history[-1] == pytest.approx(best, rel=1e-6)


def test_what_propagation_has_matched_on_everything_is_not_visited_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One hidden layer: nothing is left to do after the start."""
    torch.manual_seed(0)
    a, b = (nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)) for _ in "ab")
    spec = autoperm.infer(a, torch.zeros(1, 3))
    calls: list[int] = []
    original = steps.assign_again
    monkeypatch.setattr(steps, "assign_again", lambda gram, before: calls.append(len(gram)) or original(gram, before))
    autoperm.match(a, b, spec, progress=False)
    assert calls == [6]


def test_weight_options_are_checked() -> None:
    a, b, spec = pair("mlp")
    for method, more, text in (
        ("weight", {"restarts": -1}, "restarts must be 0 or more, not -1"),
        ("weight", {"restarts": 1.5}, "restarts must be a whole number, not 1.5"),
        ("weight", {"groups": [0]}, "groups= holds a int; give names of groups"),
        ("weight", {"seed": None}, "seed must be a whole number of at most 64 bits, not None"),
        ("frank-wolfe", {"max_steps": -1}, "max_steps must be 0 or more, not -1"),
        ("frank-wolfe", {"tolerance": float("nan")}, "tolerance must be a number, not nan"),
        ("weight", {"max_sweeps": -2}, "max_sweeps must be 0 or more, not -2"),
        ("search", {"rounds": -1}, "rounds must be 0 or more, not -1"),
        ("search", {"time_limit": -0.5}, "time_limit must be 0 or more, not -0.5"),
        ("search", {"start": "top"}, 'start must be "propagate", "identity" or "frank-wolfe", not \'top\''),
    ):
        with pytest.raises(AutopermError, match=text):
            autoperm.match(a, b, spec, method=method, progress=False, **more)


@pytest.mark.parametrize("method", ["weight", "search"])
def test_parts_are_matched_alone(method: str) -> None:
    """Restarts and kicks leave groups alone that are not to be matched."""
    a, b, spec = pair("attention")
    chosen = spec.groups[0].name
    more = {"restarts": 3} if method == "weight" else {"rounds": 10}
    found = autoperm.match(a, b, spec, method=method, groups=[chosen], progress=False, **more)
    moved = {name for name, share in found.permutation.moved().items() if share}
    assert moved == {chosen}
