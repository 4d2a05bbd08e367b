"""Two networks can be merged only after some training (Ainsworth et al. 2023, Figure 5: barrier against epoch).

    python benchmarks/paper/epoch.py
    python benchmarks/paper/epoch.py --quick         an MLP on digits

At each checkpoint the models of that epoch are aligned anew; writes epoch.md and epoch.png.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from autoperm.evaluation import plots
from benchmarks.merging import AVERAGED, NOTES, Pair, chosen, pairs
from benchmarks.nets import net
from benchmarks.paper import report
from benchmarks.training import setting


def epochs_of(last: int) -> list[int]:
    """The initialisation, and epochs ever further apart."""
    return sorted({0, 1, 2, 3, 5, 8, 12, 16, 20, 30, 40, last} & set(range(last + 1)))


def row(epoch: int, found: Sequence[Pair], methods: Sequence[str]) -> report.Row:
    out: dict[str, object] = {"epoch": epoch, "test loss": report.spread([pair.ends["test loss"] for pair in found])}
    for method in methods:
        lines = [pair.lines[method, AVERAGED] for pair in found]
        for metric in ("train loss", "test loss", "test accuracy"):
            out[f"{method}: {metric} barrier"] = report.spread([line.barrier_of(metric) for line in lines])
    return out


def draw(by_epoch: dict[int, list[Pair]], methods: Sequence[str], path: Path) -> None:
    figure, panels = plots.subplots(1, 2)
    for ax, metric in zip(panels[0], ("train loss", "test loss"), strict=True):
        series = {
            method: {
                float(e): [pair.lines[method, AVERAGED].barrier_of(metric) for pair in found] for e, found in by_epoch.items()
            }
            for method in methods
        }
        plots.plot_barriers(series, ax, x="epoch", y=f"{metric} barrier")
    plots.save(figure, path)


def main(
    quick: Annotated[bool, typer.Option(help="digits, a narrow MLP, two models")] = False,
    data: Annotated[str, typer.Option(help="auto, fashion-mnist or digits")] = "auto",
    name: Annotated[str, typer.Option("--net", help="the architecture")] = "mlp",
    width: Annotated[int, typer.Option(help="its width; 0 is the widest of the setting")] = 0,
    methods: Annotated[str, typer.Option(help="matchers, with commas between them")] = "weight",
    seeds: Annotated[int, typer.Option(help="models; all their pairs are merged")] = 3,
    out: Annotated[Path | None, typer.Option(help="folder for the page and the plot")] = None,
) -> None:
    """Train, align at every checkpoint, measure; write epoch.md."""
    target = report.folder(out, quick=quick)
    how = setting(name, data, quick=quick)
    architecture = net(name, width or how.widths[-1], how.data.size)
    compared = chosen(report.names(methods))
    found: dict[int, list[Pair]] = {}
    for epoch in epochs_of(how.epochs):
        found[epoch] = list(pairs(architecture, how, range(2 if quick else seeds), compared, epochs=epoch, repair=False))
    table = [row(epoch, own, compared) for epoch, own in found.items()]
    report.show(f"Barrier against epoch, {architecture}", table)
    draw(found, compared, target / "epoch.png")
    settings = [NOTES[0], f"{architecture}: {how}."]
    report.write(target / "epoch.md", "Barrier against epoch", settings, table, plots=["epoch.png"])


if __name__ == "__main__":
    typer.run(main)
