"""autoperm align: what it writes, and what it keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import factories
import pytest
import torch
from torch import nn

import autoperm
from autoperm.checkpoint import load_checkpoint, save_checkpoint

MLP = ("factories:mlp", "-i", "3x4")
Cli = Callable[..., tuple[int, str, str]]
ALIGN = ("align", "a.safetensors", "b.pt", "-m", *MLP)


@pytest.mark.parametrize("name", ["o.safetensors", "o.pt"])
def test_align_writes_the_same_function_nearer_to_a(name: str, cli: Cli, pair: tuple, tmp_path: Path) -> None:
    code, out, err = cli(*ALIGN, "-o", name)
    assert (code, err) == (0, "")
    assert "1 of 1 groups permuted" in out
    assert out.endswith(f"wrote {name}\n")
    a, b = pair
    aligned = factories.mlp()
    aligned.load_state_dict(load_checkpoint(tmp_path / name))
    x = factories.numbers()
    torch.testing.assert_close(aligned(x), b(x))
    assert distance(a, aligned) < distance(a, b)


def distance(a: nn.Module, b: nn.Module) -> float:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return float(sum(((p - q) ** 2).sum() for p, q in pairs)) ** 0.5


def test_align_as_json_with_the_permutation(cli: Cli, pair: tuple, tmp_path: Path) -> None:
    code, out, _ = cli(*ALIGN, "-o", "o.pt", "-p", "p.safetensors", "--seed", 3, "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["output"], list(found["moved"])) == ("o.pt", ["0.weight[0]"])
    assert found["distance"] < found["distance_before"] == pytest.approx(distance(*pair))
    permutation = autoperm.Permutation.load(tmp_path / "p.safetensors", autoperm.infer(pair[0], factories.numbers()))
    expected = permutation.apply(dict(pair[1].state_dict()))
    assert all(torch.equal(expected[k], v) for k, v in load_checkpoint(tmp_path / "o.pt").items())


@pytest.mark.parametrize("precious", ["o.pt", "p.safetensors"])
def test_align_keeps_what_is_there_and_says_so_at_once(
    precious: str, cli: Cli, pair: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / precious).write_text("precious")
    with monkeypatch.context() as early:
        early.setattr("autoperm.cli.align.infer", lambda *_: pytest.fail("too late"))
        code, out, err = cli(*ALIGN, "-o", "o.pt", "-p", "p.safetensors")
    assert (code, out) == (1, "")
    assert f"{precious} exists and is kept" in err and "--force" in err
    assert (tmp_path / precious).read_text() == "precious"
    assert cli(*ALIGN, "-o", "o.pt", "-p", "p.safetensors", "--force")[0] == 0
    assert load_checkpoint(tmp_path / "o.pt")


def test_align_needs_the_folder_of_its_output(cli: Cli, pair: tuple) -> None:
    code, _, err = cli(*ALIGN, "-o", "nowhere/o.pt")
    assert code == 1
    assert "cannot write nowhere/o.pt: there is no folder nowhere; make it first" in err


def test_align_names_what_does_not_fit(cli: Cli, pair: tuple, tmp_path: Path) -> None:
    save_checkpoint(factories.wider().state_dict(), tmp_path / "wide.pt")
    for b, model, message in [
        ("wide.pt", "factories:mlp", "0.weight: shape (8, 4) in the first, (9, 4) in the second"),
        ("b.pt", "factories:wider", "0.weight: shape (8, 4), the spec has (9, 4)"),
    ]:
        code, out, err = cli("align", "a.safetensors", b, "-m", model, "-i", "3x4", "-o", "o.pt")
        assert (code, out) == (1, "")
        assert message in err
        assert not (tmp_path / "o.pt").exists()


def test_align_writes_nothing_where_verification_fails(
    cli: Cli, pair: tuple, tmp_path: Path, changed: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoperm.cli.align.verify", changed)
    code, _, err = cli(*ALIGN, "-o", "o.pt")
    assert code == 1
    assert "THE FUNCTION CHANGED" in err and "Nothing was written" in err
    assert not (tmp_path / "o.pt").exists()


def test_align_names_the_matchers(cli: Cli, pair: tuple) -> None:
    code, _, err = cli(*ALIGN, "-o", "o.pt", "--method", "magic")
    assert code == 1
    assert "no matcher is called 'magic'; there are activation, frank-wolfe" in err
