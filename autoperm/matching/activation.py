"""Activation matching: units that answer alike to the same data (Ainsworth, Hayase and Srinivasa, ICLR 2023, 3.1).

Both models are run once over the data. For every group the correlations of all pairs of units are accumulated, of heads
with their dimensions at once, and the best permutation is an assignment: no order of layers, nothing iterated. Further
rounds, which the paper does not have, refine it layer by layer (:mod:`autoperm.matching.lending`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from autoperm.activations import Activation, Taps, Traces
from autoperm.batches import Pick, batches, count_of
from autoperm.errors import AutopermError, StateError
from autoperm.matching.lending import lenders
from autoperm.matching.nested import solve
from autoperm.matching.problem import Problem
from autoperm.matching.registry import Match, matcher
from autoperm.matching.sources import Source, rows, sources
from autoperm.matching.steps import single_step, wreath_step
from autoperm.matching.streams import Moments
from autoperm.matching.weight import blocks
from autoperm.running import Progress, running

#: The most rounds over groups that no activation shows.
_ROUNDS = 20

#: A spread of scores, relative to their size, that says nothing about the order of units.
_FLAT = 1e-6

Key = tuple[int, str, str]


@matcher("activation")
def activation_matching(
    problem: Problem,
    *,
    seed: int = 0,
    data: Iterable[Any],
    statistic: str = "correlation",
    inputs: Pick | None = None,
    max_batches: int | None = None,
    rounds: int = 0,
    progress: Progress = True,
) -> Match:
    """Match every group by the activations that show it, in one pass over the data.

    With ``rounds``, the data are gone through again: every layer of model b, as it is permuted so far, then reads what
    that layer of model a reads, so that the differences of all the layers before it do not add up. Groups that are not
    matched count as being in order. Rounds end when nothing moves. They are for copies that were changed (by noise, by
    fine-tuning): a layer of an independently trained model does not do the same with model a's values, and rounds make
    its match worse (on digits, a barrier of 0.17 became 0.96 for a small ResNet).

    Both models run in eval mode. Groups that no activation shows (factors of a weight, say), and those whose units answer
    all alike, are matched by weights, once the others are.

    Arguments:
        seed: not used; nothing is random.
        data: batches of what the model's forward takes: a tensor, a tuple of positional arguments, a dict of keyword
            arguments. A list or a data loader; an iterator is used up.
        statistic: ``"correlation"`` of two units over the samples, or their ``"inner"`` product, which large units
            dominate.
        inputs: picks from a batch what the forward takes, such as ``lambda batch: batch[0]`` where it holds labels too.
        max_batches: the most batches to use; None for all.
        rounds: the most further passes over the data, which must be a list or a data loader.
        progress: False for no bar, or a function that is called after each batch with its number and NaN; every pass has
            a bar of its own.

    Returns:
        The match; its history is the weights' objective before and after, and after every further round.

    Raises:
        AutopermError: no data, fewer than 2 samples of an activation for a correlation, two state dicts and no template, or
            an iterator for more than one pass.
        CaptureError: a batch does not fit the model.
        StateError: an activation is not finite; the node is named.
        SpecError: on the data's shapes, the model has another spec.

    Example:
        >>> import torch, autoperm
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = autoperm.infer(mlp, torch.zeros(1, 4))
        >>> data = [torch.randn(16, 4) for _ in range(4)]
        >>> shuffled = spec.random(1).apply(mlp)
        >>> autoperm.match(mlp, shuffled, spec, method="activation", data=data).distance
        0.0
    """
    if statistic not in ("correlation", "inner"):
        raise AutopermError(f'statistic must be "correlation" or "inner", not {statistic!r}')
    if rounds and isinstance(data, Iterator):
        raise AutopermError(
            f"{rounds} further rounds go through the data again, but an iterator is used up by one; pass a list or a data loader"
        )
    passes = _Passes(problem, data, inputs, max_batches, statistic, progress)
    history = [problem.objective]
    interrupted = passes.one()
    history.append(problem.objective)
    for _ in range(rounds):
        before = problem.permutation
        if interrupted or (interrupted := passes.one(refine=True)):
            break
        history.append(problem.objective)
        if problem.permutation == before:
            break
    return Match(problem.permutation, problem.objective, problem.distance, tuple(history), interrupted)


@dataclass(frozen=True)
class _Passes:
    """What passes over the data need."""

    problem: Problem
    data: Iterable[Any]
    inputs: Pick | None
    max_batches: int | None
    statistic: str
    progress: Progress

    def one(self, *, refine: bool = False) -> bool:
        """Match by one pass over the data; returns whether Ctrl-C ended it, which leaves what it was to refine as it is."""
        given, total = batches(self.data, self.inputs, self.max_batches), count_of(self.data, self.max_batches)
        least = 2 if self.statistic == "correlation" else 1
        moments, interrupted = _accumulate(self.problem, given, total, least, self.progress, refine)
        if not (refine and interrupted):
            solved = solve(self.problem.action, _scores(self.problem, moments, self.statistic))
            self.problem.apply(solved, always=True)
            _match_the_rest(self.problem, set(solved))
        return interrupted


def _accumulate(
    problem: Problem, data: Iterator[Any], total: int | None, least: int, progress: Progress, refine: bool
) -> tuple[dict[Key, Moments], bool]:
    """The moments of every source, and whether Ctrl-C ended the pass."""
    if problem.network is None:
        raise AutopermError(
            "activation matching runs the models, but both are state dicts: pass template=, a module of their architecture"
        )
    network, streams = problem.network, _Streams(problem, refine)
    traces = Traces(lambda batch: _Chosen(Taps(network, problem.spec, batch)))
    with running("activation matching", total=total, progress=progress) as run:
        for batch in data:
            streams.add(traces.of(batch), batch)
            run.advance()
            if run.stopped:
                break
    for (_, node, _), found in streams.moments.items():
        if found.count < least:
            raise AutopermError(
                f"a correlation needs {least} samples or more, but the data gave {found.count} at node {node}; pass more data"
            )
    return streams.moments, run.stopped


class _Chosen:
    """The activations to look at in one trace, by node, and what layers of model b can read of model a."""

    def __init__(self, taps: Taps):
        self.taps, self.lent = taps, lenders(taps)
        self.of_node: dict[str, list[Source]] = {}
        for source in sources(taps):
            self.of_node.setdefault(source.activation.node, []).append(source)


class _Streams:
    """The moments of every source of two models, batch by batch; with ``refine``, layers of b read what a's read."""

    def __init__(self, problem: Problem, refine: bool):
        now = problem.permutation
        a, b = problem.states
        self._states = (a, b if now.is_identity else now.reordered(b))
        self.moments: dict[Key, Moments] = {}
        self._refine = refine

    def add(self, chosen: _Chosen, batch: Any) -> None:
        """Run both models on a batch, and take in its samples."""
        fresh = {source.key: Moments() for group in chosen.of_node.values() for source in group}
        self.moments = self.moments or fresh
        if fresh.keys() != self.moments.keys():
            raise AutopermError(
                "on batches of another shape the model computes other things, whose statistics cannot be put together; "
                "pass batches of one shape (a data loader's drop_last=True leaves out a smaller last one)"
            )
        taps = chosen.taps

        def see(node: str, values: list[torch.Tensor]) -> None:
            precision = torch.finfo(values[0].dtype).eps
            values = _finite(taps.activations[node], values)
            for source in chosen.of_node[node]:
                a, b = (rows(taps.action, source, value) for value in values)
                self.moments[source.key].add(a, b, precision=precision)

        taps.run(self._states, batch, chosen.of_node, see, chosen.lent if self._refine else None)


def _finite(found: Activation, values: list[torch.Tensor]) -> list[torch.Tensor]:
    """Zero for infinities that both models have at the same places, which are a mask's.

    Raises:
        StateError: NaN, or an infinity of one model alone.
    """
    infinite = [value.isinf() for value in values]
    for what, value, mask in zip(("model_a", "model_b"), values, infinite, strict=True):
        kind = "NaN" if bool(value.isnan().any()) else "infinity"
        if kind == "NaN" or not torch.equal(mask, infinite[0] & infinite[1]):
            place = found.place or "the forward of the model itself"
            bad = int((~value.isfinite()).sum())
            raise StateError(
                f"{what}: activations hold {kind} at node {found.node} ({found.op}) in {place} "
                f"({bad} of {value.numel()} entries are not finite); check the data and the weights"
            )
    return [torch.where(mask, 0, value) for mask, value in zip(infinite, values, strict=True)]


def _scores(problem: Problem, moments: dict[Key, Moments], statistic: str) -> dict[int, np.ndarray]:
    """The sum over a group's sources, for each group in the shape that :func:`autoperm.matching.nested.solve` takes.

    The moments are used up: of wide layers, they and the scores would be twice as much to hold.
    """
    total: dict[int, np.ndarray] = {}
    for key in list(moments):
        found, g = moments.pop(key), key[0]
        score = (found.correlation() if statistic == "correlation" else found.inner()).cpu().numpy()
        n = problem.spec.groups[g].size
        score = score.reshape(len(score), -1, n, score.shape[-1] // n, n)
        total[g] = np.add(total[g], score, out=total[g]) if g in total else score
    return {g: score for g, score in total.items() if not _is_flat(score)}


def _is_flat(score: np.ndarray) -> bool:
    """Whether every permutation has the same score, as of units that are constant or answer alike throughout."""
    flat = score.reshape(len(score), score.shape[1] * score.shape[2], -1)
    spread = flat - flat.mean(axis=1, keepdims=True)
    spread -= spread.mean(axis=2, keepdims=True)
    return bool(np.abs(spread).max() <= _FLAT * np.abs(flat).max())


def _match_the_rest(problem: Problem, matched: set[int]) -> None:
    """Match the groups that activations say nothing about by weights, given the others."""
    rest = [(g if g not in matched else None, [d for d in dependents if d not in matched]) for g, dependents in blocks(problem)]
    for _ in range(_ROUNDS):
        moved = False
        for g, dependents in rest:
            if g is not None:
                step = wreath_step(problem, g, dependents) if dependents else single_step(problem, g)
                moved |= problem.apply(step[0])
            else:
                for d in dependents:
                    moved |= problem.apply(single_step(problem, d)[0])
        if not moved:
            break
