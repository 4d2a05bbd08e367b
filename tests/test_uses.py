"""Isomorphism and canonical order: exact and complete, ties included."""

from __future__ import annotations

import copy
import doctest
import itertools
from pathlib import Path

import networkx as nx
import pytest
import torch
from torch import nn
from uses_cases import GRAPHS, NAMES, TIES, Recurrent, State, elements, filled, graph_heads, graph_model, rook, shrikhande, small

import autoperm
from autoperm import AutopermError, PermutationSpec, canonicalize, is_permutation_of
from autoperm.errors import StateError
from tests.architectures import CASES as ARCHITECTURES


def equal(a: State, b: State) -> bool:
    """Whether all bits are the same, and the keys with their order."""
    assert list(a) == list(b)
    return all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def mlp(width: int = 8) -> tuple[nn.Module, PermutationSpec]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))
    return model, autoperm.infer(model, torch.zeros(1, 4))

#: Every model with ties of every kind; all but one in three wait for the slow tests.
TIED = [
    pytest.param(kind, name, id=f"{kind}-{name}", marks=[] if (i + j) % 3 == 0 else [pytest.mark.slow])
    for i, kind in enumerate(TIES)
    for j, name in enumerate(NAMES)
]


@pytest.mark.parametrize("name", NAMES)
def test_trained_weights_have_one_order(name: str) -> None:
    state, spec = small(name)
    planted = spec.random(3)
    moved = planted.apply(state)
    first, second = (canonicalize(s, spec) for s in (state, moved))
    assert equal(first[0], second[0])
    assert equal(first[0], first[1].apply(state)) and equal(second[0], second[1].apply(moved))
    witness = is_permutation_of(moved, state, spec)
    assert witness is not None and equal(witness.apply(state), moved)


@pytest.mark.parametrize(("kind", "name"), TIED)
def test_ties_do_not_matter(name: str, kind: str) -> None:
    state, spec = small(name)
    state = filled(state, kind)
    canonical, _ = canonicalize(state, spec)
    moved = spec.random(1).apply(state)
    assert equal(canonicalize(moved, spec)[0], canonical)
    witness = is_permutation_of(moved, state, spec)
    assert witness is not None and equal(witness.apply(state), moved)
    assert equal(canonicalize(canonical, spec)[0], canonical)


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("matching")])
def test_what_was_planted_is_the_witness(name: str) -> None:
    state, spec = small(name)
    planted = spec.random(4)
    assert is_permutation_of(planted.apply(state), state, spec) == planted
    assert is_permutation_of(state, planted.apply(state), spec) == planted.inverse()


TINY = [n for n, case in ARCHITECTURES.items() if case.order is not None and 1 < case.order <= 150]


@pytest.mark.parametrize("name", TINY)
def test_the_answer_is_that_of_trying_all(name: str) -> None:
    """Coins with one or two entries changed: some are permutations all the same, and only some."""
    state, spec = small(name)
    group = list(elements(spec))
    generator = torch.Generator().manual_seed(5)
    for seed in range(6):
        a = filled(state, "coins", seed)
        b = {k: v.clone() for k, v in spec.random(seed).apply(a).items()}
        names = sorted(k for k in b if b[k].is_floating_point() and spec.aliases.get(k) == k)
        for _ in range(1 + seed % 2):
            entry = b[names[int(torch.randint(len(names), (1,), generator=generator))]].view(-1)
            entry[int(torch.randint(len(entry), (1,), generator=generator))] = float(seed % 3 == 0)
        true = any(equal(g.apply(b), a) for g in group)
        assert (is_permutation_of(a, b, spec) is not None) == true
        assert equal(canonicalize(a, spec)[0], canonicalize(b, spec)[0]) == true


def test_there_are_enough_tiny_groups() -> None:
    assert len(TINY) >= 40 and max(small(n)[1].order for n in TINY) >= 100


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("matching")])
def test_near_misses(name: str) -> None:
    state, spec = small(name)
    moved = spec.random(1).apply(state)
    home = next(n for n in moved if n in spec.parameters and moved[n].numel() > 4)
    changed = moved | {home: moved[home].clone()}
    changed[home].view(-1)[2] += 1e-6
    swapped = moved | {home: moved[home].clone()}
    swapped[home].view(-1)[[0, 3]] = moved[home].reshape(-1)[[3, 0]]
    for other in (changed, swapped):
        assert is_permutation_of(other, state, spec) is None
        assert not equal(canonicalize(other, spec)[0], canonicalize(state, spec)[0])


@pytest.mark.parametrize("name", GRAPHS)
def test_weights_that_are_graphs(name: str) -> None:
    """Refinement alone tells no two units of a regular graph apart: these need the search."""
    state, spec = graph_model(GRAPHS[name]())
    canonical, _ = canonicalize(state, spec)
    for seed in range(3):
        moved = spec.random(seed).apply(state)
        assert equal(canonicalize(moved, spec)[0], canonical)
        assert is_permutation_of(moved, state, spec) is not None


def test_graphs_that_refinement_cannot_tell_apart() -> None:
    (a, spec), (b, _) = graph_model(rook()), graph_model(shrikhande())
    assert is_permutation_of(a, b, spec) is None
    assert not equal(canonicalize(a, spec)[0], canonicalize(b, spec)[0])


def test_heads_whose_dimensions_are_tied_but_cannot_be_exchanged() -> None:
    """Three heads that are rings of four, at first all in one order, so that exchanging them is easy."""
    state, spec = graph_heads([nx.cycle_graph(4)] * 3)
    assert [(g.size, g.copies) for g in spec.groups] == [(3, 1), (4, 3)]
    canonical, _ = canonicalize(state, spec)
    for seed in range(3):
        assert equal(canonicalize(spec.random(seed).apply(state), spec)[0], canonical)


def test_heads_that_are_graphs_which_refinement_cannot_tell_apart() -> None:
    ring, triangles = nx.cycle_graph(6), nx.disjoint_union(nx.cycle_graph(3), nx.cycle_graph(3))
    state, spec = graph_heads([ring, triangles])
    assert is_permutation_of(spec.random(1).apply(state), graph_heads([triangles, ring])[0], spec) is not None
    assert is_permutation_of(state, graph_heads([triangles, triangles])[0], spec) is None


def test_massive_ties_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero layers, duplicated units and equal heads take a handful of refinements, not one for each unit."""
    steps = itertools.count()
    plain = autoperm.uses.refinement.refined
    monkeypatch.setattr("autoperm.uses.refinement.refined", lambda *a: (next(steps), plain(*a))[1])
    model, spec = mlp(200)
    zero = {k: torch.zeros_like(v) for k, v in model.state_dict().items()}
    twice = {k: v.clone() for k, v in model.state_dict().items()}
    for k, v in twice.items():
        v.copy_(v.repeat_interleave(2, 0)[: len(v)] if k[0] in "02" else v)
        if v.ndim == 2 and k[0] in "24":
            v.copy_(v.repeat_interleave(2, 1)[:, : v.shape[1]])
    heads = filled(small("matching.attention")[0], "zeros")
    for state, used in ((zero, spec), (twice, spec), (heads, small("matching.attention")[1])):
        before = next(steps)
        canonical, _ = canonicalize(state, used)
        assert next(steps) - before < 12
        assert equal(canonicalize(used.random(1).apply(state), used)[0], canonical)


def test_heads_that_differ_only_in_the_order_of_their_dimensions() -> None:
    state, spec = small("matching.attention")
    state = {k: v.clone() for k, v in state.items()}
    for k in "qkv":
        order = torch.tensor([1, 2, 3, 0])
        for tensor in (state[f"{k}.weight"], state[f"{k}.bias"]):
            tensor[4:8] = tensor[:4][order]
        if k == "v":
            state["o.weight"][:, 4:8] = state["o.weight"][:, :4][:, order]
    canonical, _ = canonicalize(state, spec)
    for seed in range(4):
        assert equal(canonicalize(spec.random(seed).apply(state), spec)[0], canonical)
    broken = state | {"o.weight": state["o.weight"].clone()}
    broken["o.weight"][:, [4, 5]] = state["o.weight"][:, [5, 4]]
    assert is_permutation_of(broken, state, spec) is None


def test_tensors_that_are_pinned_count() -> None:
    state, spec = small("matching.mlp")
    other = state | {"4.bias": state["4.bias"].flip(0)}
    assert is_permutation_of(other, state, spec) is None


def test_buffers_that_are_read_count_and_others_do_not() -> None:
    model = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).eval()
    autoperm.trained.randomize_(model)
    spec = autoperm.infer(model, torch.zeros(3, 2))
    a, b = (dict(model.state_dict()) for _ in "ab")
    b["1.num_batches_tracked"] = torch.tensor(7)
    assert is_permutation_of(a, b, spec) == spec.identity()
    b["1.running_mean"] = a["1.running_mean"].roll(1)
    assert is_permutation_of(a, b, spec) is None
    assert int(canonicalize(b, spec)[0]["1.num_batches_tracked"]) == 7


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_dtypes_modules_and_untouched_inputs(dtype: torch.dtype) -> None:
    model, spec = mlp()
    model = model.to(dtype)
    before = copy.deepcopy(dict(model.state_dict()))
    canonical, found = canonicalize(model, spec)
    other, _ = canonicalize(spec.random(1).apply(model), spec)
    assert isinstance(canonical, nn.Sequential) and canonical[0].weight.dtype == dtype
    assert equal(dict(canonical.state_dict()), dict(other.state_dict()))
    assert is_permutation_of(canonical, model, spec) == found
    assert equal(dict(model.state_dict()), before)


def test_signs_of_zero_are_bits_but_not_values() -> None:
    model, spec = mlp()
    state = {k: torch.zeros_like(v) for k, v in model.state_dict().items()}
    other = state | {"0.weight": -state["0.weight"]}
    assert is_permutation_of(other, state, spec) is not None
    canonical, _ = canonicalize(other, spec)
    assert bool(torch.signbit(canonical["0.weight"]).all())
    mixed = state | {"0.weight": torch.where(torch.arange(8)[:, None] % 3 == 0, -0.0, 0.0).expand(8, 4)}
    bits = [canonicalize(spec.random(s).apply(mixed), spec)[0]["0.weight"].signbit() for s in range(3)]
    assert all(torch.equal(b, bits[0]) for b in bits)


def test_a_tolerance_for_rounding() -> None:
    state, spec = small("matching.attention")
    planted = spec.random(2)
    rounded = {k: v.half().float() for k, v in planted.apply(state).items()}
    assert is_permutation_of(rounded, state, spec) is None
    assert is_permutation_of(rounded, state, spec, tolerance=1e-3) == planted
    assert is_permutation_of(rounded, state, spec, tolerance=1e-7) is None
    zeros = filled(state, "zeros")
    assert is_permutation_of({k: v + 1e-5 for k, v in zeros.items()}, zeros, spec, tolerance=1e-4) is not None
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(AutopermError, match=f"tolerance must be a number of at least 0, got {wrong}"):
            is_permutation_of(state, state, spec, tolerance=wrong)


def test_errors() -> None:
    model, spec = mlp()
    nan = dict(model.state_dict()) | {"2.bias": torch.full((8,), float("nan"))}
    with pytest.raises(StateError, match=r"the model: 2.bias holds NaN \(8 of 8 entries are not finite\)"):
        canonicalize(nan, spec)
    with pytest.raises(StateError, match=r"model_b: 2.bias holds NaN"):
        is_permutation_of(model, nan, spec)
    with pytest.raises(StateError, match=r"the model does not fit the spec:\n  - 0.weight: shape \(9, 4\), the spec has \(8, 4\)"):
        canonicalize(mlp(9)[0], spec)
    with pytest.raises(StateError, match=r"model_a and model_b: the two models differ:\n  - 0.weight: shape \(8, 4\) in the first, \(9, 4\)"):
        is_permutation_of(model, mlp(9)[0], spec)
    with pytest.raises(StateError, match=r"model_a and model_b: the two models differ:\n  - 0.weight: torch.float32 in the first, torch.float16"):
        is_permutation_of(model, copy.deepcopy(model).half(), spec)
    with pytest.raises(StateError, match="the model: 0.weight is on the meta device and has no values; load its weights first"):
        canonicalize(mlp()[0].to("meta"), spec)
    with pytest.raises(StateError, match="the model: expected a module or a state dict, got int"):
        canonicalize(3, spec)  # type: ignore[type-var]


def test_a_model_without_symmetry() -> None:
    model = nn.Linear(3, 2)
    spec = autoperm.infer(model, torch.zeros(1, 3))
    canonical, found = canonicalize(model, spec)
    assert found.is_identity and torch.equal(canonical.weight, model.weight)
    assert is_permutation_of(model, model, spec) == spec.identity()
    assert is_permutation_of(nn.Linear(3, 2), model, spec) is None


def test_large_cells_need_not_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model, spec = Recurrent(6), None
    spec = autoperm.infer(model, torch.zeros(1, 2))
    expected, _ = canonicalize(model, spec)
    monkeypatch.setattr("autoperm.uses.structure.KEPT_BYTES", 0)
    assert torch.equal(canonicalize(model, spec)[0].shared.weight, expected.shared.weight)


def test_the_examples_of_the_guide_run() -> None:
    found = doctest.testfile(str(Path(__file__).parent.parent / "docs" / "uses.md"), module_relative=False)
    assert found.failed == 0 and found.attempted >= 15
