"""autoperm distance and autoperm canonicalize."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import factories
import pytest
import torch

import autoperm
from autoperm.checkpoint import load_checkpoint, save_checkpoint

MODEL = ("-m", "factories:mlp", "-i", "3x4")
Cli = Callable[..., tuple[int, str, str]]


def spec() -> autoperm.PermutationSpec:
    return autoperm.infer(factories.mlp(), factories.numbers())


def test_distance(cli: Cli, pair: tuple) -> None:
    a, b = pair
    code, out, err = cli("distance", "a.safetensors", "b.pt", *MODEL)
    assert (code, err) == (0, "")
    found = autoperm.distance(a, b, spec())
    plain = sum(float(((p - q) ** 2).sum()) for p, q in zip(a.parameters(), b.parameters())) ** 0.5
    assert out == f"L2 distance at most {found:.6g} modulo permutation, {plain:.6g} as they are\n"


def test_distance_as_json_of_one_network(cli: Cli, pair: tuple, tmp_path: Path) -> None:
    save_checkpoint(spec().random(1).apply(pair[0]).state_dict(), tmp_path / "shuffled.pt")
    code, out, _ = cli("distance", "a.safetensors", "shuffled.pt", *MODEL, "--seed", 3, "--json")
    found = json.loads(out)
    assert code == 0
    assert set(found) == {"distance", "plain_distance"}
    assert found["distance"] == 0.0 < found["plain_distance"]


def test_distance_says_what_is_wrong(cli: Cli, pair: tuple, tmp_path: Path) -> None:
    save_checkpoint(factories.wider().state_dict(), tmp_path / "wide.pt")
    for b, more, message in [
        ("wide.pt", (), "0.weight: shape (8, 4) in the first, (9, 4) in the second"),
        ("b.pt", ("--method", "magic"), "no matcher is called 'magic'; there are"),
        ("nowhere.pt", (), "there is no checkpoint nowhere.pt"),
    ]:
        code, out, err = cli("distance", "a.safetensors", b, *MODEL, *more)
        assert (code, out) == (1, "")
        assert message in err


@pytest.mark.parametrize("name", ["o.safetensors", "o.pt"])
def test_canonicalize_writes_the_same_file_for_every_order(name: str, cli: Cli, pair: tuple, tmp_path: Path) -> None:
    code, out, err = cli("canonicalize", "a.safetensors", "-o", name, *MODEL)
    assert (code, err) == (0, "")
    assert out == f"1 of 1 groups permuted\nwrote {name}\n"
    save_checkpoint(spec().random(1).apply(pair[0]).state_dict(), tmp_path / "shuffled.pt")
    assert cli("canonicalize", "shuffled.pt", "-o", f"again-{name}", *MODEL)[0] == 0
    first, second = (load_checkpoint(tmp_path / n) for n in (name, f"again-{name}"))
    assert all(torch.equal(second[k], v) for k, v in first.items())
    if name.endswith(".safetensors"):
        assert (tmp_path / name).read_bytes() == (tmp_path / f"again-{name}").read_bytes()
    canonical = factories.mlp()
    canonical.load_state_dict(first)
    x = factories.numbers()
    torch.testing.assert_close(canonical(x), pair[0](x))


def test_canonicalize_as_json_with_the_permutation(cli: Cli, pair: tuple, tmp_path: Path) -> None:
    code, out, _ = cli("canonicalize", "b.pt", "-o", "o.pt", "-p", "p.safetensors", *MODEL, "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["output"], list(found["moved"])) == ("o.pt", ["0.weight[0]"])
    permutation = autoperm.Permutation.load(tmp_path / "p.safetensors", spec())
    expected = permutation.apply(dict(pair[1].state_dict()))
    assert all(torch.equal(expected[k], v) for k, v in load_checkpoint(tmp_path / "o.pt").items())


@pytest.mark.parametrize("precious", ["o.pt", "p.safetensors"])
def test_canonicalize_keeps_what_is_there_and_says_so_at_once(
    precious: str, cli: Cli, pair: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / precious).write_text("precious")
    words = ("canonicalize", "a.safetensors", "-o", "o.pt", "-p", "p.safetensors", *MODEL)
    with monkeypatch.context() as early:
        early.setattr("autoperm.cli.group.infer", lambda *_: pytest.fail("too late"))
        code, out, err = cli(*words)
    assert (code, out) == (1, "")
    assert f"{precious} exists and is kept" in err and "--force" in err
    assert (tmp_path / precious).read_text() == "precious"
    assert cli(*words, "--force")[0] == 0
    assert load_checkpoint(tmp_path / "o.pt")


@pytest.mark.parametrize("command", [("distance", "a.safetensors", "b.pt"), ("canonicalize", "a.safetensors", "-o", "o.pt")])
def test_nothing_is_done_where_verification_fails(
    command: tuple, cli: Cli, pair: tuple, tmp_path: Path, changed: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoperm.cli.group.verify", changed)
    code, out, err = cli(*command, *MODEL)
    assert (code, out) == (1, "")
    assert "THE FUNCTION CHANGED" in err and "Nothing was done" in err
    assert not (tmp_path / "o.pt").exists()


def test_canonicalize_names_what_does_not_fit(cli: Cli, pair: tuple) -> None:
    code, out, err = cli("canonicalize", "a.safetensors", "-o", "o.pt", "-m", "factories:wider", "-i", "3x4")
    assert (code, out) == (1, "")
    assert "the model does not fit the spec" in err and "0.weight: shape (8, 4), the spec has (9, 4)" in err
