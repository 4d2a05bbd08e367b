"""Assignments and wreaths are exact, whatever is pruned."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from autoperm.matching import assignment, wreath
from autoperm.matching.assignment import assign, assign_again
from autoperm.matching.wreath import Pairs, best_wreath


def matrices(n: int, seed: int) -> dict[str, np.ndarray]:
    """Gram matrices of every kind that is hard for one solver or another."""
    random = np.random.default_rng(seed)
    a, b = random.standard_normal((n, 40)), random.standard_normal((n, 40))
    order, sizes = random.permutation(n), np.exp(random.standard_normal(n))
    dead = np.arange(n) % 3 > 0
    copies = a.copy()
    copies[: n // 2] = copies[0]
    return {
        "random": a @ b.T,
        "planted": a @ (a + 0.3 * b)[order].T,
        "of one sign": np.abs(a @ b.T),
        "of many sizes": (sizes[:, None] * a) @ (sizes[order, None] * b).T,
        "rank one": a[:, :1] @ b[:, :1].T,
        "dead units": (dead[:, None] * a) @ (dead[order, None] * a[order]).T,
        "equal units": copies @ copies[order].T,
        "nearly equal units": (copies + 1e-9 * b) @ b.T,
        "small whole numbers": np.round(2 * random.standard_normal((n, n))),
        "tiny": 1e-25 * a @ b.T,
        "zero": np.zeros((n, n)),
        "constant": np.full((n, n), -3.0),
    }


@pytest.mark.parametrize("kind", matrices(4, 0))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_assignments_are_the_dense_solvers(kind: str, dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignment, "DENSE", 1)
    for n in (40, 300):
        matrix = matrices(n, n)[kind].astype(dtype)
        best, value = assign(matrix)
        rows, columns = linear_sum_assignment(matrix, maximize=True)
        expected = matrix[rows, columns].sum(dtype=np.float64)
        assert sorted(best) == list(range(n))
        assert value == pytest.approx(matrix[rows, best].sum(dtype=np.float64), rel=1e-12)
        assert value == pytest.approx(expected, rel=1e-12, abs=1e-12 * float(np.abs(matrix).max()))


@pytest.mark.parametrize("kind", matrices(4, 0))
def test_prices_of_another_matrix_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prices only say where to look: those of a similar matrix, of another one, or of none at all."""
    monkeypatch.setattr(assignment, "DENSE", 1)
    random, matrix = np.random.default_rng(0), matrices(300, 2)[kind].astype(np.float32)
    similar = matrix + 0.05 * matrix.std() * random.standard_normal(matrix.shape).astype(np.float32)
    expected = matrix[linear_sum_assignment(matrix, maximize=True)].sum(dtype=np.float64)
    known = [assign_again(m, None)[2] for m in (similar, matrices(300, 3)["random"])]
    for before in (*known, random.standard_normal(300), np.full(300, 1e6)):
        best, value, _ = assign_again(matrix, before)
        assert sorted(best) == list(range(300))
        assert value == pytest.approx(expected, rel=1e-12, abs=1e-12 * float(np.abs(matrix).max()))


def test_prices_of_a_similar_matrix_save_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = matrices(600, 1)["random"]
    before = assign_again(matrix, None)[2]
    temperatures = []
    original = assignment._scaled
    monkeypatch.setattr(assignment, "_scaled", lambda *args: temperatures.append(args[3:]) or original(*args))
    assign_again(matrix, before)
    assert len(temperatures) == 1 and len(temperatures[0]) == 2, "it starts cold, and once"


def test_large_random_assignments_need_no_dense_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the test above would compare it with itself."""
    expected = {kind: linear_sum_assignment(m, maximize=True)[1] for kind, m in matrices(600, 1).items()}

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the dense solver was called")

    monkeypatch.setattr(assignment, "linear_sum_assignment", refuse)
    for kind in ("random", "planted", "of one sign", "tiny"):
        assert np.array_equal(assign(matrices(600, 1)[kind])[0], expected[kind])


def test_prices_that_certify_an_assignment_are_checked_on_every_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one candidate a row the first answer is wrong: contradictions must correct it."""
    monkeypatch.setattr(assignment, "_CANDIDATES", 1)
    matrix = matrices(600, 2)["random"]
    assert np.array_equal(assign(matrix)[0], linear_sum_assignment(matrix, maximize=True)[1])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n, m, dtype", [(2, 3, torch.float64), (7, 1, torch.float32), (6, 5, torch.float64), (12, 8, torch.float32)])
@pytest.mark.parametrize("keep", [True, False])
def test_pruned_wreaths_are_the_unpruned_ones(n: int, m: int, dtype: torch.dtype, keep: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(n, m, 20, generator=generator, dtype=dtype)
    parts = [[(draw(), draw()), (draw(), draw())], [(draw(), draw())]]
    base = torch.randn(n, n, generator=generator, dtype=dtype).numpy()
    outer, inner, value = best_wreath(base, [Pairs(n, m, own, keep=keep) for own in parts])
    total, choices = base.astype(np.float64), {}
    for i, j in itertools.product(range(n), range(n)):
        solved = [assign(sum(a[i] @ b[j].T for a, b in own).numpy()) for own in parts]
        total[i, j] += sum(v for _, v in solved)
        choices[i, j] = [best for best, _ in solved]
    rows, expected = linear_sum_assignment(total, maximize=True)
    assert np.array_equal(outer, expected) and value == pytest.approx(total[rows, expected].sum(), rel=1e-5)
    for d, own in enumerate(inner):
        assert np.array_equal(own, np.stack([choices[i, j][d] for i, j in zip(rows, expected)]))


def test_bounds_are_bounds_and_spare_assignments(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    heads = torch.randn(16, 6, 30, generator=generator)
    others = heads[torch.randperm(16, generator=generator)] + 0.3 * torch.randn(16, 6, 30, generator=generator)
    pairs = Pairs(16, 6, [(heads, others)])
    bounds = pairs.bounds()
    assert all(pairs.exact(i, j)[1] <= bounds[i, j] for i, j in itertools.product(range(16), range(16)))
    solved: list[int] = []
    monkeypatch.setattr(wreath, "assign", lambda gram: solved.append(len(gram)) or assign(gram))
    best_wreath(np.zeros((16, 16)), [Pairs(16, 6, [(heads, others)])])
    assert solved.count(6) < 64 < 16 * 16
