"""Activation matching: the statistics are those of one big batch, the steps are exact, and errors say what to pass."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from matching_cases import CASES, Attention, batches, mlp, pair
from test_matching import elements
from torch import nn

import autoperm
from autoperm import Match, Permutation, PermutationSpec
from autoperm.activations import Taps
from autoperm.matching.problem import Problem
from autoperm.matching.sources import sources
from autoperm.matching.streams import Moments
from autoperm.trained import randomize_


def noisy(model: nn.Module, seed: int, share: float = 0.1) -> nn.Module:
    """A model whose weights have noise of a share of each weight's spread."""
    generator = torch.Generator().manual_seed(seed)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for p in changed.parameters():
            p += torch.randn(p.shape, generator=generator, dtype=p.dtype) * p.std(correction=0) * share
    return changed


def planted(model: nn.Module, x: torch.Tensor, seed: int = 0) -> tuple[nn.Module, Permutation, PermutationSpec]:
    """A noisy permuted copy, and what brings it back."""
    spec = autoperm.infer(model, x)
    element = spec.random(seed)
    return noisy(element.apply(model), seed), element.inverse(), spec


def match(a: Any, b: Any, spec: PermutationSpec, data: Any, **options: Any) -> Match:
    return autoperm.match(a, b, spec, method="activation", data=data, **options)


def inputs(*shape: int, count: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CASES)
def test_what_was_planted_is_found_through_noise(name: str, seed: int) -> None:
    a, _, spec = pair(name)
    element = spec.random(seed)
    found = match(a, noisy(element.apply(a), seed), spec, batches(name))
    assert found.permutation == element.inverse()
    assert len(found.history) == 2 and found.history[1] == found.objective


def test_a_convolutional_net_with_batch_norm() -> None:
    def block(into: int, out: int) -> list[nn.Module]:
        return [nn.Conv2d(into, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]

    torch.manual_seed(0)
    a = nn.Sequential(*block(3, 12), *block(12, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
    randomize_(a, 0)
    b, back, spec = planted(a, torch.zeros(1, 3, 8, 8))
    state = {k: v.clone() for k, v in a.state_dict().items()}
    assert match(a, b, spec, inputs(8, 3, 8, 8)).permutation == back
    assert a.training and all(torch.equal(v, state[k]) for k, v in a.state_dict().items())


def test_attention_in_one_op_shows_heads_by_their_dimensions_alone() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(3, 12), nn.Linear(12, 2)
            self.layer = nn.TransformerEncoderLayer(12, 3, 16, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.layer(self.stem(x)))

    torch.manual_seed(0)
    a = Block()
    randomize_(a, 0)
    b, back, spec = planted(a, torch.zeros(2, 5, 3))
    taps = Taps(a, spec, torch.zeros(2, 5, 3))
    heads = next(g for g, group in enumerate(spec.groups) if group.size == 3)
    assert heads not in {source.group for source in sources(taps)}
    assert match(a, b, spec, inputs(8, 5, 3)).permutation == back


# -- statistics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[40], [7, 7, 7, 7, 7, 5], [1, 38, 1], [0, 40]])
def test_moments_in_batches_are_those_of_all_samples(sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(2, 3, 40, generator=generator, dtype=torch.float64) + 1e4 for _ in "ab")
    moments = Moments()
    for x, y in zip(a.split(sizes, -1), b.split(sizes, -1)):
        moments.add(x, y)
    for p in range(2):
        expected = np.corrcoef(a[p].numpy(), b[p].numpy())[:3, 3:]
        assert np.allclose(moments.correlation()[p].numpy(), expected, atol=1e-9)
        assert np.allclose(moments.inner()[p].numpy(), a[p].numpy() @ b[p].numpy().T / 40, rtol=1e-12)


def test_a_constant_row_correlates_with_nothing() -> None:
    moments = Moments()
    rows = torch.randn(1, 3, 20, generator=torch.Generator().manual_seed(0))
    rows[0, 1] = 0.1
    for part in rows.split(6, -1):
        moments.add(part, part, precision=torch.finfo(torch.float32).eps)
    found = moments.correlation()[0]
    assert not found[1].any() and not found[:, 1].any()
    assert torch.allclose(found.diagonal()[[0, 2]], torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("statistic", ["correlation", "inner"])
def test_batches_of_any_size_give_what_one_big_batch_gives(name: str, statistic: str) -> None:
    a, b, spec = pair(name)
    a, b = a.double(), b.double()
    whole = torch.cat(batches(name)).double()
    parts = list(whole.split(9))
    assert len(parts[-1]) < 9
    found = [match(a, b, spec, data, statistic=statistic) for data in ([whole], parts)]
    assert found[0].permutation == found[1].permutation
    assert not found[0].permutation.is_identity


def test_a_last_batch_of_one_sample() -> None:
    a, _, spec = pair("attention")
    b = spec.random(0).apply(a)
    assert match(a, b, spec, list(torch.cat(batches("attention")).split(31))).distance == 0.0


def rescaled(model: nn.Sequential) -> nn.Sequential:
    """The same function, the units of the first layer larger by factors from 0.01 to 100."""
    scaled = copy.deepcopy(model)
    factors = torch.logspace(-2, 2, model[0].out_features)
    with torch.no_grad():
        scaled[0].weight *= factors[:, None]
        scaled[0].bias *= factors
        scaled[2].weight /= factors
    return scaled


def test_a_correlation_does_not_depend_on_the_scale_of_units_and_an_inner_product_does() -> None:
    a, _, spec = pair("mlp")
    element = spec.random(4)
    b = element.apply(rescaled(a))
    x = torch.cat(batches("mlp"))
    assert torch.allclose(a(x), b(x), atol=1e-4)
    assert match(a, b, spec, [x]).permutation == element.inverse()
    assert match(a, b, spec, [x], statistic="inner").permutation != element.inverse()


# -- steps are exact -------------------------------------------------------------------------------------------------


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """The sum over rows of the correlation of a's with b's; constant rows count nothing."""
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    size = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return float((np.divide((a * b).sum(axis=1), size, out=np.zeros_like(size), where=size > 1e-12)).sum())


def ranked(spec: PermutationSpec, a: nn.Module, b: nn.Module, seen: Any) -> list[tuple[float, Permutation]]:
    """Every element with the correlation of the activations that ``seen`` lists, the best one last."""
    here = seen(a)
    values = [(sum(correlation(x, y) for x, y in zip(here, seen(g.apply(b)))), g) for g in elements(spec)]
    return sorted(values, key=lambda item: item[0])


@pytest.mark.parametrize("seed", range(4))
def test_a_tiny_net_is_matched_as_well_as_by_trying_all_permutations(seed: int) -> None:
    torch.manual_seed(seed)
    a, b = mlp(3).double(), mlp(3).double()
    spec, x = autoperm.infer(a, torch.zeros(1, 3).double()), torch.randn(50, 3, dtype=torch.float64)

    def seen(model: nn.Module) -> list[np.ndarray]:
        return [model[:k](x).detach().numpy().T for k in (1, 2, 3, 4)]

    values = ranked(spec, a, b, seen)
    assert values[-1][0] > values[-2][0] + 1e-6
    assert match(a, b, spec, x.split(20)).permutation == values[-1][1]


@pytest.mark.parametrize("seed", range(4))
def test_heads_and_their_dimensions_are_matched_as_well_as_by_trying_all(seed: int) -> None:
    """Scores, weights of attention, and per head the dimensions of queries, keys, values and results."""
    torch.manual_seed(seed)
    a, b = (Attention(3, 2, 4, residual=False).double() for _ in "ab")
    spec, x = autoperm.infer(a, torch.zeros(1, 4, 3).double()), torch.randn(6, 4, 3, dtype=torch.float64)

    def seen(model: Attention) -> list[np.ndarray]:
        q, k, v = (f(x).unflatten(-1, (2, 2)).permute(2, 3, 0, 1) for f in (model.q, model.k, model.v))  # (h, d, b, t)
        scores = torch.einsum("hdbs,hdbt->hbst", q, k)
        mixed = torch.einsum("hbst,hdbt->hdbs", scores.softmax(-1), v)
        parts = [(scores, 1), (scores.softmax(-1), 1), *((p, 2) for p in (q, k, v, mixed))]
        return [p.flatten(0, n - 1).flatten(1).detach().numpy() for p, n in parts]

    values = ranked(spec, a, b, seen)
    assert len(values) == 32 and values[-1][0] > values[-2][0] + 1e-6
    assert match(a, b, spec, x.split(4)).permutation == values[-1][1]


# -- groups that are seen in other ways ------------------------------------------------------------------------------


class LowRank(nn.Module):
    """The factors of a weight: no activation shows their inner dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = (nn.Parameter(torch.randn(shape)) for shape in ((6, 4), (4, 3)))
        self.head = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((x @ (self.left @ self.right).T).tanh())


def test_what_no_activation_shows_is_matched_by_weights() -> None:
    torch.manual_seed(0)
    a = LowRank()
    b, back, spec = planted(a, torch.zeros(2, 3))
    shown = {s.group for s in sources(Taps(a, spec, torch.zeros(2, 3)))}
    assert sorted(spec.groups[g].size for g in set(range(len(spec.groups))) - shown) == [4]
    assert match(a, b, spec, inputs(16, 3)).permutation == back


class Registers(nn.Module):
    """Learned tokens to attend to: what they are worth to a constant query never varies."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.tokens = nn.Parameter(torch.randn(1, 6)), nn.Parameter(torch.randn(5, 6))
        self.head = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        keys = torch.cat([self.tokens.expand(len(x), -1, -1), x], 1)
        return self.head((self.query @ keys.mT).softmax(-1) @ keys)


def test_units_that_answer_all_alike_are_matched_by_weights() -> None:
    torch.manual_seed(0)
    a = Registers()
    b, back, spec = planted(a, torch.zeros(1, 4, 6))
    assert [group.size for group in spec.groups] == [5]
    assert {s.group for s in sources(Taps(a, spec, torch.zeros(2, 4, 6)))} == {0}
    assert match(a, b, spec, inputs(16, 4, 6)).permutation == back


class Mixer(nn.Module):
    """Hidden tokens move beside channels that move: means over the channels show them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.tokens, self.back, self.head = nn.Linear(3, 6), nn.Linear(5, 8), nn.Linear(8, 5), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x + self.back(self.tokens(x.mT).relu()).mT)


def test_a_group_beside_another_is_seen_through_what_does_not_depend_on_the_other() -> None:
    torch.manual_seed(0)
    a = Mixer()
    b, back, spec = planted(a, torch.zeros(1, 5, 3))
    pools = {(spec.groups[s.group].size, s.pool) for s in sources(Taps(a, spec, torch.zeros(2, 5, 3)))}
    assert pools == {(6, ""), (8, "mean"), (8, "deviation")}
    assert match(a, b, spec, inputs(16, 5, 3)).permutation == back


def test_dead_units_do_not_disturb_the_others() -> None:
    a, _, spec = pair("mlp")
    with torch.no_grad():
        for k in (3, 7):
            a[0].weight[k], a[0].bias[k], a[2].weight[:, k] = 0.0, -1.0, 0.0
    found = match(a, noisy(spec.random(1).apply(a), 1), spec, batches("mlp"))
    wrong = found.permutation.arrays[0] != spec.random(1).inverse().arrays[0]
    assert set(np.flatnonzero(wrong)) <= {3, 7}
    assert np.isfinite(found.objective)


class Masked(Attention):
    """Causal attention whose mask holds infinities."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        scores = (q @ k.mT).masked_fill(torch.ones(x.shape[1], x.shape[1]).triu(1).bool(), float("-inf")) / 2
        return self.head(x + self.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)))


def test_the_infinities_of_a_mask_are_no_evidence() -> None:
    torch.manual_seed(0)
    a = Masked(12, 3, 12, residual=True)
    randomize_(a, 0)
    b, back, spec = planted(a, torch.zeros(2, 4, 3))
    assert match(a, b, spec, batches("attention")).permutation == back
    taps, seen = Taps(a, spec, torch.zeros(8, 4, 3)), []
    taps.run([a.state_dict()], batches("attention")[0], ["masked_fill"], lambda node, values: seen.append(values[0]))
    assert seen[0].isinf().any()


def test_only_the_groups_asked_for_are_matched() -> None:
    a, _, spec = pair("attention")
    b = spec.random(2).apply(a)
    heads = next(g for g in spec.groups if g.size == 3)
    found = match(a, b, spec, batches("attention"), groups=[heads.name])
    assert all((array == np.arange(array.shape[-1])).all() for g, array in zip(spec.groups, found.permutation.arrays) if g != heads)
    assert (found.permutation[heads.name] == spec.random(2).inverse()[heads.name]).all()
    inner = [g.name for g in spec.groups if g.parents]
    found = match(a, spec.random(2).apply(a), spec, batches("attention"), groups=inner)
    assert {g.name for g in spec.groups if found.permutation.moved()[g.name]} <= set(inner)


def test_a_start_other_than_the_identity() -> None:
    a, _, spec = pair("attention")
    element, start = spec.random(1), spec.random(2)
    problem = Problem(spec, a.state_dict(), element.apply(a).state_dict(), a)
    problem.apply(dict(enumerate(start.arrays)), always=True)
    found = autoperm.matching.matchers()["activation"](problem, data=batches("attention"))
    assert found.permutation == element.inverse() and found.distance == 0.0
