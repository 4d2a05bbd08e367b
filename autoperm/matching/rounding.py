"""Where relaxed matchers start, and the best of the permutations that they round to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from autoperm.errors import AutopermError
from autoperm.gathering import gather
from autoperm.layout import identity_element
from autoperm.matching.problem import Problem
from autoperm.matching.soft import soft_barycentre, soft_identity
from autoperm.matching.weight import blocks, propagate

Element = Sequence[np.ndarray]


def starting_point(problem: Problem, start: str, seed: int) -> list[Tensor]:
    """A relaxed element to start from, in float64 where the weights are and in float32 otherwise.

    ``"identity"``; ``"barycentre"``; or ``"propagate"``: the problem is moved to where weight matching starts, and the
    identity follows that.

    Raises:
        AutopermError: no such start.
    """
    dtype = torch.float32 if all(t.real.dtype == torch.float32 for t in problem.b.values()) else torch.float64
    if start == "propagate":
        propagate(problem, blocks(problem), torch.Generator().manual_seed(seed))
    elif start == "barycentre":
        return soft_barycentre(problem, dtype=dtype)
    elif start != "identity":
        raise AutopermError(f'start must be "identity", "barycentre" or "propagate", not {start!r}')
    return soft_identity(problem, dtype=dtype)


class Best:
    """The best element seen, relative to where the problem stands; at first the identity.

    Arguments:
        score: what is to be large; None for the objective.

    Attributes:
        element: one array per group.
        history: the best score at first and after each offer.
    """

    def __init__(self, problem: Problem, score: Callable[[Element], float] | None = None):
        self._problem, self._score = problem, score or self._objective
        self.element = self._last = identity_element(problem.spec.leaves, problem.spec.groups)
        self._constant = problem.objective - self._moving(self.element)
        self.history = [self._score(self.element)]

    def offer(self, element: Element) -> float:
        """Keep an element if it is better, and return the best score."""
        best = self.history[-1]
        if any(not np.array_equal(x, y) for x, y in zip(element, self._last, strict=True)):
            self._last = list(element)
            value = self._score(element)
            if value > best:
                self.element, best = self._last, value
        self.history.append(best)
        return best

    def settle(self) -> None:
        """Move the problem to the best element."""
        self._problem.apply(dict(enumerate(self.element)), always=True)

    def _objective(self, element: Element) -> float:
        return self._constant + self._moving(element)

    def _moving(self, element: Element) -> float:
        problem, terms = self._problem, []
        for name, b in problem.b.items():
            moved = gather(problem.action, problem.spec.layouts[name], element, b)
            wide = torch.promote_types(b.dtype, torch.float64)
            terms.append(float((problem.a[name].to(wide) * moved.to(wide).conj()).real.sum()))
        return math.fsum(terms)
