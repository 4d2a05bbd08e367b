"""The zoos. Each module has ``entries(full)``, which lists its models without building any."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from benchmarks.zoo.entry import Entry

SOURCES = ("torchvision", "timm", "transformers", "diffusers", "torch_geometric", "open_clip", "smp", "torch_nn", "classics")


def entries(source: str, full: bool = False) -> Sequence[Entry]:
    """The models of a source.

    Raises:
        ImportError: its package is not there.
    """
    packages = os.environ.get("ZOO_PACKAGES", "/tmp/zoo-packages")
    if packages not in sys.path:
        sys.path.append(packages)  # last: what the environment has is used
    return importlib.import_module(f"benchmarks.zoo.sources.{source}_").entries(full)
