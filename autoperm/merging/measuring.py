"""The statistics of layers on data, for REPAIR."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from autoperm.activations import Traces
from autoperm.errors import StateError
from autoperm.lockstep import run_nodes
from autoperm.matching.streams import Spread
from autoperm.merging.channels import Layer, Network
from autoperm.running import Run

State = Mapping[str, Tensor]

#: The most bytes of values between layers that are kept on the way through a model. Where there are more, or BatchNorm
#: changes them, they are computed from the inputs again.
KEPT_BYTES = 2**30


def measure(
    layers: Iterable[Layer], states: Sequence[State], data: Sequence[Any], traces: Traces[Network], run: Run
) -> list[dict[str, Spread]]:
    """The statistics of layers for each state dict, by the weights' names; not of all data if the run is stopped.

    Raises:
        StateError: values are not finite.
    """
    layers = list(layers)
    found = [{layer.weight: Spread() for layer in layers} for _ in states]
    for batch in data:
        if run.stopped:
            return found
        _see(layers, states, batch, traces.of(batch), found)
    _check(layers, found)
    return found


class Walk:
    """One model, measured level by level while layers below change no more."""

    def __init__(self, data: Sequence[Any], traces: Traces[Network], run: Run):
        self._data, self._traces, self._run = data, traces, run
        self._known: list[dict[fx.Node, Any]] = [{} for _ in data]

    def forget(self) -> None:
        """Compute all values from the inputs again: something below has changed."""
        self._known = [{} for _ in self._data]

    def measure(self, layers: Sequence[Layer], state: State) -> dict[str, Spread]:
        """The statistics of the layers of one level; those below it have their last weights."""
        found = [{layer.weight: Spread() for layer in layers}]
        borders: list[tuple[Network, set[fx.Node]]] = []  # of the last trace: batches are mostly of one shape
        room = KEPT_BYTES
        for k, batch in enumerate(self._data):
            if self._run.stopped:
                return found[0]
            traced = self._traces.of(batch)
            if not borders or borders[0][0] is not traced:
                borders = [(traced, traced.border(layers[0].level))]
            (kept,) = _see(layers, [state], batch, traced, found, [self._known[k]], borders[0][1])
            room -= _bytes(kept)
            self._known[k] = kept if room >= 0 else {}
        _check(layers, found)
        return found[0]


def _see(
    layers: Sequence[Layer],
    states: Sequence[State],
    batch: Any,
    traced: Network,
    found: Sequence[Mapping[str, Spread]],
    known: Sequence[Mapping[fx.Node, Any]] | None = None,
    keep: Collection[fx.Node] = (),
) -> list[dict[fx.Node, Any]]:
    """Add a batch to the statistics."""
    wanted = {layer.weight for layer in layers}
    of_node = {layer.node: layer for layer in traced.layers if layer.weight in wanted}

    def see(node: str, values: list[Tensor]) -> None:
        layer = of_node[node]
        for spreads, value in zip(found, values, strict=True):
            spreads[layer.weight].add(layer.by_channel(value))

    return run_nodes(traced.captured, states, batch, of_node, see, known=known, keep=keep)


def _bytes(values: Mapping[fx.Node, Any]) -> int:
    leaves = pytree.tree_leaves(list(values.values()))
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves if isinstance(leaf, Tensor))


def _check(layers: Iterable[Layer], found: Sequence[Mapping[str, Spread]]) -> None:
    for layer in layers:
        if not all(bool(s[layer.weight].deviation.isfinite().all()) for s in found):
            raise StateError(f"values of {layer.node} in {layer.place} are not finite; check the data and the weights")
