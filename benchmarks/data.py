"""The images that the training benchmarks use: Fashion-MNIST from Debian's package, else scikit-learn's digits.

    python benchmarks/data.py               which data there are
    python benchmarks/data.py --install     apt-get install dataset-fashion-mnist (Debian and Ubuntu, as root)

Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): 60,000 and 10,000 images of 28 x 28. Digits: 1,347 and 450 of 8 x 8.
"""

from __future__ import annotations

import gzip
import math
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from autoperm.demo.data import Split, digits
from autoperm.errors import AutopermError

PACKAGE = "dataset-fashion-mnist"
NAMES = ("fashion-mnist", "digits")
_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@dataclass(frozen=True)
class Data:
    """Images of shape (n, 1, size, size), standardised by the training images, and labels from 0 to 9.

    Attributes:
        name: which, with the size and the number of training images where those are not the data's own.
        train, test: the splits.
    """

    name: str
    train: Split
    test: Split

    @property
    def size(self) -> int:
        return self.train.images.shape[-1]

    def splits(self, count: int) -> dict[str, Split]:
        """What a model is evaluated on: the first ``count`` images of each split."""
        return {"train": first(self.train, count), "test": first(self.test, count)}


def load(name: str = "auto", *, size: int | None = None, subset: int | None = None) -> Data:
    """Images by name; ``"auto"`` is Fashion-MNIST where it is installed, and digits where not.

    Arguments:
        size: shrink the images to this many pixels in each direction, by averaging; None leaves them.
        subset: keep the first so many training images; they are in random order. None keeps all.

    Raises:
        AutopermError: an unknown name, or the data are not installed.
    """
    if name not in ("auto", *NAMES):
        raise AutopermError(f"no data are called {name!r}; there are auto, {', '.join(NAMES)}")
    if name == "auto":
        name = NAMES[0] if files() else NAMES[1]
    train, test = digits() if name == "digits" else _fashion()
    own, count = train.images.shape[-1], len(train.labels)
    if size is not None and size < own:
        train, test = _shrunk(train, size), _shrunk(test, size)
        name += f" {size} x {size}"
    if subset is not None and subset < count:
        train = first(train, subset)
        name += f", {subset} training images"
    mean, std = train.images.mean(), train.images.std()
    return Data(name, *(Split((s.images - mean) / std, s.labels) for s in (train, test)))


def first(split: Split, count: int) -> Split:
    """The first images of a split."""
    return Split(split.images[:count], split.labels[:count])


def files() -> dict[str, Path]:
    """The package's files by name, without .gz; empty where it is not installed."""
    if shutil.which("dpkg") is None:
        return {}
    done = subprocess.run(["dpkg", "-L", PACKAGE], capture_output=True, text=True, check=False)
    paths = [Path(line) for line in done.stdout.splitlines()] if done.returncode == 0 else []
    found = {path.name.removesuffix(".gz"): path for path in paths if path.is_file()}
    return found if all(name in found for pair in _FILES.values() for name in pair) else {}


def read_idx(path: Path) -> torch.Tensor:
    """The array of bytes of an IDX file, gzipped or not (LeCun, The MNIST database: "the IDX file format").

    Raises:
        AutopermError: it is no IDX file of bytes, or is cut off.
    """
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    if len(raw) < 4 or raw[:3] != b"\0\0\x08":
        raise AutopermError(f"{path} is not an IDX file of bytes; reinstall {PACKAGE}")
    dims = raw[3]
    shape = [int.from_bytes(raw[4 + 4 * k : 8 + 4 * k], "big") for k in range(dims)]
    body = np.frombuffer(raw, dtype=np.uint8, offset=min(4 + 4 * dims, len(raw)))
    if body.size != math.prod(shape):
        raise AutopermError(f"{path} holds {body.size} bytes for an array of shape {tuple(shape)}; reinstall {PACKAGE}")
    return torch.tensor(body.reshape(shape))


def _fashion() -> tuple[Split, Split]:
    found = files()
    if not found:
        raise AutopermError(
            f"Fashion-MNIST is not installed: python benchmarks/data.py --install runs apt-get install {PACKAGE}; "
            "or use --data digits"
        )
    splits = []
    for images, labels in _FILES.values():
        pixels = read_idx(found[images]).float().div(255).unsqueeze(1)
        splits.append(_shuffled(Split(pixels, read_idx(found[labels]).long())))
    return splits[0], splits[1]


def _shuffled(split: Split) -> Split:
    order = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(0))
    return Split(split.images[order], split.labels[order])


def _shrunk(split: Split, size: int) -> Split:
    return Split(torch.nn.functional.adaptive_avg_pool2d(split.images, size), split.labels)


def main(install: Annotated[bool, typer.Option(help=f"apt-get install {PACKAGE}, about 30 MB")] = False) -> None:
    """Say which data there are; with --install, install Fashion-MNIST."""
    if install and not files():
        command = ["apt-get", "install", "--yes", "--no-install-recommends", PACKAGE]
        print("running", " ".join(command), flush=True)
        subprocess.run(command, check=True)
    print(f"{PACKAGE}:", "installed" if files() else f"not installed; --install runs apt-get install {PACKAGE}")
    data = load()
    print(f"auto is {data.name}: {len(data.train.labels)} training and {len(data.test.labels)} test images of {data.size} pixels")


if __name__ == "__main__":
    typer.run(main)
