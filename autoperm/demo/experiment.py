"""Train, infer, verify, match, interpolate: the whole of autoperm on two architectures."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from autoperm.checkpoint import save_checkpoint
from autoperm.demo.data import Split, digits
from autoperm.demo.networks import mlp, resnet
from autoperm.demo.plotting import plot
from autoperm.demo.training import evaluate, reset_norms, train
from autoperm.errors import AutopermError
from autoperm.files import write_atomically
from autoperm.infer import infer
from autoperm.interpolate import Interpolation, interpolate
from autoperm.matching import Match, match
from autoperm.spec import PermutationSpec
from autoperm.state import distance
from autoperm.verify import Verification, verify

#: Called with a line of text at each stage.
Report = Callable[[str], None]
ACCURACIES = ("train accuracy", "test accuracy")


@dataclass(frozen=True)
class Outcome:
    """What was measured for one architecture.

    ``curves`` maps ``"naive"``, ``"permuted"`` and, for nets with BatchNorm, both with ``", norms reset"`` to the line
    between the two models; each has the metrics ``train loss``, ``train accuracy``, ``test loss``, ``test accuracy``.
    """

    name: str
    spec: PermutationSpec
    verification: Verification
    match: Match
    distance_before: float
    curves: dict[str, Interpolation]
    weights: Path
    seconds: float


def run(
    out: str | Path = "demo-output", *, seeds: tuple[int, int] = (1, 2), quick: bool = False, report: Report | None = None
) -> list[Outcome]:
    """Run the demo; writes ``barrier.png`` and the aligned weights as safetensors into the folder ``out``.

    Arguments:
        out: the folder, made if it is not there.
        seeds: of the two models of each pair.
        quick: fewer epochs and narrower nets, for tests.
        report: called with a line of text at each stage.

    Raises:
        AutopermError: scikit-learn or matplotlib is not installed, or an alignment changed a function.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    train_split, test_split = digits()
    splits = {"train": train_split, "test": test_split}
    tell = report or (lambda line: None)
    hidden = 64 if quick else 512
    plans: list[tuple[str, Callable[[], nn.Module], int]] = [
        (f"MLP 3 x {hidden}", lambda: mlp(hidden), 3 if quick else 40),
        ("residual conv net", lambda: resnet(8 if quick else 48), 1 if quick else 12),
    ]
    with one_thread():
        outcomes = [_one(name, build, epochs, splits, seeds, folder, tell) for name, build, epochs in plans]
    write_atomically(folder / "barrier.png", lambda path: plot(outcomes, path), overwrite=True)
    return outcomes


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """The nets are so small that threads cost more than they bring, several times over on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _one(
    name: str,
    build: Callable[[], nn.Module],
    epochs: int,
    splits: dict[str, Split],
    seeds: tuple[int, int],
    folder: Path,
    tell: Report,
) -> Outcome:
    start = time.perf_counter()
    tell(f"{name}: training two models of {epochs} epochs from seeds {seeds[0]} and {seeds[1]}")
    a, b = (train(build, splits["train"], seed=seed, epochs=epochs) for seed in seeds)
    example = splits["test"].images[:8]
    spec = infer(a, example)
    verification = verify(a, spec, example)
    if not verification.ok:
        raise AutopermError(f"{name}: {verification}")
    tell(f"{name}: matching")
    found = match(a, b, spec)
    aligned = found.permutation.apply(b)
    tell(f"{name}: evaluating the straight lines")
    curves = _curves(a, b, aligned, splits)
    weights = folder / f"{name.replace(' ', '-').lower()}-aligned.safetensors"
    save_checkpoint(aligned.state_dict(), weights, overwrite=True)
    before = distance(spec, a.state_dict(), b.state_dict())
    return Outcome(name, spec, verification, found, before, curves, weights, time.perf_counter() - start)


def _curves(a: nn.Module, b: nn.Module, aligned: nn.Module, splits: dict[str, Split]) -> dict[str, Interpolation]:
    def along(other: nn.Module, prepare: Callable[[nn.Module], None] | None = None) -> Interpolation:
        steps = 25 if prepare is None else 13
        return interpolate(a, other, lambda m: evaluate(m, splits), steps, higher_is_better=ACCURACIES, prepare=prepare)

    curves = {"naive": along(b), "permuted": along(aligned)}
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in a.modules()):
        some = Split(splits["train"].images[:512], splits["train"].labels[:512])
        for name, other in (("naive", b), ("permuted", aligned)):
            curves[f"{name}, norms reset"] = along(other, lambda m: reset_norms(m, some))
    return curves
