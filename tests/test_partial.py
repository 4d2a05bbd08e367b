"""Matching part of the groups: the others stay, with every matcher, and steps are as exact as ever."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from matching_cases import ASCENTS, CASES, Attention, options, pair
from torch import nn

import autoperm
from autoperm import AutopermError, Group, Permutation, PermutationSpec
from autoperm.matching import matchers
from autoperm.matching.problem import Problem, part_of
from autoperm.matching.weight import blocks

WREATHS = ("attention", "group_norm", "grouped", "per_head", "mirrored")
CHOICES = {"parents": lambda group: not group.parents, "dependents": lambda group: bool(group.parents)}


def part(spec: PermutationSpec, chosen: set[str], seed: int) -> Permutation:
    """A random element that moves the chosen groups only."""
    pairs = zip(spec.groups, spec.random(seed).arrays, spec.identity().arrays)
    return Permutation(spec, [array if g.name in chosen else still for g, array, still in pairs])


def inner(spec: PermutationSpec, a: nn.Module, b: nn.Module) -> float:
    x, y = a.state_dict(), b.state_dict()
    return sum(float((x[n].double() * y[n].double()).sum()) for n in spec.parameters)


def elements_of(spec: PermutationSpec, chosen: set[str]) -> list[Permutation]:
    """All elements of a tiny group that move the chosen groups only."""
    choices = []
    for group, still in zip(spec.groups, spec.identity().arrays):
        rows = [np.array(p) for p in itertools.permutations(range(group.size))]
        every = [np.stack(r).reshape(still.shape) for r in itertools.product(rows, repeat=group.copies)]
        choices.append(every if group.name in chosen else [still])
    return [Permutation(spec, arrays) for arrays in itertools.product(*choices)]


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", WREATHS)
@pytest.mark.parametrize("method", matchers())
def test_part_of_the_groups_is_matched_and_the_rest_stays(method: str, name: str, choice: str) -> None:
    """Dependents without their parent, and parents without their dependents."""
    a, b, spec = pair(name)
    chosen = {group.name for group in spec.groups if CHOICES[choice](group)}
    planted = part(spec, chosen, 5)
    needs = options(method, name)
    found = autoperm.match(a, planted.apply(a), spec, method=method, groups=chosen, **needs)
    assert not planted.is_identity and found.distance == 0.0 and found.permutation == planted.inverse()
    other = autoperm.match(a, b, spec, method=method, groups=CHOICES[choice], **needs)
    moved = {group for group, share in other.permutation.moved().items() if share}
    assert moved <= chosen and other.permutation.spec is spec
    assert other.objective == pytest.approx(inner(spec, a, other.permutation.apply(b)), rel=1e-9)
    if method in ASCENTS:
        assert moved and inner(spec, a, b) < other.objective


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("seed", range(3))
def test_the_step_on_part_of_a_wreath_is_exact(seed: int, choice: str) -> None:
    torch.manual_seed(seed)
    a, b = (Attention(3, 2, 4, residual=False) for _ in "ab")
    spec = autoperm.infer(a, torch.zeros(1, 4, 3))
    chosen = {group.name for group in spec.groups if CHOICES[choice](group)}
    best = max(inner(spec, a, g.apply(b)) for g in elements_of(spec, chosen))
    found = autoperm.match(a, b, spec, groups=chosen, max_sweeps=1)
    assert found.objective == pytest.approx(best, rel=1e-9)


def test_blocks_of_a_part() -> None:
    a, b, spec = pair("attention")
    states = a.state_dict(), b.state_dict()
    heads = next(g for g, group in enumerate(spec.groups) if not group.parents and group.size == 3)
    dependents = [g for g, group in enumerate(spec.groups) if group.parents]
    first = spec.groups[dependents[0]].name
    assert blocks(Problem(part_of(spec, [spec.groups[heads].name, first]), *states)) == [(heads, (dependents[0],))]
    assert blocks(Problem(part_of(spec, first), *states)) == [(dependents[0], ())]
    assert len(blocks(Problem(part_of(spec, lambda group: True), *states))) == len(blocks(Problem(spec, *states)))


@pytest.mark.parametrize("name", CASES)
def test_all_groups_by_name_are_all_groups(name: str) -> None:
    a, b, spec = pair(name)
    every = autoperm.match(a, b, spec, groups=[group.name for group in spec.groups])
    assert every.permutation == autoperm.match(a, b, spec).permutation


def test_the_spec_acts_as_before_after_a_part_was_matched() -> None:
    """What a layout remembers of an action is not carried over to another one."""
    a, b, spec = pair("attention")
    fresh = pair("attention")[2].random(3)
    autoperm.match(a, b, spec, groups=lambda group: not group.parents)
    moved, expected = (p.apply(a).state_dict() for p in (spec.random(3), fresh))
    assert all(torch.equal(moved[n], t) for n, t in expected.items())


def test_unknown_groups_are_named_with_the_nearest() -> None:
    a, b, spec = pair("mlp")
    assert [group.name for group in spec.groups] == ["0.weight[0]", "2.weight[0]"]
    with pytest.raises(AutopermError, match=r"groups= names '2.weight', which is no group of the spec; the nearest are 2.weight\[0\], 0.weight\[0\]"):
        autoperm.match(a, b, spec, groups=["2.weight"])
    with pytest.raises(AutopermError, match="groups= chooses none of the spec's 2 groups; leave it out to match all"):
        autoperm.match(a, b, spec, groups=lambda group: isinstance(group, Group) and group.size > 99)
