"""The command line: what it prints where, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import factories
import pytest
from typer.testing import CliRunner

import autoperm
from autoperm.cli import app

MLP = ("factories:mlp", "-i", "3x4")
Cli = Callable[..., tuple[int, str, str]]


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output.strip()) == (0, f"autoperm {autoperm.__version__}")


def test_help_lists_the_commands() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert all(name in result.output for name in ("inspect", "explain", "verify", "align", "demo"))


@pytest.mark.parametrize(
    "words",
    [
        ("inspect",),
        ("nonesuch",),
        ("inspect", "factories:mlp", "--nonesuch"),
        ("explain", *MLP, "0.weight", "zero"),
        ("align", "a", "b"),
        ("verify", *MLP, "--samples", "0"),
    ],
)
def test_wrong_usage_exits_with_2(words: tuple[str, ...], cli: Cli) -> None:
    code, out, err = cli(*words)
    assert (code, out) == (2, "")
    assert "Usage: autoperm" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("inspect", "factories:mpl"), "error: factories has no 'mpl'; close to it: mlp\n"),
        (("inspect", "factories:mlp"), "error: factories:mlp needs an example input: --input with a shape"),
        (("inspect", "factories:mlp", "-i", "3x5"), "does not accept the example inputs"),
        (("explain", *MLP, "9.weight", 0), "error: the spec has no parameter '9.weight'; it has, for example, 0.weight"),
        (("explain", *MLP, "0.weight", 2), "there is no dimension 2, use 0 to 1"),
        (("align", "a", "b", "-o", "o.pt", "-m", "factories:mlp"), "error: there is no checkpoint a\n"),
    ],
)
def test_controlled_errors_exit_with_1_without_a_traceback(words: tuple, message: str, cli: Cli) -> None:
    code, out, err = cli(*words)
    assert (code, out) == (1, "")
    assert message in err
    assert "Traceback" not in err


def test_inspect_shows_groups_order_coverage_and_pins(cli: Cli) -> None:
    code, out, err = cli("inspect", *MLP)
    assert (code, err) == (0, "")
    assert "0.weight[0] │ 8    │ 1" in out
    assert "2.weight  │ 0   │ axis 1 of the output output" in out
    assert out.endswith("1 group, order 40320, 96.6% of the parameters move, 3 parameter dimensions are pinned\n")


def test_inspect_as_json(cli: Cli) -> None:
    code, out, _ = cli("inspect", *MLP, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["order"] == "40320"
    assert found["coverage"] == pytest.approx(56 / 58)
    assert found["unsupported"] == []
    (group,) = found["groups"]
    assert (group["name"], group["size"], group["copies"], group["parent"]) == ("0.weight[0]", 8, 1, None)
    assert group["moves"] == [["0.weight", 0], ["0.bias", 0], ["2.weight", 1]]
    assert {"parameter": "0.weight", "dim": 1, "reason": "axis 1 of the input args[0]"} in found["pinned"]


def test_inspect_shows_all_when_asked(cli: Cli) -> None:
    _, short, _ = cli("inspect", "factories:deep", "-i", "1x3")
    _, full, _ = cli("inspect", "factories:deep", "-i", "1x3", "--all")
    assert "4 more: --all" in short
    assert "56.weight[0]" not in short
    assert "--all" not in full
    assert "56.weight[0]" in full


def test_inspect_saves_the_spec_and_keeps_what_is_there(cli: Cli, tmp_path: Path) -> None:
    assert cli("inspect", *MLP, "--save", "s.json")[0] == 0
    assert autoperm.PermutationSpec.load(tmp_path / "s.json").order == 40320
    (tmp_path / "s.json").write_text("precious")
    code, out, err = cli("inspect", *MLP, "--save", "s.json")
    assert (code, out) == (1, "")
    assert "s.json exists and is kept" in err and "--force" in err
    assert (tmp_path / "s.json").read_text() == "precious"
    assert cli("inspect", *MLP, "--save", "s.json", "--force")[0] == 0


def test_inspect_on_the_meta_device(cli: Cli) -> None:
    code, out, _ = cli("inspect", "torchvision:resnet18", "--meta", "--json")
    assert code == 0
    assert len(json.loads(out)["groups"]) == 12


def test_several_inputs_and_inputs_by_function(cli: Cli) -> None:
    for inputs in (("-i", "2:int64", "-i", "2x3"), ("-i", "factories:keywords"), ("-i", "factories:both")):
        code, out, err = cli("inspect", "factories:TwoInputs", *inputs, "--json")
        assert (code, err) == (0, "")
        assert json.loads(out)["order"] == "720"


def test_an_op_without_a_rule_is_warned_of_on_standard_error(cli: Cli) -> None:
    code, out, err = cli("inspect", "factories:Ranked", "-i", "2x4", "--json")
    assert code == 0
    assert "autoperm_tests.odd" in json.loads(out)["unsupported"][0]
    assert err.startswith("warning: no rule for")
    assert "autoperm_tests.odd" in err


def test_explain_what_moves_and_what_is_pinned(cli: Cli) -> None:
    code, out, _ = cli("explain", *MLP, "2.weight", 1)
    assert code == 0
    assert out.startswith("2.weight[1] is moved by 0.weight[0]\nthe path to 0.weight[0]:\n  1. ")
    assert cli("explain", *MLP, "2.weight", 0)[1].startswith("2.weight[0] is pinned: axis 1 of the output output\n")
    moved = json.loads(cli("explain", *MLP, "2.weight", 1, "--json")[1])
    assert (moved["groups"], moved["reason"], moved["target"]) == (["0.weight[0]"], None, "0.weight[0]")
    assert moved["path"]
    assert json.loads(cli("explain", *MLP, "2.weight", 0, "--json")[1])["groups"] == []


def test_verify(cli: Cli) -> None:
    code, out, _ = cli("verify", *MLP, "--samples", 2)
    assert code == 0
    assert out.startswith("the function is unchanged: 2 permutations tried, worst relative error ")
    code, out, _ = cli("verify", *MLP, "--json")
    found = json.loads(out)
    assert (code, found["ok"]) == (0, True)
    assert found["relative"] < 1e-10
    assert [o["name"] for o in found["outputs"]] == ["output"]


def test_verify_exits_with_1_where_outputs_differ(
    cli: Cli, changed: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoperm.cli.verify.run", changed)
    code, out, _ = cli("verify", *MLP)
    assert code == 1
    assert out.startswith("THE FUNCTION CHANGED: 3 permutations tried, worst relative error 2.5e-01\n")
    assert json.loads(cli("verify", *MLP, "--json")[1])["ok"] is False


def test_demo_keeps_what_is_there(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "barrier.png").write_text("precious")
    code, out, err = cli("demo", "--out", ".")
    assert (code, out) == (1, "")
    assert "barrier.png exists and is kept" in err


def test_as_a_program(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(factories.__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-m", "autoperm", "inspect", "factories:mpl"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "error: factories has no 'mpl'; close to it: mlp\n"
