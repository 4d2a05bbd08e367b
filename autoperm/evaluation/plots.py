"""The figures of a paper on merging: lines, reliability, planes, barriers. Each draws on axes and returns them.

    figure, panels = subplots(1, 2)
    plot_lines({"naive": naive, "permuted": permuted}, "loss", panels[0])
    save(figure, "lines.png")

matplotlib is imported when the first of them is called, and its global state (pyplot) is left alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoperm.errors import AutopermError
from autoperm.evaluation.calibration import Calibration
from autoperm.evaluation.plane import Plane
from autoperm.files import write_atomically

if TYPE_CHECKING:
    from autoperm.interpolate import Interpolation

#: Distinct for the colour-blind and in grey (Paul Tol's bright scheme, red and blue first).
COLORS = ("#EE6677", "#4477AA", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#EE7733", "#777777", "#000000")
_TEXT = 8
_ARROW = {"arrowstyle": "<->", "color": "#444444", "lw": 0.9, "shrinkA": 0, "shrinkB": 0}
_TRAIN = "_train"  # legends leave out what starts with _
_SMALL = {"frameon": False, "fontsize": _TEXT - 1, "title_fontsize": _TEXT - 1, "alignment": "left"}
_UNDATED = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


def subplots(rows: int = 1, columns: int = 1, *, panel: tuple[float, float] = (3.4, 2.7)) -> tuple[Any, np.ndarray]:
    """A figure and its axes, shape (rows, columns); ``panel`` is the size of one in inches.

    Raises:
        AutopermError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise AutopermError("plotting needs matplotlib: pip install 'autoperm[plot]'") from error
    figure = Figure(figsize=(panel[0] * columns, panel[1] * rows), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def save(figure: Any, path: str | PathLike[str]) -> None:
    """Write a figure, atomically, in the format that the file's name ends in; the same figure gives the same bytes."""
    import matplotlib

    def write(target: Path) -> None:
        figure.savefig(target, facecolor="white", metadata=_UNDATED.get(target.suffix.lower(), {}))

    with matplotlib.rc_context({"svg.hashsalt": "autoperm"}):
        write_atomically(path, write, overwrite=True)


def plot_lines(
    curves: Mapping[str, Interpolation], metric: str, ax: Any = None, *, barriers: bool = True, legend: bool = True
) -> Any:
    """A metric along the lines between models: train dashed, test solid, the first line's barrier marked.

    Arguments:
        curves: lines by the name that the legend shows. Where they have ``"train " + metric`` and ``"test " + metric``
            both are drawn; else ``metric`` itself, solid.
        metric: ``"loss"``, for example.
        ax: matplotlib axes; None makes a figure.
        barriers: draw the test barrier of the first line, and write those of all in the legend, in brackets.
        legend: whether there is one; see :func:`share_legend` for one of several axes.

    Raises:
        AutopermError: no curves, or one that lacks the metric; matplotlib is not installed.

    Example:
        >>> import torch, autoperm
        >>> from autoperm.evaluation.plots import plot_lines
        >>> a, b = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
        >>> line = autoperm.interpolate(a, b, lambda m: float(m.weight), 5)
        >>> plot_lines({"naive": line}, "loss").get_ylabel()
        'loss'
    """
    if not curves:
        raise AutopermError("there are no lines to plot: curves is empty")
    ax = _axes(ax)
    for k, (name, curve) in enumerate(curves.items()):
        found = _splits(name, curve, metric)
        color = COLORS[k % len(COLORS)]
        label = f"{name} ({curve.barrier_of(found['-']):.3f})" if barriers and legend else name
        for style, full in found.items():
            test = style == "-"
            ax.plot(
                curve.lambdas, curve.curves[full], style, color=color, label=label if test else _TRAIN, lw=1.8 if test else 1.2
            )
    if barriers:
        _mark(ax, *_first(curves, metric))
    _finish(ax, r"$\lambda$ from model a to model b", metric)
    ax.set_xlim(0, 1)
    if legend:
        title = "barrier in brackets" if barriers else None
        ax.legend(handles=_handles(ax), title=title, **_SMALL, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return ax


def share_legend(figure: Any, columns: int = 4) -> None:
    """One legend below all axes of a figure, for what :func:`plot_lines` or :func:`plot_barriers` drew without one."""
    named = {artist.get_label(): artist for ax in figure.axes for artist in _handles(ax)}
    figure.legend(handles=list(named.values()), **_SMALL, loc="outside lower center", ncols=columns)


def plot_reliability(found: Calibration, ax: Any = None, *, title: str | None = None, color: str = COLORS[1]) -> Any:
    """A reliability diagram: accuracy against confidence by bin, with the share of predictions below it.

    The gap to the diagonal is hatched; a perfectly calibrated classifier has none.
    """
    ax = _axes(ax)
    full = found.count > 0
    middle, width = (found.edges[:-1] + found.edges[1:]) / 2, np.diff(found.edges)
    sure, right = found.confidence[full], found.accuracy[full]
    ax.bar(middle[full], right, width[full], color=color, edgecolor="white", lw=0.6, label="accuracy")
    low, high = np.minimum(sure, right), np.maximum(sure, right)
    ax.bar(
        middle[full], high - low, width[full], bottom=low, facecolor="none", edgecolor=COLORS[0], hatch="////", lw=0.6,
        label="gap to confidence",
    )  # fmt: skip
    ax.plot([0, 1], [0, 1], "--", color="#444444", lw=1)
    share = found.count / found.count.sum()
    ax.bar(middle, -0.22 * share / share.max(), width, color="#BBBBBB", edgecolor="white", lw=0.6, label="share of predictions")
    ax.axhline(0, color="black", lw=0.8)
    _finish(ax, "confidence", "accuracy")
    ax.set(xlim=(0, 1), ylim=(-0.24, 1.02), yticks=np.linspace(0, 1, 6))
    ax.set_title(f"{title + ': ' if title else ''}ECE {100 * found.ece:.1f} %", fontsize=_TEXT + 1)
    ax.legend(**_SMALL, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)  # any bar may be full
    return ax


def plot_plane(found: Plane, metric: str | None = None, ax: Any = None, *, labels: Sequence[str] = ("A", "B", "C")) -> Any:
    """Contours of a metric on the plane through three models, with the models and the lines between them.

    Where the range is wide and above zero the levels are logarithmic, so that basins show beside walls.

    Raises:
        AutopermError: the plane lacks the metric; matplotlib is not installed.
    """
    metric = metric or next(iter(found.grids))
    if metric not in found.grids:
        raise AutopermError(f"the plane has no metric {metric!r}; it has {', '.join(map(repr, found.grids))}")
    ax = _axes(ax)
    values = np.where(np.isfinite(found.grids[metric]), found.grids[metric], np.nan)
    levels, norm = _levels(values)
    cmap = "viridis" if metric in found.higher_is_better else "viridis_r"
    drawn = ax.contourf(found.x, found.y, np.ma.masked_invalid(values), levels, norm=norm, cmap=cmap, extend="both")
    ax.contour(found.x, found.y, np.ma.masked_invalid(values), levels, norm=norm, colors="white", linewidths=0.35)
    # As high as the axes, which keep the plane's proportions.
    bar = ax.figure.colorbar(drawn, cax=ax.inset_axes((1.03, 0, 0.045, 1)), format="%.2g", ticks=levels[::2])
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=_TEXT - 1)
    bar.set_label(metric, fontsize=_TEXT)
    _draw_models(ax, found.models, labels)
    _finish(ax, "L2 distance from model A", "L2 distance")
    ax.set_aspect("equal")
    return ax


def plot_barriers(
    series: Mapping[str, Mapping[float, Sequence[float]]], ax: Any = None, *, x: str = "width", y: str = "test barrier (loss)",
    logarithmic: bool = False, legend: bool = True,
) -> Any:  # fmt: skip
    """Barriers against a width, an epoch: a line of means for each method, its runs as dots behind.

    Arguments:
        series: by method, for each position on the x axis the barriers of all runs.
        x, y: what the axes are.
        logarithmic: whether the x axis is to base 2, as for widths.
    """
    ax = _axes(ax)
    from matplotlib.ticker import MaxNLocator

    for k, (name, values) in enumerate(series.items()):
        at, color = sorted(values), COLORS[k % len(COLORS)]
        ax.plot(at, [np.mean(values[p]) for p in at], "o-", color=color, label=name, lw=1.8, ms=4)
        if any(len(values[p]) > 1 for p in at):
            dots = [(p, v) for p in at for v in values[p]]
            ax.plot(*zip(*dots, strict=True), ".", color=color, alpha=0.35, ms=4)
    ax.axhline(0, color="#999999", lw=0.8, ls=":")
    positions = sorted({p for values in series.values() for p in values})
    if logarithmic:
        ax.set_xscale("log", base=2)
        ax.minorticks_off()
    if logarithmic or len(positions) <= 8:
        ax.set_xticks(positions, [f"{p:g}" for p in positions])
    elif all(float(p).is_integer() for p in positions):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(ax, x, y)
    if legend:
        ax.legend(frameon=False, fontsize=_TEXT - 1, loc="best")
    return ax


def _axes(ax: Any) -> Any:
    return subplots()[1][0, 0] if ax is None else ax


def _finish(ax: Any, x: str, y: str) -> None:
    ax.set_xlabel(x, fontsize=_TEXT)
    ax.set_ylabel(y, fontsize=_TEXT)
    ax.tick_params(labelsize=_TEXT - 1)
    ax.spines[["top", "right"]].set_visible(False)


def _splits(name: str, curve: Interpolation, metric: str) -> dict[str, str]:
    """The metrics to draw by line style; the solid one is always there."""
    found = {"-": f"test {metric}", "--": f"train {metric}"}
    if found["-"] in curve.curves:
        return {style: full for style, full in found.items() if full in curve.curves}
    if metric in curve.curves:
        return {"-": metric}
    raise AutopermError(f"the line {name!r} has no metric {metric!r}; it has {', '.join(map(repr, curve.curves))}")


def _first(curves: Mapping[str, Interpolation], metric: str) -> tuple[Interpolation, str]:
    name, curve = next(iter(curves.items()))
    return curve, _splits(name, curve, metric)["-"]


def _mark(ax: Any, curve: Interpolation, metric: str) -> None:
    """A double arrow from the mean of the ends to the worst point."""
    values = curve.curves[metric]
    worst = int(values.argmin() if metric in curve.higher_is_better else values.argmax())
    mean = (values[0] + values[-1]) / 2
    if curve.barrier_of(metric) <= 0.02 * float(np.ptp(ax.get_ylim())):
        return
    at = float(curve.lambdas[worst])
    ax.plot([0, 1], [mean, mean], ":", color="#666666", lw=0.9)
    ax.annotate("", (at, values[worst]), (at, mean), arrowprops=_ARROW)
    beside = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
    box = {"boxstyle": "round,pad=0.1", "facecolor": "white", "alpha": 0.8, "lw": 0}
    ax.annotate("barrier", (at, (mean + values[worst]) / 2), **beside, fontsize=_TEXT - 1, color="#444444", bbox=box)


def _handles(ax: Any) -> list[Any]:
    """The lines that have a name, and what dashes are where there are any."""
    from matplotlib.lines import Line2D

    named = [artist for artist in ax.lines if not artist.get_label().startswith("_")]
    if any(artist.get_label() == _TRAIN for artist in ax.lines):
        styles = (("-", "test"), ("--", "train"))
        named += [Line2D([], [], ls=style, color="#444444", label=split, lw=1.2) for style, split in styles]
    return named


def _levels(values: np.ndarray) -> tuple[np.ndarray, Any]:
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.ticker import MaxNLocator

    finite = values[np.isfinite(values)]
    if not finite.size:
        raise AutopermError("the plane holds no finite value to draw")
    low, high = (float(v) for v in np.quantile(finite, (0.0, 0.95)))
    high = high if high > low else low + max(abs(low), 1.0) * 1e-3
    if low > 0 and high > 20 * low:
        return np.geomspace(low, high, 17), LogNorm(low, high)
    levels = MaxNLocator(18, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return levels, Normalize(levels[0], levels[-1])


def _draw_models(ax: Any, models: np.ndarray, labels: Sequence[str]) -> None:
    loop = np.vstack([models, models[:1]])
    ax.plot(loop[:, 0], loop[:, 1], "--", color="black", lw=0.8)
    ax.plot(models[:, 0], models[:, 1], "o", color="black", mec="white", ms=6)
    for (px, py), label in zip(models, labels, strict=True):
        above = py > 0 or math.isclose(py, models[:, 1].max())
        ax.annotate(
            label, (px, py), (0, 6 if above else -6), textcoords="offset points", ha="center",
            va="bottom" if above else "top", fontsize=_TEXT + 1, fontweight="bold", color="black",
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.75, "lw": 0},
        )  # fmt: skip
