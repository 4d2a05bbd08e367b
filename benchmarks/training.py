"""How networks are trained and judged, with checkpoints: a model is trained once, and resumed after the last whole epoch.

Checkpoints lie in ~/.cache/autoperm (or $AUTOPERM_CACHE), in a folder named by a hash of everything that decides the
weights: the network's source, the images, the seed, the batch size, the rate, torch's version, and the number of threads,
by which sums are rounded. The number of epochs is not part of it, since the rate is constant: a longer run goes on where a
shorter one ended, and every epoch's weights are kept.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from autoperm.demo.data import Split
from autoperm.files import write_atomically
from autoperm.running import running
from benchmarks import nets
from benchmarks.data import Data, load
from benchmarks.nets import Net

RATE = 1e-3
UP = ("train accuracy", "test accuracy")
METRICS = ("train loss", "test loss", *UP)


@dataclass(frozen=True)
class Setting:
    """How one architecture is trained and judged.

    Attributes:
        data: the images.
        widths: of the nets.
        epochs, batch: of training.
        judged: the most images of each split that losses are computed on.
        steps: points on a line.
        quick: whether matchers get less time too.
    """

    data: Data
    widths: tuple[int, ...]
    epochs: int
    batch: int
    judged: int
    steps: int
    quick: bool = False

    def __str__(self) -> str:
        train, test = (len(split.labels) for split in self.data.splits(self.judged).values())
        return (
            f"{self.data.name} ({len(self.data.train.labels)} images of {self.data.size} x {self.data.size}), {self.epochs} "
            f"epochs of Adam 1e-3, batches of {self.batch}; lines of {self.steps} points, judged on {train} training and "
            f"{test} test images"
        )


def setting(name: str, data: str, *, quick: bool, small: bool = True) -> Setting:
    """How an architecture is trained.

    Arguments:
        small: conv nets and the ViT see Fashion-MNIST at 14 x 14, 10,000 images of it, which takes a fifth of the time.
    """
    if quick:
        widths, epochs = ((64,), 5) if name == "mlp" else ((1,), 2)
        return Setting(load("digits"), widths, epochs, 64, 450, 5, quick=True)
    found = load(data)
    if found.size == 8:
        return Setting(found, (32, 128, 512) if name == "mlp" else (1, 2, 4), 20, 64, 450, 25)
    if name == "mlp":
        return Setting(found, (64, 512), 20, 500, 10_000, 25)
    if small:
        return Setting(load(data, size=14, subset=10_000), (1, 2, 4), 10, 100, 2000, 25)
    return Setting(found, (1, 2, 4), 4, 100, 2000, 11)


def train(net: Net, data: Split, *, seed: int, epochs: int, batch: int = 128, progress: bool = True) -> nn.Module:
    """A network trained with Adam at 1e-3, in eval mode.

    Arguments:
        seed: of the initialisation and the order of the images; torch's own generator is left alone.
        epochs: how many; 0 gives the initialisation.
        batch: images a step; the last, smaller batch of an epoch is left out.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; what is done is kept, and the same call goes on from there.
    """
    folder = cache() / key(net, data, seed=seed, batch=batch)
    if not _path(folder, epochs).exists():
        _train(_initial(net, seed), folder, data, seed, epochs, batch, f"{net}, seed {seed}" if progress else None)
    model = _initial(net, seed)
    model.load_state_dict(torch.load(_path(folder, epochs), weights_only=True))
    return model.eval()


def _train(model: nn.Module, folder: Path, data: Split, seed: int, epochs: int, batch: int, shown: str | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # Convolutions and norms are up to half as fast again where the channels of a pixel lie side by side.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    done = _resume(folder, model, optimiser)
    if done == 0:
        _save(_path(folder, 0), model.state_dict())
    with running(f"training {shown}", total=epochs - done, progress=shown is not None) as run:
        for epoch in range(done, epochs):
            loss = _epoch(model.train(), optimiser, data, seed, epoch, batch)
            # The weights before the state that says that they are there.
            _save(_path(folder, epoch + 1), model.state_dict())
            _save(folder / "state.pt", {"epoch": epoch + 1, "model": model.state_dict(), "optimiser": optimiser.state_dict()})
            run.advance(loss)
            if run.stopped and epoch + 1 < epochs:
                raise KeyboardInterrupt


def _epoch(model: nn.Module, optimiser: torch.optim.Optimizer, data: Split, seed: int, epoch: int, batch: int) -> float:
    """One pass in an order that the seed and the epoch decide; returns the mean loss."""
    order = torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(1_000_003 * seed + epoch))
    total, steps = 0.0, max(len(order) // batch, 1)
    for at in order[: steps * batch].split(batch):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(data.images[at]), data.labels[at])
        loss.backward()
        optimiser.step()
        total += float(loss.detach())
    return total / steps


def _initial(net: Net, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return net.build()


def cache() -> Path:
    """The folder of the checkpoints."""
    return Path(os.environ.get("AUTOPERM_CACHE") or Path.home() / ".cache" / "autoperm")


def key(net: Net, data: Split, *, seed: int, batch: int) -> str:
    """The name of a run's folder: what it is, and a digest of all that decides its weights."""
    parts = (net, seed, batch, RATE, torch.__version__, torch.get_num_threads(), _digest(data.images), _digest(data.labels))
    source = inspect.getsource(nets) + "".join(inspect.getsource(f) for f in (_epoch, _initial, _train))
    digest = hashlib.sha256(repr((*parts, source)).encode()).hexdigest()[:16]
    return f"{net.name}-{net.width}-seed{seed}-{digest}"


def _digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def _path(folder: Path, epoch: int) -> Path:
    return folder / f"epoch-{epoch:03d}.pt"


def _save(path: Path, content: object) -> None:
    write_atomically(path, functools.partial(torch.save, content), overwrite=True)


def _resume(folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    path = folder / "state.pt"
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["epoch"])


@torch.no_grad()
def outputs(model: nn.Module, data: Split, batch: int = 100) -> torch.Tensor:
    """The logits of all images, shape (n, 10)."""
    return torch.cat([model(part) for part in data.images.split(batch)])


def evaluate(splits: dict[str, Split]) -> Callable[[nn.Module], dict[str, float]]:
    """A function that gives a model's loss and accuracy on each split."""

    def measured(model: nn.Module) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, data in splits.items():
            logits = outputs(model, data)
            found[f"{name} loss"] = float(nn.functional.cross_entropy(logits, data.labels))
            found[f"{name} accuracy"] = float((logits.argmax(1) == data.labels).float().mean())
        return found

    return measured
