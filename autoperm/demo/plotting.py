"""The demo's picture: loss and accuracy along the line, for each architecture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoperm.errors import AutopermError

if TYPE_CHECKING:
    from autoperm.demo.experiment import Outcome

COLORS = {
    "naive": "#EE6677",
    "permuted": "#4477AA",
    "naive, norms reset": "#CCBB44",
    "permuted, norms reset": "#228833",
}


def plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw a PNG: one row per architecture, loss left and accuracy right; test solid, train dashed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise AutopermError("the demo's plot needs matplotlib: pip install 'autoperm[demo]'") from error
    figure = Figure(figsize=(9, 3.1 * len(outcomes)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(outcomes), 2, squeeze=False)
    for row, outcome in zip(grid, outcomes, strict=True):
        for axes, metric in zip(row, ("loss", "accuracy"), strict=True):
            _panel(axes, outcome, metric)
    handles = {line.get_label(): line for row in grid for line in row[0].lines if not line.get_label().startswith("_")}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path, facecolor="white")


def _panel(axes, outcome: Outcome, metric: str) -> None:  # type: ignore[no-untyped-def]
    for name, curve in outcome.curves.items():
        for split, style in (("test", "-"), ("train", "--")):
            label = name if split == "test" else None
            axes.plot(curve.lambdas, curve.curves[f"{split} {metric}"], style, color=COLORS[name], label=label, lw=1.8)
    axes.set_title(f"{outcome.name}: {metric} (test solid, train dashed)", fontsize=9)
    axes.set_xlabel(r"$\lambda$ from model a to model b", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
