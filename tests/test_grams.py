"""Gram matrices are kept and brought up to date, tensors are read where they are: always what is computed anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matching_cases import CASES, problem_of, random_step
from torch import nn

import autoperm
from autoperm.matching import grams, steps
from autoperm.matching.blocks import blocks
from autoperm.matching.current import Current
from autoperm.matching.problem import Problem
from autoperm.matching.room import zeros
from autoperm.matching.weight import weight_matching


@pytest.mark.parametrize("name", CASES)
def test_gram_matrices_follow_the_moves(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is brought up to date is what would be computed anew, and what permuted copies give."""
    monkeypatch.setattr(grams, "KEPT_SHARE", 1e9)
    problem, generator = problem_of(name, torch.float64), torch.Generator().manual_seed(1)
    for turn in range(12):
        problem.apply(random_step(problem, generator, 0.2 if turn % 3 else 1.0), always=True)
        fresh, plain = (Problem(problem.spec, problem.states[0], problem.permutation.reordered(problem.states[1])) for _ in "xy")
        plain.b = dict(plain.b)  # not a Current: no matrix is kept
        for g in sorted(problem.matched):
            kept = grams.gram(problem, g, problem.cells[g])
            for other in (fresh, plain):
                np.testing.assert_allclose(kept, grams.gram(other, g, other.cells[g]), rtol=0, atol=1e-12 * np.abs(kept).max())
        for g, dependents in blocks(problem):
            for value, other in zip(steps.step(problem, (g, dependents)), steps.step(fresh, (g, dependents)), strict=True):
                if isinstance(value, float):
                    assert value == pytest.approx(other, rel=1e-9, abs=1e-9)
                else:
                    assert all(np.array_equal(value[h], other[h]) for h in value)


@pytest.mark.parametrize("name", ["mlp", "attention"])
def test_only_what_moved_is_multiplied_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grams, "KEPT_SHARE", 1e9)
    problem = problem_of(name)
    multiplied: list[int] = []
    original = grams._multiply
    monkeypatch.setattr(grams, "_multiply", lambda total, rows, columns: multiplied.append(rows.shape[1]) or original(total, rows, columns))
    g = max(problem.matched, key=lambda g: problem.spec.groups[g].size * (not problem.spec.groups[g].parents))
    grams.gram(problem, g, problem.cells[g])
    first = sum(multiplied)
    multiplied.clear()
    grams.gram(problem, g, problem.cells[g])
    assert not multiplied
    other = next(h for h in sorted(problem.matched) if h != g and set(problem.tensors_of([h])) & set(problem.tensors_of([g])))
    array = np.broadcast_to(np.arange(problem.spec.groups[other].size), problem.element[other].shape).copy()
    array[..., :2] = array[..., 1::-1]
    problem.apply({other: array}, always=True)
    grams.gram(problem, g, problem.cells[g])
    assert 0 < sum(multiplied) < 0.7 * first  # two of three heads moved, or two of sixteen units


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("share", [0.0, 0.4, 1e9])
def test_tensors_under_the_element(name: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read where they are, copied or kept: always those of the permutation; and the objective is theirs."""
    monkeypatch.setattr("autoperm.matching.current.KEPT_SHARE", share)
    problem, generator = problem_of(name), torch.Generator().manual_seed(3)
    marks = []
    for turn in range(9):
        marks.append((problem.mark(), problem.objective, [array.copy() for array in problem.element]))
        problem.apply(random_step(problem, generator, 0.2 if turn % 2 else 1.0), always=True)
        moved = problem.permutation.reordered(problem.states[1])
        assert isinstance(problem.b, Current)
        for n, tensor in problem.b.items():
            assert torch.equal(tensor, moved[n])
            if (indices := problem.b.indices(n)) is not None:
                assert torch.equal(problem.states[1][n][np.ix_(*indices)], moved[n])
        expected = Problem(problem.spec, problem.states[0], moved)
        assert problem.objective == pytest.approx(expected.objective, rel=1e-12)
        assert problem.distance == pytest.approx(expected.distance, rel=1e-12)
    for mark, objective, element in reversed(marks):
        problem.back_to(mark)
        assert problem.objective == objective
        assert all(np.array_equal(x, y) for x, y in zip(problem.element, element, strict=True))
        moved = problem.permutation.reordered(problem.states[1])
        assert all(torch.equal(tensor, moved[n]) for n, tensor in problem.b.items())


def test_copies_are_few() -> None:
    """Of a model all of whose tensors moved, no more than the share is held, and the copy used last."""
    torch.manual_seed(0)
    model = nn.Sequential(*(layer for _ in range(8) for layer in (nn.Linear(32, 32), nn.ReLU())), nn.Linear(32, 32))
    spec = autoperm.infer(model, torch.zeros(1, 32))
    problem = Problem(spec, model.state_dict(), model.state_dict())
    problem.apply(dict(enumerate(spec.random(0).arrays)), always=True)
    assert isinstance(problem.b, Current)
    total = sum(t.numel() for t in problem.b.values())
    assert sum(t.numel() for t in problem.b._copies.values()) <= 0.25 * total
    weight_matching(problem, progress=False)
    assert sum(kept.total.numel() for kept in problem.kept.values()) <= 0.35 * total


def test_a_large_tensor_beside_others_is_read_in_parts() -> None:
    """Where convolutions are grouped, the last one's inputs are two leaves, of which a step on the groups moves one."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4), nn.ReLU(), nn.Conv2d(8, 64, 3)).eval()
    spec = autoperm.infer(model, torch.zeros(1, 3, 8, 8))
    problem = Problem(spec, model.state_dict(), spec.random(0).apply(model).state_dict())
    g = next(g for g in problem.matched if not spec.groups[g].parents and spec.groups[g].size == 4)
    cell = next(u for u in problem.cells[g] if u.name == "4.weight")
    parts = list(grams.in_parts(problem, cell, set(spec.groups[g].leaves)))
    assert len(parts) > 4 and sum(u.shape[0] for u, _ in parts) == 64
    together = sum(torch.einsum("oi...,oj...->ij", *(u.of(t).flatten(2) for t in pair)) for u, pair in parts)
    whole = torch.einsum("oi...,oj...->ij", *(cell.of(t[cell.name]).flatten(2) for t in (problem.a, problem.b)))
    torch.testing.assert_close(together, whole)


def test_large_matrices_are_the_systems_memory() -> None:
    for n in (3, 1000):
        found = zeros(n, n, dtype=torch.float32, device=torch.device("cpu"))
        assert found.shape == (n, n) and not found.any()
        found += 1
        assert float(found.sum()) == n * n
