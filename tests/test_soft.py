"""Relaxed elements: at permutation matrices they act as permutations do, and elsewhere as the formula says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matching_cases import CASES, by_home, pair
from torch import nn

import autoperm
from autoperm import Permutation, PermutationSpec
from autoperm.layout import Factor, Factors, Group, Layout, Leaf
from autoperm.matching.problem import Problem
from autoperm.matching.soft import harden, soft_apply, soft_barycentre, soft_identity, soften
from tests.architectures import CASES as ARCHITECTURES
from tests.trained import trained_like

Relaxed = list[torch.Tensor]


def problem_of(name: str) -> Problem:
    a, b, spec = pair(name)
    return Problem(spec, by_home(spec, a), by_home(spec, b))


def mixture(problem: Problem, seeds: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Relaxed:
    """The mean of random elements: doubly stochastic, and not a permutation."""
    many = [soften(problem, problem.spec.random(s).arrays, dtype=dtype) for s in seeds]
    return [sum(each[1:], each[0]) / len(seeds) for each in zip(*many)]


def counted(layout: Layout) -> torch.Tensor:
    """Which entries some output depends on; the others may be left alone or move with the rest of their dimension."""
    found = torch.zeros(layout.shape, dtype=torch.bool)
    for cell in layout.cells:
        found[np.ix_(*(layout.pieces[j][p] for j, p in enumerate(cell)))] = True
    return found


def assert_acts_as(problem: Problem, permutation: Permutation) -> None:
    relaxed = soften(problem, permutation.arrays)
    mixed = soft_apply(problem, problem.b, relaxed)
    moved = permutation.reordered(problem.b)
    for name, tensor in problem.b.items():
        lives = counted(problem.spec.layouts[name])
        assert torch.equal(mixed[name][lives], moved[name][lives]), name
        assert torch.equal(mixed[name][~lives], tensor[~lives]), name
    for mine, theirs in zip(harden(problem, relaxed), permutation.arrays):
        assert np.array_equal(mine, theirs)


@pytest.mark.parametrize("name", CASES)
def test_permutation_matrices_act_as_permutations(name: str) -> None:
    problem = problem_of(name)
    for seed in range(3):
        assert_acts_as(problem, problem.spec.random(seed))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_so_they_do_on_every_architecture(name: str) -> None:
    """Groups twice in a tensor, cells, relabelled axes, pinned parents."""
    model = trained_like(ARCHITECTURES[name].build(), seed=1)
    spec = autoperm.infer(model, ARCHITECTURES[name].inputs())
    problem = Problem(spec, by_home(spec, model), by_home(spec, model))
    for seed in range(2):
        assert_acts_as(problem, spec.random(seed))


def two_levels() -> tuple[PermutationSpec, dict[str, torch.Tensor]]:
    """Heads, dimensions that depend on the head, a joint pair that depends on both; a relabelled and a cut dimension."""
    leaves = [Leaf("h", 2), Leaf("d", 3), Leaf("p", 2), Leaf("q", 2), Leaf("i", 4)]
    groups = [
        Group("pq", 4, (2, 3), (1, 0), copies=6, parent="d"),
        Group("d", 3, (1,), (0,), copies=2, parent="h"),
        Group("h", 2, (0,)),
        Group("i", 4, (4,)),
    ]
    h, d, p, q, i = (Factor(k) for k in range(5))
    turned, mixed = Factor(4, np.array([2, 0, 3, 1])), np.random.default_rng(0).permutation(6)
    cut = (np.array([0, 2, 3, 5]), np.array([1, 4]))
    layouts = {
        "whole": Layout((6, 4), ((np.arange(6),), (np.arange(4),)), {(0, 0): (Factors((h, d), mixed), Factors((p, q)))}),
        "cut": Layout((6, 6), (cut, (np.arange(6),)), {(0, 0): (Factors((turned,)), Factors((h, d)))}),
        "twice": Layout((4, 4), ((np.arange(4),), (np.arange(4),)), {(0, 0): (Factors((i,)), Factors((turned,)))}),
    }
    generator = torch.Generator().manual_seed(0)
    tensors = {n: torch.randn(layout.shape, generator=generator) for n, layout in layouts.items()}
    return PermutationSpec(leaves, groups, layouts, {n: n for n in layouts}, frozenset(layouts)), tensors


@pytest.mark.parametrize("seed", range(5))
def test_dependents_of_dependents_and_joint_groups(seed: int) -> None:
    spec, tensors = two_levels()
    problem = Problem(spec, tensors, tensors)
    assert [tuple(m.shape) for m in soft_identity(problem)] == [(3, 2, 4, 4), (2, 3, 3), (2, 2), (4, 4)]
    assert_acts_as(problem, spec.random(seed))


def test_the_formula_for_heads() -> None:
    problem = problem_of("per_head")
    relaxed = mixture(problem, (1, 2, 3))
    p, d, e = (relaxed[k] for k in by_leaf(problem))
    mixed = soft_apply(problem, problem.b, relaxed)
    up, mid, down = (problem.b[n].double() for n in ("up", "mid", "down"))
    assert torch.allclose(mixed["up"], torch.einsum("hg,hij,gjx->hix", p, d, up), atol=1e-12)
    assert torch.allclose(mixed["mid"], torch.einsum("hg,hij,hkl,glj->hki", p, d, e, mid), atol=1e-12)
    assert torch.allclose(mixed["down"], torch.einsum("hg,hkl,ogl->ohk", p, e, down), atol=1e-12)


def by_leaf(problem: Problem) -> tuple[int, int, int]:
    """The heads, the inner and the outer dimensions of a PerHead."""
    heads = next(g for g, group in enumerate(problem.spec.groups) if not group.parents)
    inner = next(g for g, group in enumerate(problem.spec.groups) if ("up", 1) in group.moves)
    return heads, inner, 3 - heads - inner


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_created_or_lost(name: str) -> None:
    """Sums over a tensor's entries stay, as rows and columns sum to 1; the inputs are not changed."""
    problem = problem_of(name)
    before = {n: t.clone() for n, t in problem.b.items()}
    for relaxed in (mixture(problem, (1, 2, 3)), soft_barycentre(problem, dtype=torch.float64)):
        mixed = soft_apply(problem, problem.b, relaxed)
        for n, tensor in mixed.items():
            assert tensor.dtype == torch.float64 and tensor.shape == before[n].shape
            assert float(tensor.sum()) == pytest.approx(float(before[n].double().sum()), abs=1e-9)
            assert torch.equal(problem.b[n], before[n])


@pytest.mark.parametrize("name", [*CASES, "two levels"])
def test_gradients(name: str) -> None:
    if name == "two levels":
        spec, tensors = two_levels()
        problem = Problem(spec, tensors, tensors)
    else:
        problem = problem_of(name)
    relaxed = [m.requires_grad_() for m in mixture(problem, (1, 2))]
    tensors = {n: t.double().requires_grad_() for n, t in problem.b.items()}

    def total(*leaves: torch.Tensor) -> torch.Tensor:
        matrices, inputs = leaves[: len(relaxed)], dict(zip(tensors, leaves[len(relaxed) :]))
        mixed = soft_apply(problem, inputs, matrices)
        return torch.stack([(mixed[n] ** 3).sum() + (mixed[n] * problem.a[n]).sum() for n in mixed]).sum()

    assert torch.autograd.gradcheck(total, (*relaxed, *tensors.values()), fast_mode=True)


def test_it_follows_the_current_element() -> None:
    problem = problem_of("attention")
    first, second = problem.spec.random(1), problem.spec.random(2)
    problem.apply(dict(enumerate(first.arrays)), always=True)
    mixed = soft_apply(problem, problem.b, soften(problem, second.arrays))
    problem.apply(dict(enumerate(harden(problem, soften(problem, second.arrays)))), always=True)
    assert all(torch.equal(mixed[n], problem.b[n]) for n in mixed)
    assert problem.permutation == second @ first


def test_the_nearest_permutation() -> None:
    """Brute force on one block: the assignment is the permutation with the smallest Frobenius distance."""
    problem = problem_of("per_head")
    relaxed = mixture(problem, (1, 2, 3, 4, 5))
    generator = torch.Generator().manual_seed(0)
    relaxed = [m + 0.1 * torch.rand(m.shape, generator=generator, dtype=m.dtype) for m in relaxed]
    found = soften(problem, harden(problem, relaxed), dtype=torch.float64)
    for seed in range(200):
        other = soften(problem, problem.spec.random(seed).arrays, dtype=torch.float64)
        assert all(float((m - f).norm()) <= float((m - o).norm()) + 1e-12 for m, f, o in zip(relaxed, found, other))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_mixed_in_single(dtype: torch.dtype) -> None:
    problem = problem_of("mlp")
    narrow = {n: t.to(dtype) for n, t in problem.b.items()}
    relaxed = mixture(problem, (1, 2, 3), torch.float32)
    mixed = soft_apply(problem, narrow, relaxed)
    wide = soft_apply(problem, {n: t.float() for n, t in narrow.items()}, relaxed)
    assert all(mixed[n].dtype == torch.float32 and torch.equal(mixed[n], wide[n]) for n in mixed)


def test_complex_weights() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            generator = torch.Generator().manual_seed(0)
            self.up, self.down = (
                nn.Parameter(torch.randn(s, generator=generator, dtype=torch.complex64)) for s in ((5, 3), (2, 5))
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down @ (self.up @ x).tanh()

    model = Net()
    spec = autoperm.infer(model, torch.zeros(3, 4, dtype=torch.complex64))
    assert spec.order == 120
    assert_acts_as(Problem(spec, model.state_dict(), model.state_dict()), spec.random(0))


def test_tensors_that_nothing_moves_come_back() -> None:
    problem, other = problem_of("mlp"), torch.ones(2)
    assert soft_apply(problem, {"other": other}, soft_identity(problem))["other"] is other
