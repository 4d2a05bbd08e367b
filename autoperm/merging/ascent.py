"""Coordinate ascent over models: one at a time is matched to the mean of the others; the agreement never falls."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from autoperm.matching.weight import weight_matching
from autoperm.merging.models import Models
from autoperm.permutation import Permutation
from autoperm.running import Run

logger = logging.getLogger(__name__)

#: A step counts where the agreement rises by more than this share of it: sums of doubles are not exact.
_LEAST_GAIN = 1e-12


class Ascent:
    """The models and the elements that they are under.

    Attributes:
        permutations: one per model.
        agreement: of the models under them, see :meth:`Models.agreement`.
        interrupted: whether Ctrl-C ended a match.
    """

    def __init__(self, models: Models, permutations: Sequence[Permutation], seed: int):
        self.models, self.permutations = models, list(permutations)
        self.agreement = models.agreement(self.permutations)
        self.interrupted = False
        self._generator = torch.Generator().manual_seed(seed)

    def propagate(self, run: Run) -> None:
        """Align each model, in a random order, to the mean of those before it; kept if the agreement rises altogether."""
        trial, order = list(self.permutations), self._order()
        for place, k in enumerate(order[1:], start=1):
            if self._stopped(run):
                break
            trial[k] = self._matched(k, trial, order[:place], "propagate")
        self.offer(trial)

    def sweep(self, run: Run) -> int:
        """Align each model, in a random order, to the mean of all others; how many moved."""
        moved = 0
        for k in self._order():
            if self._stopped(run):
                break
            others = [j for j in range(len(self.models)) if j != k]
            trial = list(self.permutations)
            trial[k] = self._matched(k, trial, others, "identity")
            moved += trial[k] != self.permutations[k] and self.offer(trial)
        logger.debug("sweep: %d of %d models moved, agreement %.10g", moved, len(self.models), self.agreement)
        return moved

    def _matched(self, k: int, trial: Sequence[Permutation], others: Sequence[int], start: str) -> Permutation:
        """The element that brings model k near the mean of others, from where it stands."""
        problem = self.models.problem(k, self.models.mean(trial, others), trial[k])
        found = weight_matching(problem, seed=self._draw(), start=start, progress=False)
        self.interrupted |= found.interrupted
        return Permutation(self.models.spec, problem.element)

    def offer(self, trial: Sequence[Permutation]) -> bool:
        """Take other permutations if the agreement rises, which is computed anew: means are rounded."""
        value = self.models.agreement(trial)
        better = value > self.agreement + _LEAST_GAIN * abs(self.agreement)
        if better:
            self.permutations, self.agreement = list(trial), value
        return better

    def _order(self) -> list[int]:
        return torch.randperm(len(self.models), generator=self._generator, device="cpu").tolist()

    def _draw(self) -> int:
        return int(torch.randint(2**31, (), generator=self._generator, device="cpu"))

    def _stopped(self, run: Run) -> bool:
        return run.stopped or self.interrupted
