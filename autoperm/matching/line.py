"""The loss on the straight line between model a and a model b that a relaxed element mixes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from autoperm.batches import Pick, batches
from autoperm.caches import copied
from autoperm.errors import AutopermError
from autoperm.gathering import gather
from autoperm.matching.losses import loss_with
from autoperm.matching.problem import Problem
from autoperm.matching.soft import soft_apply
from autoperm.stacks import by_name

#: From the network's output and the batch to a number.
Loss: TypeAlias = Callable[[Any, Any], Tensor]


class Line:
    """The line between the two models of a problem, and a loss on it.

    The network is copied, in eval mode; floating-point buffers lie on the line too, the others are model a's.

    Arguments:
        data: batches of what the network's forward takes; a list or a data loader, for it is gone through repeatedly.
        loss: from the network's output and the batch to a tensor of one number.
        inputs: picks from a batch what the forward takes, where it holds labels too.
        evaluated: how many of the first batches :meth:`loss_of` looks at.

    Raises:
        AutopermError: two state dicts and no template, or no data.
    """

    def __init__(self, problem: Problem, data: Iterable[Any], loss: Loss, inputs: Pick | None, evaluated: int):
        if problem.network is None:
            raise AutopermError("a loss needs a network to run, but both models are state dicts: pass template=, a module")
        if evaluated < 1:
            raise AutopermError(f"evaluated= must be at least 1 batch, not {evaluated}")
        self._problem, self._data, self._loss, self._inputs = problem, data, loss, inputs
        self._network = copied(problem.network, problem.spec.caches).eval().requires_grad_(False)
        self.parameters = problem.spec.parameters
        self._a, self._b = _floating(problem)
        names, state = _names(self._network), problem.states[0]
        self._spec, self._names = problem.spec, names
        # Integers are model a's, and so is what the forward never reads.
        self._others = {name: state[name] for name in names if isinstance(state.get(name), Tensor)}
        self._fixed = list(itertools.islice(batches(data), evaluated))

    def stream(self) -> Iterator[Any]:
        """The batches, again and again.

        Raises:
            AutopermError: the data is used up.
        """
        while True:
            yield from batches(self._data)

    def loss_at(self, t: float, relaxed: Sequence[Tensor], batch: Any) -> Tensor:
        """The loss at (1 - t) a + t soft(b), differentiable in the relaxed element by way of the parameters.

        Statistics in buffers are mixed as well, but held constant: BatchNorm cannot differentiate them.
        """
        mixed = {n: m if n in self.parameters else m.detach() for n, m in self.mixed(relaxed).items()}
        return self.loss_between(t, mixed, batch)

    def mixed(self, relaxed: Sequence[Tensor]) -> dict[str, Tensor]:
        """Model b's floating-point tensors as a relaxed element mixes them."""
        return soft_apply(self._problem, self._b, relaxed)

    def loss_of(self, element: Sequence[np.ndarray]) -> float:
        """The mean loss of the first batches in the middle between a and b, reordered by an element."""
        action, layouts = self._problem.action, self._problem.spec.layouts
        with torch.no_grad():
            b = {name: gather(action, layouts[name], element, t) for name, t in self._b.items()}
            return math.fsum(float(self.loss_between(0.5, b, batch)) for batch in self._fixed) / len(self._fixed)

    def loss_between(self, t: float, b: Mapping[str, Tensor], batch: Any) -> Tensor:
        """The loss at (1 - t) a + t b."""
        mixed = {name: _between(a, b[name], t) for name, a in self._a.items()}
        state = self._others | by_name(self._spec, mixed, self._names)
        return loss_with(self._network, state, batch, self._loss, self._inputs)


def _floating(problem: Problem) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The floating-point tensors of a, and those of b under the current element, by their names in the layouts."""
    found: list[dict[str, Tensor]] = []
    for state in (problem.states[0], problem.permutation.reordered(problem.states[1])):
        homes = {home: state[name].detach() for name, home in problem.spec.aliases.items() if name in state}
        found.append({home: t for home, t in homes.items() if t.is_floating_point() or t.is_complex()})
    return found[0], found[1]


def _names(network: nn.Module) -> list[str]:
    """Those of all parameters and buffers, tied ones under each of their names."""
    named = network.named_parameters(remove_duplicate=False), network.named_buffers(remove_duplicate=False)
    return [name for name, _ in itertools.chain(*named)]


def _between(a: Tensor, b: Tensor, t: float) -> Tensor:
    """In float32 at least, then as wide as a."""
    wide = torch.promote_types(a.dtype, torch.float32)
    return ((1 - t) * a.to(wide) + t * b.to(a.device, wide)).to(a.dtype)
