"""docs/zoo/peers.md: what each tool does to each model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.zoo.peers.judge import VERDICTS

Records = Mapping[str, dict[str, Any]]

HEAD = """# Beside other tools

Written by `python -m benchmarks.zoo tables` from `results/peers-torchvision.jsonl`, which `python -m benchmarks.zoo peers` makes:
torchvision's classifiers, the smallest first, two random initialisations of each with trained-like norms and biases, images of
the size that the model is for. Model b is permuted, and its outputs before and after are compared in float64.

- **autoperm**: `autoperm.align(a, b, x)`.
- **rebasin** 0.0.47: `PermutationCoordinateDescent(a, b, x).rebasin()`. It does not permute the running statistics of batch norms
  and asks for new ones to be taken from data; *right with new statistics* are models whose outputs agree once both networks take
  the statistics of the batch.
- **Torch-Pruning** 1.6.1 has no matching, but its groups of coupled channels are permutations if channels trade places where it
  would remove them: each group is permuted at random, with its own functions, classifier excluded and heads given, as its README
  says.

*share*: of the entries of all parameters those that the tool may move. *order*: in how many ways. *seconds*: of the tool, on a
busy machine, one thread. *objective*: the inner product of the parameters of a and permuted b, before and after."""

SAID = {
    "right": "outputs agree to 1e-6",
    "right with new statistics": "they do once batch norms take new statistics",
    "nothing": "no weight moved",
    "wrong": "outputs changed",
    "crashed": "an error",
    "timeout": "no answer within the time limit",
    "memory": "over the memory limit",
}


def page(records: Records) -> str:
    tools = list(dict.fromkeys(tool for r in records.values() for tool in r["tools"]))
    ordered = sorted(records.values(), key=lambda r: r["parameters"])
    parts = [HEAD, _counts(ordered, tools), _models(ordered, tools), _objectives(ordered), _failures(ordered, tools)]
    return "\n\n".join(parts) + "\n"


def _counts(records: list[dict[str, Any]], tools: list[str]) -> str:
    rows = []
    for verdict in VERDICTS:
        found = [sum(r["tools"][t]["status"] == verdict for r in records) for t in tools]
        if any(found):
            rows.append((f"{verdict}: {SAID[verdict]}", *map(str, found)))
    return f"## {len(records)} models\n\n" + _table(("", *tools), rows)


def _models(records: list[dict[str, Any]], tools: list[str]) -> str:
    head = ["model", "parameters", *(f"{t}: {what}" for t in tools for what in ("verdict", "error", "share", "order", "seconds"))]
    rows = []
    for r in records:
        cells = (cell for t in tools for cell in _cells(r["tools"][t]))
        rows.append((f"`{r['model']}`", f"{r['parameters'] / 1e6:.1f} M", *cells))
    return "## Models\n\n" + _table(head, rows)


def _cells(found: dict[str, Any]) -> tuple[str, ...]:
    if "share" not in found:
        return found["status"], "", "", "", ""
    error = f"{found['error']:.0e}" if "error" in found else ""
    return found["status"], error, f"{found['share']:.1%}", f"10^{found['log10_order']:.0f}", f"{found['seconds_tool']:.1f}"


def _objectives(records: list[dict[str, Any]]) -> str:
    """Only where both matchers leave the function as it is (for rebasin, with new statistics)."""
    rows = []
    for r in records:
        ours, theirs = r["tools"]["autoperm"], r["tools"]["rebasin"]
        if ours["status"] == "right" and theirs["status"].startswith("right"):
            rows.append((f"`{r['model']}`", *(f"{v:.0f}" for v in (ours["before"], ours["objective"], theirs["objective"]))))
    found = _table(("model", "before", "autoperm", "rebasin"), rows) if rows else "None."
    return f"## Objective, where both matchers are right\n\n{found}"


def _failures(records: list[dict[str, Any]], tools: list[str]) -> str:
    notes = Counter((t, r["tools"][t].get("note", "")) for r in records for t in tools if r["tools"][t]["status"] == "crashed")
    rows = [(tool, f"`{note.replace('|', '/')}`", str(n)) for (tool, note), n in notes.most_common()]
    return "## Errors\n\n" + (_table(("tool", "error", "models"), rows) if rows else "None.")


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])
