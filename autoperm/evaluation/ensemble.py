"""Ensembles: what a merge of several classifiers is compared with."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from autoperm.errors import AutopermError

_AVERAGES = ("probabilities", "logits")


class Ensemble(nn.Module):
    """Copies of several classifiers, run side by side; see :func:`ensemble`."""

    def __init__(self, models: Sequence[nn.Module], average: str, dim: int):
        super().__init__()
        self.models = nn.ModuleList(copy.deepcopy(model) for model in models)
        self.average, self.dim = average, dim

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        total, first = None, None
        for k, model in enumerate(self.models):
            output = _tensor(k, model(*args, **kwargs))
            first = output if first is None else first
            if output.shape != first.shape:
                raise AutopermError(f"model {k} returned shape {tuple(output.shape)}, model 0 {tuple(first.shape)}")
            total = self._joined(total, output.to(torch.promote_types(output.dtype, torch.float32)))
        if total is None or first is None:
            raise AutopermError("the ensemble holds no models")
        n = len(self.models)
        return (total / n if self.average == "logits" else total - math.log(n)).to(first.dtype)

    def _joined(self, total: torch.Tensor | None, output: torch.Tensor) -> torch.Tensor:
        if self.average == "logits":
            return output if total is None else total + output
        output = output.log_softmax(self.dim)
        return output if total is None else torch.logaddexp(total, output)

    def extra_repr(self) -> str:
        return f"average={self.average!r}, dim={self.dim}"


def ensemble(models: Sequence[nn.Module], *, average: str = "probabilities", dim: int = -1) -> Ensemble:
    """A module that averages what several classifiers predict.

    Its output can stand wherever one of the classifiers' can: in a cross-entropy, under an argmax, in
    :func:`autoperm.evaluation.calibration`.

    Arguments:
        models: modules that return logits, a tensor of the same shape each. They are copied.
        average: ``"probabilities"`` returns the logarithm of the mean of the softmaxes, which is the mean prediction;
            ``"logits"`` returns the mean of the logits, the geometric mean of the predictions up to its normaliser.
        dim: the dimension of the classes.

    Raises:
        AutopermError: no models, something else than modules, an unknown average; in the forward, outputs that are not
            tensors or differ in shape.

    Example:
        >>> import torch
        >>> from autoperm.evaluation import ensemble
        >>> a, b = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
        >>> x = torch.randn(4, 2)
        >>> mean = (a(x).softmax(-1) + b(x).softmax(-1)) / 2
        >>> torch.allclose(ensemble([a, b])(x).exp(), mean, atol=1e-6)
        True
    """
    if isinstance(models, nn.Module) and not isinstance(models, nn.ModuleList):
        raise AutopermError(f"an ensemble needs a list of models, got one {type(models).__name__}")
    models = list(models)
    if average not in _AVERAGES:
        raise AutopermError(f"average must be {' or '.join(map(repr, _AVERAGES))}, not {average!r}")
    if not models:
        raise AutopermError("an ensemble needs at least one model")
    for k, model in enumerate(models):
        if not isinstance(model, nn.Module):
            raise AutopermError(f"model {k} of the ensemble is a {type(model).__name__}; load state dicts into modules first")
    return Ensemble(models, average, dim).eval()


def _tensor(k: int, output: Any) -> torch.Tensor:
    if not isinstance(output, torch.Tensor):
        raise AutopermError(
            f"model {k} returned a {type(output).__name__}; an ensemble averages tensors, so wrap the models to return logits"
        )
    return output
