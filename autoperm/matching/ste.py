"""Matching by a straight-through estimator (Ainsworth, Hayase and Srinivasa, ICLR 2023, section 3.3, Algorithm 2).

A free copy of model a's weights is trained. In the forward pass it stands projected onto the permutations of model b,
by weight matching, and the loss is that of the midpoint between a and this projection; the gradient goes straight
through to the free copy.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from autoperm.batches import Pick, batches
from autoperm.caches import copied
from autoperm.errors import AutopermError
from autoperm.gathering import gather
from autoperm.matching.losses import check_differentiable, loss_with
from autoperm.matching.problem import Problem
from autoperm.matching.registry import Match, matcher
from autoperm.matching.weight import weight_matching
from autoperm.running import Progress, running
from autoperm.spec import PermutationSpec
from autoperm.stacks import by_name

#: From the network's output and the batch to a tensor of one number.
Loss: TypeAlias = Callable[[Any, Any], Tensor]

Element: TypeAlias = Sequence[np.ndarray]


@matcher("ste")
def straight_through(
    problem: Problem,
    *,
    seed: int = 0,
    data: Iterable[Any],
    loss: Loss | None = None,
    inputs: Pick | None = None,
    steps: int = 100,
    lr: float = 3e-3,
    evaluated: int = 4,
    progress: Progress = True,
) -> Match:
    """Train the free copy by Adam, and keep the permutation with the lowest loss at the midpoint of all that it leads to.

    Model b as it is and the permutation of weight matching are the first candidates. The networks run in eval mode, and
    buffers are interpolated as well. The losses that are compared are means over the same few batches.

    Arguments:
        seed: of weight matching, and of whatever is random in the data and the network; torch's global generators are
            left as they were.
        data: batches, gone through again and again: a list or a data loader.
        loss: called with the network's output and the batch, returns a tensor of one number. By default the batches are
            pairs (x, y) and it is the cross entropy of the output for x and the labels y.
        inputs: picks from a batch what the forward takes, such as ``lambda batch: batch[0]`` where it holds labels too;
            by default x of a pair without ``loss``, otherwise the batch as it is.
        steps: steps of Adam, one batch each.
        lr: Adam's learning rate.
        evaluated: how many of the first batches the candidates are compared on; they are kept in memory.
        progress: False for no bar, or a function that is called after each step with its number and the batch's loss.

    Returns:
        The match. Its history is the best midpoint loss so far: as it is, after weight matching, and after each step.

    Raises:
        AutopermError: two state dicts and no template, no data, data that runs out, batches that are not pairs where
            there is no ``loss``, or a loss that is not finite (the step is named).

    Example:
        >>> import torch, autoperm
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = autoperm.infer(mlp, torch.zeros(1, 4))
        >>> x = torch.randn(32, 4)
        >>> data = [(x, mlp(x).detach())]
        >>> options = {"loss": lambda y, batch: (y - batch[1]).square().mean(), "inputs": lambda batch: batch[0]}
        >>> autoperm.match(mlp, spec.random(1).apply(mlp), spec, method="ste", data=data, steps=5, **options).distance
        0.0
    """
    if steps < 0 or not 0 < lr < float("inf"):
        raise AutopermError(f"steps= must be at least 0 and lr= above 0, not {steps} and {lr}")
    with torch.random.fork_rng(), running("straight-through", total=steps, progress=progress) as run:
        torch.manual_seed(seed)
        best = _Best(Midpoint(problem, data, loss, inputs, evaluated), problem)
        free = _Free(problem, lr)
        interrupted = free.project(seed, "propagate")
        best.offer(free.projection, "before the first step")
        stream = _endless(data)
        while run.done < steps and not (run.stopped or interrupted):
            value = free.step(best.midpoint, next(stream), f"at step {run.done + 1}")
            interrupted = free.project(seed, "identity")
            best.offer(free.projection, f"after step {run.done + 1}")
            run.advance(value)
        interrupted |= run.stopped
    problem.apply(dict(enumerate(best.element)), always=True)
    return Match(problem.permutation, problem.objective, problem.distance, tuple(best.history), interrupted)


class Midpoint:
    """The loss in the middle between model a and model b under an element.

    Raises:
        AutopermError: there is no network to run, or no data.
    """

    def __init__(self, problem: Problem, data: Iterable[Any], loss: Loss | None, inputs: Pick | None, evaluated: int):
        if problem.network is None:
            raise AutopermError("a loss needs a network to run, but both models are state dicts: pass template=, a module")
        if evaluated < 1:
            raise AutopermError(f"evaluated= must be at least 1 batch, not {evaluated}")
        self._network = copied(problem.network, problem.spec.caches).eval().requires_grad_(False)
        named = itertools.chain(
            self._network.named_parameters(remove_duplicate=False), self._network.named_buffers(remove_duplicate=False)
        )
        self._names = [name for name, _ in named]
        self._a, self._b = (_by_home(problem.spec, state) for state in problem.states)
        self._spec, self._rest = problem.spec, problem.states[0]
        self._loss, self._inputs = loss or _cross_entropy, inputs or (_first_of_pair if loss is None else lambda batch: batch)
        self._fixed = list(itertools.islice(batches(data), evaluated))

    def fixed(self, projection: Problem, where: str) -> float:
        """The mean loss over the fixed batches."""
        with torch.no_grad():
            state = self._state(projection, projection.b)
            return math.fsum(float(self._run(state, batch, where)) for batch in self._fixed) / len(self._fixed)

    def loss(self, projection: Problem, moved: Mapping[str, Tensor], batch: Any, where: str) -> Tensor:
        """The loss on one batch, with ``moved`` for the parameters of b that the groups move."""
        return self._run(self._state(projection, moved), batch, where)

    def _state(self, projection: Problem, moved: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The network's tensors: floating-point ones in the middle, the others model a's; tied ones are one tensor."""
        middle = {}
        for home, a in self._a.items():
            b = moved.get(home)
            if b is None:  # a buffer, or a parameter that nothing moves
                b = gather(projection.action, self._spec.layouts[home], projection.element, self._b[home])
            wide = torch.promote_types(a.dtype, torch.float32)
            middle[home] = ((a.to(wide) + b.to(a.device, wide)) / 2).to(a.dtype)
        others = {name: self._rest[name] for name in self._names if name in self._rest}
        return others | by_name(self._spec, middle, self._names)

    def _run(self, state: dict[str, Tensor], batch: Any, where: str) -> Tensor:
        value = loss_with(self._network, state, batch, self._loss, self._inputs)
        if not math.isfinite(float(value.detach())):
            raise AutopermError(f"the loss at the midpoint is {float(value.detach())} {where}; check the data, or lower lr=")
        return value


class _Free:
    """The free copy of a's weights, and the permutation of b that it is projected to.

    Attributes:
        projection: model b matched to the free copy.
    """

    def __init__(self, problem: Problem, lr: float):
        self._spec, self._states = problem.spec, problem.states
        self.projection = problem
        self._weights = {
            name: tensor.detach().clone().requires_grad_()
            for name, tensor in problem.a.items()
            if tensor.is_floating_point() or tensor.is_complex()
        }
        self._optimizer = torch.optim.Adam(self._weights.values(), lr=lr) if self._weights else None

    def step(self, midpoint: Midpoint, batch: Any, where: str) -> float:
        """One step of Adam. Forwards the projection's weights; backwards the gradient is that of the free copy."""
        projected = self.projection.b
        moved = {name: projected[name] + (free - free.detach()) for name, free in self._weights.items()}
        loss = midpoint.loss(self.projection, {**projected, **moved}, batch, where)
        if self._optimizer is not None:
            check_differentiable(loss)
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
        return float(loss.detach())

    def project(self, seed: int, start: str) -> bool:
        """Match b, from where it stands, to the free copy by weight matching; whether Ctrl-C ended that."""
        element = self.projection.element
        problem = Problem(self._spec, {**self._states[0], **self._weights}, self._states[1])
        problem.apply(dict(enumerate(element)), always=True)
        found = weight_matching(problem, seed=seed, start=start, progress=False)
        self.projection = problem
        return found.interrupted


class _Best:
    """The element with the lowest midpoint loss so far, a copy of its own."""

    def __init__(self, midpoint: Midpoint, problem: Problem):
        self.midpoint, self._last = midpoint, _copied(problem.element)
        self.element = self._last
        self.history = [midpoint.fixed(problem, "with model b as it is")]

    def offer(self, projection: Problem, where: str) -> None:
        """Keep the projection's element if it is better; it is looked at only if it is another one than the last."""
        lowest = self.history[-1]
        if any(not np.array_equal(x, y) for x, y in zip(projection.element, self._last, strict=True)):
            self._last = _copied(projection.element)
            value = self.midpoint.fixed(projection, where)
            if value < lowest:
                self.element, lowest = self._last, value
        self.history.append(lowest)


def _copied(element: Element) -> list[np.ndarray]:
    return [array.copy() for array in element]


def _by_home(spec: PermutationSpec, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The floating-point tensors that the forward reads, by their names in the layouts."""
    found = {home: state[name].detach() for name, home in spec.aliases.items() if name in state}
    return {home: t for home, t in found.items() if t.is_floating_point() or t.is_complex()}


def _endless(data: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from batches(data)


def _first_of_pair(batch: Any) -> Any:
    return _pair(batch)[0]


def _cross_entropy(output: Any, batch: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise AutopermError(f"the output is a {type(output).__name__}, not logits; pass loss=, called with that and the batch")
    return torch.nn.functional.cross_entropy(output, _pair(batch)[1])


def _pair(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    raise AutopermError(f"without loss=, batches must be pairs (x, labels), not {type(batch).__name__}; pass loss= and inputs=")
