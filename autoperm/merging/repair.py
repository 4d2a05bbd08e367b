"""REPAIR: the statistics of a merged model brought to those of what it was merged from (Jordan et al., ICLR 2023).

Averaged weights answer with less variance than the models they are the average of, the more so the deeper. BatchNorm's
statistics are computed anew. Elsewhere every channel of a linear layer is scaled and shifted to the mean and the standard
deviation that it has in the models on average, layer after layer, so that each layer sees repaired inputs.
"""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoperm.activations import Traces
from autoperm.batches import Pick, collected
from autoperm.caches import forget
from autoperm.capture import capture
from autoperm.errors import AutopermError, StateError
from autoperm.matching.streams import Spread
from autoperm.merging.batchnorm import norms_with_statistics, reset_statistics
from autoperm.merging.channels import Layer, Network, network
from autoperm.merging.combine import normalised
from autoperm.merging.measuring import State, Walk, measure
from autoperm.running import Progress, Run, running
from autoperm.state import check_pair, check_same_kind, state_of

logger = logging.getLogger(__name__)


def repair(
    model: nn.Module,
    endpoints: Sequence[nn.Module | State],
    data: Iterable[Any],
    *,
    weights: Sequence[float] | None = None,
    inputs: Pick | None = None,
    max_batches: int | None = None,
    progress: Progress = True,
) -> nn.Module:
    """A copy of a merged model with its statistics repaired on data.

    Wherever there is BatchNorm its statistics are reset: the average over the batches, each normalised by its own, as in
    training. Every other linear layer or convolution whose weight is a parameter that nothing else uses gets the mean and
    the standard deviation of each output channel that the endpoints have, averaged by weight: rows of the weight are
    scaled, the bias is shifted. A layer without a bias of its own keeps its mean. One that feeds nothing but BatchNorm is
    left alone. All models run in eval mode.

    The data is run once on the endpoints and twice on the model, layer after layer; the batches are kept in memory for
    that, and up to a gigabyte of values between layers, beyond which layers are run again for those after them. Some
    thousand samples are enough. Where many models are merged from the same endpoints, :class:`Repairer` measures those once.

    Arguments:
        model: the merged model; it is not changed.
        endpoints: the models that it was merged from, modules or state dicts, in the model's order: permuted ones.
        data: batches of what the model's forward takes: a tensor, a tuple of positional arguments, a dict of keyword
            arguments.
        weights: one per endpoint, by default equal; they are divided by their sum.
        inputs: picks from a batch what the forward takes, such as ``lambda batch: batch[0]`` where it holds labels too.
        max_batches: the most batches to use; None for all.
        progress: False for no bar, or a function that is called after each layer with how many are done, and NaN. Where
            Ctrl-C ends the run, later layers are as they were.

    Raises:
        AutopermError: the model is no module, there is no endpoint or no data, or weights cannot be normalised.
        CaptureError: a batch does not fit the model.
        StateError: an endpoint has other keys or shapes than the model, or a channel's values are not finite.

    Example:
        >>> import torch, autoperm
        >>> from autoperm.merging import repair
        >>> a, b = (torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)) for _ in "ab")
        >>> spec = autoperm.infer(a, torch.zeros(1, 4))
        >>> b = autoperm.align(a, b, spec=spec)
        >>> x = torch.randn(256, 4)
        >>> middle = autoperm.merge([a, b], spec, align="none").model
        >>> repaired = repair(middle, [a, b], [x])
        >>> torch.allclose(repaired(x).std(0), (a(x).std(0) + b(x).std(0)) / 2, atol=1e-4)
        True
    """
    return Repairer(endpoints, data, template=model, inputs=inputs, max_batches=max_batches)(
        model, weights=weights, progress=progress
    )


class Repairer:
    """Repairs models merged from the same endpoints, such as those on the line between them.

    The endpoints are measured once, when it is called first.

    Arguments:
        endpoints: the models to be merged, modules or state dicts, in one order: permuted ones.
        data: batches, as for :func:`repair`; they are kept in memory.
        template: a module of their architecture, needed where they are state dicts.
        inputs: picks from a batch what the forward takes.
        max_batches: the most batches to use; None for all.

    Raises:
        AutopermError: there is no endpoint or no data, or no module.
        CaptureError: a batch does not fit the models.
        StateError: an endpoint has other keys or shapes than the template.

    Example:
        >>> import torch, autoperm
        >>> from autoperm.merging import Repairer
        >>> a, b = (torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)) for _ in "ab")
        >>> spec = autoperm.infer(a, torch.zeros(1, 4))
        >>> repaired = Repairer([a, b], [torch.randn(256, 4)])
        >>> for share in (0.25, 0.5, 0.75):
        ...     merged = autoperm.merge([a, b], spec, align="none", weights=[1 - share, share]).model
        ...     merged = repaired(merged, weights=[1 - share, share])
    """

    def __init__(
        self,
        endpoints: Sequence[nn.Module | State],
        data: Iterable[Any],
        *,
        template: nn.Module | None = None,
        inputs: Pick | None = None,
        max_batches: int | None = None,
    ):
        self._template = _copy(_template(endpoints, template))
        self._endpoints = [_state(e, f"endpoints[{k}]", "the model and", self._template) for k, e in enumerate(endpoints)]
        self._data = collected(data, inputs, max_batches)
        self._traces = Traces(lambda batch: network(capture(self._template, batch)))
        self._levels = _levels([self._traces.of(batch) for batch in self._data])
        self._measured: dict[str, _Measured] = {}

    def __call__(
        self, model: nn.Module, *, weights: Sequence[float] | None = None, progress: Progress = True
    ) -> nn.Module:
        """A repaired copy of a merged model.

        Arguments:
            model: merged from the endpoints; it is not changed.
            weights: one per endpoint, as for :func:`repair`.
            progress: as for :func:`repair`.

        Raises:
            AutopermError: the model is no module, or weights cannot be normalised.
            StateError: the model has other keys or shapes than the endpoints, or a channel's values are not finite.
        """
        repaired = _copy(model)
        _state(model, "the model", "the endpoints and", self._template)
        shares = normalised(weights, len(self._endpoints))
        with running("repair", total=sum(map(len, self._levels)), progress=progress) as run:
            self._measured = self._measured or self._measure(run)
            if not run.stopped:
                targets = {name: layer.target(shares) for name, layer in self._measured.items()}
                _Repair(repaired, self._data, self._traces, run).all(self._levels, targets)
        forget(repaired, self._traces.of(self._data[0]).captured.caches)
        for module, before in zip(repaired.modules(), model.modules(), strict=True):
            module.training = before.training
        return repaired

    def _measure(self, run: Run) -> dict[str, _Measured]:
        """Every layer of the endpoints, by its weight's name; nothing if the run is stopped."""
        layers = [layer for level in self._levels for layer in level]
        found = measure(layers, self._endpoints, self._data, self._traces, run)
        if run.stopped:
            return {}
        return {layer.weight: _measured(layer, [s[layer.weight] for s in found], self._endpoints) for layer in layers}


@dataclass(frozen=True)
class _Measured:
    """The channels of a layer, bias included, in every endpoint; shape (endpoints, channels) each."""

    means: Tensor
    deviations: Tensor

    def target(self, shares: Sequence[float]) -> tuple[Tensor, Tensor]:
        """The mean and the deviation that a merged model's channels should have."""
        weights = torch.tensor(shares, dtype=torch.float64, device=self.means.device)
        return weights @ self.means, (weights @ self.deviations).clamp_min(0)


def _measured(layer: Layer, spreads: Sequence[Spread], states: Sequence[State]) -> _Measured:
    means = [spread.mean for spread in spreads]
    if layer.bias is not None and not layer.bias.inside:
        biases = (layer.bias.by_channel(state[layer.bias.name]) for state in states)
        means = [mean + bias for mean, bias in zip(means, biases, strict=True)]
    return _Measured(torch.stack(means), torch.stack([spread.deviation for spread in spreads]))


def _copy(model: Any) -> nn.Module:
    """A copy in eval mode."""
    if not isinstance(model, nn.Module):
        raise AutopermError(f"repair runs the model, but got a {type(model).__name__}: pass a module with the merged weights")
    if any(t.is_meta for t in (*model.parameters(), *model.buffers())):
        raise StateError("the model is on the meta device and has no values to repair; load its weights first")
    return copy.deepcopy(model).eval()


def _template(endpoints: Sequence[nn.Module | State], template: nn.Module | None) -> nn.Module:
    if isinstance(endpoints, (nn.Module, Mapping)) or not endpoints:
        raise AutopermError("endpoints must be a list of the models that the model was merged from, at least one")
    found = template if template is not None else next((e for e in endpoints if isinstance(e, nn.Module)), None)
    if found is None:
        raise AutopermError("the endpoints are state dicts: pass template=, a module of their architecture")
    return found


def _state(model: nn.Module | State, what: str, beside: str, template: nn.Module) -> State:
    """The model's state dict, of the template's architecture; messages speak of what it is beside what."""
    state, like = state_of(model, what), template.state_dict()
    try:
        check_pair(like, state)
        check_same_kind(like, state)
    except StateError as error:
        raise StateError(f"{beside} {what}: {error}") from error
    return state


def _levels(networks: Sequence[Network]) -> list[list[Layer]]:
    """The layers level by level; the same ones must be there on batches of all shapes."""
    names = [[layer.weight for layer in found.layers] for found in networks]
    if any(other != names[0] for other in names):
        raise AutopermError(
            "on batches of another shape the model computes other things; pass batches of one shape (a data loader's "
            "drop_last=True leaves out a smaller last one)"
        )
    ordered = sorted(networks[0].layers, key=lambda layer: layer.level)
    return [list(group) for _, group in itertools.groupby(ordered, key=lambda layer: layer.level)]


class _Repair:
    """The model while it is repaired, and the batches."""

    def __init__(self, model: nn.Module, data: Sequence[Any], traces: Traces[Network], run: Run):
        self._model, self._data, self._traces, self._run = model, data, traces, run
        self._parameters = dict(model.named_parameters(remove_duplicate=False))
        self._norms = norms_with_statistics(model)

    def all(self, levels: Sequence[Sequence[Layer]], targets: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Repair the levels in order, with BatchNorm reset wherever a layer before it has changed.

        A run that is stopped leaves the layers that it has not measured on all batches as they are.
        """
        walk = Walk(self._data, self._traces, self._run)
        reset = -1  # the last level that was repaired when BatchNorm was reset
        for k, level in enumerate(levels):
            if self._norms and max(layer.after for layer in level) > reset:
                reset_statistics(self._model, self._norms, self._data)
                walk.forget()
                reset = k
            if self._run.stopped:
                break
            found = walk.measure(level, self._model.state_dict())
            if self._run.stopped:
                break
            for layer in level:
                self._correct(layer, found[layer.weight], *targets[layer.weight])
                self._run.advance()
        if self._norms and max(self._traces.of(self._data[0]).normalised, 0) > reset:
            reset_statistics(self._model, self._norms, self._data)

    @torch.no_grad()
    def _correct(self, layer: Layer, found: Spread, mean: Tensor, deviation: Tensor) -> None:
        """Scale a layer's weight and shift its bias so that its channels get a mean and a deviation."""
        weight = self._parameters[layer.weight]
        noise = 4 * torch.finfo(weight.dtype).eps * found.mean.abs()
        constant = found.deviation <= noise.clamp_min(torch.finfo(torch.float64).tiny)
        scale = torch.where(constant, 1.0, deviation / found.deviation)
        weight.copy_(weight.double() * scale[layer.of_weight.to(scale.device)])
        if layer.bias is None:
            logger.info("%s has no bias of its own: its channels get the deviation, not the mean", layer.weight)
            return
        bias = self._parameters[layer.bias.name]
        without = found.mean - layer.bias.by_channel(bias) if layer.bias.inside else found.mean
        bias.copy_((mean - scale * without)[layer.bias.channels.to(scale.device)])
