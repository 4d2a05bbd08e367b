"""One tool on one model, in a process of its own."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks.zoo.entry import Entry
from benchmarks.zoo.measure import Report, peak
from benchmarks.zoo.peers.judge import judge
from benchmarks.zoo.peers.pairs import pair
from benchmarks.zoo.peers.tools import TOOLS, Moved
from benchmarks.zoo.worker import Limits, measured

#: Seconds that building and judging a model may take, beside those of the tool.
JUDGING = 150.0


def compared(name: str, limits: Limits) -> dict[str, Any]:
    """What each tool does to a model, one tool at a time; seconds are the tool's own, of graph, groups and matching."""
    limits = replace(limits, seconds=limits.seconds + JUDGING)
    entry = Entry(name, name, lambda: pair(name)[0], lambda model: None)
    return {tool: next(measured([entry], jobs=1, limits=limits, examine=_with(tool)))[1] for tool in TOOLS}


def _with(tool: str) -> Callable[[Entry, Report, int], None]:
    def examine(entry: Entry, report: Report, largest: int) -> None:
        warnings.simplefilter("ignore")
        report({"stage": "build"})
        a, b, x = pair(entry.name)
        report({"stage": tool})
        start = time.perf_counter()
        moved = _tried(lambda: TOOLS[tool](a, b, x))
        if isinstance(moved, dict):
            report(moved)
            return
        report({"stage": "judge", "seconds_tool": time.perf_counter() - start, "peak_gib": peak()})
        report({"share": moved.share, "log10_order": moved.log10_order})
        report(judge(a, b, moved.model.eval(), x))

    return examine


def _tried(run: Callable[[], Moved]) -> Moved | dict[str, Any]:
    """What a tool gives, or the fields of its failure; told once the error and the memory that its frames hold are gone."""
    try:
        return run()
    except MemoryError:
        note = ""
    except Exception as error:
        note = f"{type(error).__name__}: {error}".partition("\n")[0][:160]
    short = not note or "allocate memory" in note
    return {"status": "memory"} if short else {"status": "crashed", "note": note}


def line(found: dict[str, Any]) -> str:
    """A tool's result in a few words."""
    if "error" not in found:
        return f"{found['status']} {found.get('note', '')}"
    share = f"share {found['share']:.1%} 10^{found['log10_order']:.0f}"
    return f"{found['status']} error {found['error']:.0e} {share} {found['seconds_tool']:.1f} s"
