"""Models and inputs named by strings."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import factories
import pytest
import torch
from torch import nn

import autoperm
from autoperm import AutopermError
from autoperm.modelspec import load_inputs, load_model


def test_a_factory_gives_a_model_in_eval_mode() -> None:
    model = load_model("factories:mlp")
    assert isinstance(model, nn.Sequential)
    assert not model.training


def test_a_name_may_be_dotted_a_class_or_a_module_that_is_there() -> None:
    assert isinstance(load_model("factories:model.mlp"), nn.Sequential)
    assert type(load_model("factories:TwoInputs")).__name__ == "TwoInputs"
    assert load_model("factories:BUILT") is factories.BUILT


def test_the_current_folder_is_importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "found_here.py").write_text("import torch\ndef net(): return torch.nn.Linear(1, 1)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("/nonexistent")  # restores sys.path afterwards
    assert isinstance(load_model("found_here:net"), nn.Linear)


def test_on_the_meta_device_the_group_is_the_same() -> None:
    model = load_model("factories:mlp", meta=True)
    assert all(p.is_meta for p in model.parameters())
    assert autoperm.infer(model, torch.zeros(1, 4)).order == 40320


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet18", r"'resnet18' does not name a model; use torchvision:NAME, timm:NAME, hf:DIR .* package.module:factory"),
        (":mlp", "':mlp' does not name a model"),
        ("factories:", "'factories:' does not name a model"),
        ("nowhere.at.all:net", "cannot import nowhere.at.all: No module named 'nowhere'. Models are torchvision:NAME"),
        ("factories:mpl", "factories has no 'mpl'; close to it: mlp"),
        ("factories:NUMBER", "factories:NUMBER gives a int, not a torch.nn.Module"),
        ("factories:numbers", "factories:numbers gives a Tensor, not a torch.nn.Module"),
        ("factories:sized", r"factories:sized needs arguments \(width\); give a factory that needs none"),
        ("factories:failing", r"factories:failing failed with ValueError: no weights today \(.*factories.py:\d+\)"),
        ("hf:/nowhere", "hf:/nowhere needs a folder with config.json; there is none at /nowhere"),
    ],
)
def test_what_is_wrong_with_a_model_is_said(text: str, message: str) -> None:
    with pytest.raises(AutopermError, match=message):
        load_model(text)


def test_a_file_that_does_not_parse_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unparsable.py").write_text("x = = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AutopermError, match=r"importing unparsable failed with SyntaxError: .*unparsable.py, line 1"):
        load_model("unparsable:net")


def test_shapes_and_dtypes() -> None:
    x = load_inputs(["2x3x4"], "factories:mlp", nn.Identity())
    assert x.shape == (2, 3, 4)
    assert x.dtype == torch.float32
    assert torch.equal(x, load_inputs(["2x3x4"], "factories:mlp", nn.Identity())), "the same at every call"
    tokens, flags, wide = load_inputs(["7:int64", "2x2:bool", "1:float64"], "", nn.Identity())
    assert (tokens.dtype, flags.dtype, wide.dtype) == (torch.int64, torch.bool, torch.float64)
    assert tokens.shape == (7,)


def test_inputs_from_functions() -> None:
    assert load_inputs(["factories:numbers"], "", nn.Identity()).shape == (5, 4)
    model = load_model("factories:TwoInputs")
    for name in ("keywords", "both"):
        assert autoperm.infer(model, load_inputs([f"factories:{name}"], "", model)).groups


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4,4", r"'4,4' is not an input; use a shape such as 1x3x224x224 or 1x16:int64, or package.module:function"),
        ("1x4:int63", "there is no dtype 'int63'; try float32, float64, int64 or bool"),
        ("1x4:nn", "there is no dtype 'nn'"),
        ("factories:number", "factories has no 'number'; close to it: numbers"),
    ],
)
def test_what_is_wrong_with_an_input_is_said(text: str, message: str) -> None:
    with pytest.raises(AutopermError, match=message):
        load_inputs([text], "factories:mlp", nn.Identity())


def test_a_factory_has_no_default_input() -> None:
    with pytest.raises(AutopermError, match="factories:mlp needs an example input: --input with a shape such as"):
        load_inputs([], "factories:mlp", factories.mlp())


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16"])
def test_torchvision_brings_its_input(name: str) -> None:
    model = load_model(f"torchvision:{name}", meta=True)
    assert load_inputs([], f"torchvision:{name}", model).shape == (1, 3, 224, 224)


def test_torchvision_clips_and_detectors() -> None:
    clips = load_model("torchvision:r3d_18", meta=True)
    assert load_inputs([], "torchvision:r3d_18", clips).shape == (1, 3, 16, 112, 112)
    with pytest.raises(AutopermError, match="torchvision:raft_small needs an example input"):
        load_inputs([], "torchvision:raft_small", nn.Identity())


def test_unknown_torchvision_models_are_corrected() -> None:
    with pytest.raises(AutopermError, match="torchvision has no 'resnet81'; close to it: resnet18"):
        load_model("torchvision:resnet81")


def _without(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"needs {package}")


@_without("timm")
def test_timm_brings_its_input() -> None:
    model = load_model("timm:resnet18", meta=True)
    assert load_inputs([], "timm:resnet18", model).shape == (1, 3, 224, 224)
    with pytest.raises(AutopermError, match="timm has no 'resnett18'; close to it: .*resnet18"):
        load_model("timm:resnett18")


LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50,
}


@_without("transformers")
def test_transformers_bring_tokens(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    text = f"hf:{tmp_path}"
    model = load_model(text)
    inputs = load_inputs([], text, model)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert inputs["input_ids"].shape == (1, 16)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nonesuch"}))
    with pytest.raises(AutopermError, match="failed with ValueError: .*nonesuch"):
        load_model(text)


@pytest.mark.parametrize("kind", ["torchvision", "timm"])
def test_a_missing_package_names_the_extra(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, kind, None)  # what import then makes an ImportError
    with pytest.raises(AutopermError, match=rf"{kind} cannot be imported \(.*\): pip install 'autoperm\[zoo\]'"):
        load_model(f"{kind}:resnet18")
