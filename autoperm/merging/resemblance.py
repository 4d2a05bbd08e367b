"""How much the units of two models are alike, all 2n of each group, in one pass over data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoperm.activations import Activation, Taps, Traces
from autoperm.errors import AutopermError, StateError
from autoperm.matching.sources import Source, rows, sources
from autoperm.matching.streams import Moments
from autoperm.merging.pairing import similarity
from autoperm.running import Progress, running
from autoperm.spec import PermutationSpec

State = Mapping[str, Tensor]


def resemblances(
    network: nn.Module,
    spec: PermutationSpec,
    states: Sequence[State],
    groups: Sequence[int],
    samples: Sequence[Any],
    progress: Progress,
) -> tuple[dict[int, np.ndarray], bool]:
    """For each group the mean likeness over the activations that show it, shape (2n, 2n), and whether Ctrl-C was pressed.

    Raises:
        AutopermError: fewer than 2 samples.
        StateError: an activation is not finite.
    """
    if not groups:
        return {}, False
    streams = _Streams(states, groups)
    traces = Traces(lambda batch: _Chosen(Taps(network, spec, batch), groups))
    with running("zip", total=len(samples), progress=progress) as run:
        for batch in samples:
            streams.add(traces.of(batch), batch)
            run.advance()
            if run.stopped:
                break
    return streams.means(), run.stopped


class _Chosen:
    """The activations to look at in one trace, by node."""

    def __init__(self, taps: Taps, groups: Sequence[int]):
        self.taps = taps
        self.of_node: dict[str, list[Source]] = {}
        for source in sources(taps):
            if source.group in groups:
                self.of_node.setdefault(source.activation.node, []).append(source)
        self.keys = {source.key for found in self.of_node.values() for source in found}


class _Streams:
    """The moments of every source, rows of both models after one another."""

    def __init__(self, states: Sequence[State], groups: Sequence[int]):
        self._states, self._groups = states, groups
        self._moments: dict[tuple[int, str, str], Moments] = {}

    def add(self, chosen: _Chosen, batch: Any) -> None:
        """Run both models on a batch, and take in its samples."""
        self._moments = self._moments or {key: Moments() for key in chosen.keys}
        if chosen.keys != self._moments.keys():
            raise AutopermError(
                "on batches of another shape the model computes other things, whose statistics cannot be put together; "
                "pass batches of one shape (a data loader's drop_last=True leaves out a smaller last one)"
            )
        taps = chosen.taps

        def see(node: str, values: list[Tensor]) -> None:
            _check_finite(taps.activations[node], values)
            for source in chosen.of_node[node]:
                both = torch.cat([rows(taps.action, source, value) for value in values], dim=1)
                self._moments[source.key].add(both, both, precision=torch.finfo(values[0].dtype).eps)

        taps.run(self._states, batch, chosen.of_node, see)

    def means(self) -> dict[int, np.ndarray]:
        """The mean over the sources of each group."""
        found: dict[int, list[np.ndarray]] = {}
        for key in sorted(self._moments):
            moments = self._moments.pop(key)
            if moments.count < 2:
                raise AutopermError(
                    f"a correlation needs 2 samples or more, but the data gave {moments.count} at node {key[1]}; pass more data"
                )
            found.setdefault(key[0], []).append(similarity(moments))
        return {g: np.mean(several, axis=0) for g, several in found.items()}


def _check_finite(found: Activation, values: Sequence[Tensor]) -> None:
    for k, value in enumerate(values):
        bad = int((~value.isfinite()).sum())
        if bad:
            place = found.place or "the forward of the model itself"
            raise StateError(
                f"models[{k}]: {bad} of {value.numel()} entries of the activations at node {found.node} ({found.op}) in {place} "
                "are not finite; check the data and the weights"
            )
