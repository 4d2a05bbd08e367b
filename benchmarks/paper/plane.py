"""The loss on the plane through A, B and permuted B (Ainsworth et al. 2023, Figure 1; Garipov et al. 2018).

    python benchmarks/paper/plane.py
    python benchmarks/paper/plane.py --quick         a narrow MLP on digits, a coarse grid

Permuting brings B, which computes the same, into A's basin. Writes plane.md and plane.png.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import autoperm
from autoperm.evaluation import Plane, plane, plots
from benchmarks.nets import net
from benchmarks.paper import report
from benchmarks.training import UP, evaluate, setting, train

LABELS = ("A", "B", "π(B)")


def rows(found: Plane) -> list[report.Row]:
    """The three models: where they are, and how far from A and B."""
    table = []
    for k, label in enumerate(LABELS):
        away = [float(np.linalg.norm(found.models[k] - found.models[j])) for j in (0, 1)]
        values = {name: f"{at[k]:.3f}" for name, at in found.at_models.items()}
        table.append({"model": label, "distance from A": f"{away[0]:.2f}", "distance from B": f"{away[1]:.2f}", **values})
    return table


def main(
    quick: Annotated[bool, typer.Option(help="a narrow MLP on digits, a coarse grid")] = False,
    data: Annotated[str, typer.Option(help="auto, fashion-mnist or digits")] = "auto",
    name: Annotated[str, typer.Option("--net", help="the architecture; one without BatchNorm")] = "mlp",
    width: Annotated[int, typer.Option(help="its width; 0 is the widest of the setting")] = 0,
    steps: Annotated[int, typer.Option(help="columns and rows of the grid")] = 31,
    out: Annotated[Path | None, typer.Option(help="folder for the page and the plot")] = None,
) -> None:
    """Train two models, align, evaluate on the plane; write plane.md."""
    target = report.folder(out, quick=quick)
    how = setting(name, data, quick=quick)
    architecture, steps = net(name, width or how.widths[-1], how.data.size), 9 if quick else steps
    a, b = (train(architecture, how.data.train, seed=s, epochs=how.epochs, batch=how.batch) for s in range(2))
    moved = autoperm.align(a, b, how.data.test.images[:2])
    found = plane(a, b, moved, evaluate(how.data.splits(how.judged)), steps=steps, higher_is_better=UP)
    table = rows(found)
    report.show(f"The plane through {', '.join(LABELS)}", table)
    figure, panels = plots.subplots(1, 2, panel=(4.2, 3.2))
    for ax, split in zip(panels[0], ("train", "test"), strict=True):
        plots.plot_plane(found, f"{split} loss", ax, labels=LABELS)
    plots.save(figure, target / "plane.png")
    settings = [f"{architecture}: {how}.", f"A grid of {steps} x {steps} points; no point of it is where a model is."]
    report.write(target / "plane.md", "The plane through two models and a permuted one", settings, table, plots=["plane.png"])


if __name__ == "__main__":
    typer.run(main)
