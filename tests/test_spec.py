"""The spec and its permutations: group laws, files, explanations, reports, wrong input."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import autoperm
from autoperm.errors import CheckpointError, SpecError, StateError
from tests.architectures import CASES
from tests.trained import trained_like

LAWS = ["fused_qkv_reshaped", "grouped_queries_repeated", "group_norm", "mirrored", "mixture_of_experts", "shuffle_after_split",
        "weights_per_position", "lstm_two_layers"]  # fmt: skip


def mlp(width: int = 5) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))


@pytest.fixture
def spec() -> autoperm.PermutationSpec:
    return autoperm.infer(mlp(), torch.zeros(1, 3))


@pytest.mark.parametrize("name", LAWS)
def test_group_laws(name: str) -> None:
    model = trained_like(CASES[name].build())
    spec = autoperm.infer(model, CASES[name].inputs())
    a, b, c = (spec.random(seed) for seed in range(3))
    assert a != b
    assert (a @ b) @ c == a @ (b @ c)
    assert a @ a.inverse() == spec.identity() == a.inverse() @ a
    assert (a @ b).inverse() == b.inverse() @ a.inverse()
    state = model.state_dict()
    composed, in_turn = (a @ b).apply(state), a.apply(b.apply(state))
    assert all(torch.equal(composed[k], in_turn[k]) for k in state)
    assert all(torch.equal(v, state[k]) for k, v in a.inverse().apply(a.apply(state)).items())


@pytest.mark.parametrize("name", LAWS)
def test_files_keep_everything(name: str, tmp_path: Path) -> None:
    model = trained_like(CASES[name].build())
    spec = autoperm.infer(model, CASES[name].inputs())
    spec.save(tmp_path / "spec.json")
    loaded = autoperm.PermutationSpec.load(tmp_path / "spec.json")
    assert loaded.fingerprint == spec.fingerprint
    assert (loaded.order, loaded.coverage, loaded.pinned) == (spec.order, spec.coverage, spec.pinned)
    element = spec.random(3)
    element.save(tmp_path / "g.safetensors")
    again = autoperm.Permutation.load(tmp_path / "g.safetensors", loaded)
    assert again == element
    state = model.state_dict()
    assert all(torch.equal(v, again.apply(state)[k]) for k, v in element.apply(state).items())


def test_groups_order_and_coverage(spec: autoperm.PermutationSpec) -> None:
    (group,) = spec.groups
    assert (group.name, group.size, group.copies, group.parent) == ("0.weight[0]", 5, 1, None)
    assert group.moves == (("0.weight", 0), ("0.bias", 0), ("2.weight", 1))
    assert spec.order == math.factorial(5)
    assert spec.log10_order == pytest.approx(math.log10(120))
    assert spec.coverage == (15 + 5 + 10) / 32
    assert spec.pinned == {
        ("0.weight", 1): "axis 1 of the input args[0]",
        ("2.weight", 0): "axis 1 of the output output",
        ("2.bias", 0): "axis 1 of the output output",
    }


def test_heads_are_parents_of_their_dimensions() -> None:
    spec = autoperm.infer(CASES["fused_qkv_reshaped"].build().double(), CASES["fused_qkv_reshaped"].inputs())
    heads = next(g for g in spec.groups if g.size == 2 and g.parent is None)
    inside = [g for g in spec.groups if g.parent == heads.name]
    assert [(g.size, g.copies) for g in inside] == [(2, 2), (2, 2)]


def test_explanations_name_the_ops_on_the_way() -> None:
    model = CASES["residual"].build()
    spec = autoperm.infer(model.double(), CASES["residual"].inputs())
    tied = spec.explain("b.weight", 0)
    assert tied.groups == ("i.weight[0]",) and tied.target == "i.weight[0]"
    assert any(step.op == "add.Tensor" for step in tied.path)
    assert "structure.py:" in str(tied)
    fixed = spec.explain("i.weight", 1)
    assert fixed.reason == "axis 1 of the input args[0]"
    assert str(fixed).startswith("i.weight[1] is pinned: axis 1 of the input args[0]")


def test_explaining_what_is_not_there(spec: autoperm.PermutationSpec) -> None:
    with pytest.raises(SpecError, match="no parameter '0.weigth'; it has, for example, 0.weight"):
        spec.explain("0.weigth", 0)
    with pytest.raises(SpecError, match=r"0.weight has shape \(5, 3\): there is no dimension 2, use 0 to 1"):
        spec.explain("0.weight", 2)


def test_a_report_for_people(spec: autoperm.PermutationSpec) -> None:
    assert str(spec).splitlines()[0] == "1 group, order 120, 93.8% of the parameters move, 3 parameter dimensions are pinned"
    assert "0.weight[0]" in str(spec)
    assert "<td>0.weight[0]</td>" in spec._repr_html_()


def test_random_elements_repeat_with_their_seed(spec: autoperm.PermutationSpec) -> None:
    assert spec.random(4) == spec.random(torch.Generator().manual_seed(4))
    assert spec.random(4) != spec.random(5)


def test_apply_keeps_the_kind_and_leaves_the_argument(spec: autoperm.PermutationSpec) -> None:
    model = mlp()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    permuted = spec.random(1).apply(model)
    assert isinstance(permuted, nn.Sequential) and permuted is not model
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert list(spec.random(1).apply(model.state_dict())) == list(before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_apply_keeps_the_dtype(spec: autoperm.PermutationSpec, dtype: torch.dtype) -> None:
    assert spec.random(1).apply(mlp().to(dtype))[0].weight.dtype == dtype


def test_state_dicts_that_do_not_fit(spec: autoperm.PermutationSpec) -> None:
    state = mlp().state_dict()
    del state["0.bias"]
    with pytest.raises(StateError, match=r"0.bias: missing \(the spec has shape \(5,\)\)"):
        spec.random(1).apply(state)
    with pytest.raises(StateError, match=r"0.weight: shape \(6, 3\), the spec has \(5, 3\)"):
        spec.random(1).apply(mlp(6))
    with pytest.raises(StateError, match="expected a module or a state dict, got int"):
        spec.random(1).apply(3)  # type: ignore[type-var]


def test_permutations_of_another_spec(spec: autoperm.PermutationSpec, tmp_path: Path) -> None:
    other = autoperm.infer(mlp(4), torch.zeros(1, 3))
    with pytest.raises(SpecError, match="permutations of different specs"):
        spec.random(1) @ other.random(1)
    with pytest.raises(TypeError, match="unsupported operand type"):
        spec.random(1) @ 3  # type: ignore[operator]
    other.random(1).save(tmp_path / "g.safetensors")
    with pytest.raises(SpecError, match="is a permutation of another spec"):
        autoperm.Permutation.load(tmp_path / "g.safetensors", spec)
    with pytest.raises(SpecError, match=r"an array of shape \(4,\), not \(5,\)"):
        autoperm.Permutation(spec, other.random(1).arrays)
    with pytest.raises(SpecError, match="not a permutation of 0..4"):
        autoperm.Permutation(spec, [np.zeros(5, dtype=int)])


def test_spec_files_that_are_not(spec: autoperm.PermutationSpec, tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    with pytest.raises(SpecError, match="cannot read the spec"):
        autoperm.PermutationSpec.load(path)
    path.write_text("{")
    with pytest.raises(SpecError, match="is not a spec: it is not JSON"):
        autoperm.PermutationSpec.load(path)
    path.write_text("{}")
    with pytest.raises(SpecError, match="has no format 'autoperm-spec'"):
        autoperm.PermutationSpec.load(path)
    spec.save(path)
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "version": 99}))
    with pytest.raises(SpecError, match="has spec version 99, this autoperm reads versions up to 2: update autoperm"):
        autoperm.PermutationSpec.load(path)
    path.write_text(json.dumps({k: v for k, v in document.items() if k != "leaves"}))
    with pytest.raises(SpecError, match="is corrupt: KeyError"):
        autoperm.PermutationSpec.load(path)


def test_files_that_exist_are_kept_on_request(spec: autoperm.PermutationSpec, tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text("mine")
    with pytest.raises(CheckpointError, match="exists and is kept"):
        spec.save(path, overwrite=False)
    assert path.read_text() == "mine"
    with pytest.raises(CheckpointError, match="cannot write"):
        spec.save(tmp_path / "nowhere" / "spec.json")
    assert [p.name for p in tmp_path.iterdir()] == ["spec.json"]


def test_unknown_mode() -> None:
    with pytest.raises(autoperm.AutopermError, match='on_unknown must be "pin" or "error"'):
        autoperm.infer(mlp(), torch.zeros(1, 3), on_unknown="ignore")  # type: ignore[arg-type]
