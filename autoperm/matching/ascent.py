"""Coordinate ascent: blocks are visited in a fresh random order each sweep, until a sweep changes nothing."""

from __future__ import annotations

import logging

import numpy as np
import torch

from autoperm.matching.blocks import Block, blocks, linear_blocks, occurs_twice
from autoperm.matching.cosine import Cosines
from autoperm.matching.problem import Mark, Problem
from autoperm.matching.propagate import propagate
from autoperm.matching.steps import step
from autoperm.running import Run

logger = logging.getLogger(__name__)

#: With cosines, a step counts that gains this much: they are in the weights' own precision, and nothing else decides.
_LEAST_GAIN = 1e-4


class Ascent:
    """Sweeps over a problem's blocks, of which those are skipped whose tensors have not changed.

    Arguments:
        normalize: whether steps maximise cosines in place of inner products.

    Attributes:
        value: what the sweeps make larger: the objective, or the sum over blocks of their cosines.
    """

    def __init__(self, problem: Problem, generator: torch.Generator, *, normalize: bool = False):
        self._problem, self._generator = problem, generator
        self.blocks = [*blocks(problem), *linear_blocks(problem)]
        self._seen: dict[Block, dict[str, int]] = {}
        self._cosines = Cosines(problem, self.blocks) if normalize else None

    @property
    def value(self) -> float:
        return self._problem.objective if self._cosines is None else self._cosines.total()

    def propagate(self) -> None:
        """Match every block once, see :func:`autoperm.matching.propagate.propagate`."""
        scale = None if self._cosines is None else self._cosines.scale
        self._seen.update(propagate(self._problem, self.blocks, self._generator, scale, lambda: self.value))

    def sweep(self, run: Run | None = None) -> int:
        """Visit every block once; how many moved. A run that is over ends it between two blocks."""
        moved = 0
        for k in torch.randperm(len(self.blocks), generator=self._generator, device="cpu").tolist():
            if run is not None and run.over:
                break
            moved += self.visit(self.blocks[k])
        logger.debug("a sweep: %d of %d blocks moved, objective %.10g", moved, len(self.blocks), self._problem.objective)
        return moved

    def mark(self) -> tuple[Mark, dict[Block, dict[str, int]]]:
        """Where the problem stands, and which blocks have nothing to gain there."""
        return self._problem.mark(), dict(self._seen)

    def back_to(self, mark: tuple[Mark, dict[Block, dict[str, int]]]) -> None:
        """Undo what happened since."""
        self._problem.back_to(mark[0])
        self._seen = dict(mark[1])

    def visit(self, block: Block) -> bool:
        """Make the best step on a block; whether it moved."""
        groups = [block[0], *block[1]]
        versions = self._problem.versions(groups)
        if self._seen.get(block) == versions:
            return False
        moved = self._step(block)
        if moved and any(occurs_twice(self._problem, g) for g in groups):
            self._seen.pop(block, None)  # a step on a linearisation may leave more to gain, with nothing else moved
        else:
            self._seen[block] = self._problem.versions(groups)
        return moved

    def _step(self, block: Block) -> bool:
        if self._cosines is not None:
            relative, gain = step(self._problem, block, scale=self._cosines.scale)
            return gain > _LEAST_GAIN and self._problem.apply(relative, always=True)
        relative, gain = step(self._problem, block)
        # Gram matrices are in the weights' own precision and, where a group occurs twice, a linearisation: the objective
        # itself decides.
        return gain > 0 and self._problem.apply(relative)


def random_element(problem: Problem, generator: torch.Generator) -> list[np.ndarray]:
    """A uniformly random element of the groups that are matched; the others stay as they are."""
    drawn = problem.spec.random(generator).arrays
    return [array if g in problem.matched else problem.element[g] for g, array in enumerate(drawn)]
