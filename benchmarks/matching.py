"""Weight matching measured: what it recovers, how high and how fast against plain coordinate ascent, and in how much memory.

    python benchmarks/matching.py                              everything, about an hour on one core
    python benchmarks/matching.py --quick                      a smoke test in a minute
    python benchmarks/matching.py --sections pairs --models resnet50

Sections: planted (a planted permutation and noise), pairs (two random initialisations, against the published algorithm),
heads (against matching without heads), search (trained pairs, all methods given the same time), brute (against trying all
elements), memory. What earlier runs measured stays on the page: matching.json holds it.

Times are of the CPU, of one thread, both sides of a ratio measured in one process one after the other: set
OMP_NUM_THREADS=1. Writes matching.md.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import autoperm
from autoperm import Match
from autoperm.files import write_atomically
from autoperm.matching.problem import Problem
from benchmarks import brute, memory, pairs, planted, torchvision_nets
from benchmarks.data import load
from benchmarks.nets import net
from benchmarks.paper import report
from benchmarks.training import train

MODELS = (
    "resnet18", "resnet50", "vgg16_bn", "densenet121", "resnext50_32x4d",
    "mobilenet_v2", "shufflenet_v2_x1_0", "convnext_tiny", "vit_b_16", "swin_t",
)  # fmt: skip
TRAINED = ("mlp 64", "mlp 512", "vgg-ln 2", "resnet-ln 2", "resnet-bn 4", "vit 2")

TITLES = {
    "planted": "A planted permutation and noise of a tenth of each tensor's standard deviation",
    "pairs": "Two independent models, against plain coordinate ascent with permutations written by hand",
    "heads": "Two random initialisations, against matching that leaves heads alone",
    "search": "Networks trained on digits, every method given the same time",
    "brute": "Tiny networks, against the best of all elements",
    "memory": "Peak memory of a process",
}
NOTES = {
    "planted": "Recovered: every position of every group is the planted one's. Data of activation matching: 6 batches of 8 "
    "images of 128 pixels (swin_t: 224, which its windows divide), noise of all scales. VGG's linear layers, of 4096 units, "
    "see one sample an image: it gets 160 batches of 64 pixels. Statistics of BatchNorm are taken on them in both models, so "
    "that they fit as those of trained models do. Activation: one pass, as published. With rounds: at most 10 more, in which "
    "every layer of b reads what that layer of a reads.",
    "pairs": "Gained: the objective above that of the identity. Plain: Algorithm 1 as published, from the identity, until a "
    "sweep gains nothing (`benchmarks/plain.py`); trained: one pair, 5 epochs on digits at 32 x 32 "
    "(`benchmarks/torchvision_nets.py`), several seeds of the order of visits. "
    "Reached: in how many runs as much is gained as by plain, and how long that takes, to the end of the start or of the sweep. "
    "Search: with a third of plain's time as its limit, which ends it after the first climb, however long that takes. "
    "Targets: at least its objective in at most a third of its time.",
    "heads": "Without heads: groups that depend on others, or that others depend on, stay as they are.",
    "search": "Gained above the identity, as a share of what one run of plain coordinate ascent gains (the order of its visits "
    "and its start as published, heads and steps as here). Each repeated method starts again until the time is up, and its best "
    "counts. Seconds are of the clock here, since that is what search is limited by.",
    "brute": "Target: 95 in 100 with restarts.",
    "memory": "More: what matching needs beyond a process that only loads both models and the spec. Allowed: half the size of "
    "both, so that matching needs 1.5 times their size, and the largest Gram matrix. Both processes match a small pair first, "
    "so that the code which that loads is left out: 6 MB of pages of libraries, for models of any size.",
}


def heads(name: str, quick: bool) -> Iterator[dict[str, object]]:
    a, b = torchvision_nets.fresh(name, 0), torchvision_nets.fresh(name, 1)
    spec = torchvision_nets.spec_of(a)
    above = {group.parent for group in spec.groups}
    alone = [group.name for group in spec.groups if group.parent is None and group.name not in above]
    start = Problem(spec, a.state_dict(), b.state_dict()).objective
    found, seconds = report.timed(lambda: autoperm.match(a, b, spec, progress=False))
    without, plain_seconds = report.timed(lambda: autoperm.match(a, b, spec, groups=alone, progress=False))
    yield {
        "model": name,
        "groups": f"{len(spec.groups)}, {len(alone)} without heads",
        "gained": f"{found.objective - start:.0f}",
        "gained without heads": f"{without.objective - start:.0f}",
        "ratio": f"{(found.objective - start) / (without.objective - start):.3f}",
        "distance": f"{found.distance:.1f} against {without.distance:.1f}",
        "CPU seconds": f"{seconds:.1f}",
        "without": f"{plain_seconds:.1f}",
    }


def search(name: str, quick: bool) -> Iterator[dict[str, object]]:
    kind, width = name.split()
    data, budget = load("digits"), 1.0 if quick else 10.0
    architecture = net(kind, int(width), data.size)
    a, b = (train(architecture, data.train, seed=s, epochs=2 if quick else 20, batch=64, progress=False) for s in range(2))
    spec = autoperm.infer(a, data.train.images[:2])
    start = Problem(spec, a.state_dict(), b.state_dict()).objective
    once, seconds = report.timed(lambda: autoperm.match(a, b, spec, start="identity", progress=False))

    def again(**more: Any) -> tuple[float, int]:
        return _until(budget, lambda seed: autoperm.match(a, b, spec, seed=seed, progress=False, **more))

    orders, propagated = again(start="identity"), again()
    climbs = _until(budget, lambda seed: autoperm.match(a, spec.random(seed).apply(b), spec, start="identity", progress=False))
    relaxed = again(method="frank-wolfe")
    searched = [
        autoperm.match(a, b, spec, method="search", time_limit=budget, start=how, progress=False)
        for how in ("propagate", "frank-wolfe")
    ]
    share = lambda value: f"{(value - start) / (once.objective - start):.3f}"  # noqa: E731
    yield {
        "network": name,
        "seconds each": f"{budget:.0f}",
        "once, seconds": f"{seconds:.2f}",
        "plain, orders": f"{share(orders[0])} ({orders[1]} runs)",
        "plain, random starts": f"{share(climbs[0])} ({climbs[1]} runs)",
        "weight": f"{share(propagated[0])} ({propagated[1]} runs)",
        "frank-wolfe": f"{share(relaxed[0])} ({relaxed[1]} runs)",
        "search": f"{share(searched[0].objective)} ({len(searched[0].history) - 2} rounds)",
        "search from frank-wolfe": f"{share(searched[1].objective)} ({len(searched[1].history) - 2} rounds)",
    }


def _until(budget: float, run: Callable[[int], Match]) -> tuple[float, int]:
    """The best objective of runs with different seeds until the time is up, and how many there were."""
    end, found = time.monotonic() + budget, []
    while not found or time.monotonic() < end:
        found.append(run(len(found)).objective)
    return max(found), len(found)


def tiny(name: str, quick: bool) -> Iterator[dict[str, object]]:
    yield from brute.rows(8 if quick else 100)


def peak(name: str, quick: bool) -> Iterator[dict[str, object]]:
    yield memory.measure(name)


Section = Callable[[str, bool], Iterator[dict[str, object]]]

#: For each section what it measures, and the models of a full and of a quick run.
SECTIONS: dict[str, tuple[Section, Sequence[str], Sequence[str]]] = {
    "planted": (planted.rows, MODELS, ("resnet18",)),
    "pairs": (pairs.rows, ("resnet18", "resnet34", "resnet50", "resnet18 trained", "resnet50 trained"), ("resnet18",)),
    "heads": (heads, ("vit_b_16", "swin_t"), ("swin_t",)),
    "search": (search, TRAINED, ("mlp 64",)),
    "brute": (tiny, ("all",), ("all",)),
    "memory": (peak, MODELS, ("resnet18",)),
}


def main(
    quick: Annotated[bool, typer.Option(help="one small model a section: a smoke test")] = False,
    sections: Annotated[str, typer.Option(help="with commas between them; all if empty")] = "",
    models: Annotated[str, typer.Option(help="of these sections, with commas between them; their own if empty")] = "",
    out: Annotated[Path | None, typer.Option(help="folder for the page")] = None,
) -> None:
    """Measure; write matching.md."""
    chosen = report.names(sections) or list(SECTIONS)
    if unknown := [name for name in chosen if name not in SECTIONS]:
        raise typer.BadParameter(f"no section is called {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    target = report.folder(out, quick=quick)
    for section in chosen:
        measure, full, few = SECTIONS[section]
        for name in report.names(models) or (few if quick else full):
            rows = list(measure(name, quick))
            report.show(TITLES[section], rows)
            write(report.remember(target / "matching.json", f"{section}: {name}", {"rows": rows}), target)
    typer.echo(f"written: {target / 'matching.md'}")


def write(found: Mapping[str, Mapping[str, Any]], target: Path) -> None:
    """The page of everything measured so far, by this run and by earlier ones."""
    parts = []
    for section, (_, full, _) in SECTIONS.items():
        own = {key.split(": ", 1)[1]: entry["rows"] for key, entry in found.items() if key.startswith(f"{section}: ")}
        rows = [row for name in [*full, *(set(own) - set(full))] for row in own.get(name, [])]
        if rows:
            parts.append(f"## {TITLES[section]}\n\n{NOTES[section]}\n\n{report.markdown(rows)}")
    intro = [
        "# Matching",
        "Written by `python benchmarks/matching.py`.",
        "Times are CPU times of one thread, on the machine that wrote this; compare the ratios.",
    ]
    write_atomically(target / "matching.md", ("\n\n".join([*intro, *parts]) + "\n").encode(), overwrite=True)


if __name__ == "__main__":
    typer.run(main)
