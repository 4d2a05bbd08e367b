"""Markdown from the results: a page per source and an index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.zoo import pinned
from benchmarks.zoo.beyond import explanation
from benchmarks.zoo.expected import page as structure
from benchmarks.zoo.peers import page as peers

Records = Mapping[str, dict[str, Any]]

#: What each status says, best first.
MEANINGS = {
    "sound": "random elements of the group leave the outputs as they are, in float64 with trained-like weights",
    "float32": "does not run in float64: in float32 a random element changes the outputs as rounding does, half of one far more",
    "unverified": "traced and inferred; not run, or a run that would say nothing",
    "untraced": "runs, but no tracer gets a graph",
    "failed": "an error in inference",
    "timeout": "over the time limit",
    "memory": "over the memory limit",
    "crashed": "the process died",
    "inputs": "the benchmark's inputs do not fit the model",
    "build": "the benchmark's recipe does not build the model",
    "unsound": "A PERMUTATION CHANGES THE FUNCTION",
}


def write_tables(
    sources: Mapping[str, Records], to: Path, compared: Records | None = None, more: Mapping[str, Records] | None = None
) -> list[Path]:
    """Write a page for each source that has results, and the index of all models.

    Arguments:
        sources: by source the records of its models.
        to: the folder.
        compared: what other tools do to models; their page is written if it has any.
        more: by source, models with expectations only.

    Returns:
        The files written.
    """
    to.mkdir(parents=True, exist_ok=True)
    sources = {name: records for name, records in sources.items() if records}
    pages = {to / f"{name}.md": _page(name, records, (more or {}).get(name, {})) for name, records in sources.items()}
    pages[to / "README.md"] = _index(sources)
    if compared:
        pages[to / "peers.md"] = peers.page(compared)
    for path, text in pages.items():
        path.write_text(text)
    return list(pages)


def _index(sources: Mapping[str, Records]) -> str:
    """Counts, what is missing most, and every model in one table."""
    everything = [r for records in sources.values() for r in records.values()]
    parts = [
        "# Models",
        "Written by `python -m benchmarks.zoo tables` from `results/`. Search this page for a model's name; the pages of the "
        "sources have more columns.",
        _counts(sources),
        "\n".join(f"- **{status}**: {text}" for status, text in MEANINGS.items()),
        "## Ops without a rule",
        _unsupported(everything) or "None.",
        "## Pinned though tied to no input or output",
        _pinned(everything) or "Nothing.",
        "## All models",
        _table(("model", "source", "supported", "order", "coverage", "notes"), (
            (f"`{r['model']}`", f"[{r['source']}]({r['source']}.md)", r["status"], _order(r), _share(r), _notes(r, everything))
            for r in sorted(everything, key=lambda r: r["model"].lower())
        )),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _page(source: str, records: Records, more: Records) -> str:
    rows = (
        (f"`{r['model']}`", r["family"], _millions(r), r["status"], _whole(r), structure.cell(r), _order(r), _share(r),
         str(r.get("groups", "")), r.get("tracer", ""), _error(r), _seconds(r, "seconds_trace"), _seconds(r, "seconds_infer"),
         _peak(r), _notes(r, records.values()))
        for r in sorted(records.values(), key=lambda r: r["model"].lower())
    )  # fmt: skip
    head = ("model", "family", "parameters", "status", "whole", "structure", "order", "coverage", "groups", "tracer", "error",
            "trace", "infer", "peak", "notes")  # fmt: skip
    expected = structure.page([*records.values(), *more.values()])
    told = _counts({source: records}), _times(records.values()), _compared(records)
    parts = [f"# {source}", *told, _table(head, rows), expected, pinned.page(records.values())]
    return "\n\n".join(part for part in parts if part) + "\n"


def _compared(records: Records) -> str:
    """For how many models the group is known to be the whole one."""
    verdicts = Counter(r["whole"]["status"] for r in records.values() if "whole" in r)
    counted = {"whole", "smaller", "LARGER"} & set(verdicts)
    if not counted:
        return ""
    n = sum(verdicts[v] for v in counted)
    return (
        f"Whole: the automorphism oracle counted the symmetries of {n} of these models (those that are small enough for it, in a "
        f"minute), and {verdicts['whole']} orders are the true ones. Where it counted more, larger versions and inputs followed, "
        "since on the smallest ones parts of a weight may have one effect by chance; the table says what else moves."
    )


def _whole(r: dict[str, Any]) -> str:
    """What the oracle says; nothing where it could not count."""
    found = r.get("whole", {})
    if found.get("status") == "smaller":
        much = f"{found['missing']} times smaller" if found.get("missing") else "smaller"
        return much + _beyond(found.get("beyond", {})) + (f" ({told})" if (told := explanation(r["model"])) else "")
    return {"whole": "yes", "LARGER": "LARGER"}.get(found.get("status"), "")


def _beyond(moved: Mapping[str, str]) -> str:
    """What else the true group moves: whole positions of some weights, or single entries of some."""
    parts = []
    for kind in ("positions", "entries"):
        names = [f"`{name}`" for name, what in moved.items() if what == kind]
        if names:
            parts.append(f"{kind} of {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else ""))
    return f": {'; '.join(parts)}" if parts else ""


def _counts(sources: Mapping[str, Records]) -> str:
    """A row per source: how many models of each status."""
    used = [s for s in MEANINGS if any(r["status"] == s for records in sources.values() for r in records.values())]
    rows = []
    for name, records in sources.items():
        found = Counter(r["status"] for r in records.values())
        stood_in = sum(r["status"] == "unverified" and bool(_stand_in(r, records.values())) for r in records.values())
        rows.append((f"[{name}]({name}.md)", str(len(records)), *(str(found[s]) for s in used), str(stood_in or "")))
    return _table(("source", "models", *used, "unverified, of a family that is sound"), rows)


def _times(records: Iterable[dict[str, Any]]) -> str:
    """Inference against tracing, and how long it all took."""
    timed = [r for r in records if r.get("seconds_trace") and r.get("seconds_infer")]
    if len(timed) < 2:
        return ""
    ratios = sorted((r["seconds_infer"] / r["seconds_trace"], r["model"]) for r in timed)
    hours = sum(r.get("seconds", 0) for r in timed) / 3600
    return (
        f"Inferring a group takes {ratios[len(ratios) // 2][0]:.2f} of the time of tracing the model (median), at most "
        f"{ratios[-1][0]:.1f} (`{ratios[-1][1]}`). Building, tracing, inferring and verifying all took {hours:.1f} hours "
        "of one core, on a machine that did other things too."
    )


def _unsupported(records: Iterable[dict[str, Any]]) -> str:
    ops: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        for op in record.get("unsupported") or ():
            ops.setdefault(op, []).append(record)
    rows = []
    for op, where in sorted(ops.items(), key=lambda item: -len(item[1])):
        example = next(x for x in where[0]["examples"] if x["op"] == op)
        at = f"{example['module'] or 'forward'} {example['source']} {example['shapes']}"
        names = ", ".join(f"`{r['model']}`" for r in where[:4])
        rows.append((f"`{op}`", str(len(where)), names, at))
    return _table(("op", "models", "among them", "an example"), rows) if rows else ""


def _pinned(records: Iterable[dict[str, Any]]) -> str:
    rows = pinned.summary(records)
    return _table(("reason", "dimensions", "models", "among them"), rows) if rows else ""


def _notes(record: dict[str, Any], others: Iterable[dict[str, Any]]) -> str:
    notes = []
    if record.get("unsupported"):
        notes.append("no rule for " + ", ".join(f"`{op}`" for op in record["unsupported"]))
    if record["status"] == "unverified":
        notes += _stand_in(record, others)
    if record["status"] != "sound" or "noise" in record or record.get("error") == 0:
        notes.append(str(record.get("note", ""))[:160])
    return "; ".join(n for n in notes if n).replace("|", "\\|").replace("\n", " ")


def _stand_in(record: dict[str, Any], others: Iterable[dict[str, Any]]) -> list[str]:
    """A model of the same family that is verified."""
    same = [r for r in others if r["source"] == record["source"] and r["family"] == record["family"] and r["status"] == "sound"]
    best = min(same, key=lambda r: r.get("parameters", 0), default=None)
    return [f"of its family `{best['model']}` is sound"] if best else []


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _order(r: dict[str, Any]) -> str:
    return f"10^{r['log10_order']:.0f}" if "log10_order" in r else ""


def _share(r: dict[str, Any]) -> str:
    return f"{r['coverage']:.1%}" if "coverage" in r else ""


def _error(r: dict[str, Any]) -> str:
    return f"{r['error']:.0e}" if "error" in r else ""


def _seconds(r: dict[str, Any], name: str) -> str:
    return f"{r[name]:.2f} s" if name in r else ""


def _peak(r: dict[str, Any]) -> str:
    return f"{r['peak_gib']:.1f} GiB" if "peak_gib" in r else ""


def _millions(r: dict[str, Any]) -> str:
    return f"{r['parameters'] / 1e6:.2f} M" if "parameters" in r else ""
