"""Frank-Wolfe over all groups at once (Crisostomi et al., C2M3, NeurIPS 2024, the pairwise case).

The permutations are relaxed to doubly stochastic matrices (Vogelstein et al., FAQ, 2015). Each step goes towards the
permutation at which the gradient is largest, which one assignment per matrix finds, by the length that is exactly best:
along a segment the objective is a polynomial. What is reached is rounded, and coordinate ascent takes it from there.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from autoperm.matching.problem import Problem
from autoperm.matching.registry import Match, matcher
from autoperm.matching.relaxation import (
    LARGEST_WREATH,
    Gradient,
    Pair,
    along,
    best_step,
    best_vertex,
    best_wreaths,
    gradient,
)
from autoperm.matching.rounding import Best, starting_point
from autoperm.matching.soft import harden, soften
from autoperm.matching.weight import blocks, weight_matching
from autoperm.running import Progress, running

logger = logging.getLogger(__name__)


@matcher("frank-wolfe")
def frank_wolfe(
    problem: Problem,
    *,
    seed: int = 0,
    max_steps: int = 100,
    start: str = "barycentre",
    tolerance: float = 1e-6,
    polish: bool = True,
    max_sweeps: int = 100,
    progress: Progress = True,
) -> Match:
    """Maximise the objective over all groups' doubly stochastic matrices, round, and finish by coordinate ascent.

    After every step what is reached is rounded, and the best permutation of all is the result: it is never worse than
    the start. The history holds its objective.

    Arguments:
        seed: of the visiting orders of ``"propagate"`` and of the ascent; the steps themselves are not random.
        max_steps: the most steps of Frank-Wolfe.
        start: ``"identity"``; ``"barycentre"``, the mean of all permutations, which favours none; or ``"propagate"``,
            the permutation from which weight matching starts.
        tolerance: stop where the duality gap is at most this times (\\|a\\|² + \\|b\\|²) / 2, which the objective of
            equal models is.
        polish: end with the sweeps of weight matching.
        max_sweeps: the most sweeps to polish with.
        progress: False for no bar, or a function that is called after each step with its number and the objective of
            the best permutation so far.

    Raises:
        AutopermError: no such start.

    Example:
        >>> import torch, autoperm
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = autoperm.infer(mlp, torch.zeros(1, 4))
        >>> shuffled = spec.random(1).apply(mlp)
        >>> autoperm.match(mlp, shuffled, spec, method="frank-wolfe", start="barycentre").distance
        0.0
    """
    point = starting_point(problem, start, seed)
    best, oracle, scale = Best(problem), _Oracle(problem), _scale(problem)
    with running("Frank-Wolfe", progress=progress) as run:
        while run.done < max_steps and not run.stopped:
            slope = oracle.slope(point)
            ends = oracle.ends(slope, point)
            gap = _gap(slope, point, ends[0])
            logger.debug("step %d: relaxed objective %.10g, duality gap %.3g", run.done, slope.value, gap)
            moved = _step(problem, point, ends, scale) if len(ends) > 1 or gap > tolerance * scale else None
            if moved is None:
                break
            point = moved
            run.advance(best.offer(harden(problem, point)))
    best.settle()
    history, stopped = [*best.history[:-1], problem.objective], run.stopped
    if polish and not stopped:
        end = weight_matching(problem, seed=seed, max_sweeps=max_sweeps, start="identity", progress=progress)
        history, stopped = [*history, *end.history[1:]], end.interrupted
    return Match(problem.permutation, problem.objective, problem.distance, tuple(history), stopped)


class _Oracle:
    """The linear problem at each step, over all matrices by themselves and over whole wreaths."""

    def __init__(self, problem: Problem):
        self.problem, self._steps = problem, 0
        self._blocks: dict[int, list[list[Pair]]] = {}
        groups = problem.spec.groups
        for g, dependents in blocks(problem):
            if dependents and groups[g].size * max(groups[d].size for d in dependents) <= LARGEST_WREATH:
                self._blocks.setdefault(g, []).append([(g, d) for d in dependents])

    def slope(self, point: Sequence[Tensor]) -> Gradient:
        """The gradient; of a group with several blocks, whose dependents are coupled, each in turn is taken as one."""
        pairs = [pair for found in self._blocks.values() for pair in found[self._steps % len(found)]]
        self._steps += 1
        return gradient(self.problem, point, pairs)

    def ends(self, slope: Gradient, point: Sequence[Tensor]) -> list[list[Tensor]]:
        """Where to go: the best vertex, and the same with the best elements of whole wreaths."""
        element = best_vertex(slope)
        better = best_wreaths(self.problem, slope)
        elements = [element, [better.get(g, array) for g, array in enumerate(element)]] if better else [element]
        like = {"dtype": point[0].dtype, "device": point[0].device} if point else {}
        return [soften(self.problem, each, **like) for each in elements]


def _step(problem: Problem, point: Sequence[Tensor], ends: Sequence[Sequence[Tensor]], scale: float) -> list[Tensor] | None:
    """The best point on the segments to the ends; None where nothing is gained."""
    found = [best_step(along(problem, point, end)) for end in ends]
    k = max(range(len(found)), key=lambda i: found[i][1])
    t, gain = found[k]
    if gain <= 1e-9 * scale:
        return None
    return [torch.lerp(x, y, t) for x, y in zip(point, ends[k], strict=True)]


def _gap(slope: Gradient, point: Sequence[Tensor], end: Sequence[Tensor]) -> float:
    """The duality gap: how much the linearised objective gains at the best vertex."""
    terms = (float((d * (y - x)).sum(dtype=torch.float64)) for d, x, y in zip(slope.groups, point, end, strict=True))
    return math.fsum(terms)


def _scale(problem: Problem) -> float:
    """(|a|² + |b|²) / 2, of the tensors that something moves."""
    tensors = [*problem.a.values(), *problem.b.values()]
    return math.fsum(float(t.abs().square().sum(dtype=torch.float64)) for t in tensors) / 2
