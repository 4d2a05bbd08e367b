"""Weight matching: block coordinate ascent (Ainsworth, Hayase and Srinivasa, ICLR 2023, Algorithm 1).

Each block is a group together with groups that depend on it alone (heads with their query-key and value dimensions),
and the step on a block is the best there is with the other groups held. A block none of whose tensors changed since it
was last visited is skipped. The objective never falls.
"""

from __future__ import annotations

import torch

from autoperm.errors import AutopermError
from autoperm.matching.ascent import Ascent, random_element
from autoperm.matching.blocks import Block, blocks
from autoperm.matching.problem import Problem
from autoperm.matching.propagate import propagate
from autoperm.matching.registry import Match, matcher
from autoperm.running import Progress, Run, running

__all__ = ["Block", "blocks", "propagate", "weight_matching"]


@matcher("weight")
def weight_matching(
    problem: Problem,
    *,
    seed: int = 0,
    max_sweeps: int = 100,
    start: str = "propagate",
    restarts: int = 0,
    normalize: bool = False,
    progress: Progress = True,
) -> Match:
    """Visit the blocks in a fresh random order each sweep, until a sweep changes nothing.

    With ``normalize``, each step maximises the sum of cosines between the units of the two models that are brought
    together, not of their inner products: units with small weights count as much as those with large ones. No one
    function of all permutations is what every such step maximises, so that sweeps go on while the sum over all blocks
    rises, and where it was largest is the result; the objective itself may be lower than without. The history is then
    of that sum.

    Arguments:
        seed: of the visiting orders and the starts.
        max_sweeps: the most sweeps to make from a start; 0 leaves model b as it is.
        start: ``"propagate"`` matches each block once on the evidence of what is matched already, from the inputs and
            outputs inwards, before the first sweep; ``"identity"`` starts from model b as it is, as the paper does.
        restarts: how many times to start again, from a random element; the best is the result. The history goes on with
            the best so far.
        normalize: maximise cosines.
        progress: False for no bar, or a function that is called after each sweep with its number and the best so far.

    Raises:
        AutopermError: no such start, or a negative number of sweeps or restarts.

    Example:
        >>> import torch, autoperm
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = autoperm.infer(mlp, torch.zeros(1, 4))
        >>> shuffled = spec.random(1).apply(mlp)
        >>> autoperm.match(mlp, shuffled, spec, method="weight", restarts=3).distance
        0.0
    """
    if start not in ("propagate", "identity"):
        raise AutopermError(f'start must be "propagate" or "identity", not {start!r}')
    generator = torch.Generator().manual_seed(seed)
    ascent = Ascent(problem, generator, normalize=normalize)
    if start == "propagate" and max_sweeps > 0:
        ascent.propagate()
    best = _Best(problem, ascent)
    with running("weight matching", progress=progress) as run:
        _climb(ascent, best, run, max_sweeps)
        for _ in range(restarts if max_sweeps > 0 and problem.matched else 0):
            if run.stopped:
                break
            problem.restore(random_element(problem, generator))
            _climb(ascent, best, run, max_sweeps)
    best.settle()
    return Match(problem.permutation, problem.objective, problem.distance, tuple(best.history), run.stopped)


class _Best:
    """The best element seen.

    Attributes:
        history: the best value at first and after each offer.
    """

    def __init__(self, problem: Problem, ascent: Ascent):
        self._problem, self._ascent = problem, ascent
        self._mark, self.history = problem.mark(), [ascent.value]

    def offer(self) -> float:
        """Keep where the problem stands if that is better; what it is worth."""
        value = self._ascent.value
        if value > self.history[-1]:
            self._mark = self._problem.mark()
        self.history.append(max(value, self.history[-1]))
        return value

    def settle(self) -> None:
        """Move the problem back there."""
        self._problem.back_to(self._mark)


def _climb(ascent: Ascent, best: _Best, run: Run, max_sweeps: int) -> None:
    """Sweep until nothing moves, or what it is worth no longer rises."""
    value = ascent.value
    for _ in range(max_sweeps):
        if run.stopped:
            break
        moved = ascent.sweep(run)
        before, value = value, best.offer()
        run.advance(best.history[-1])
        if not moved or value <= before:
            break
