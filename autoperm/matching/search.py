"""Iterated local search: leave a local optimum by a kick, climb again, and stay where that ends higher.

There are three kinds of kicks, drawn the more often, the more often they helped. One forgets a few neighbouring blocks
and matches them anew, one after the other, each on what is not forgotten (ruin and recreate: Schrimpf et al., J. Comput.
Phys. 2000). One lets some positions of a group trade places, and one puts neighbouring blocks in random orders. The blocks
beside answer before the kicked ones may turn back, so that changes of several groups at once are found which no step on one
block finds. Blocks that a kick does not reach are not visited again.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence

import numpy as np
import torch

from autoperm.errors import AutopermError
from autoperm.matching.ascent import Ascent
from autoperm.matching.blocks import Block
from autoperm.matching.problem import Problem
from autoperm.matching.propagate import within
from autoperm.matching.registry import Match, matcher
from autoperm.matching.steps import step
from autoperm.running import Progress, Run, running

logger = logging.getLogger(__name__)

#: The most that a kick may cost and be kept, as a share of what has been gained in all: a uniform share of that each time.
_LOSS = 0.02


@matcher("search")
def search(
    problem: Problem,
    *,
    seed: int = 0,
    rounds: int | None = None,
    time_limit: float | None = None,
    start: str = "propagate",
    max_sweeps: int = 100,
    progress: Progress = True,
) -> Match:
    """Climb as weight matching does, then kick and climb again, from what is better or hardly worse (Lourenço et al. 2003).

    Arguments:
        seed: of all choices.
        rounds: how many kicks; None for 30 of them, or without end where there is a time limit.
        time_limit: seconds after which it ends with the best so far, though not before the first climb has; with one, results
            depend on the machine.
        start: ``"propagate"`` or ``"identity"`` as in weight matching, or ``"frank-wolfe"``: where that matcher ends.
        max_sweeps: the most sweeps of a climb.
        progress: False for no bar, or a function that is called after each round with its number and the objective.

    Returns:
        The match; the history has the objective before the first climb, after it, and after each round.

    Raises:
        AutopermError: no such start, or a number of rounds or seconds below 0.

    Example:
        >>> import torch, autoperm
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = autoperm.infer(mlp, torch.zeros(1, 4))
        >>> shuffled = spec.random(1).apply(mlp)
        >>> autoperm.match(mlp, shuffled, spec, method="search", rounds=5).distance
        0.0
    """
    end = math.inf if time_limit is None else time.monotonic() + time_limit
    rounds = rounds if rounds is not None or time_limit is not None else 30
    generator = torch.Generator().manual_seed(seed)
    interrupted = begin(problem, start, seed)
    ascent = Ascent(problem, generator)
    history = [problem.objective]
    with running("search", total=rounds, progress=progress) as run:
        if start == "propagate":
            ascent.propagate()
            history[0] = problem.objective
        if not interrupted:
            climb(ascent, run, max_sweeps)
        history.append(problem.objective)
        kicks, best, run.end = Kicks(problem, ascent, generator), ascent.mark(), end
        while kicks.possible and not (run.over or interrupted) and (rounds is None or run.done < rounds):
            mark, before = ascent.mark(), problem.objective
            kicks.kick(run)
            climb(ascent, run, max_sweeps)
            now, allowed = problem.objective, _LOSS * (history[-1] - history[0]) * _uniform(generator)
            if now > history[-1]:
                best = ascent.mark()
                kicks.praise()
            elif now < before - allowed:
                ascent.back_to(mark)
            history.append(max(now, history[-1]))
            run.advance(history[-1])
        ascent.back_to(best)
    return Match(problem.permutation, problem.objective, problem.distance, tuple(history), run.stopped or interrupted)


def begin(problem: Problem, start: str, seed: int) -> bool:
    """Move the problem to where another matcher ends, if the start is one; whether Ctrl-C ended that."""
    if start == "frank-wolfe":
        from autoperm.matching.frank_wolfe import frank_wolfe

        return frank_wolfe(problem, seed=seed, progress=False).interrupted
    if start not in ("propagate", "identity"):
        raise AutopermError(f'start must be "propagate", "identity" or "frank-wolfe", not {start!r}')
    return False


def climb(ascent: Ascent, run: Run, max_sweeps: int) -> None:
    """Sweep until nothing moves."""
    for _ in range(max_sweeps):
        if run.over or not ascent.sweep(run):
            break


class Kicks:
    """Kicks of a problem, drawn at random.

    Attributes:
        possible: whether there is anything to kick.
    """

    def __init__(self, problem: Problem, ascent: Ascent, generator: torch.Generator):
        self._problem, self._ascent, self._generator = problem, ascent, generator
        self._near = _neighbours(problem, ascent.blocks)
        self._good, self._tried, self._last = [0, 0, 0], [0, 0, 0], 0
        self.possible = any(problem.spec.groups[g].size > 1 for g in problem.matched)

    def kick(self, run: Run) -> None:
        """Change some blocks, and let those beside them answer."""
        kinds = (self._recreate, self._trade, self._scatter)
        odds = torch.tensor([(1 + good) / (2 + tried) for good, tried in zip(self._good, self._tried, strict=True)], device="cpu")
        self._last = int(torch.multinomial(odds, 1, generator=self._generator))
        self._tried[self._last] += 1
        kicked = kinds[self._last]()
        around = sorted({k for j in kicked for k in self._near[j]} - set(kicked))
        for k in self._shuffled(around):
            if not run.over:
                self._ascent.visit(self._ascent.blocks[k])

    def praise(self) -> None:
        """Say that the last kick led to something better."""
        self._good[self._last] += 1

    def _region(self, most: int) -> list[int]:
        """Neighbouring blocks, at random."""
        region = [self._draw(len(self._near))]
        for _ in range(self._draw(most)):
            beside = sorted({k for j in region for k in self._near[j]} - set(region))
            if beside:
                region.append(beside[self._draw(len(beside))])
        return region

    def _recreate(self) -> list[int]:
        """Forget a few neighbouring blocks, and match each on those that are not forgotten or matched again already."""
        region = self._region(5)
        known = self._problem.matched - {g for k in region for g in _groups(self._ascent.blocks[k])}
        for k in self._shuffled(region):
            block = self._ascent.blocks[k]
            known |= set(_groups(block))
            self._problem.apply(step(self._problem, block, within(self._problem, known))[0], always=True)
        return region

    def _scatter(self) -> list[int]:
        """Put neighbouring blocks in random orders, up to all of them."""
        region = self._region(len(self._near))
        drawn = self._problem.spec.random(self._generator).arrays
        groups = {g for k in region for g in _groups(self._ascent.blocks[k])}
        self._problem.apply({g: drawn[g] for g in sorted(groups)}, always=True)
        return region

    def _trade(self) -> list[int]:
        """Let some positions of a group trade places."""
        k = self._draw(len(self._near))
        movable = [g for g in _groups(self._ascent.blocks[k]) if self._problem.spec.groups[g].size > 1]
        if movable:
            g = movable[self._draw(len(movable))]
            group = self._problem.spec.groups[g]
            shape = (*(self._problem.spec.leaves[p].size for p in group.parents), group.size)
            relative = np.broadcast_to(np.arange(group.size), shape).copy()
            row = relative.reshape(-1, group.size)[self._draw(group.copies)]
            some = self._shuffled(range(group.size))[: 2 + self._draw(max(1, group.size // 4))]
            row[some] = row[np.roll(some, 1)]
            self._problem.apply({g: relative}, always=True)
        return [k]

    def _draw(self, below: int) -> int:
        return int(torch.randint(below, (), generator=self._generator, device="cpu"))

    def _shuffled(self, values: Sequence[int]) -> list[int]:
        return [values[k] for k in torch.randperm(len(values), generator=self._generator, device="cpu").tolist()]


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator, dtype=torch.float64, device="cpu"))


def _groups(block: Block) -> list[int]:
    return [block[0], *block[1]]


def _neighbours(problem: Problem, found: Sequence[Block]) -> list[set[int]]:
    """For each block those that share a tensor with it."""
    tensors = [set(problem.tensors_of(_groups(block))) for block in found]
    return [{k for k, other in enumerate(tensors) if k != j and own & other} for j, own in enumerate(tensors)]
