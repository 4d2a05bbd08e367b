"""The model in which an op's rule is tested: the op between free parameters.

Every operand is a parameter times an input, so that nothing but the op under test ties its dimensions, and every
result is multiplied by a parameter of its shape and summed. All permutations that the op allows are therefore
symmetries of the model, and all that it forbids are not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Case:
    """A function or a module (made by a function without arguments), and its operands.

    A tuple is the shape of a free operand, in which a negative size stands for a dimension that the input pins; a tensor
    is an input of the model. ``order`` is given by hand where the
    oracle cannot count (None: ask the oracle; 0: do not check, for the reason in ``why``). ``reads`` are the results
    that the model goes on to use. The last ``space`` dimensions of the results cannot move either. Tracing is in float64, or with
    ``single`` in float32, for which torch has other ops.
    """

    name: str
    function: Callable[..., Any]
    operands: tuple[Any, ...]
    order: int | None = None
    reads: tuple[int, ...] | None = None
    unsupported: bool = False
    constant: bool = False
    module: bool = False
    space: int = 0
    single: bool = False
    why: str = ""


class Sandwich(nn.Module):
    """``sum of after * function(before * x)``."""

    def __init__(self, case: Case, generator: torch.Generator):
        super().__init__()
        self.case = case
        self.function = case.function() if case.module else case.function
        free = [o for o in case.operands if isinstance(o, tuple)]
        sizes = [[max(n, 1) for n in shape] for shape in free]
        self.before = nn.ParameterList([nn.Parameter(torch.randn(s, generator=generator)) for s in sizes])
        given = [o if isinstance(o, torch.Tensor) else _input(o, generator) for o in case.operands]
        self.inputs = tuple(given) if given else (torch.ones(1),)
        self.after = nn.ParameterList()
        self.eval()
        with torch.no_grad():
            results = self._results(*self.inputs)
        sizes = [[*r.shape[: r.ndim - case.space], *[1] * min(case.space, r.ndim)] for r in results]
        self.after = nn.ParameterList([nn.Parameter(torch.randn(s, generator=generator)) for s in sizes])
        self.ramps = [_ramp(r.shape[r.ndim - case.space :]) for r in results]

    def _results(self, *given: torch.Tensor) -> list[torch.Tensor]:
        free = iter(self.before)
        wanted = self.case.operands
        operands = [next(free) * x if isinstance(o, tuple) else x for o, x in zip(wanted, given, strict=True)]
        found = [r for r in pytree.tree_leaves(self.function(*operands)) if isinstance(r, torch.Tensor)]
        found = [r for k, r in enumerate(found) if self.case.reads is None or k in self.case.reads]
        return [torch.view_as_real(r) if r.is_complex() else r for r in found]

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        results = self._results(*given)
        return sum(_total(a * r * t) for a, r, t in zip(self.after, results, self.ramps, strict=True))  # type: ignore[return-value]


def _input(shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """An input that differs along the dimensions to pin."""
    return torch.randn([-n if n < 0 else 1 for n in shape], generator=generator)


def _ramp(shape: Sequence[int]) -> torch.Tensor | float:
    """Different numbers along the last dimensions of a result."""
    return torch.arange(1, 1 + torch.Size(shape).numel(), dtype=torch.float64).reshape(shape) if shape else 1.0


def _total(x: torch.Tensor) -> torch.Tensor:
    return x.sum() if x.ndim else x


def trained(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """The model in float64 with every parameter and buffer random, variances positive."""
    model = model.double()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
                if name.endswith("running_var"):
                    tensor.abs_().add_(0.5)
    return model


def unsoundness(model: nn.Module, spec: Any, inputs: Sequence[torch.Tensor], seeds: Sequence[int]) -> tuple[float, float]:
    """The largest relative change that random elements make, and how much the output depends on the input."""
    def scaled(k: float) -> list[torch.Tensor]:
        return [k * x.double() if x.is_floating_point() else x for x in inputs]

    worst = 0.0
    with torch.no_grad():
        expected = [model(*scaled(k)) for k in (2.1, -3.3)]
        assert all(e.isfinite() for e in expected), "the model itself is not finite"
        scale = max(1.0, *(e.abs().item() for e in expected))
        for seed in seeds:
            moved = spec.random(seed).apply(model)
            for k, e in zip((2.1, -3.3), expected, strict=True):
                changed = moved(*scaled(k))
                worst = max(worst, ((changed - e).abs() / scale).item())
    return worst, (expected[0] - expected[1]).abs().item()
