"""The straight line between two models, and the barrier along it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from autoperm.errors import AutopermError
from autoperm.evaluation.points import Metrics, Points
from autoperm.options import check_number
from autoperm.running import Progress, running


@dataclass(frozen=True, eq=False)
class Interpolation:
    """A metric along the line from model a (lambda 0) to model b (lambda 1).

    Attributes:
        lambdas: the positions on the line, shape (steps,).
        curves: one array of shape (steps,) per metric; a plain number is the metric ``"loss"``.
        higher_is_better: the metrics that count upwards, such as an accuracy.
        interrupted: whether Ctrl-C ended the run. The last of the lambdas is 1 all the same, so that there is a barrier;
            it is that of the points that were evaluated.

    Example:
        >>> import numpy as np, autoperm
        >>> line = autoperm.Interpolation(np.array([0.0, 0.5, 1.0]), {"loss": np.array([1.0, 4.0, 2.0])})
        >>> line.barrier
        2.5
    """

    lambdas: np.ndarray
    curves: dict[str, np.ndarray]
    higher_is_better: frozenset[str] = frozenset()
    interrupted: bool = False

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

        Raises:
            AutopermError: there is no such metric, or it is infinite at an end.
        """
        curve = self._curve(metric)
        mean = (curve[0] + curve[-1]) / 2
        if not np.isfinite(mean):
            raise AutopermError(f"{metric!r} is {curve[0]} and {curve[-1]} at the ends of the line: there is no barrier")
        return float(mean - curve.min() if metric in self.higher_is_better else curve.max() - mean)

    def _curve(self, metric: str) -> np.ndarray:
        if metric not in self.curves:
            raise AutopermError(f"there is no metric {metric!r}; evaluate returned {', '.join(map(repr, self.curves))}")
        return self.curves[metric]

    def plot(self, ax: Any = None, metric: str | None = None, **style: Any) -> Any:
        """Draw a metric's curve on matplotlib axes, which are returned.

        Raises:
            AutopermError: matplotlib is not installed, or there is no such metric.
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise AutopermError("plotting needs matplotlib: pip install 'autoperm[plot]'") from error
        metric = metric or next(iter(self.curves))
        curve = self._curve(metric)
        if ax is None:
            _, ax = plt.subplots(figsize=(4.5, 3.2), layout="constrained")
        ax.plot(self.lambdas, curve, **{"linewidth": 2, **style})
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
    progress: bool | Callable[[int, int], None] | None = True,
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
        progress: False for no bar, or a function that is called after each point with how many are done, and of how many.

    Raises:
        AutopermError: fewer than two steps, state dicts without a template, ``evaluate`` returned NaN (the lambda is
            named) or other metrics than before, or ``higher_is_better`` names a metric that it does not return.
        StateError: the models differ in keys, shapes, dtypes or devices.

    Example:
        >>> import torch, autoperm
        >>> a, b = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
        >>> x = torch.randn(16, 2)
        >>> curve = autoperm.interpolate(a, b, lambda m: float((m(x) ** 2).mean()), steps=5)
        >>> curve.lambdas.tolist()
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    check_number("steps", steps, whole=True)
    if steps < 2:
        raise AutopermError(f"an interpolation needs at least 2 steps, got {steps}")
    points = Points({"model_a": model_a, "model_b": model_b}, evaluate, template, prepare, higher_is_better)
    lambdas: list[float] = []
    found: list[dict[str, float]] = []
    with running("interpolation", total=steps, progress=_of(steps, progress)) as run:
        for position in np.linspace(0.0, 1.0, steps).tolist():
            if run.stopped and position < 1.0:
                continue
            found.append(points.at((1 - position, position), f"lambda = {position:g}"))
            lambdas.append(position)
            run.advance(found[-1][points.metrics[0]])
    curves = {name: np.array([values[name] for values in found]) for name in points.metrics}
    return Interpolation(np.array(lambdas), curves, points.upwards, interrupted=len(lambdas) < steps)


def _of(steps: int, progress: bool | Callable[[int, int], None] | None) -> Progress:
    """The caller's function takes the number of steps where a run's takes a value."""
    return (lambda done, value: progress(done, steps)) if callable(progress) else progress
