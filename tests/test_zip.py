"""Zipping: what is one model stays it, pairs are greedy, heads read the trunk as their own layers did."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from matching_cases import CASES, batches, pair
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import autoperm
from autoperm.matching.streams import Moments
from autoperm.merging.branched_norms import reset_norms
from autoperm.merging.pairing import merging, pair_up, similarity, unmerging
from autoperm.merging.roles import roles
from autoperm.merging.zip import zip_models
from autoperm.trained import randomize_

#: Recurrent networks take a minute: what is particular to them, weights that are read at every step, is tested below too.
NAMES = [pytest.param(name, marks=pytest.mark.slow if name == "recurrent" else ()) for name in CASES]


class Tied(nn.Module):
    """An embedding that is the output layer too, around a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.up, self.down = nn.Embedding(7, 5), nn.Linear(5, 6), nn.Linear(6, 5)

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        x = self.words(index)
        return (x + self.down(self.up(x).relu())) @ self.words.weight.T


def convolutions() -> nn.Module:
    body = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5), nn.LayerNorm(5), nn.ReLU()]
    return nn.Sequential(*body, nn.Linear(5, 2))


IMAGES = torch.randn(32, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def two(build: Any) -> tuple[nn.Module, nn.Module]:
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(build())
        randomize_(models[-1], seed)
    return models[0].eval(), models[1].eval()


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(t, b.state_dict()[n]) for n, t in a.state_dict().items())


# -- roles -------------------------------------------------------------------------------------------------------


def test_roles_come_from_what_the_ops_do() -> None:
    model = convolutions()
    found = roles(model, autoperm.infer(model, IMAGES), IMAGES)
    read = {("4.weight", 1), ("7.weight", 1)}
    made = {(n, 0) for n in ["0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"]}
    made |= {(n, 0) for n in ["4.weight", "4.bias", "5.weight", "5.bias"]}
    assert found.of == {k: "read" for k in read} | {k: "made" for k in made}
    assert found.order == (0, 1) and not found.paired


def test_roles_of_tied_sliced_and_computed_weights() -> None:
    tied, index = Tied(), torch.zeros(2, 3, dtype=torch.int64)
    spec = autoperm.infer(tied, index)
    found = roles(tied, spec, index)
    assert found.of["words.weight", 1] == "both" and found.of["down.weight", 1] == "read"
    assert spec.groups[found.order[0]].name == "down.weight[0]"
    normed = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), weight_norm(nn.Linear(4, 5)), nn.ReLU(), nn.Linear(5, 2))
    of = roles(normed, autoperm.infer(normed, torch.zeros(2, 3)), torch.zeros(2, 3)).of
    v = "2.parametrizations.weight.original1"
    assert of[v, 0] == "made" and of[v, 1] == "read" and of["2.parametrizations.weight.original0", 0] == "made"
    model, _, spec = pair("recurrent")
    of = roles(model, spec, torch.zeros(CASES["recurrent"][1])).of
    assert of["rnn.weight_hh_l0", 0] == "made" and of["rnn.weight_hh_l0", 1] == "read"


def test_queries_and_keys_are_contracted_with_one_another() -> None:
    model, _, spec = pair("attention")
    found = roles(model, spec, torch.zeros(CASES["attention"][1]))
    assert {spec.groups[g].name for g in found.paired} == {"q.weight[0].0", "q.weight[0].1"}


# -- pairing -----------------------------------------------------------------------------------------------------


def by_definition(alike: np.ndarray, within: bool, budget: float, repeat: float) -> list[set[int]]:
    """Every pair looked at, every time."""
    n, table = len(alike) // 2, alike.copy()
    clusters = {i: {i} for i in range(2 * n)}
    left, repeat = [int(n / 2 * budget + 1e-9) if within else 0] * 2, repeat if within else 0.0

    def in_both(a: int, b: int) -> list[int]:
        return [k for k in (0, 1) if all(any(i // n == k for i in clusters[c]) for c in (a, b))]

    for _ in range(n):
        pairs = [(a, b) for a in clusters for b in clusters if a < b and all(left[k] > 0 for k in in_both(a, b))]
        if not repeat:
            pairs = [(a, b) for a, b in pairs if len(clusters[a]) == len(clusters[b]) == 1]
        a, b = max(pairs, key=lambda p: table[p])
        for k in in_both(a, b):
            left[k] -= 1
        row = np.minimum(table[a], table[b])
        table[a] = table[:, a] = row - (1 - repeat) * np.abs(row)
        clusters[a] |= clusters.pop(b)
    return list(clusters.values())


@pytest.mark.parametrize("repeat", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("budget", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("within", [False, True])
def test_pairs_are_greedy(within: bool, budget: float, repeat: float) -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 5, 8, 8, 8):
        noise = rng.normal(size=(2 * n, 2 * n))
        labels = pair_up((noise + noise.T) / 2, within=within, budget=budget, repeat=repeat)
        found = [set(np.flatnonzero(labels.flatten() == m)) for m in range(n)]
        assert sorted(map(sorted, found)) == sorted(map(sorted, by_definition((noise + noise.T) / 2, within, budget, repeat)))
        assert [min(f) for f in found] == sorted(min(f) for f in found)


def test_ties_go_across_the_models_and_dead_units_are_alike() -> None:
    assert pair_up(np.ones((6, 6)), within=True).tolist() == [[0, 1, 2], [0, 1, 2]]
    values = torch.randn(1, 4, 50, generator=torch.Generator().manual_seed(0))
    values[:, 1], values[:, 2], values[:, 3] = 0.0, 0.0, 2.0
    moments = Moments()
    moments.add(values, values)
    assert np.allclose(similarity(moments), [[1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]], atol=1e-12)


def test_merge_and_unmerge_matrices() -> None:
    labels = np.array([[0, 0, 1], [1, 2, 2]])
    a, b = merging(labels, [0.75, 0.25])
    assert a.tolist() == [[0.5, 0.5, 0], [0, 0, 0.75], [0, 0, 0]] and b.tolist() == [[0, 0, 0], [0.25, 0, 0], [0, 0.5, 0.5]]
    assert unmerging(labels)[0].tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert merging(labels, [1.0, 0.0])[1].tolist() == [[0, 0, 0], [0, 0, 0], [0, 0.5, 0.5]]


# -- one merged model --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_one_model_and_its_permutation_zip_to_it(name: str, within: bool) -> None:
    a, _, spec = pair(name)
    data = batches(name)
    assert same(zip_models([a, a], spec, data=data, within=within).model, a)
    assert same(zip_models([a, copy.deepcopy(a)], spec, data=data, within=within, weights=[3, 1]).model, a)
    planted = zip_models([a, spec.random(3).apply(a)], spec, data=data, within=within)
    assert torch.allclose(planted.model(data[0]), a(data[0]), atol=1e-5)
    assert set(planted.permuted) | set(planted.labels) == {g.name for g in spec.groups} == set(planted.groups)
    assert not set(planted.permuted) & set(planted.labels)


def test_within_false_is_the_mean_under_a_permutation() -> None:
    for name in ("mlp", "attention", "group_norm", "recurrent"):
        a, b, spec = pair(name)
        found = zip_models([a, b], spec, data=batches(name), within=False, weights=[1, 2])
        moved = found.permutation.apply(b).state_dict()
        for n, tensor in found.model.state_dict().items():
            assert torch.allclose(tensor, a.state_dict()[n] / 3 + moved[n] * 2 / 3, atol=1e-6)
        assert set(found.within.values()) == {0.0} and not found.permutation.is_identity


def test_weights_are_averaged_where_units_are_made_and_added_where_they_are_read() -> None:
    a, b, spec = pair("mlp")
    found = zip_models([a, b], spec, data=batches("mlp"))
    assert max(found.within.values()) > 0
    (first, second), state = found.labels.values(), found.model.state_dict()
    a_, b_ = a.state_dict(), b.state_dict()
    for m in range(16):
        made = [w["0.weight"][i] for w, own in zip((a_, b_), first) for i in np.flatnonzero(own == m)]
        assert torch.allclose(state["0.weight"][m], torch.stack(made).mean(0), atol=1e-6)
        read = sum(w["4.weight"][:, own == m].sum(1) for w, own in zip((a_, b_), second))
        assert torch.allclose(state["4.weight"][:, m], read / 2, atol=1e-6)
    made = [torch.stack([w["2.weight"][i, own == 0].sum() for i in np.flatnonzero(rows == 0)])
            for w, own, rows in zip((a_, b_), first, second) if (rows == 0).any()]
    assert torch.allclose(state["2.weight"][0, 0], torch.cat(made).mean(), atol=1e-6)


def test_why_groups_are_permuted() -> None:
    a, b = two(Tied)
    index = [torch.randint(7, (8, 3), generator=torch.Generator().manual_seed(k)) for k in range(3)]
    spec = autoperm.infer(a, index[0])
    found = zip_models([a, b], spec, data=index)
    assert found.permuted == {"down.weight[0]": "words.weight[1] both makes and reads its units"} and set(found.labels) == {"up.weight[0]"}
    a, b, spec = pair("attention")
    permuted = zip_models([a, b], spec, data=batches("attention")).permuted
    assert permuted["q.weight[0].0"] == "q.weight[0].1 depends on it"
    assert permuted["v.weight[0].1"] == "it depends on the position along q.weight[0].0"


def test_nothing_is_changed_and_runs_repeat() -> None:
    a, b = two(convolutions)
    before = [copy.deepcopy(m.state_dict()) for m in (a, b)]
    spec = autoperm.infer(a, IMAGES)
    torch.manual_seed(9)
    state = torch.get_rng_state()
    found, again = (zip_models([a, b.train()], spec, data=[IMAGES, IMAGES + 1]) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state) and same(found.model, again.model) and b.training
    assert all(torch.equal(t, kept[n]) for m, kept in zip((a, b), before) for n, t in m.state_dict().items())
    states = zip_models([a.state_dict(), b.state_dict()], spec, data=[IMAGES, IMAGES + 1], template=a)
    assert all(torch.equal(t, states.model[n]) for n, t in found.model.state_dict().items())
    assert repr(found) == "<Zip: one model, 2 groups zipped, 0 permuted>"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes_are_kept(dtype: torch.dtype) -> None:
    a, b, spec = pair("mlp")
    data = [x.to(dtype) for x in batches("mlp")]
    found = zip_models([a.to(dtype), b.to(dtype)], spec, data=data)
    assert {t.dtype for t in found.model.state_dict().values()} == {dtype}
    assert same(zip_models([a, a], spec, data=data).model, a)


class Halves(nn.Module):
    """Halves of a layer, multiplied: they trade places, as the graph says once it is rewritten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.down = nn.Linear(3, 6), nn.Linear(6, 8), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.up(self.stem(x).relu()).chunk(2, -1)
        return self.down(a.tanh() * b.tanh())


def test_specs_of_rewritten_graphs_are_zipped_too() -> None:
    torch.manual_seed(0)
    model = Halves()
    randomize_(model, 0)
    x = torch.randn(64, 3)
    spec = autoperm.infer(model, x)
    assert spec.order == 720 * 24 * 2**4
    found = zip_models([model, spec.random(1).apply(model)], spec, data=[x])
    assert torch.allclose(found.model(x), model(x), atol=1e-5)
    assert spec.groups[0].name in found.groups and spec.groups[0].name not in found.permuted


# -- trunk and heads ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_heads_of_one_model_and_its_permutation_answer_as_it_does(name: str) -> None:
    """Wherever the trunk ends, and on batches of another size."""
    a, b, spec = pair(name)
    data = batches(name)
    nothing = zip_models([a, b], spec, data=data, until=0)
    for head, model in zip(nothing.model(data[0]), (a, b)):
        assert torch.allclose(head, model(data[0]), atol=1e-6)
    assert nothing.groups == () and nothing.permutation.is_identity
    assert not any(n.startswith("trunk.") for n in nothing.model.state_dict())
    for until in range(1, len(spec.groups) + 1):
        found = zip_models([a, spec.random(5).apply(a)], spec, data=data, until=until)
        for x in (data[0], torch.cat(data[:2])[:11]):
            assert all(torch.allclose(head, a(x), atol=1e-5) for head in found.model(x))
    assert any(n.startswith("trunk.") for n in found.model.state_dict())


def test_what_is_in_the_trunk_and_what_in_the_heads() -> None:
    a, b, spec = pair("mlp")
    data = batches("mlp")
    found = zip_models([a, b], spec, data=data, until="0", weights=[3, 1])
    rest = ["2.weight", "2.bias", "4.weight", "4.bias"]
    assert list(found.model.state_dict()) == ["trunk.0.weight", "trunk.0.bias", *(f"heads.{k}.{n}" for k in (0, 1) for n in rest)]
    assert torch.equal(found.model.heads[1].get("2.weight"), b[2].weight)
    (labels,) = found.labels.values()
    units = (data[0] @ found.model.trunk.get("0.weight").T + found.model.trunk.get("0.bias")).relu()
    first, second = found.model(data[0])
    assert torch.allclose(first, a[2:](units[:, labels[0]]), atol=1e-6) and torch.allclose(second, b[2:](units[:, labels[1]]), atol=1e-6)
    assert torch.allclose(found.model.mean(data[0]), 0.75 * first + 0.25 * second)
    copied = copy.deepcopy(found.model)
    (first.sum() + second.sum()).backward()
    assert all(p.grad is not None for p in found.model.parameters()) and all(p.grad is None for p in copied.parameters())
    assert torch.equal(copied(data[0])[1], second)
    everything = zip_models([a, b], spec, data=data, until=spec.groups[-1].name)
    assert [n for n in everything.model.state_dict() if n.startswith("heads.1")] == ["heads.1.4.weight", "heads.1.4.bias"]
    assert everything.groups == ("0.weight[0]", "2.weight[0]") and "trunk and heads" in repr(everything)


def test_norms_of_the_trunk_are_reset() -> None:
    a, b = two(convolutions)
    found = zip_models([a, b], autoperm.infer(a, IMAGES), data=[IMAGES], until=1).model
    before = copy.deepcopy(found.state_dict())
    new = reset_norms(found, [IMAGES, 2 * IMAGES])
    trunk = new.trunk
    values = [nn.functional.conv2d(x, trunk.get("0.weight"), trunk.get("0.bias")).detach() for x in (IMAGES, 2 * IMAGES)]
    expected = sum(v.transpose(0, 1).flatten(1).var(1) for v in values) / 2
    assert torch.allclose(trunk.get("1.running_var"), expected, rtol=1e-5)
    assert all(torch.equal(t, before[n]) for n, t in found.state_dict().items())
    changed = [n for n, t in new.state_dict().items() if not torch.equal(t, before[n])]
    assert changed == ["trunk.1.running_mean", "trunk.1.running_var"]
