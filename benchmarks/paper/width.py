"""The wider the networks, the lower the barrier (Ainsworth et al. 2023, Figure 4; Entezari et al. 2022).

    python benchmarks/paper/width.py                 MLP, VGG and ResNet with LayerNorm
    python benchmarks/paper/width.py --quick         an MLP on digits

Naive and aligned lines between all pairs of models; writes width.md and width.png. What earlier runs measured of other nets
stays on the page: width.json holds it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from autoperm.evaluation import plots
from benchmarks.merging import AVERAGED, NAIVE, NOTES, Pair, chosen, pairs
from benchmarks.nets import net
from benchmarks.paper import report
from benchmarks.training import Setting, setting

#: Barriers by split, method and width.
Series = dict[str, dict[str, dict[float, list[float]]]]
WIDTHS = {"mlp": (8, 16, 32, 64, 128, 256, 512)}
QUICK = (8, 32, 128)


def measured(name: str, how: Setting, widths: Sequence[int], seeds: int, methods: Sequence[str]) -> list[Pair]:
    """All pairs at all widths."""
    return [p for w in widths for p in pairs(net(name, w, how.data.size), how, range(seeds), methods, repair=False)]


def series(found: Sequence[Pair], methods: Sequence[str]) -> Series:
    """What is plotted: the loss barrier of each pair."""
    out: Series = {split: {m: {} for m in methods} for split in ("train", "test")}
    for pair in found:
        for method in methods:
            line = pair.lines.get((method, AVERAGED))
            for split in out if line is not None else ():
                out[split][method].setdefault(pair.net.width, []).append(line.barrier_of(f"{split} loss"))
    return out


def rows(found: Sequence[Pair], methods: Sequence[str]) -> list[report.Row]:
    table = []
    drawn = series(found, methods)
    for architecture in dict.fromkeys(pair.net for pair in found):
        own = [pair for pair in found if pair.net == architecture]
        row: dict[str, object] = {"data": own[0].data, "net": architecture.name, "width": architecture.width}
        row["test accuracy"] = report.spread([pair.ends["test accuracy"] for pair in own])
        for method in methods:
            for split in drawn:
                row[f"{method}: {split} barrier"] = report.spread(drawn[split][method][architecture.width])
        naive, last = (sum(drawn["test"][m][architecture.width]) for m in (NAIVE, methods[-1]))
        row[f"{methods[-1]} / naive, test"] = f"{last / naive:.2f}"
        table.append(row)
    return table


def draw(known: dict[str, dict[str, Any]], path: Path) -> None:
    """A column for each architecture, test above train."""
    figure, panels = plots.subplots(2, len(known))
    for column, (name, one) in enumerate(known.items()):
        for row, split in enumerate(("test", "train")):
            ax, unit = panels[row, column], "width" if "mlp" in name else "width multiplier"
            drawn = {m: {float(w): b for w, b in values.items()} for m, values in one["series"][split].items()}
            plots.plot_barriers(drawn, ax, x=unit, y=f"{split} loss barrier", logarithmic=True)
            ax.set_title(name, fontsize=9)
    plots.save(figure, path)


def main(
    quick: Annotated[bool, typer.Option(help="an MLP on digits, two models of each width")] = False,
    data: Annotated[str, typer.Option(help="auto, fashion-mnist or digits")] = "auto",
    nets: Annotated[str, typer.Option(help="architectures, with commas between them")] = "mlp,vgg-ln,resnet-ln",
    methods: Annotated[str, typer.Option(help="matchers, with commas between them")] = "weight",
    seeds: Annotated[int, typer.Option(help="models of each width; all their pairs are merged")] = 3,
    out: Annotated[Path | None, typer.Option(help="folder for the page and the plot")] = None,
) -> None:
    """Train nets of several widths, align, measure; write width.md."""
    target = report.folder(out, quick=quick)
    compared = chosen(report.names(methods))
    for name in ["mlp"] if quick else report.names(nets):
        how = setting(name, data, quick=quick)
        widths = QUICK if quick else WIDTHS.get(name, how.widths)
        found = measured(name, how, widths, 2 if quick else seeds, compared)
        report.show(f"Barrier against width, {name}", rows(found, compared))
        one = {
            "rows": rows(found, compared),
            "series": series(found, compared),
            "setting": f"{name}: {how}. `{report.command()}`",
        }
        known = report.remember(target / "width.json", f"{how.data.name}: {name}", one)
        draw(known, target / "width.png")
        settings = [NOTES[0], *(one["setting"] for one in known.values())]
        table = [row for one in known.values() for row in one["rows"]]
        report.write(
            target / "width.md", "Barrier against width", settings, table, plots=["width.png"], by="the commands beside each net"
        )


if __name__ == "__main__":
    typer.run(main)
