"""A metric on the plane through three models' weights (Garipov et al., NeurIPS 2018, Figure 1)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from autoperm.errors import AutopermError
from autoperm.evaluation.points import Metrics, Model, Points
from autoperm.options import check_number
from autoperm.running import Progress, running

_NAMES = ("model_a", "model_b", "model_c")
#: Model c counts as on the line through a and b below this distance from it, as a share of its distance from a. Weights
#: in float32 are rounded to 6e-8 of their size.
_FLAT = 1e-6


@dataclass(frozen=True, eq=False)
class Plane:
    """Metrics on a grid in the plane through models a, b and c.

    The axes are orthonormal in the space of parameters: a is at the origin, b on the positive x axis, c above it. So
    distances in the plane are L2 distances between models.

    Attributes:
        x, y: the coordinates of the grid, shapes (columns,) and (rows,).
        grids: an array of shape (rows, columns) for each metric; NaN where an interrupted run did not get to.
        models: the coordinates of models a, b and c, shape (3, 2).
        at_models: for each metric its values at the three models, shape (3,).
        higher_is_better: the metrics that count upwards, such as an accuracy.
        interrupted: whether Ctrl-C ended the run.
    """

    x: np.ndarray
    y: np.ndarray
    grids: dict[str, np.ndarray]
    models: np.ndarray
    at_models: dict[str, np.ndarray]
    higher_is_better: frozenset[str] = frozenset()
    interrupted: bool = False


def plane(
    model_a: Model,
    model_b: Model,
    model_c: Model,
    evaluate: Callable[[nn.Module], Metrics],
    *,
    steps: int | tuple[int, int] = 21,
    margin: float = 0.2,
    template: nn.Module | None = None,
    higher_is_better: bool | str | Collection[str] = (),
    prepare: Callable[[nn.Module], None] | None = None,
    progress: Progress = True,
) -> Plane:
    """Evaluate models on a grid in the plane through three models, such as A, B and B permuted towards A.

    The basis is orthonormalised over the parameters, tied ones counted once, in float64. Floating-point buffers are
    mixed as the parameters are, inside the triangle; outside, they are those of a point on its border, since norm
    statistics cannot be extrapolated. Integer buffers are model a's.

    Arguments:
        model_a, model_b, model_c: modules or state dicts of the same architecture; they are not changed.
        evaluate: called with a module in eval mode; returns a number, or a dict of numbers by metric.
        steps: the number of columns and rows, or both as a pair. The grid holds their product of points.
        margin: what the grid adds on each side of the triangle, as a share of the triangle's width and height.
        template: a module of that architecture, needed where model_a is a state dict; a copy of it is evaluated.
        higher_is_better: the metrics that count upwards; True for all of them.
        prepare: called with each module before ``evaluate``, to reset norm statistics for example.
        progress: False for no bar, or a function called after each point with how many are done, and the first metric.

    Raises:
        AutopermError: fewer than two steps, a negative margin, models on one line (or equal), state dicts without a
            template, ``evaluate`` returned NaN or other metrics than before, and what ``higher_is_better`` may raise.
        StateError: the models differ in keys, shapes, dtypes or devices.

    Example:
        >>> import torch
        >>> from autoperm.evaluation import plane
        >>> def point(x, y):
        ...     model = torch.nn.Linear(2, 1, bias=False)
        ...     model.weight.data = torch.tensor([[x, y]])
        ...     return model
        >>> found = plane(point(0., 0.), point(4., 0.), point(1., 3.), lambda m: float(m.weight.sum()), steps=2, margin=0)
        >>> found.models.tolist(), found.grids["loss"].tolist()
        ([[0.0, 0.0], [4.0, 0.0], [1.0, 3.0]], [[0.0, 4.0], [3.0, 7.0]])
    """
    columns, rows = steps if isinstance(steps, (tuple, list)) and len(steps) == 2 else (steps, steps)  # type: ignore[assignment]
    for name, value in (("steps", columns), ("steps", rows)):
        check_number(name, value, whole=True)
    check_number("margin", margin)
    if min(columns, rows) < 2:
        raise AutopermError(f"a plane needs at least 2 steps in each direction, got {columns} x {rows}")
    if not 0.0 <= margin < float("inf"):
        raise AutopermError(f"margin is a share of the triangle's size, 0 or more, not {margin}")
    points = Points(dict(zip(_NAMES, (model_a, model_b, model_c), strict=True)), evaluate, template, prepare, higher_is_better)
    corners = _corners(points.states, [name for name, _ in points.working.named_parameters()])
    x, y = (_axis(corners[:, k], n, margin) for k, n in enumerate((columns, rows)))
    return _on_grid(points, corners, x, y, progress)


def _on_grid(points: Points, corners: np.ndarray, x: np.ndarray, y: np.ndarray, progress: Progress) -> Plane:
    with running("plane", total=3 + x.size * y.size, progress=progress) as run:
        ends = []
        for name, weights in zip(_NAMES, np.eye(3).tolist(), strict=True):
            ends.append(points.at(weights, name))
            run.advance(ends[-1][points.metrics[0]])
        grids = {name: np.full((y.size, x.size), np.nan) for name in points.metrics}
        for j, i in itertools.product(range(y.size), range(x.size)):
            if run.stopped:
                break
            found = points.at(_weights(corners, x[i], y[j]), f"x = {x[i]:.4g}, y = {y[j]:.4g}")
            for name, value in found.items():
                grids[name][j, i] = value
            run.advance(found[points.metrics[0]])
    at_models = {name: np.array([end[name] for end in ends]) for name in points.metrics}
    interrupted = run.done < 3 + x.size * y.size
    return Plane(x, y, grids, corners, at_models, points.upwards, interrupted)


def _corners(states: Sequence[Mapping[str, torch.Tensor]], parameters: Sequence[str]) -> np.ndarray:
    """The models' coordinates, by Gram-Schmidt on b - a and c - a, of which only inner products are needed."""
    uu = uv = vv = 0.0
    for name in parameters:
        a, b, c = (_wide(state[name]) for state in states)
        u, v = b - a, c - a
        uu, uv, vv = uu + _inner(u, u), uv + _inner(u, v), vv + _inner(v, v)
    height = vv - uv * uv / uu if uu > 0.0 else 0.0
    if not height > _FLAT**2 * vv:
        raise AutopermError("the three models lie on one line, so no plane is theirs alone; use autoperm.interpolate")
    return np.array([[0.0, 0.0], [uu**0.5, 0.0], [uv / uu**0.5, height**0.5]])


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float64))


def _inner(u: torch.Tensor, v: torch.Tensor) -> float:
    return float((u * v.conj()).real.sum())


def _axis(corners: np.ndarray, steps: int, margin: float) -> np.ndarray:
    low, high = corners.min(), corners.max()
    extra = margin * (high - low)
    return np.linspace(low - extra, high + extra, steps)


def _weights(corners: np.ndarray, x: float, y: float) -> list[float]:
    """The affine weights of a, b and c that give the point: they sum to one."""
    c = y / corners[2, 1]
    b = (x - c * corners[2, 0]) / corners[1, 0]
    return [1.0 - b - c, b, c]
