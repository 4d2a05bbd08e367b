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
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoperm.activations import Traces
from autoperm.batches import Pick, collected
from autoperm.caches import forget
from autoperm.capture import capture, split_inputs
from autoperm.capture.guard import untouched
from autoperm.errors import AutopermError, StateError
from autoperm.lockstep import run_nodes
from autoperm.matching.streams import Spread
from autoperm.merging.channels import Layer, Network, network
from autoperm.merging.combine import normalised
from autoperm.running import Progress, Run, running
from autoperm.state import check_pair, check_same_kind, state_of

logger = logging.getLogger(__name__)

State = Mapping[str, Tensor]


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

    The data is run once on the endpoints, and as often on the model as there are layers one after another; the batches
    are kept in memory for that. Some thousand samples are enough.

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
    shares = _check(model, endpoints, weights)
    states = [state_of(e, f"endpoints[{k}]") for k, e in enumerate(endpoints)]
    repaired = copy.deepcopy(model).eval()
    given = collected(data, inputs, max_batches)
    traces = Traces(lambda batch: network(capture(repaired, batch)))
    levels = _levels([traces.of(batch) for batch in given])
    with running("repair", total=sum(map(len, levels)), progress=progress) as run:
        _Repair(repaired, given, traces, run).all(levels, states, shares)
    forget(repaired, traces.of(given[0]).captured.caches)
    for module, before in zip(repaired.modules(), model.modules(), strict=True):
        module.training = before.training
    return repaired


def _check(model: nn.Module, endpoints: Sequence[nn.Module | State], weights: Sequence[float] | None) -> list[float]:
    if not isinstance(model, nn.Module):
        raise AutopermError(f"repair runs the model, but got a {type(model).__name__}: pass a module with the merged weights")
    if any(t.is_meta for t in (*model.parameters(), *model.buffers())):
        raise StateError("the model is on the meta device and has no values to repair; load its weights first")
    if isinstance(endpoints, (nn.Module, Mapping)) or not endpoints:
        raise AutopermError("endpoints must be a list of the models that the model was merged from, at least one")
    for k, endpoint in enumerate(endpoints):
        try:
            check_pair(model.state_dict(), state_of(endpoint))
            check_same_kind(model.state_dict(), state_of(endpoint))
        except StateError as error:
            raise StateError(f"the model and endpoints[{k}]: {error}") from error
    return normalised(weights, len(endpoints))


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
        self._norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]

    def all(self, levels: Sequence[Sequence[Layer]], states: Sequence[State], shares: Sequence[float]) -> None:
        """Repair the levels in order, with BatchNorm reset wherever a layer before it has changed.

        A run that is stopped leaves the layers that it has not measured on all batches as they are.
        """
        targets = self._targets([layer for level in levels for layer in level], states, shares)
        if self._run.stopped:
            return
        reset = -1  # the last level that was repaired when BatchNorm was reset
        for k, level in enumerate(levels):
            if max(layer.after for layer in level) > reset:
                self._reset_norms()
                reset = k
            if self._run.stopped:
                break
            (found,) = self._measure(level, [self._model.state_dict()])
            if self._run.stopped:
                break
            for layer in level:
                self._correct(layer, found[layer.weight], *targets[layer.weight])
                self._run.advance()
        if max(self._traces.of(self._data[0]).normalised, 0) > reset:
            self._reset_norms()

    def _measure(self, layers: Iterable[Layer], states: Sequence[State]) -> list[dict[str, Spread]]:
        """The statistics of layers on the data, for each state dict by the weights' names."""
        wanted = {layer.weight for layer in layers}
        found = [{name: Spread() for name in wanted} for _ in states]
        for batch in self._data:
            if self._run.stopped:
                return found
            traced = self._traces.of(batch)
            of_node = {layer.node: layer for layer in traced.layers if layer.weight in wanted}

            def see(node: str, values: list[Tensor], of_node: dict[str, Layer] = of_node) -> None:
                layer = of_node[node]
                for spreads, value in zip(found, values, strict=True):
                    spreads[layer.weight].add(layer.by_channel(value))

            run_nodes(traced.captured, states, batch, of_node, see)
        for layer in layers:
            if not all(bool(s[layer.weight].deviation.isfinite().all()) for s in found):
                raise StateError(f"values of {layer.node} in {layer.place} are not finite; check the data and the weights")
        return found

    def _targets(
        self, layers: Sequence[Layer], states: Sequence[State], shares: Sequence[float]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """For each layer the mean and the deviation of every channel, bias included, averaged over the endpoints."""
        found = self._measure(layers, states)
        targets = {}
        for layer in layers:
            means, deviations = [], []
            for spreads, state in zip(found, states, strict=True):
                spread = spreads[layer.weight]
                mean = spread.mean
                if layer.bias is not None and not layer.bias.inside:
                    mean = mean + layer.bias.by_channel(state[layer.bias.name])
                means.append(mean)
                deviations.append(spread.deviation)
            targets[layer.weight] = _average(means, shares), _average(deviations, shares).clamp_min(0)
        return targets

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

    def _reset_norms(self) -> None:
        """Compute the statistics of every BatchNorm module anew, as the average over the batches."""
        momenta = [norm.momentum for norm in self._norms]
        kept = [copy.deepcopy(dict(norm.named_buffers())) for norm in self._norms]
        for norm in self._norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        try:
            self._forward()
        finally:
            for norm, momentum in zip(self._norms, momenta, strict=True):
                norm.momentum = momentum
                norm.eval()
        for norm, buffers in zip(self._norms, kept, strict=True):
            if not norm.num_batches_tracked:  # the forward does not use it
                for name, value in buffers.items():
                    norm.get_buffer(name).copy_(value)

    @torch.no_grad()
    def _forward(self) -> None:
        if not self._norms:
            return
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for batch in self._data:
                args, kwargs = split_inputs(batch)
                try:
                    with untouched(self._model):
                        self._model(*args, **kwargs)
                except ValueError as error:  # one value per channel has no variance
                    raise AutopermError(f"BatchNorm's statistics cannot be reset on the data: {error}") from error


def _average(values: Iterable[Tensor], shares: Sequence[float]) -> Tensor:
    return torch.stack([share * value for share, value in zip(shares, values, strict=True)]).sum(0)
