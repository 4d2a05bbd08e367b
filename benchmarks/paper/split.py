"""Models trained on different shares of the classes: their merge against each, and against the ensemble.

    python benchmarks/paper/split.py
    python benchmarks/paper/split.py --quick         a narrow MLP on digits

As in Ainsworth et al. 2023, Section 5.4: model A sees 20 % of the images of half of the classes and 80 % of the other half,
model B the rest, so that no image is seen by both. Writes split.md and split.png.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import autoperm
from autoperm import Interpolation
from autoperm.demo.data import Split
from autoperm.evaluation import calibration, ensemble, plots
from autoperm.evaluation.points import combine
from benchmarks.merging import NAIVE, align, chosen
from benchmarks.nets import Net, net
from benchmarks.paper import report
from benchmarks.training import UP, Setting, evaluate, outputs, setting, train

SHARE = 0.2
LOSS = "test loss"


@dataclass
class Outcome:
    """For one seed: the models by name, and the lines from A to B as each method aligns it."""

    models: dict[str, nn.Module]
    lines: dict[str, Interpolation]


def shares(data: Split, share: float = SHARE) -> tuple[Split, Split]:
    """The images that A sees and those that B sees: ``share`` of each of the classes 0 to 4 for A, of 5 to 9 for B."""
    mine = torch.zeros(len(data.labels), dtype=torch.bool)
    for label in range(10):
        at = (data.labels == label).nonzero()[:, 0]
        cut = round(len(at) * (share if label < 5 else 1 - share))
        mine[at[:cut]] = True
    return Split(data.images[mine], data.labels[mine]), Split(data.images[~mine], data.labels[~mine])


def outcome(architecture: Net, how: Setting, seed: int, methods: list[str]) -> Outcome:
    """Train A, B and a model on all images; align B to A by each method; merge in the middle."""
    parts = shares(how.data.train)
    a, b = (train(architecture, p, seed=seed + k, epochs=how.epochs, batch=how.batch) for k, p in enumerate(parts))
    both = train(architecture, how.data.train, seed=seed, epochs=how.epochs, batch=how.batch)
    models: dict[str, nn.Module] = {"A alone": a, "B alone": b}
    lines = {}
    measure, spec = evaluate(how.data.splits(how.judged)), autoperm.infer(a, how.data.test.images[:2])
    for method in methods:
        found = align(method, a, b, spec, parts[0], seed=seed)
        if found.model is None:
            raise RuntimeError(f"{method}: {found.problem}")
        lines[method] = autoperm.interpolate(a, found.model, measure, how.steps, higher_is_better=UP)
        models[f"merged, {method}"] = middle(a, found.model)
    models["ensemble of probabilities"] = ensemble([a, b])
    models["ensemble of logits"] = ensemble([a, b], average="logits")
    models["trained on all images"] = both
    return Outcome(models, lines)


def middle(a: nn.Module, b: nn.Module) -> nn.Module:
    """The model half-way between two."""
    states = a.state_dict(), b.state_dict()
    merged = copy.deepcopy(a)
    merged.load_state_dict({name: combine([state[name] for state in states], (0.5, 0.5)) for name in states[0]})
    return merged


def rows(found: list[Outcome], test: Split) -> list[report.Row]:
    """A row for each model: test loss, accuracy and calibration, means over seeds."""
    table = []
    for name in found[0].models:
        logits = [outputs(one.models[name], test) for one in found]
        judged = [calibration(out, test.labels) for out in logits]
        table.append({
            "model": name,
            "test loss": report.spread([float(nn.functional.cross_entropy(out, test.labels)) for out in logits]),
            "test accuracy": report.spread([c.mean_accuracy for c in judged]),
            "ECE": report.spread([c.ece for c in judged]),
        })  # fmt: skip
    return table


def draw(found: Outcome, test: Split, path: Path) -> None:
    """The lines with the ensemble across, and the reliability of the merge and of the ensemble."""
    figure, panels = plots.subplots(1, 3, panel=(3.2, 3.0))
    together = float(nn.functional.cross_entropy(outputs(found.models["ensemble of probabilities"], test), test.labels))
    panels[0, 0].axhline(together, color="black", lw=1, ls="-.", label="ensemble, test")
    plots.plot_lines(found.lines, "loss", panels[0, 0], barriers=False)
    panels[0, 0].set_ylim(top=1.1 * max(float(np.max(line.curves[LOSS])) for line in found.lines.values()), bottom=0)
    merged = [name for name in found.models if name.startswith("merged")][-1]
    for ax, name in zip(panels[0, 1:], (merged, "ensemble of probabilities"), strict=True):
        plots.plot_reliability(calibration(outputs(found.models[name], test), test.labels), ax, title=name)
    plots.save(figure, path)


def main(
    quick: Annotated[bool, typer.Option(help="digits, a narrow MLP, one seed")] = False,
    data: Annotated[str, typer.Option(help="auto, fashion-mnist or digits")] = "auto",
    name: Annotated[str, typer.Option("--net", help="the architecture")] = "mlp",
    width: Annotated[int, typer.Option(help="its width; 0 is the widest of the setting")] = 0,
    methods: Annotated[str, typer.Option(help="matchers, with commas between them")] = "weight",
    seeds: Annotated[int, typer.Option(help="pairs of models, each of seeds of its own")] = 3,
    out: Annotated[Path | None, typer.Option(help="folder for the page and the plot")] = None,
) -> None:
    """Train on shares of the classes, merge, compare; write split.md."""
    target = report.folder(out, quick=quick)
    how = setting(name, data, quick=quick)
    architecture = net(name, width or how.widths[-1], how.data.size)
    compared = chosen(report.names(methods))
    found = [outcome(architecture, how, 100 + 2 * k, compared) for k in range(1 if quick else seeds)]
    table = rows(found, how.data.test)
    report.show("Split classes", table)
    draw(found[0], how.data.test, target / "split.png")
    settings = [
        f"{architecture}: {how}; losses in this table are on all test images.",
        f"A sees {SHARE:.0%} of the images of classes 0 to 4 and {1 - SHARE:.0%} of 5 to 9, B the rest. Merges are midpoints.",
        f"Means over {len(found)} pairs, with the range; ECE in 15 bins. {NAIVE.capitalize()} is the average without permuting.",
    ]
    report.write(target / "split.md", "Models of different data", settings, table, plots=["split.png"])


if __name__ == "__main__":
    typer.run(main)
