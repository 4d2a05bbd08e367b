"""Barriers between independently trained networks: naive, and after every matcher of the registry, with and without REPAIR.

    python benchmarks/merging.py                     Fashion-MNIST if installed (see data.py), else digits
    python benchmarks/merging.py --quick             a smoke test in under a minute
    python benchmarks/merging.py --nets mlp --methods weight

Models are trained once and cached (see training.py), so that a run that was ended goes on. What was measured of other nets
by earlier runs stays on the page: merging.json holds it. Writes merging.md and plots. Where cores are shared, set
OMP_NUM_THREADS=1: threads that wait for one another cost several times what they bring.
"""

from __future__ import annotations

import inspect
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import autoperm
from autoperm import Interpolation, PermutationSpec
from autoperm.demo.data import Split
from autoperm.errors import AutopermError
from autoperm.evaluation import ensemble, plots
from autoperm.matching import matchers
from autoperm.merging import Repairer
from benchmarks.data import first
from benchmarks.nets import NETS, Net, net
from benchmarks.paper import report
from benchmarks.training import METRICS, UP, Setting, evaluate, setting, train

NAIVE = "naive"
QUICK = ("mlp", "resnet-bn", "vit")
#: Of matchers that have them, in quick runs: the result says that everything runs, not how good it is.
QUICK_OPTIONS = {"steps": 10, "max_steps": 10, "time_limit": 1.0}
AVERAGED = "as averaged"
#: The most training images that REPAIR takes its statistics from.
STATISTICS = 2000
NOTES = (
    "Barrier: the worst value on the line minus the mean of its ends; for an accuracy the mean minus the worst. Means over "
    "the pairs of models, with the range; pairs share models.",
    f"Matchers that look at data see the training images that lines are judged on; REPAIR the first {STATISTICS} of them. For "
    "resnet-bn 2 and vit 2 on digits, measured before that, both see half of them.",
    "Seconds are those of the matching alone, on the machine that wrote this; compare the ratios.",
)


@dataclass(frozen=True)
class Aligned:
    """Model b as a method brings it into model a's order.

    Attributes:
        model: the permuted model b; None where the method failed.
        seconds: that matching took, nan for the naive line.
        distance: from model a, in L2.
        problem: why it failed.
    """

    model: nn.Module | None
    seconds: float = float("nan")
    distance: float = float("nan")
    problem: str = ""


def align(
    method: str, a: nn.Module, b: nn.Module, spec: PermutationSpec, data: Split, *, seed: int, quick: bool = False
) -> Aligned:
    """Align with one method; what it says where it cannot is kept.

    Arguments:
        data: for matchers that look at data.
        quick: with :data:`QUICK_OPTIONS`.
    """
    if method == NAIVE:
        return Aligned(b, distance=distance(a, b))
    start = time.perf_counter()
    try:
        found = autoperm.match(a, b, spec, method=method, seed=seed, **options(method, data, quick=quick))
    except AutopermError as error:
        return Aligned(None, problem=str(error).splitlines()[0])
    return Aligned(found.permutation.apply(b), time.perf_counter() - start, found.distance)


def options(method: str, data: Split, batch: int = 100, *, quick: bool = False) -> dict[str, Any]:
    """What a matcher needs: batches of images, or of images and labels where it takes a loss."""
    takes = inspect.signature(matchers()[method]).parameters
    needed = {name for name, p in takes.items() if p.default is p.empty and p.kind is p.KEYWORD_ONLY}
    found: dict[str, Any] = {name: value for name, value in QUICK_OPTIONS.items() if quick and name in takes}
    if "data" in needed:
        images, labels = data.images.split(batch), data.labels.split(batch)
        found["data"] = list(zip(images, labels, strict=True)) if "loss" in takes else list(images)
    if "loss" in needed:
        found["loss"] = lambda output, pair: nn.functional.cross_entropy(output, pair[1])
    return found


def distance(a: nn.Module, b: nn.Module) -> float:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return sum(float(((x.detach() - y.detach()) ** 2).sum()) for x, y in pairs) ** 0.5


def repairing(a: nn.Module, b: nn.Module, data: Split) -> Callable[[nn.Module], None]:
    """A function that brings the statistics of a model between a and b in order: REPAIR on the given images."""
    repairer = Repairer((a, b), list(data.images.split(100)))

    def prepare(model: nn.Module) -> None:
        position = _position(model, a, b)
        repaired = repairer(model, weights=(1 - position, position), progress=False)
        model.load_state_dict(repaired.state_dict())

    return prepare


def _position(model: nn.Module, a: nn.Module, b: nn.Module) -> float:
    """Where on the line from a to b a model is, 0 to 1: interpolate does not say."""
    along = length = 0.0
    with torch.no_grad():
        for x, p, q in zip(model.parameters(), a.parameters(), b.parameters(), strict=True):
            along += float(((x - p).double() * (q - p).double()).sum())
            length += float(((q - p).double() ** 2).sum())
    return min(max(along / length, 0.0), 1.0) if length else 0.0


def chosen(methods: Sequence[str]) -> list[str]:
    """Naive first, then the given methods, or all of the registry."""
    known = sorted(matchers(), key=lambda name: (name != "weight", name))
    if unknown := set(methods) - set(known):
        raise AutopermError(f"no matcher is called {sorted(unknown)[0]!r}; there are {', '.join(known)}")
    return [NAIVE, *(methods or known)]


@dataclass
class Pair:
    """Two models, what lies between them by (method, statistics), and how they were aligned."""

    net: Net
    data: str
    seeds: tuple[int, int]
    ends: dict[str, float]
    together: dict[str, float]
    lines: dict[tuple[str, str], Interpolation] = field(default_factory=dict)
    aligned: dict[str, Aligned] = field(default_factory=dict)


def pairs(
    architecture: Net,
    how: Setting,
    seeds: Sequence[int],
    methods: Sequence[str],
    *,
    epochs: int | None = None,
    repair: bool = True,
) -> Iterator[Pair]:
    """All pairs of models of these seeds, with the lines between them, repaired too if that is asked for."""
    epochs = how.epochs if epochs is None else epochs
    models = {s: train(architecture, how.data.train, seed=s, epochs=epochs, batch=how.batch) for s in seeds}
    spec = autoperm.infer(models[seeds[0]], how.data.test.images[:2])
    measure = evaluate(how.data.splits(how.judged))
    for s, t in itertools.combinations(seeds, 2):
        a, b = models[s], models[t]
        ends = [measure(m) for m in (a, b)]
        pair = Pair(
            architecture, how.data.name, (s, t), {k: (ends[0][k] + ends[1][k]) / 2 for k in METRICS}, measure(ensemble([a, b]))
        )
        for method in methods:
            _lines(pair, method, a, b, spec, how, repair)
        yield pair


def _lines(pair: Pair, method: str, a: nn.Module, b: nn.Module, spec: PermutationSpec, how: Setting, repair: bool) -> None:
    """Align by one method, and measure the line as it is and repaired."""
    measure = evaluate(how.data.splits(how.judged))
    seen, some = (first(how.data.train, count) for count in (how.judged, min(STATISTICS, how.judged)))
    found = pair.aligned[method] = align(method, a, b, spec, seen, seed=pair.seeds[0], quick=how.quick)
    if found.model is None:
        return
    ways = {AVERAGED: None, **({"REPAIR": repairing(a, found.model, some)} if repair else {})}
    for name, prepare in ways.items():
        pair.lines[method, name] = autoperm.interpolate(
            a, found.model, measure, how.steps, higher_is_better=UP, prepare=prepare
        )


def rows(own: Sequence[Pair]) -> list[report.Row]:
    """A row for each method and statistics of one net: means over pairs, and their ranges."""
    table: list[report.Row] = []
    for method in own[0].aligned:
        kinds = dict.fromkeys(name for pair in own for m, name in pair.lines if m == method)
        table += [_row(method, kind, own) for kind in kinds]
        if not kinds:
            table.append(
                {"data": own[0].data, "net": str(own[0].net), "method": method, "statistics": own[0].aligned[method].problem}
            )
    return table


def _row(method: str, kind: str, found: Sequence[Pair]) -> report.Row:
    own = [pair for pair in found if (method, kind) in pair.lines]
    lines = [pair.lines[method, kind] for pair in own]
    row: dict[str, object] = {"data": own[0].data, "net": str(own[0].net), "method": method, "statistics": kind}
    for metric in METRICS:
        row[f"{metric} barrier"] = report.spread([line.barrier_of(metric) for line in lines])
    middle = [float(line.curves["test accuracy"][len(line.lambdas) // 2]) for line in lines]
    row["midpoint test accuracy"] = report.spread(middle)
    if method != NAIVE:
        seconds = [pair.aligned[method].seconds for pair in own]
        row["seconds"] = f"{sum(seconds) / len(seconds):.2f}"
        base = [pair.aligned["weight"].seconds for pair in own if "weight" in pair.aligned]
        row["time / weight's"] = f"{sum(seconds) / sum(base):.1f}" if len(base) == len(seconds) else ""
    return row


def trained(own: Sequence[Pair], how: Setting) -> report.Row:
    """What was trained: a row for the table of networks."""
    return {
        "net": str(own[0].net),
        "parameters": sum(p.numel() for p in own[0].net.build().parameters()),
        "data and training": str(how),
        "test accuracy": report.spread([pair.ends["test accuracy"] for pair in own]),
        "ensemble of two": report.spread([pair.together["test accuracy"] for pair in own]),
        "pairs of seeds": ", ".join("-".join(map(str, pair.seeds)) for pair in own),
        "written by": f"`{report.command()}`",
    }


def draw(pair: Pair, folder: Path) -> str:
    """The lines of one pair: as averaged, and repaired beside it."""
    kinds = list(dict.fromkeys(kind for _, kind in pair.lines))
    figure, panels = plots.subplots(len(kinds), 2, panel=(3.7, 3.0))
    for panel, kind in zip(panels, kinds, strict=True):
        curves = {method: line for (method, k), line in pair.lines.items() if k == kind}
        for axes, metric in zip(panel, ("loss", "accuracy"), strict=True):
            plots.plot_lines(curves, metric, axes, legend=False)
            axes.set_ylabel(f"{metric}, {kind}", fontsize=8)
    plots.share_legend(figure)
    name = f"merging-{pair.data.split(',')[0].replace(' ', '')}-{pair.net.name}-{pair.net.width}.png"
    plots.save(figure, folder / name)
    return name


def main(
    quick: Annotated[bool, typer.Option(help="digits, tiny nets, one pair: a smoke test")] = False,
    data: Annotated[str, typer.Option(help="auto, fashion-mnist or digits")] = "auto",
    nets: Annotated[str, typer.Option(help="architectures, with commas between them; all if empty")] = "",
    widths: Annotated[str, typer.Option(help="of every architecture, with commas between them; its own if empty")] = "",
    methods: Annotated[str, typer.Option(help="matchers, with commas between them; all if empty")] = "",
    seeds: Annotated[int, typer.Option(help="models of each net; all their pairs are merged")] = 3,
    small: Annotated[bool, typer.Option(help="Fashion-MNIST at 14 x 14, 10,000 images of it, for all but the MLP")] = False,
    repair: Annotated[bool, typer.Option(help="measure each line with REPAIR too, which takes twice as long again")] = True,
    out: Annotated[Path | None, typer.Option(help="folder for the page and the plots")] = None,
) -> None:
    """Train, align, measure; write merging.md."""
    target = report.folder(out, quick=quick)
    for name in report.names(nets) or (QUICK if quick else NETS):
        how = setting(name, data, quick=quick, small=small)
        for width in map(int, report.names(widths) or how.widths):
            models, matched = range(2 if quick else seeds), chosen(report.names(methods))
            own = list(pairs(net(name, width, how.data.size), how, models, matched, repair=repair))
            report.show(str(own[0].net), rows(own))
            found = {"rows": rows(own), "network": trained(own, how), "plot": draw(own[0], target)}
            write(report.remember(target / "merging.json", f"{own[0].data}: {own[0].net}", found), target, quick)
    typer.echo(f"written: {target / 'merging.md'}")


def write(found: Mapping[str, Mapping[str, Any]], target: Path, quick: bool) -> None:
    """The page of all nets measured so far, by this run and by earlier ones."""
    notes = [*NOTES, *([f"Quick: matchers that have them run with {QUICK_OPTIONS}."] if quick else [])]
    networks = "## Networks\n\n" + report.markdown([one["network"] for one in found.values()])
    table = [row for one in found.values() for row in one["rows"]]
    report.write(
        target / "merging.md",
        "Merging",
        notes,
        table,
        plots=[one["plot"] for one in found.values()],
        notes=networks,
        by="the commands below, under Networks",
    )


if __name__ == "__main__":
    typer.run(main)
