"""The command line of the zoo benchmark."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.zoo import maximal as maximal_
from benchmarks.zoo import results, sources
from benchmarks.zoo.entry import Entry
from benchmarks.zoo.expected import run as expected_
from benchmarks.zoo.peers import pairs
from benchmarks.zoo.peers import run as peers_
from benchmarks.zoo.tables import write_tables
from benchmarks.zoo.worker import Limits, measured

app = typer.Typer(add_completion=False, no_args_is_help=True, help="autoperm on every model of the model zoos.")

Sources = Annotated[list[str] | None, typer.Option("--source", help="repeat for several; all without")]
Folder = Annotated[Path | None, typer.Option("--results", help="folder of the result files [docs/zoo/results]")]
Names = Annotated[str, typer.Option("--model", help="only models whose name fits, as resnet*")]
Full = Annotated[bool, typer.Option("--full", help="all models, not one per family")]


@app.command()
def run(
    source: Sources = None,
    shard: Annotated[str, typer.Option(help="i/n: every n-th model, from the i-th (1 to n)")] = "1/1",
    jobs: Annotated[int, typer.Option(help="models at a time")] = 1,
    time_limit: Annotated[float, typer.Option(help="seconds for each model")] = 300.0,
    memory_limit: Annotated[float, typer.Option(help="GiB for each model")] = 8.0,
    stop_after: Annotated[float, typer.Option(help="seconds after which no further model is started")] = float("inf"),
    largest: Annotated[float, typer.Option(help="millions of parameters up to which a model is run to verify its group")] = 100.0,
    retry: Annotated[list[str] | None, typer.Option(help="a status: run those with it again; repeat for several")] = None,
    again: Annotated[bool, typer.Option(help="run all again")] = False,
    model: Names = "*",
    full: Full = False,
    results_folder: Folder = None,
) -> None:
    """Measure models; those that have a result are skipped. Exits with 1 if a group is unsound, 2 on wrong options."""
    torch.set_num_threads(1)
    end = time.monotonic() + stop_after
    limits = Limits(time_limit, memory_limit, int(largest * 1e6))
    found: Counter[str] = Counter()
    for name in _known(source):
        path = results.path_of(name, results_folder)
        done = set() if again else {m for m, r in results.read(path).items() if r["status"] not in (retry or ())}
        todo = [e for e in _shard(_entries(name, full, model), shard) if e.name not in done]
        fresh = measured(todo, jobs=jobs, limits=limits, go_on=lambda: time.monotonic() < end)
        for k, (entry, record) in enumerate(fresh, start=1):
            record = {"model": entry.name, "source": name, "family": entry.family, **record}
            results.append(path, record)
            found[record["status"]] += 1
            typer.echo(f"{name} {k}/{len(todo)} {_line(record)}")
            sys.stdout.flush()
    typer.echo(", ".join(f"{n} {status}" for status, n in found.most_common()) or "nothing left to run")
    if found["unsound"]:
        raise typer.Exit(1)


@app.command()
def maximal(
    source: Sources = None,
    jobs: Annotated[int, typer.Option(help="models at a time")] = 1,
    time_limit: Annotated[float, typer.Option(help="seconds for each model")] = 60.0,
    memory_limit: Annotated[float, typer.Option(help="GiB for each model")] = 6.0,
    stop_after: Annotated[float, typer.Option(help="seconds after which no further model is started")] = float("inf"),
    retry: Annotated[list[str] | None, typer.Option(help="a verdict: count those with it again; repeat for several")] = None,
    model: Names = "*",
    results_folder: Folder = None,
) -> None:
    """Compare orders with the automorphism oracle's, on small models. Exits with 1 if one is larger than the true order."""
    torch.set_num_threads(1)
    end, found = time.monotonic() + stop_after, Counter[str]()
    for name in _known(source):
        path = results.path_of(f"maximal-{name}", results_folder)
        done = {m for m, r in results.read(path).items() if r["status"] not in (retry or ())}
        todo = [e for e in _entries(name, False, model) if e.name not in done]
        limits = Limits(time_limit, memory_limit, maximal_.LARGEST)
        fresh = measured(todo, jobs=jobs, limits=limits, go_on=lambda: time.monotonic() < end, examine=maximal_.compare)
        for k, (entry, record) in enumerate(fresh, start=1):
            record = {"model": entry.name, "family": entry.family, **record}
            results.append(path, record)
            found[record["status"]] += 1
            more = record.get("note") or (f"by {record['missing']}" if record["status"] == "smaller" else "")
            typer.echo(f"{name} {k}/{len(todo)} {entry.name:40s} {record['status']} {more}")
            sys.stdout.flush()
    typer.echo(", ".join(f"{n} {status}" for status, n in found.most_common()) or "nothing left to count")
    if found["LARGER"]:
        raise typer.Exit(1)


@app.command()
def expected(
    source: Sources = None,
    jobs: Annotated[int, typer.Option(help="models at a time")] = 1,
    time_limit: Annotated[float, typer.Option(help="seconds for each model")] = 60.0,
    memory_limit: Annotated[float, typer.Option(help="GiB for each model")] = 6.0,
    stop_after: Annotated[float, typer.Option(help="seconds after which no further model is started")] = float("inf"),
    retry: Annotated[list[str] | None, typer.Option(help="a status: judge those with it again; repeat for several")] = None,
    model: Names = "*",
    full: Full = False,
    results_folder: Folder = None,
) -> None:
    """Compare groups with what the architecture says, on models of any size: residual streams, MLPs, heads, experts, norms."""
    torch.set_num_threads(1)
    end, found = time.monotonic() + stop_after, Counter[str]()
    for name in _known(source):
        path = results.path_of(f"expected-{name}", results_folder)
        done = {m for m, r in results.read(path).items() if r["status"] not in (retry or ())}
        todo = [e for e in _entries(name, full, model) if e.name not in done]
        limits = Limits(time_limit, memory_limit)
        fresh = measured(todo, jobs=jobs, limits=limits, go_on=lambda: time.monotonic() < end, examine=expected_.examine)
        for k, (entry, record) in enumerate(fresh, start=1):
            record = {"model": entry.name, "family": entry.family, **record}
            results.append(path, record)
            found[record["status"]] += 1
            typer.echo(f"{name} {k}/{len(todo)} {entry.name:40s} {record['status']} {expected_.line(record)}")
            sys.stdout.flush()
    typer.echo(", ".join(f"{n} {status}" for status, n in found.most_common()) or "nothing left to judge")


@app.command()
def peers(
    time_limit: Annotated[float, typer.Option(help="seconds for each tool on each model")] = 200.0,
    memory_limit: Annotated[float, typer.Option(help="GiB for each tool on each model")] = 8.0,
    stop_after: Annotated[float, typer.Option(help="seconds after which no further model is started")] = float("inf"),
    largest: Annotated[float, typer.Option(help="millions of parameters up to which models are compared")] = 100.0,
    model: Names = "*",
    again: Annotated[bool, typer.Option(help="run all again")] = False,
    results_folder: Folder = None,
) -> None:
    """Compare with rebasin and Torch-Pruning on torchvision's classifiers, the smallest first; see peers/__init__.py."""
    torch.set_num_threads(1)
    end = time.monotonic() + stop_after
    path = results.path_of("peers-torchvision", results_folder)
    done = {} if again else results.read(path)
    todo = [(name, n) for name, n in pairs.classifiers(int(largest * 1e6)) if fnmatch(name, model) and name not in done]
    for k, (name, n) in enumerate(todo, start=1):
        if time.monotonic() > end:
            break
        found = peers_.compared(name, Limits(time_limit, memory_limit))
        results.append(path, {"model": name, "parameters": n, "tools": found})
        for tool, record in found.items():
            typer.echo(f"{k}/{len(todo)} {name:24s} {tool:14s} {peers_.line(record)}")
        sys.stdout.flush()


@app.command()
def tables(
    results_folder: Folder = None,
    to: Annotated[Path, typer.Option(help="folder of the tables")] = results.DOCS,
) -> None:
    """Write docs/zoo/<source>.md, the index docs/zoo/README.md and peers.md from the results."""
    compared = results.read(results.path_of("peers-torchvision", results_folder))
    records = {s: _with_verdicts(s, results_folder) for s in sources.SOURCES}
    more = {s: _expected_only(s, results_folder, records[s]) for s in sources.SOURCES}
    for path in write_tables(records, to, compared, more):
        typer.echo(str(path))


def _with_verdicts(source: str, folder: Path | None) -> dict[str, dict[str, Any]]:
    """The records of a source, with what the oracle says of their orders and what is expected of their groups."""
    records = results.read(results.path_of(source, folder))
    for command, field in (("maximal", "whole"), ("expected", "expected")):
        for name, verdict in results.read(results.path_of(f"{command}-{source}", folder)).items():
            if name in records:
                records[name][field] = verdict
    return records


def _expected_only(source: str, folder: Path | None, records: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Models with expectations that have no record of their own: those with heads, of transformers."""
    found = results.read(results.path_of(f"expected-{source}", folder))
    return {name: {"model": name, "expected": verdict} for name, verdict in found.items() if name not in records}


@app.command(name="list")
def list_models(source: Sources = None, model: Names = "*", full: Full = False) -> None:
    """The models there are, with their families."""
    for name in _known(source):
        for entry in _entries(name, full, model):
            typer.echo(f"{name} {entry.name} {entry.family}")


def _known(source: list[str] | None) -> Sequence[str]:
    for name in source or ():
        if name not in sources.SOURCES:
            raise typer.BadParameter(f"no source is called {name!r}; there are {', '.join(sources.SOURCES)}")
    return source or sources.SOURCES


def _entries(source: str, full: bool, pattern: str) -> list[Entry]:
    try:
        found = sources.entries(source, full)
    except ImportError as error:
        typer.echo(f"{source}: skipped, {error}", err=True)
        return []
    return [e for e in found if fnmatch(e.name, pattern)]


def _shard(entries: Sequence[Entry], shard: str) -> Sequence[Entry]:
    i, _, n = shard.partition("/")
    if not (i.isdigit() and n.isdigit() and 1 <= int(i) <= int(n)):
        raise typer.BadParameter(f"--shard must be i/n with 1 <= i <= n, not {shard!r}")
    return entries[int(i) - 1 :: int(n)]


def _line(record: dict[str, Any]) -> str:
    """A model's result in one line."""
    parts = [f"{record['model']:40s} {record['status']:10s}"]
    if "log10_order" in record:
        parts.append(f"10^{record['log10_order']:.0f} cover {record['coverage']:.1%}")
    if "error" in record:
        parts.append(f"error {record['error']:.0e}")
    parts.append(f"{record['seconds']:.1f} s")
    if record.get("unsupported"):
        parts.append("no rule: " + ", ".join(record["unsupported"]))
    if record["status"] != "sound":
        parts.append(str(record.get("note", ""))[:300].replace("\n", " | "))
    return "  ".join(parts)
