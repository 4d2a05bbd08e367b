"""The straight line between two models, and the barrier along it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from autoperm.errors import AutopermError
from autoperm.state import check_pair, like, state_of

Metrics = float | Mapping[str, float]


@dataclass(frozen=True)
class Interpolation:
    """A metric along the line from model a (lambda 0) to model b (lambda 1).

    Attributes:
        lambdas: the positions on the line, shape (steps,).
        curves: one array of shape (steps,) per metric; a plain number is the metric ``"loss"``.
        higher_is_better: the metrics that count upwards, such as an accuracy.
    """

    lambdas: np.ndarray
    curves: dict[str, np.ndarray]
    higher_is_better: frozenset[str] = frozenset()

    @property
    def values(self) -> np.ndarray:
        """The curve of the first metric."""
        return next(iter(self.curves.values()))

    @property
    def barrier(self) -> float:
        """The barrier of the first metric."""
        return self.barrier_of(next(iter(self.curves)))

    def barrier_of(self, metric: str) -> float:
        """The worst value on the line minus the mean of the endpoints, for a loss; the other way round for an accuracy.

        This is the definition of Ainsworth et al. 2023.
        """
        curve = self.curves[metric]
        mean = (curve[0] + curve[-1]) / 2
        return float(mean - curve.min() if metric in self.higher_is_better else curve.max() - mean)

    def plot(self, ax: Any = None, metric: str | None = None, **style: Any) -> Any:
        """Draw a metric's curve on matplotlib axes, which are returned.

        Raises:
            AutopermError: matplotlib is not installed.
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise AutopermError("plotting needs matplotlib: pip install 'autoperm[plot]'") from error
        metric = metric or next(iter(self.curves))
        if ax is None:
            _, ax = plt.subplots(figsize=(4.5, 3.2), layout="constrained")
        ax.plot(self.lambdas, self.curves[metric], **{"linewidth": 2, **style})
        ax.set_xlabel(r"$\lambda$ (0: model a, 1: model b)")
        ax.set_ylabel(metric)
        ax.spines[["top", "right"]].set_visible(False)
        return ax


def interpolate(
    model_a: nn.Module | Mapping[str, torch.Tensor],
    model_b: nn.Module | Mapping[str, torch.Tensor],
    evaluate: Callable[[nn.Module], Metrics],
    steps: int = 25,
    *,
    template: nn.Module | None = None,
    higher_is_better: bool | str | Collection[str] = (),
    prepare: Callable[[nn.Module], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Interpolation:
    """Evaluate models on the straight line between two models' weights.

    Floating-point parameters and buffers are interpolated; integer buffers are model a's.

    Arguments:
        model_a: a module or a state dict; it is not changed.
        model_b: a module or a state dict of the same architecture.
        template: a module of that architecture, needed where model_a is a state dict; a copy of it is evaluated.
        evaluate: called with a module in eval mode; returns a number, or a dict of numbers by metric.
        steps: the number of points, both ends included.
        higher_is_better: the metrics for which a barrier is a fall, such as ``"accuracy"``; True for all of them.
        prepare: called with each interpolated module before ``evaluate``, to reset norm statistics for example.
        progress: called after each point with how many are done, and of how many.

    Raises:
        AutopermError: fewer than two steps, state dicts without a template, ``evaluate`` returned NaN (the lambda is
            named) or other metrics than before, or ``higher_is_better`` names a metric that it does not return.
        StateError: the models differ in keys or shapes.

    Example:
        >>> import torch, autoperm
        >>> a, b = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
        >>> x = torch.randn(16, 2)
        >>> curve = autoperm.interpolate(a, b, lambda m: float((m(x) ** 2).mean()), steps=5)
        >>> curve.lambdas.tolist()
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    if steps < 2:
        raise AutopermError(f"an interpolation needs at least 2 steps, got {steps}")
    start, end = state_of(model_a, "model_a"), state_of(model_b, "model_b")
    check_pair(start, end)
    working = _working(model_a, template)
    lambdas = np.linspace(0.0, 1.0, steps)
    curves: dict[str, list[float]] = {}
    for k, position in enumerate(lambdas.tolist()):
        working.load_state_dict(_between(start, end, position))
        if prepare is not None:
            prepare(working)
        with torch.no_grad():
            found = evaluate(working.eval())
        metrics = _named(found)
        if k and set(metrics) != set(curves):
            raise AutopermError(f"evaluate returned {_list(metrics)} at lambda = {position:g} but {_list(curves)} before")
        for name, value in metrics.items():
            if math.isnan(value):
                raise AutopermError(f"evaluate returned NaN for {name!r} at lambda = {position:g}")
            curves.setdefault(name, []).append(value)
        if progress is not None:
            progress(k + 1, steps)
    return Interpolation(lambdas, {k: np.array(v) for k, v in curves.items()}, _upwards(higher_is_better, curves))


def _working(model_a: nn.Module | Mapping[str, torch.Tensor], template: nn.Module | None) -> nn.Module:
    source = template if template is not None else model_a
    if not isinstance(source, nn.Module):
        raise AutopermError("model_a is a state dict: pass template=, a module of the same architecture to evaluate with")
    return copy.deepcopy(source).eval()


def _upwards(higher_is_better: bool | str | Collection[str], curves: Mapping[str, Any]) -> frozenset[str]:
    if isinstance(higher_is_better, bool):
        return frozenset(curves) if higher_is_better else frozenset()
    named = {higher_is_better} if isinstance(higher_is_better, str) else set(higher_is_better)
    if unknown := named - set(curves):
        raise AutopermError(f"higher_is_better names {_list(unknown)}, but evaluate returned {_list(curves)}")
    return frozenset(named)


def _list(names: Collection[str]) -> str:
    return ", ".join(sorted(map(repr, names))) or "nothing"


def _between(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor], position: float) -> dict[str, torch.Tensor]:
    def mix(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if not (x.is_floating_point() or x.is_complex()) or position == 0.0:
            return x
        wide = torch.promote_types(x.dtype, torch.float32)  # half precision would round twice
        return y if position == 1.0 else ((1 - position) * x.to(wide) + position * y.to(x.device, wide)).to(x.dtype)

    return like(a, {name: mix(tensor, b[name]) for name, tensor in a.items()})


def _named(found: Metrics) -> dict[str, float]:
    return {k: float(v) for k, v in found.items()} if isinstance(found, Mapping) else {"loss": float(found)}
