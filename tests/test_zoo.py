"""The zoo benchmark: the machinery, and a slice of every zoo. All of it runs with ``python -m benchmarks.zoo run``."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import autoperm
from benchmarks.zoo import results, soundness, sources
from benchmarks.zoo.app import app
from benchmarks.zoo.entry import Entry
from benchmarks.zoo.maximal import LARGEST, compare
from benchmarks.zoo.measure import measure
from benchmarks.zoo.pinned import LISTED, axes
from benchmarks.zoo.sources.known import WELL_KNOWN
from benchmarks.zoo.sources.tiny_configs import tiny
from benchmarks.zoo.sources.tiny_inputs import with_grid
from benchmarks.zoo.sources.torchvision_ import nms
from benchmarks.zoo.tables import write_tables
from benchmarks.zoo.worker import Limits, measured

#: A slice for every change: zoo and model.
SLICE = [
    ("torchvision", "squeezenet1_1"), ("torchvision", "mobilenet_v3_small"), ("torchvision", "raft_small"),
    ("torchvision", "mnasnet0_5"), ("torchvision", "ssdlite320_mobilenet_v3_large"),
    ("timm", "convnext_atto_rms"), ("timm", "mobileone_s1"),
    ("transformers", "bert-generation"), ("transformers", "cwm"), ("transformers", "fnet"),
    ("transformers", "swinv2"), ("transformers", "unispeech-sat"),
    ("transformers", "llama"), ("transformers", "qwen2_vl"), ("transformers", "sam"), ("transformers", "autoformer"),
    ("torch_geometric", "GCNConv_plain"), ("torch_geometric", "TransformerConv"), ("torch_geometric", "PNAConv"),
    ("open_clip", "vit"), ("open_clip", "resnet"), ("smp", "FPN-resnet18"),
    ("diffusers", "sd15-unet"), ("diffusers", "flux"), ("diffusers", "vae-kl"),
    *(("classics", name) for name in ("siren", "kan", "hypernetwork", "capsules", "neural-ode", "nanogpt", "rwkv", "mamba")),
]  # fmt: skip



def record_of(entry: Entry) -> dict[str, object]:
    record: dict[str, object] = {}
    measure(entry, record.update)
    return record


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))


def entry(name: str = "mlp", build=perceptron, inputs=lambda model: torch.randn(4, 3)) -> Entry:  # type: ignore[no-untyped-def]
    return Entry(name, "family", build, inputs, counted=False)


# -- a slice of the zoos ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "name"), SLICE, ids=lambda v: v if isinstance(v, str) else "")
def test_a_model_of_the_zoo_is_traced_and_sound(source: str, name: str) -> None:
    pytest.importorskip("torchvision")
    try:
        found = {e.name: e for e in sources.entries(source)}
    except ImportError as error:
        pytest.skip(f"{source}: {error}")
    record = record_of(found[name])
    assert record["status"] == "sound", record
    assert record["log10_order"] > 1  # type: ignore[operator]
    assert record["unsupported"] == {}


def test_the_zoos_are_as_large_as_they_say() -> None:
    pytest.importorskip("timm")
    assert len(sources.entries("torchvision")) == 109
    assert len(sources.entries("timm")) > 90
    assert len(sources.entries("timm", full=True)) > 1000


def test_transformers_is_as_large_as_it_says() -> None:
    pytest.importorskip("transformers")
    assert len(sources.entries("transformers")) > 500
    assert len(sources.entries("transformers", full=True)) > 800


@pytest.mark.parametrize("source", sources.SOURCES)
def test_names_are_unique_within_a_zoo(source: str) -> None:
    try:
        names = [e.name for e in sources.entries(source, full=True)]
    except ImportError as error:
        pytest.skip(f"{source}: {error}")
    assert names
    assert len(names) == len(set(names))


# -- one model -------------------------------------------------------------------------------------------------------


def test_the_record_of_a_model() -> None:
    record = record_of(entry())
    assert record["status"] == "sound"
    assert record["log10_order"] == pytest.approx(2.079, abs=1e-3)  # 5! units
    assert (record["groups"], record["parameters"], record["tracer"]) == (1, 32, "make_fx-fake")
    assert record["coverage"] == pytest.approx(30 / 32)
    assert record["unsupported"] == record["pinned"] == {}
    assert record["control"] > 1e-3  # type: ignore[operator]


@pytest.mark.parametrize(
    ("broken", "status", "note"),
    [
        (entry(build=lambda: 1 / 0), "build", "ZeroDivisionError: division by zero"),  # type: ignore[arg-type, return-value]
        (entry(inputs=lambda model: torch.randn(4, 7)), "inputs", "does not accept the example inputs"),
        (entry(build=lambda: Constant()), "unverified", "every output is constant"),
    ],
    ids=["build", "inputs", "constant"],
)  # fmt: skip
def test_what_went_wrong_is_told_apart(broken: Entry, status: str, note: str) -> None:
    record = record_of(broken)
    assert record["status"] == status
    assert note in str(record["note"])


class Constant(nn.Module):
    """Outputs that say nothing, whatever the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x)) * 0 + 1


def test_a_model_that_runs_in_float32_only_has_a_status_of_its_own() -> None:
    record = record_of(entry(build=Single))
    assert record["status"] == "float32"
    assert record["error_float32"] < 1e-6 < 1e-3 < record["control"]  # type: ignore[operator]
    assert "does not run" in str(record["note"])


class Single(nn.Module):
    """Refuses float64, as a kernel may that has none."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype == torch.float64:
            raise RuntimeError("no kernel for float64")
        return self.last(self.first(x).relu())


def test_a_group_that_is_wrong_is_unsound_in_float32_too() -> None:
    spec = autoperm.infer(Scaled(torch.ones(5)), torch.zeros(1, 3))
    verdict = soundness._in_own_dtype(Scaled(torch.arange(1.0, 6.0)), spec, torch.randn(4, 3))
    assert verdict["status"] == "unsound"


def test_a_group_that_is_wrong_is_unsound() -> None:
    """The group of a perceptron without a norm, on one whose units are told apart by constants."""
    torch.manual_seed(0)
    spec = autoperm.infer(Scaled(torch.ones(5)), torch.zeros(1, 3))
    assert spec.order == 120
    verdict = soundness.check(Scaled(torch.arange(1.0, 6.0)), spec, torch.randn(4, 3), samples=2)
    assert verdict["status"] == "unsound"
    assert verdict["error"] > 1e-3
    assert soundness.check(Scaled(torch.ones(5)), spec, torch.randn(4, 3), samples=2)["status"] == "sound"


class Scaled(nn.Module):
    """Hidden units times constants."""

    def __init__(self, scale: torch.Tensor):
        super().__init__()
        self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 2)
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x) * self.scale)


# -- processes -------------------------------------------------------------------------------------------------------


def _hang() -> nn.Module:
    time.sleep(60)
    raise AssertionError("the time limit did not hold")


def _eat() -> nn.Module:
    return nn.Sequential(*(nn.Linear(20_000, 20_000) for _ in range(10)))


def test_a_bad_model_costs_its_own_record_only() -> None:
    bad = [entry("hangs", _hang), entry("dies", lambda: os._exit(3)), entry("eats", _eat), entry("good")]  # type: ignore[arg-type]
    found = {e.name: r for e, r in measured(bad, jobs=1, limits=Limits(seconds=20, gib=2))}
    assert {name: record["status"] for name, record in found.items()} == {
        "hangs": "timeout", "dies": "crashed", "eats": "build", "good": "sound",
    }  # fmt: skip
    assert found["hangs"]["note"] == "no answer from stage 'build' in 20 s"
    assert found["dies"]["note"] == "exit code 3 in stage 'build'"
    assert "allocate" in found["eats"]["note"]


def test_several_at_a_time_give_the_same() -> None:
    entries = [entry(f"m{k}") for k in range(4)]
    found = {e.name: r for e, r in measured(entries, jobs=2, limits=Limits())}
    assert sorted(found) == ["m0", "m1", "m2", "m3"]
    assert {r["status"] for r in found.values()} == {"sound"}


# -- files and the command line --------------------------------------------------------------------------------------


def test_results_are_read_back_and_a_broken_line_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "new" / "zoo.jsonl"
    results.append(path, {"model": "a", "status": "build"})
    results.append(path, {"model": "a", "status": "sound", "error": 1.23456e-15})
    with open(path, "a") as file:
        file.write('{"model": "b", "sta\n')
    assert results.read(path) == {"a": {"model": "a", "status": "sound", "error": 1.235e-15}}
    assert results.read(tmp_path / "none.jsonl") == {}


def test_a_run_goes_on_where_it_was_and_writes_tables(tmp_path: Path) -> None:
    words = ["run", "--source", "classics", "--model", "siren", "--results", str(tmp_path)]
    first = CliRunner().invoke(app, words)
    assert first.exit_code == 0, first.output
    assert first.output.splitlines()[-1] == "1 sound"
    assert CliRunner().invoke(app, words).output == "nothing left to run\n"
    line = json.loads((tmp_path / "classics.jsonl").read_text())
    assert (line["model"], line["source"], line["status"]) == ("siren", "classics", "sound")
    done = CliRunner().invoke(app, ["tables", "--results", str(tmp_path), "--to", str(tmp_path / "docs")])
    assert done.exit_code == 0, done.output
    assert "| `siren` | [classics](classics.md) | sound | 10^26 | 99.2% |" in (tmp_path / "docs" / "README.md").read_text()


def test_unsound_is_an_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.zoo.measure.check", lambda *_, **__: {"status": "unsound", "error": 0.5, "note": "wrong"})
    done = CliRunner().invoke(app, ["run", "--source", "classics", "--model", "siren", "--results", str(tmp_path)])
    assert done.exit_code == 1
    assert "unsound" in done.output


@pytest.mark.parametrize(
    ("words", "text"),
    [(["--source", "nowhere"], "no source is called 'nowhere'"), (["--source", "classics", "--shard", "3/2"], "--shard must be i/n")],
)
def test_wrong_options_are_named(words: list[str], text: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["run", *words, "--results", str(tmp_path)])
    assert done.exit_code == 2
    assert text in " ".join(done.output.replace("│", " ").split())


def test_shards_are_every_model_once(tmp_path: Path) -> None:
    shards = [sources.entries("classics")[i::3] for i in range(3)]
    assert sorted(e.name for s in shards for e in s) == sorted(e.name for e in sources.entries("classics"))


def test_the_tables_count_what_is_missing(tmp_path: Path) -> None:
    records = {
        "a": {"model": "a", "source": "timm", "family": "f", "status": "sound", "parameters": 5, "unsupported": {"aten.x": 2},
              "examples": [{"op": "aten.x", "module": "head", "source": "x.py:1", "shapes": [[2, 3]]}], "pinned": {"why": 3}},
        "b": {"model": "b", "source": "timm", "family": "f", "status": "unverified", "note": "too | large"},
    }  # fmt: skip
    write_tables({"timm": records, "classics": {}}, tmp_path)
    index = (tmp_path / "README.md").read_text()
    assert "| [timm](timm.md) | 2 | 1 | 1 |" in index
    assert "| `aten.x` | 1 | `a` | head x.py:1 [[2, 3]] |" in index
    assert "| why | 3 | 1 |" in index
    assert "of its family `a` is sound; too \\| large" in index
    assert not (tmp_path / "classics.md").exists()


def test_pinned_axes_of_like_layers_are_one_line() -> None:
    why = "a spatial axis of a convolution"
    pinned = {("layers.0.conv.weight", 2): why, ("layers.0.conv.weight", 3): why, ("layers.12.conv.weight", 2): why,
              ("layers.12.conv.weight", 3): why, ("3.bias", 0): "rows are looked up by axis 2",
              ("head.weight", 0): "axis 1 of the output output[0]"}  # fmt: skip
    assert axes(pinned) == {why: {"layers.*.conv.weight 2 3": 4}, "rows are looked up by axis n": {"*.bias 0": 1}}
    many = axes({(f"{chr(97 + k // 26)}{chr(97 + k % 26)}.weight", 0): why for k in range(LISTED + 5)})[why]
    assert (len(many), many["others"]) == (LISTED + 1, 5)


def test_a_page_lists_what_is_pinned_model_by_model(tmp_path: Path) -> None:
    record = {"model": "a", "source": "timm", "family": "f", "status": "sound", "pinned": {"why": 4, "so": 1},
              "pinned_axes": {"why": {"x.* 2 3": 4}}}  # fmt: skip
    plain = {"model": "b", "source": "timm", "family": "f", "status": "sound", "pinned": {}}
    write_tables({"timm": {"a": record, "b": plain}}, tmp_path)
    page = (tmp_path / "timm.md").read_text()
    assert "<summary><code>a</code>: 5, why and 1 more</summary>" in page
    assert "- why: 4 (`x.* 2 3` x 4)\n- so: 1\n" in page
    assert "<code>b</code>" not in page


# -- recipes ---------------------------------------------------------------------------------------------------------


def test_plain_suppression_keeps_the_best_of_what_overlaps() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 1.9], [5, 5, 6, 6], [0, 0, 1, 1]])
    assert nms(boxes, torch.tensor([0.5, 0.9, 0.1, 0.4]), 0.5).tolist() == [1, 3, 2]
    assert nms(boxes[:0], torch.zeros(0), 0.5).tolist() == []


def test_tiny_configurations_are_tiny() -> None:
    transformers = pytest.importorskip("transformers")
    config = tiny(transformers.LlamaConfig)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.vocab_size) == (32, 2, 4, 99)
    assert tiny(transformers.SwinConfig).embed_dim == 16
    assert tiny(transformers.CLIPConfig).text_config.hidden_size == 32


def test_tokens_for_images_and_videos_are_told_apart() -> None:
    transformers = pytest.importorskip("transformers")
    config = tiny(transformers.Qwen2VLConfig)
    assert (config.image_token_id, config.video_token_id) == (95, 94)
    assert config.text_config.rope_parameters["mrope_section"] == [1, 1, 2]
    found = with_grid(config)
    assert int((found["input_ids"] == 95).sum()) == len(found["pixel_values"]) // 4  # patches are merged by four
    assert found["image_grid_thw"].prod() == len(found["pixel_values"])


def test_well_known_architectures_exist_and_come_first() -> None:
    pytest.importorskip("transformers")
    names = [e.name for e in sources.entries("transformers")]
    assert len(WELL_KNOWN) == len(set(WELL_KNOWN)) > 150
    assert names[: len(WELL_KNOWN)] == list(WELL_KNOWN)


# -- whole groups ------------------------------------------------------------------------------------------------------


def test_the_oracle_says_whether_a_group_is_whole() -> None:
    record: dict[str, object] = {}
    compare(entry(), record.update, LARGEST)
    assert record["status"] == "whole"
    assert record["log10_true"] == pytest.approx(math.log10(120))
    assert record["missing"] == 1


def test_what_is_missing_is_said() -> None:
    record: dict[str, object] = {}
    rolled = entry(build=lambda: Rolled(), inputs=lambda model: torch.randn(2, 3))
    compare(rolled, record.update, LARGEST)
    assert (record["status"], record["missing"]) == ("smaller", 2)


def test_weights_that_move_across_tensors_are_counted() -> None:
    record: dict[str, object] = {}
    branches = entry(build=lambda: Branches(), inputs=lambda model: torch.randn(2, 3))
    compare(branches, record.update, LARGEST)
    assert record["status"] == "whole"
    assert record["log10_true"] == pytest.approx(math.log10(2 * 24**2))


class Branches(nn.Module):
    """Two branches, added up."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.branches[0](x) + self.branches[1](x)


class Rolled(nn.Module):
    """A sum with itself, shifted: the whole group is cyclic."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        return self.last(x + 2 * x.roll(1, -1))


def test_large_models_are_left_to_smaller_ones() -> None:
    record: dict[str, object] = {}
    compare(entry(), record.update, 10)
    assert record == {"stage": "build", "status": "too large", "parameters": 32}


def test_tables_say_what_the_oracle_says(tmp_path: Path) -> None:
    verdicts = {"a": {"status": "whole"}, "b": {"status": "smaller", "missing": 2}, "bit": {"status": "smaller"}, "c": {"status": "timeout"}}
    for name, verdict in verdicts.items():
        record = {"model": name, "source": "classics", "family": name, "status": "sound", "log10_order": 3.0, "coverage": 0.5}
        results.append(results.path_of("classics", tmp_path), record)
        results.append(results.path_of("maximal-classics", tmp_path), {"model": name, **verdict})
    assert CliRunner().invoke(app, ["tables", "--results", str(tmp_path), "--to", str(tmp_path)]).exit_code == 0
    page = (tmp_path / "classics.md").read_text()
    assert "| `a` | a |  | sound | yes |" in page
    assert "| `b` | b |  | sound | 2 times smaller |" in page
    assert "| `c` | c |  | sound |  |" in page
    assert "| `bit` | bit |  | sound | smaller (images of one pixel" in page
    assert "counted the symmetries of 3 of these models" in page
    assert "1 orders are the true ones" in page
