"""The relaxation behind merging in a universe: values, slopes and segments are exact, and steps only ever gain."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from matching_cases import CASES, pair
from torch import nn

import autoperm
from autoperm import Permutation, PermutationSpec
from autoperm.matching.soft import soften
from autoperm.merging.models import Models
from autoperm.merging.universe import Maps, Relaxation, _between
from autoperm.trained import randomize_


def fresh(name: str, seed: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(seed)
    model = CASES[name][0]()
    randomize_(model, seed)
    return model.to(dtype)


def relaxation_of(name: str, count: int = 3, barycentre: bool = False) -> tuple[Models, Relaxation]:
    models = Models([fresh(name, seed) for seed in range(count)], pair(name)[2])
    return models, Relaxation(models, models.identity(), barycentre)


def mixture(relaxation: Relaxation, spec: PermutationSpec, seeds: tuple[int, ...]) -> list[torch.Tensor]:
    many = [soften(relaxation._problem, spec.random(s).arrays, dtype=torch.float64) for s in seeds]
    return [sum(each[1:], each[0]) / len(seeds) for each in zip(*many)]


def doubly_stochastic(maps: Maps) -> bool:
    ones = [(m.sum(d) - 1).abs().max() < 1e-6 and m.min() > -1e-9 for own in maps for m in own for d in (-1, -2)]
    return all(map(bool, ones))

#: The others wait for the slow tests.
SOME = [name if name in ("mlp", "attention", "per_head") else pytest.param(name, marks=pytest.mark.slow) for name in CASES]


@pytest.mark.parametrize("name", SOME)
def test_at_permutations_the_value_is_that_of_all_pairs(name: str) -> None:
    models, relaxation = relaxation_of(name)
    still = relaxation.value(relaxation.maps) - models.agreement(models.identity())
    for seed in range(2):
        permutations = [models.spec.random(10 * seed + k) for k in range(3)]
        maps = [soften(relaxation._problem, p.arrays, dtype=torch.float64) for p in permutations]
        assert relaxation.value(maps) - models.agreement(permutations) == pytest.approx(still, abs=1e-9)


@pytest.mark.parametrize("name", SOME)
def test_segments_are_polynomials(name: str) -> None:
    models, relaxation = relaxation_of(name)
    relaxation.maps = [mixture(relaxation, models.spec, (k, k + 5)) for k in range(3)]
    end = [mixture(relaxation, models.spec, (k + 20,)) for k in range(3)]
    line = relaxation._along(end)
    for t in (0.0, 0.3, 0.77, 1.0):
        assert line(t) == pytest.approx(relaxation.value(_between(relaxation.maps, end, t)), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", SOME)
def test_the_gap_is_what_the_value_gains_to_first_order(name: str) -> None:
    """The slope of the segment to the vertices, which the gap bounds, against other directions and differences."""
    models, relaxation = relaxation_of(name)
    relaxation.maps = [mixture(relaxation, models.spec, (k, k + 5)) for k in range(3)]
    vertices, _, gap = relaxation._vertices()
    slope = relaxation._along(relaxation._soft(vertices)).deriv()(0.0)
    assert slope == pytest.approx(gap, rel=1e-8) and gap > 0
    for seed in range(5):
        other = [soften(relaxation._problem, models.spec.random(7 * seed + k).arrays, dtype=torch.float64) for k in range(3)]
        assert relaxation._along(other).deriv()(0.0) <= gap + 1e-9


@pytest.mark.parametrize("barycentre", [False, True])
@pytest.mark.parametrize("name", SOME)
def test_steps_gain_and_stay_doubly_stochastic(name: str, barycentre: bool) -> None:
    _, relaxation = relaxation_of(name, barycentre=barycentre)
    values = [relaxation.value(relaxation.maps)]
    while len(values) < 12 and relaxation.step(1e-6 * relaxation.scale):
        values.append(relaxation.value(relaxation.maps))
        assert doubly_stochastic(relaxation.maps)
    assert len(values) > 2 and all(y > x for x, y in itertools.pairwise(values))


def test_three_tiny_models_against_all_elements() -> None:
    """The best of all 36² ways to bring three models into one order is found most of the time, and never exceeded."""
    found = 0
    for trial in range(10):
        models = []
        for seed in range(3):
            torch.manual_seed(10 * trial + seed)
            models.append(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)))
        spec = autoperm.infer(models[0], torch.zeros(1, 3))
        rows = [np.array(p) for p in itertools.permutations(range(3))]
        every = [Permutation(spec, list(arrays)) for arrays in itertools.product(rows, rows)]
        given = Models(models, spec)
        flat = [[_flat(given, k, p) for p in every] for k in range(3)]
        a, bs, cs = flat[0][0], torch.stack(flat[1]), torch.stack(flat[2])
        best = float(((bs @ a)[:, None] + (cs @ a)[None] + bs @ cs.T).max())
        merged = autoperm.merge(models, spec, method="universe")
        assert spec.order == len(every) == 36 and merged.history[-1] <= best * (1 + 1e-9)
        found += merged.history[-1] >= best * (1 - 1e-9)
    assert found >= 7


def _flat(models: Models, k: int, permutation: Permutation) -> torch.Tensor:
    return torch.cat([models.permuted(k, home, permutation).double().flatten() for home in models.parameters])


def test_what_is_not_matched_stays_even_at_the_barycentre() -> None:
    spec = pair("attention")[2]
    models = Models([fresh("attention", seed) for seed in range(3)], spec, groups=lambda group: bool(group.parents))
    relaxation = Relaxation(models, models.identity(), True)
    relaxation.maps = [mixture(relaxation, spec, (k, k + 5, k + 9)) for k in range(3)]
    for permutation in relaxation.rounded():
        moved = {name for name, share in permutation.moved().items() if share}
        assert moved and moved <= {group.name for group in spec.groups if group.parents}


def test_narrow_weights_are_mixed_in_single_precision() -> None:
    models = Models([fresh("mlp", seed, torch.bfloat16) for seed in range(3)], pair("mlp")[2])
    relaxation = Relaxation(models, models.identity(), False)
    assert all(m.dtype == torch.float32 for own in relaxation.maps for m in own)
    assert relaxation._mixed("0.weight", 1, relaxation.maps[1]).dtype == torch.float32
    assert relaxation.step(0.0)
