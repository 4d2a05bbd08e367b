"""The statistics of BatchNorm computed anew."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoperm.capture import split_inputs
from autoperm.capture.guard import untouched
from autoperm.errors import AutopermError


def norms_with_statistics(model: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm modules that keep running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def reset_statistics(model: nn.Module, norms: Sequence[_BatchNorm], data: Sequence[Any]) -> None:
    """Make the statistics of norms the average over batches, in place; those that the forward does not use stay.

    Arguments:
        model: in eval mode; only the norms are in training mode while it runs.
        norms: some of its modules.
        data: what the model's forward takes, batch by batch.

    Raises:
        AutopermError: a batch has one value per channel, which has no variance.
    """
    momenta = [norm.momentum for norm in norms]
    kept = [copy.deepcopy(dict(norm.named_buffers())) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        _forward(model, data)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
    for norm, buffers in zip(norms, kept, strict=True):
        if not norm.num_batches_tracked:  # the forward does not use it
            for name, value in buffers.items():
                norm.get_buffer(name).copy_(value)


@torch.no_grad()
def _forward(model: nn.Module, data: Sequence[Any]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for batch in data:
            args, kwargs = split_inputs(batch)
            try:
                with untouched(model):
                    model(*args, **kwargs)
            except ValueError as error:
                raise AutopermError(f"BatchNorm's statistics cannot be reset on the data: {error}") from error
