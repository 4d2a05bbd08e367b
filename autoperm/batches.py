"""Batches of data: what a model's forward takes, one after another."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from autoperm.capture.guard import same_random_state
from autoperm.errors import AutopermError
from autoperm.options import check_number

#: Picks from a batch what the model's forward takes.
Pick = Callable[[Any], Any]


def batches(data: Iterable[Any], inputs: Pick | None = None, max_batches: int | None = None) -> Iterator[Any]:
    """The inputs of every batch of some data.

    Raises:
        AutopermError: the data is not batches, or there are none.
    """
    if isinstance(data, (torch.Tensor, Mapping, str)) or not isinstance(data, Iterable):
        raise AutopermError(f"data must be batches, such as a list or a data loader, not one {type(data).__name__}; pass [data]")
    if inputs is not None and not callable(inputs):
        raise AutopermError(f"inputs must be a function of a batch, such as lambda batch: batch[0], not {inputs!r}")
    if max_batches is not None:
        check_number("max_batches", max_batches, whole=True)
        if max_batches < 1:
            raise AutopermError(f"max_batches must be at least 1, or None for all, not {max_batches}")
    return _batches(data, inputs, max_batches)


def collected(data: Iterable[Any], inputs: Pick | None = None, max_batches: int | None = None) -> list[Any]:
    """All of :func:`batches`; a loader that shuffles gives the same ones each time, and torch's random state stays.

    Raises:
        AutopermError: the data is not batches, or there are none.
    """
    with same_random_state():
        torch.manual_seed(0)
        return list(batches(data, inputs, max_batches))


def _batches(data: Iterable[Any], inputs: Pick | None, max_batches: int | None) -> Iterator[Any]:
    count = 0
    for batch in itertools.islice(data, max_batches):
        count += 1
        picked = batch if inputs is None else inputs(batch)
        if isinstance(picked, torch.Tensor) and not picked.numel():
            raise AutopermError(f"batch {count} of the data is empty: its shape is {tuple(picked.shape)}")
        yield picked
    if not count:
        raise AutopermError(
            "data gave no batch: it is empty, or an iterator that was used up before; pass a list or a data loader"
        )


def count_of(data: Iterable[Any], max_batches: int | None = None) -> int | None:
    """How many batches there will be, None where that is not known."""
    try:
        count = len(data)  # type: ignore[arg-type]
    except TypeError:
        return max_batches
    return count if max_batches is None else min(count, max_batches)
