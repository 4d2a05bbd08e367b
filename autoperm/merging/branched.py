"""One trunk and both heads: what a zip that stops early is run as.

The graph of the model is cut. Nodes of the trunk are computed once, with merged weights; where a head begins, each model's
units are read off the merged ones, and its own weights take it from there.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from autoperm.activations import Taps, Traces
from autoperm.capture.inputs import Inputs, flatten_inputs
from autoperm.errors import AutopermError
from autoperm.merging.cut import Cut
from autoperm.merging.mixing import Mixer
from autoperm.merging.roles import Roles
from autoperm.merging.splice import Spliced, splice
from autoperm.spec import PermutationSpec

logger = logging.getLogger(__name__)


class Branched(nn.Module):
    """Both models, their first layers merged.

    Called as the models are, it returns the outputs of both heads, in the models' order: of each the tensor, or the tuple of
    tensors where the model returns several (see ``outputs``). It computes as in eval mode, and can be trained further. On
    batches of new shapes the model is traced again. Its state dict can be saved, the module itself cannot.

    The state dict has each weight that the trunk uses once, as ``trunk.`` and its name in the model, and those that the heads
    use as ``heads.0.`` and ``heads.1.`` and the name; a weight may be in both.

    Attributes:
        trunk: the merged weights.
        heads: the first and the second model's own ones.
        outputs: where each tensor is in the model's output, such as ``output.logits``.
        weights: one per model, summing to one.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: PermutationSpec,
        part: Roles,
        states: Sequence[Mapping[str, Tensor]],
        mixer: Mixer,
        chosen: Sequence[int],
        labels: Mapping[int, np.ndarray],
        shares: Sequence[float],
        batch: Any,
    ):
        super().__init__()
        self.weights = tuple(shares)
        names = {home: name for name, home in reversed(list(spec.aliases.items())) if name in states[0]}
        self._how = functools.partial(_tracer, spec=spec, part=part, chosen=set(chosen), labels=labels, names=names)
        self._trace(copy.deepcopy(network))
        spliced = self._traces.of(batch)
        self.outputs = tuple(spliced.outputs)
        self.trunk, self.heads = _Weights(), nn.ModuleList([_Weights(), _Weights()])
        parameters = {names[home] for home in spec.parameters}
        for where, name in spliced.weights:
            if where is None:
                self.trunk.put(name, mixer.merged(spec.aliases[name], [s[name] for s in states]), name in parameters)
            else:
                self._head(where).put(name, states[where][name].detach().clone(), name in parameters)
        self.eval()

    def _trace(self, network: nn.Module) -> None:
        self._network = (network,)  # no submodule: it is only there to be traced
        self._traces: Traces[Spliced] = Traces(self._how(network))

    def _apply(self, fn: Any, recurse: bool = True) -> Branched:
        """To another dtype or device, as ``double()`` and ``to()`` do: what is traced goes along."""
        super()._apply(fn, recurse)
        self._trace(copy.deepcopy(self._network[0])._apply(fn))
        return self

    def _head(self, k: int) -> _Weights:
        return self.heads[k]  # type: ignore[return-value]

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """The outputs of both heads."""
        batch = Inputs(*args, **kwargs)
        spliced = self.spliced(batch)
        found = spliced.module(*self.values(spliced), *flatten_inputs(batch).tensors)
        each = len(spliced.outputs)
        first, second = found[:each], found[each:]
        return (first[0], second[0]) if each == 1 else (tuple(first), tuple(second))

    def spliced(self, batch: Any) -> Spliced:
        """The graph for batches of these shapes."""
        return self._traces.of(batch)

    def values(self, spliced: Spliced) -> list[Tensor]:
        """The weights that a graph takes."""
        return [self.value(where, name) for where, name in spliced.weights]

    def mean(self, *args: Any, **kwargs: Any) -> Any:
        """The mean of both heads' outputs by weight, of logits for example."""
        first, second = self(*args, **kwargs)
        if isinstance(first, Tensor):
            return self._mean(first, second)
        return tuple(self._mean(x, y) for x, y in zip(first, second, strict=True))

    def _mean(self, x: Tensor, y: Tensor) -> Tensor:
        return self.weights[0] * x + self.weights[1] * y

    def value(self, where: int | None, name: str) -> Tensor:
        """A weight of the trunk (None) or of a head by its name in the model."""
        try:
            return (self.trunk if where is None else self._head(where)).get(name)
        except AttributeError as error:
            raise AutopermError(
                f"on inputs of these shapes the model also uses {name}, which it did not on the data it was zipped on; zip on "
                "data of these shapes"
            ) from error

    def __deepcopy__(self, memo: dict[int, Any]) -> Branched:
        new = self.__class__.__new__(self.__class__)
        memo[id(self)] = new
        for key, value in self.__dict__.items():  # traces hold no weights: copies share them
            new.__dict__[key] = value if key in ("_traces", "_how", "_network") else copy.deepcopy(value, memo)
        return new


class _Weights(nn.Module):
    """Weights by their names in a model; ``layer.0.weight`` is in a child of a child."""

    def put(self, name: str, tensor: Tensor, trained: bool) -> None:
        *path, last = name.split(".")
        home: nn.Module = self
        for step in path:
            if step not in home._modules:
                home.add_module(step, _Weights())
            home = home._modules[step]  # type: ignore[assignment]
        if trained:
            home.register_parameter(last, nn.Parameter(tensor, requires_grad=tensor.is_floating_point() or tensor.is_complex()))
        else:
            home.register_buffer(last, tensor)

    def get(self, name: str) -> Tensor:
        path, _, last = name.rpartition(".")
        return getattr(self.get_submodule(path), last)


def _tracer(
    network: nn.Module,
    spec: PermutationSpec,
    part: Roles,
    chosen: set[int],
    labels: Mapping[int, np.ndarray],
    names: Mapping[str, str],
) -> Callable[[Any], Spliced]:
    def trace(batch: Any) -> Spliced:
        taps = Taps(network, spec, batch)
        cut = Cut(taps, spec, part, chosen)
        logger.debug("%d nodes of %d are in the trunk", len(cut.trunk), len(taps.captured.graph.nodes))
        return splice(taps, spec, cut, labels, names)

    return trace
