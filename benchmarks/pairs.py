"""Two independent ResNets, matched against plain coordinate ascent with permutations written by hand. Part of matching.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import autoperm
from autoperm import Match, PermutationSpec
from autoperm.matching.ascent import Ascent
from autoperm.matching.problem import Problem
from benchmarks import plain, torchvision_nets
from benchmarks.paper import report

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Run:
    """One pair of models, matched with one order of visits. Gains are of the hand-written objective, above the identity.

    Attributes:
        gain, seconds: of weight matching.
        reached: seconds after which it has gained as much as plain coordinate ascent; None if it never has.
        plain_gain, plain_seconds: of that.
        search_gain, search_seconds: of search with a time limit of a third of that.
    """

    gain: float
    seconds: float
    reached: float | None
    plain_gain: float
    plain_seconds: float
    search_gain: float
    search_seconds: float


def rows(name: str, quick: bool) -> Iterator[dict[str, object]]:
    """Means over seeds: of the initialisations, of which there is one pair where models are trained, and of visiting orders."""
    kind, *how = name.split()
    runs, shown = [], name
    for seed in range(1 if quick or name == "resnet50" else 6 if how else 3):
        first = 0 if how else 2 * seed
        a, b = ((torchvision_nets.trained if how else torchvision_nets.fresh)(kind, k) for k in (first, first + 1))
        if how and not seed:
            low, high = sorted(torchvision_nets.accuracy(model) for model in (a, b))
            shown = f"{name}, accuracy {low:.3f} and {high:.3f}"
        runs.append(_run(a, b, torchvision_nets.spec_of(a, 32 if how else 224), plain.SPECS[kind], seed))
    sooner = [r.reached / r.plain_seconds for r in runs if r.reached is not None]
    yield {
        "model": shown,
        "pairs": len(runs),
        "gained": report.spread([r.gain for r in runs], 0),
        "gained by plain": report.spread([r.plain_gain for r in runs], 0),
        "ratio": report.spread([r.gain / r.plain_gain for r in runs]),
        "CPU seconds": report.spread([r.seconds for r in runs], 1),
        "plain's": report.spread([r.plain_seconds for r in runs], 1),
        "time ratio": report.spread([r.seconds / r.plain_seconds for r in runs]),
        "plain's gain reached": f"{len(sooner)} of {len(runs)}",
        "in, of plain's time": report.spread(sooner) if sooner else "",
        "search, ratio": report.spread([r.search_gain / r.plain_gain for r in runs]),
        "time ratio of search": report.spread([r.search_seconds / r.plain_seconds for r in runs]),
    }


def _run(a: nn.Module, b: nn.Module, spec: PermutationSpec, by_hand: Any, seed: int) -> Run:
    x, y = a.state_dict(), b.state_dict()
    found, seconds = report.timed(lambda: autoperm.match(x, y, spec, seed=seed, progress=False))
    (perms, _), plain_seconds = report.timed(lambda: plain.match(by_hand, x, y, seed=seed))
    more = {"method": "search", "time_limit": plain_seconds / 3, "progress": False}
    searched, search_seconds = report.timed(lambda: autoperm.match(x, y, spec, seed=seed, **more))
    still = {p: torch.arange(len(order)) for p, order in perms.items()}
    start = plain.objective(by_hand, x, y, still)
    gain, search_gain = (plain.objective(by_hand, x, m.permutation.apply(y), still) - start for m in (found, searched))
    plain_gain = plain.objective(by_hand, x, y, perms) - start
    return Run(
        gain=gain,
        seconds=seconds,
        reached=_seconds_to(plain_gain, found, x, y, spec, seed),
        plain_gain=plain_gain,
        plain_seconds=plain_seconds,
        search_gain=search_gain,
        search_seconds=search_seconds,
    )


def _seconds_to(gain: float, found: Match, x: State, y: State, spec: PermutationSpec, seed: int) -> float | None:
    """How long it takes to the end of the first sweep, or of the start, after which as much is gained; None if it never is."""
    start = autoperm.match(x, y, spec, max_sweeps=0, progress=False).objective
    sweeps = next((k for k, value in enumerate(found.history) if value - start >= gain), None)
    if sweeps is None:
        return None
    if sweeps == 0:
        return report.timed(lambda: _started(Problem(spec, x, y), seed))[1]
    return report.timed(lambda: autoperm.match(x, y, spec, seed=seed, max_sweeps=sweeps, progress=False))[1]


def _started(problem: Problem, seed: int) -> float:
    """The objective where weight matching starts."""
    Ascent(problem, torch.Generator().manual_seed(seed)).propagate()
    return problem.objective
