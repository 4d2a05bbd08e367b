"""Matching by gradients through the Sinkhorn operator (Peña et al., CVPR 2023: Re-basin via implicit Sinkhorn
differentiation).

Every group has free scores X. The Sinkhorn operator makes doubly stochastic matrices of X / tau, and Adam improves the
scores for a cost of the model b that they mix: its distance to a, or a loss on the line between the two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from autoperm.batches import Pick
from autoperm.errors import AutopermError
from autoperm.matching.line import Line, Loss
from autoperm.matching.losses import check_differentiable
from autoperm.matching.problem import Problem
from autoperm.matching.registry import Match, matcher
from autoperm.matching.rounding import Best, starting_point
from autoperm.matching.sinkhorn_operator import normalised, sinkhorn
from autoperm.matching.soft import cells_by_tensor, harden, soft_cell
from autoperm.running import Progress, running

#: The first matrices are this share of the start, and the rest of the mean of all permutations.
_CONFIDENCE = 0.5


@matcher("sinkhorn")
def sinkhorn_matching(
    problem: Problem,
    *,
    seed: int = 0,
    steps: int = 200,
    lr: float = 0.3,
    tau: float = 1.0,
    iterations: int = 20,
    start: str = "identity",
    data: Iterable[Any] | None = None,
    loss: Loss | None = None,
    inputs: Pick | None = None,
    point: str = "midpoint",
    evaluated: int = 4,
    progress: Progress = True,
) -> Match:
    """Improve scores of all groups at once by Adam, and keep the best permutation that they round to.

    Without a loss the cost is the squared L2 distance between a's parameters and those of the mixed b, and the best
    permutation is that of the largest objective. With one the cost is the loss on the line between the two models, one
    batch a step, and the best permutation is that of the smallest loss in the middle between a and the permuted b.

    Arguments:
        seed: of the random points of the line, and of ``"propagate"``.
        steps: the steps of Adam.
        lr: their size. Only its ratio to ``tau`` counts.
        tau: the temperature: the matrices are those of the scores / tau.
        iterations: of the operator in each step, the most; each step goes on where the last one ended.
        start: ``"identity"``; ``"barycentre"``, the mean of all permutations; or ``"propagate"``, the permutation from
            which weight matching starts.
        data: for a loss: batches of what the model's forward takes; a list or a data loader, gone through repeatedly.
        loss: from the model's output and the batch to a tensor of one number; the model is in eval mode.
        inputs: picks from a batch what the forward takes, such as ``lambda batch: batch[0]`` where it holds labels too.
        point: where on the line the loss is: ``"midpoint"``, or ``"random"``, anew in each step.
        evaluated: on how many of the first batches permutations are compared.
        progress: False for no bar, or a function that is called after each step with its number and the cost.

    Returns:
        The match. Its history is that of the best permutation so far: its objective, or its loss where there is one.

    Raises:
        AutopermError: a loss without data or data without a loss; two state dicts and no template for a loss; no such
            start or point; steps, lr, tau or iterations out of range; a loss that is not one number, or not finite, or
            whose gradient is not: the step is named.

    Example:
        >>> import torch, autoperm
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = autoperm.infer(mlp, torch.zeros(1, 4))
        >>> shuffled = spec.random(1).apply(mlp)
        >>> autoperm.match(mlp, shuffled, spec, method="sinkhorn").distance
        0.0
    """
    _check(steps, lr, tau, iterations)
    scores = _Scores(starting_point(problem, start, seed), lr, tau, iterations)
    # Networks may be random in eval mode too, and data loaders shuffle: torch's own generators are put back afterwards.
    with torch.random.fork_rng(), running("Sinkhorn", total=steps, progress=progress) as run:
        torch.manual_seed(seed)
        cost = _cost(problem, seed, data, loss, inputs, point, evaluated)
        relaxed = scores.matrices()
        while problem.matched and run.done < steps and not run.stopped:
            value, step = cost.descend(relaxed), f"step {run.done + 1} of {steps}"
            if not math.isfinite(value):
                raise AutopermError(f"the {cost.name} is {value} at {step}; check the data, or lower lr=")
            if not scores.improve():
                raise AutopermError(f"the gradient of the {cost.name} is not finite at {step}; check loss=, or lower lr=")
            relaxed = scores.matrices()
            cost.best.offer(harden(problem, relaxed))
            run.advance(value)
    cost.best.settle()
    return Match(problem.permutation, problem.objective, problem.distance, cost.history(), run.stopped)


def _check(steps: int, lr: float, tau: float, iterations: int) -> None:
    if steps < 0:
        raise AutopermError(f"steps must be at least 0, not {steps}")
    if iterations < 1:
        raise AutopermError(f"iterations must be at least 1, not {iterations}")
    for name, value in (("lr", lr), ("tau", tau)):
        if not 0 < value < math.inf:
            raise AutopermError(f"{name} must be a positive number, not {value}")


class _Scores:
    """The scores of all groups, and Adam on them."""

    def __init__(self, start: Sequence[Tensor], lr: float, tau: float, iterations: int):
        self._tau, self._iterations = tau, iterations
        first = [_CONFIDENCE * matrix + (1 - _CONFIDENCE) / matrix.shape[-1] for matrix in start]
        self._scores = [(tau * matrix.log()).requires_grad_() for matrix in first]
        self._adam = torch.optim.Adam(self._scores, lr=lr) if self._scores else None
        self._unit = 0.0  # gradients count in units of the first: Adam's are numbers near 1, whatever the weights' scale

    def matrices(self) -> list[Tensor]:
        """What they stand for. What the operator adds to rows and columns is kept, for it to start from next time."""
        with torch.no_grad():
            for scores in self._scores:
                scores.copy_(self._tau * normalised(scores / self._tau, iterations=self._iterations))
        return [sinkhorn(scores / self._tau, iterations=1) for scores in self._scores]

    def improve(self) -> bool:
        """A step along the gradients that a cost has left; False where one is not finite."""
        gradients = [scores.grad for scores in self._scores if scores.grad is not None]
        if not all(bool(gradient.isfinite().all()) for gradient in gradients):
            return False
        if self._unit == 0:
            self._unit = max((float(gradient.abs().max()) for gradient in gradients), default=0.0)
        if self._adam is not None:
            for gradient in gradients:
                gradient.div_(self._unit or 1.0)
            self._adam.step()
            self._adam.zero_grad()
        return True


class _Distance:
    """The squared L2 distance of the parameters, without what nothing moves."""

    name = "distance"

    def __init__(self, problem: Problem):
        self._problem, self.best = problem, Best(problem)

    def descend(self, relaxed: Sequence[Tensor]) -> float:
        """The cost of a relaxed element; its gradient goes to what the element was made of."""
        problem, value = self._problem, 0.0
        leaves = [matrix.detach().requires_grad_() for matrix in relaxed]
        for u in (u for cells in cells_by_tensor(problem).values() for u in cells):
            gap = u.of(problem.a[u.name]) - soft_cell(problem, u, u.of(problem.b[u.name]), leaves)
            term = gap.abs().square().sum(dtype=torch.float64)
            term.backward()  # cell by cell: only one is in memory at a time
            value += float(term.detach())
        used = [(m, leaf.grad) for m, leaf in zip(relaxed, leaves, strict=True) if leaf.grad is not None]
        torch.autograd.backward([m for m, _ in used], [grad for _, grad in used])
        return value

    def history(self) -> tuple[float, ...]:
        return (*self.best.history[:-1], self._problem.objective)


class _OnLine:
    """A loss on the line between the models."""

    name = "loss"

    def __init__(self, problem: Problem, line: Line, where: _Where):
        self._line, self._where, self._stream = line, where, line.stream()
        self.best = Best(problem, lambda element: -line.loss_of(element))
        first = -self.best.history[0]
        if not math.isfinite(first):
            raise AutopermError(f"the loss is {first} in the middle between the models, before step 1; check data= and loss=")

    def descend(self, relaxed: Sequence[Tensor]) -> float:
        """The cost of a relaxed element; its gradient goes to what the element was made of."""
        value = self._line.loss_at(self._where(), relaxed, next(self._stream))
        check_differentiable(value)
        value.backward()
        return float(value.detach())

    def history(self) -> tuple[float, ...]:
        return tuple(-value for value in self.best.history)


class _Where:
    """Where on the line the loss is."""

    def __init__(self, point: str, seed: int):
        if point not in ("midpoint", "random"):
            raise AutopermError(f'point must be "midpoint" or "random", not {point!r}')
        self._generator = torch.Generator().manual_seed(seed) if point == "random" else None

    def __call__(self) -> float:
        if self._generator is None:
            return 0.5
        return float(torch.rand((), generator=self._generator, dtype=torch.float64, device="cpu"))


def _cost(
    problem: Problem,
    seed: int,
    data: Iterable[Any] | None,
    loss: Loss | None,
    inputs: Pick | None,
    point: str,
    evaluated: int,
) -> _Distance | _OnLine:
    where = _Where(point, seed)
    if loss is None and data is None:
        return _Distance(problem)
    if loss is None or data is None:
        has, lacks = ("loss", "data") if data is None else ("data", "loss")
        raise AutopermError(
            f"{has}= needs {lacks}=: a loss is taken on batches; leave out both to match by the weights' distance"
        )
    return _OnLine(problem, Line(problem, data, loss, inputs, evaluated), where)
