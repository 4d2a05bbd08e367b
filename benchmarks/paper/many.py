"""Merging many networks into one, and how well calibrated it is (Ainsworth et al. 2023, Algorithm 3 and Section 5.3).

    python benchmarks/paper/many.py
    python benchmarks/paper/many.py --quick          four narrow MLPs on digits

Every merger of the registry against one of the models and against their ensemble. Writes many.md and many.png.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import autoperm
from autoperm import PermutationSpec
from autoperm.demo.data import Split
from autoperm.errors import AutopermError
from autoperm.evaluation import Calibration, calibration, ensemble, plots
from benchmarks.data import first
from benchmarks.nets import net
from benchmarks.paper import report
from benchmarks.training import evaluate, outputs, setting, train

ALONE, TOGETHER = "one model (mean)", "ensemble of probabilities"


def mergers() -> dict[str, dict[str, Any]]:
    """The options of autoperm.merge by the name in the table.

    Raises:
        AutopermError: this version of autoperm has no mergers.
    """
    try:
        from autoperm.merging import mergers as registry
    except ImportError as error:
        raise AutopermError("merging many models needs autoperm.merging, which this version does not have") from error
    found: dict[str, dict[str, Any]] = {"average, as they are": {"method": "average", "align": "none"}}
    found["average, aligned to the first"] = {"method": "average"}
    return found | {name: {"method": name} for name in registry() if name != "average"}


class Judge:
    """Measures models on both splits, and keeps their calibration on all test images."""

    def __init__(self, splits: dict[str, Split], test: Split):
        self._measure, self._test = evaluate(splits), test
        self.calibrations: dict[tuple[int, str], Calibration] = {}

    def row(self, count: int, name: str, models: Sequence[nn.Module], seconds: float | None = None) -> dict[str, Any]:
        """A row of the table: means over the given models."""
        measured = [self._measure(model) for model in models]
        judged = [calibration(outputs(model, self._test), self._test.labels) for model in models]
        self.calibrations[count, name] = judged[0]
        return {
            "models": count,
            "merged by": name,
            **{metric: f"{np.mean([m[metric] for m in measured]):.3f}" for metric in measured[0]},
            "ECE": f"{np.mean([c.ece for c in judged]):.3f}",
            "seconds": "" if seconds is None else f"{seconds:.1f}",
        }


def rows(count: int, models: Sequence[nn.Module], spec: PermutationSpec, judge: Judge) -> list[dict[str, Any]]:
    """All mergers on the first ``count`` models."""
    given = models[:count]
    table = [judge.row(count, ALONE, given)]
    for name, options in mergers().items():
        start = time.perf_counter()
        merged = autoperm.merge(given, spec, seed=0, **options).model
        table.append(judge.row(count, name, [merged], time.perf_counter() - start))
    table.append(judge.row(count, TOGETHER, [ensemble(given)]))
    return table


def draw(table: Sequence[dict[str, Any]], judge: Judge, path: Path) -> None:
    """The test loss against the number of models, and reliability diagrams of the largest number."""
    most = max(row["models"] for row in table)
    chosen = [ALONE, *[name for name in mergers() if name == "many"], TOGETHER]
    figure, panels = plots.subplots(1, 1 + len(chosen), panel=(3.0, 3.0))
    names = dict.fromkeys(row["merged by"] for row in table)
    series = {name: {float(r["models"]): [float(r["test loss"])] for r in table if r["merged by"] == name} for name in names}
    plots.plot_barriers(series, panels[0, 0], x="models", y="test loss", logarithmic=True, legend=False)
    for ax, name in zip(panels[0, 1:], chosen, strict=True):
        plots.plot_reliability(
            judge.calibrations[most, name], ax, title={ALONE: "one model", TOGETHER: "ensemble"}.get(name, name)
        )
    plots.share_legend(figure)
    plots.save(figure, path)


def counts_of(most: int) -> list[int]:
    """Powers of two up to a number, and the number."""
    return sorted({most, *(2**k for k in range(1, most.bit_length()) if 2**k < most)})


def main(
    quick: Annotated[bool, typer.Option(help="four narrow MLPs on digits")] = False,
    data: Annotated[str, typer.Option(help="auto, fashion-mnist or digits")] = "auto",
    name: Annotated[str, typer.Option("--net", help="the architecture")] = "mlp",
    width: Annotated[int, typer.Option(help="its width; 0 is the widest of the setting")] = 0,
    count: Annotated[int, typer.Option(help="the most models to merge; the paper merges 32")] = 32,
    out: Annotated[Path | None, typer.Option(help="folder for the page and the plot")] = None,
) -> None:
    """Train many models, merge, compare; write many.md."""
    target = report.folder(out, quick=quick)
    how = setting(name, data, quick=quick)
    architecture = net(name, width or how.widths[-1], how.data.size)
    count = 4 if quick else count
    models = [train(architecture, how.data.train, seed=s, epochs=how.epochs, batch=how.batch) for s in range(count)]
    spec = autoperm.infer(models[0], first(how.data.test, 2).images)
    judge = Judge(how.data.splits(how.judged), how.data.test)
    table: list[dict[str, Any]] = []
    for n in counts_of(count):
        table += rows(n, models, spec, judge)
        draw(table, judge, target / "many.png")
        settings = [
            f"{architecture}: {how}. ECE in 15 bins, on all test images.",
            "Seconds are those of the merging, on the machine that wrote this.",
        ]
        report.write(target / "many.md", "Merging many models", settings, table, plots=["many.png"])
    report.show("Merging many models", table)


if __name__ == "__main__":
    typer.run(main)
