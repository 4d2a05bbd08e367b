"""A model of a zoo: how to build it, and what to call it on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

#: Models of more parameters are traced on the meta device and not run.
LARGEST_RUN = 100_000_000


@dataclass(frozen=True)
class Entry:
    """One model.

    Attributes:
        name: unique within its source.
        family: models of a family are one architecture in several sizes; the smallest stands in for those too large to run.
        build: makes the module, on torch's default device.
        inputs: makes the example inputs from the module, as for :func:`autoperm.infer`.
        meta: only trace it, on the meta device (it is far too large to run).
        counted: build it on the meta device first, to count its parameters; off for modules that are small for sure.
        narrow: makes smaller versions of the module if there are any, the smallest first, for the automorphism oracle.
    """

    name: str
    family: str
    build: Callable[[], nn.Module]
    inputs: Callable[[nn.Module], Any]
    meta: bool = False
    counted: bool = True
    narrow: Callable[[], Iterable[nn.Module]] | None = None
