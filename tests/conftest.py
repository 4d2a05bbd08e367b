"""What the tests of the command line share."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import factories
import pytest
import torch
from torch import nn

import autoperm
from autoperm.checkpoint import save_checkpoint
from autoperm.cli import main
from autoperm.verify import OutputError
from tests.zoo import import_torchvision

# pytest hands its own handlers to loggers that do not propagate; with one, torch's collects a stack for every fake tensor.
logging.getLogger("torch.__trace").propagate = True

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session", autouse=True)
def torchvision_beside_cpu_torch() -> None:
    """The zoos import it where they find it."""
    with contextlib.suppress(ImportError):
        import_torchvision()


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    """Run the command line in a folder of its own: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(factories.__file__).parent)])

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["autoperm", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def pair(tmp_path: Path) -> tuple[nn.Module, nn.Module]:
    """Two mlps, written to a.safetensors and b.pt."""
    models = []
    for seed, name in enumerate(("a.safetensors", "b.pt")):
        torch.manual_seed(seed)
        models.append(factories.mlp())
        save_checkpoint(models[-1].state_dict(), tmp_path / name)
    return models[0], models[1]


@pytest.fixture
def changed() -> Callable[..., autoperm.Verification]:
    """What ``verify`` would say about a group that is wrong."""
    return lambda *_, **__: autoperm.Verification((OutputError("output", 0.5, 0.25),), 1e-10, 3)
