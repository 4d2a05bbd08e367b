"""Merging through a universe: all models at once (Crisostomi et al., C2M3, NeurIPS 2024).

Every model has one map into a common order, the universe, and two models are matched through it: around any cycle the
matches compose to the identity. The maps are relaxed to doubly stochastic matrices and improved together by
Frank-Wolfe on the sum over all pairs. What is reached is rounded, and coordinate ascent over the models takes it from there.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.polynomial import Polynomial
from torch import Tensor

from autoperm.errors import AutopermError
from autoperm.matching.problem import Problem
from autoperm.matching.relaxation import LARGEST_WREATH, Gradient, Pair, best_step, best_vertex, best_wreaths, gradient
from autoperm.matching.soft import acting, cells_by_tensor, harden, soft_barycentre, soft_cell, soften
from autoperm.matching.unfold import Unfolding
from autoperm.matching.weight import blocks
from autoperm.merging.ascent import Ascent
from autoperm.merging.many import climb
from autoperm.merging.models import Models, square
from autoperm.merging.registry import Ordered, merger
from autoperm.permutation import Permutation
from autoperm.running import Progress, running

logger = logging.getLogger(__name__)

#: For each model its relaxed map: one tensor per group.
Maps: TypeAlias = list[list[Tensor]]


@merger("universe")
def universe(
    models: Models,
    *,
    seed: int = 0,
    start: str = "identity",
    max_steps: int = 50,
    tolerance: float = 1e-6,
    max_sweeps: int = 100,
    progress: Progress = True,
) -> Ordered:
    """Map all models into a universe, which is then turned into the first model's order.

    After every step the maps are rounded, and the best of all go into the ascent, so that the history, which holds their
    agreement as the models are, at the start, after each step and after each sweep, never falls.

    Arguments:
        seed: of the start and of the ascent; Frank-Wolfe is not random.
        start: ``"identity"`` from the models as they are, which favours none of them; ``"barycentre"`` from the first
            model as it is and the mean of all permutations for the others; ``"propagate"`` from where ``"many"`` starts
            its sweeps with that option, which is near an end already.
        max_steps: the most steps of Frank-Wolfe.
        tolerance: stop where the duality gap is at most this share of the sum over pairs that equal models would have.
        max_sweeps: the most sweeps of the ascent.
        progress: False for no bar, or a function that is called after each step and sweep with its number and the agreement.

    Raises:
        AutopermError: no such start.

    Example:
        >>> import torch, autoperm
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = autoperm.infer(mlp, torch.zeros(1, 4))
        >>> merged = autoperm.merge([spec.random(seed).apply(mlp) for seed in range(3)], spec, method="universe")
        >>> (merged.pairwise(0, 1) @ merged.pairwise(1, 2) @ merged.pairwise(2, 0)).is_identity
        True
    """
    if start not in ("identity", "barycentre", "propagate"):
        raise AutopermError(f'start must be "identity", "barycentre" or "propagate", not {start!r}')
    ascent = Ascent(models, models.identity(), seed)
    history = [ascent.agreement]
    with running("universe", progress=progress) as run:
        if start == "propagate":
            ascent.propagate(run)
        history.append(ascent.agreement)
        relaxation = Relaxation(models, ascent.permutations, start == "barycentre")
        enough = tolerance * relaxation.scale
        for _ in range(max_steps):
            if run.stopped or ascent.interrupted or not relaxation.step(enough):
                break
            ascent.offer(relaxation.rounded())
            history.append(ascent.agreement)
            run.advance(ascent.agreement)
        climb(ascent, run, max_sweeps, history)
        return Ordered(ascent.permutations, history, run.stopped or ascent.interrupted)


class Relaxation:
    """Frank-Wolfe on the sum over pairs p < q of <soft model p, soft model q>.

    Only the maps are kept. Mixed weights are made tensor by tensor; besides the models there are their sum and, for one
    of them at a time, the sum of the others. The matrices of the maps, their ends and their slopes come on top.

    Attributes:
        maps: the relaxed maps.
        scale: the sum over pairs that models equal to one another would have.
    """

    def __init__(self, models: Models, permutations: Sequence[Permutation], barycentre: bool):
        self._models, self._steps = models, 0
        self._problem = problem = Problem(models.part, models.states[0], models.states[0])
        self._dtypes = {name: tensor.dtype for name, tensor in problem.b.items()}
        wide = any(dtype in (torch.float64, torch.complex128) for dtype in self._dtypes.values())
        dtype = torch.float64 if wide else torch.float32
        self.maps: Maps = [soften(problem, permutation.arrays, dtype=dtype) for permutation in permutations]
        if barycentre:
            self.maps[1:] = [soft_barycentre(problem, dtype=dtype) for _ in self.maps[1:]]
        squares = (square(self._weight(name, k)) for name in self._dtypes for k in range(len(models)))
        self.scale = (len(models) - 1) / 2 * math.fsum(squares)
        self._cells = cells_by_tensor(problem)
        self._degree = 2 * _degree(problem, self._cells)

    def step(self, enough: float) -> bool:
        """Move all maps towards the best vertices; False where the duality gap is at most ``enough`` or nothing is gained."""
        vertices, wreaths, gap = self._vertices()
        logger.debug("step %d: duality gap %.3g", self._steps, gap)
        self._steps += 1
        if gap <= enough and not wreaths:
            return False
        ends = [self._soft(found) for found in (vertices, wreaths) if found]
        found = [best_step(self._along(end)) for end in ends]
        k = max(range(len(found)), key=lambda i: found[i][1])
        t, gain = found[k]
        if gain <= 1e-9 * self.scale:
            return False
        self.maps = _between(self.maps, ends[k], t)
        return True

    def rounded(self) -> list[Permutation]:
        """The nearest permutations. What is not matched stays as it is, whatever its maps say."""
        spec, matched = self._models.spec, self._problem.matched
        found = []
        for own in self.maps:
            pairs = enumerate(zip(harden(self._problem, own), spec.identity().arrays, strict=True))
            found.append(Permutation(spec, [array if g in matched else still for g, (array, still) in pairs]))
        return found

    def value(self, maps: Maps) -> float:
        """The sum over pairs, without the parameters that nothing moves."""
        terms = []
        for name in self._cells:
            mixed = (self._mixed(name, k, own) for k, own in enumerate(maps))
            total, squares = _summed(mixed)
            terms += [square(total) / 2, -squares / 2]
        return math.fsum(terms)

    def _mixed(self, name: str, k: int, own: Sequence[Tensor]) -> Tensor:
        """A tensor of model k, mixed by its map."""
        tensor = self._weight(name, k)
        out = tensor.clone()
        for u in self._cells[name]:
            out = u.write(out, soft_cell(self._problem, u, u.of(tensor), own))
        return out

    def _vertices(self) -> tuple[list[list[np.ndarray]], list[list[np.ndarray]], float]:
        """For each model the element that is best on the slope; the same with whole wreaths; and the duality gap."""
        vertices, wreaths, gap, problem = [], [], 0.0, self._problem
        totals = {}
        for name in self._cells:
            total, _ = _summed(self._mixed(name, k, own) for k, own in enumerate(self.maps))
            totals[name] = total.to(self._dtypes[name])
        for k, own in enumerate(self.maps):
            problem.a = {}  # the last one's are let go of before there are new ones
            problem.a = {name: total - self._mixed(name, k, own) for name, total in totals.items()}
            problem.b = {name: self._weight(name, k) for name in totals}
            slope = gradient(problem, own, _pairs(problem, self._steps))
            vertices.append(best_vertex(slope))
            gap += _gap(slope, own, soften(problem, vertices[-1], dtype=own[0].dtype) if own else [])
            if slope.pairs:
                better = best_wreaths(problem, slope)
                wreaths.append([better.get(g, array) for g, array in enumerate(vertices[-1])])
        problem.a = problem.b = {}  # nothing is held between steps
        return vertices, wreaths, gap

    def _along(self, ends: Maps) -> Polynomial:
        """The sum over pairs on the segment to other maps, as a polynomial: exact up to rounding."""
        points = (1 - np.cos(np.pi * np.arange(self._degree + 1) / max(self._degree, 1))) / 2
        values = [self.value(_between(self.maps, ends, float(t))) for t in points]
        return Polynomial.fit(points, values, self._degree, domain=[0.0, 1.0]).convert()

    def _soft(self, elements: Sequence[Sequence[np.ndarray]]) -> Maps:
        pairs = zip(elements, self.maps, strict=True)
        return [soften(self._problem, element, dtype=own[0].dtype) if own else [] for element, own in pairs]

    def _weight(self, name: str, k: int) -> Tensor:
        """A parameter of model k as it is, in float32 at least."""
        models = self._models
        return models.states[k][models.names[name]].detach().to(self._dtypes[name])


def _pairs(problem: Problem, steps: int) -> list[Pair]:
    """The groups to look at as one with their dependents; blocks of one group, whose dependents are coupled, in turn."""
    groups = problem.spec.groups
    found: dict[int, list[list[Pair]]] = {}
    for g, dependents in blocks(problem):
        if dependents and groups[g].size * max(groups[d].size for d in dependents) <= LARGEST_WREATH:
            found.setdefault(g, []).append([(g, d) for d in dependents])
    return [pair for options in found.values() for pair in options[steps % len(options)]]


def _degree(problem: Problem, cells: Mapping[str, Sequence[Unfolding]]) -> int:
    """The most occurrences of groups in one cell, which is the degree of a mixed weight along a segment."""
    groups = problem.spec.groups
    every = (u for found in cells.values() for u in found)
    return max((sum(len(u.occurrences(groups[g].leaves)) for g in acting(problem, u)) for u in every), default=0)


def _summed(tensors: Iterable[Tensor]) -> tuple[Tensor, float]:
    """The sum in double precision, and the sum of the squares."""
    total, squares = torch.zeros((), device="cpu"), []
    for tensor in tensors:
        total = total + tensor.to(torch.promote_types(tensor.dtype, torch.float64))
        squares.append(square(tensor))
    return total, math.fsum(squares)


def _between(start: Maps, end: Maps, t: float) -> Maps:
    return [[torch.lerp(x, y, t) for x, y in zip(own, other, strict=True)] for own, other in zip(start, end, strict=True)]


def _gap(slope: Gradient, point: Sequence[Tensor], end: Sequence[Tensor]) -> float:
    return math.fsum(float((d * (y - x)).sum(dtype=torch.float64)) for d, x, y in zip(slope.groups, point, end, strict=True))
