"""The part of a source's page that says what is as expected, and what is not and why."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from benchmarks.zoo.expected.expectation import KINDS
from benchmarks.zoo.expected.known import explanation

MEANINGS = {
    "residual": "all that the blocks of a stage add to their stream moves by one group of its full width, and so do their norms",
    "hidden": "the hidden units of an MLP (or between two convolutions of a block) are one group that acts on nothing else",
    "values": "value projections move by heads, and by dims in an order of each head's own; tables of biases with the heads",
    "queries": "queries and keys move with the same heads; so do their dims unless they are rotated",
    "experts": "stacked experts are exchangeable with the rows of their router, and hidden units have an order per expert",
    "norm": "a norm moves with the layer before it",
    "groups": "the blocks of a group norm or grouped convolution are exchangeable, and so are the channels within each",
}


def cell(record: dict[str, Any]) -> str:
    """Met of expected; nothing where the model has not been judged."""
    kinds = record.get("expected", {}).get("kinds", {})
    return f"{sum(m for m, _ in kinds.values())}/{sum(n for _, n in kinds.values())}" if kinds else ""


def page(records: Iterable[dict[str, Any]]) -> str:
    """Counts by kind and a table of what is unmet; empty if no model has been judged."""
    judged = [r for r in records if "expected" in r and r["expected"].get("kinds")]
    if not judged:
        return ""
    head = (
        "What the module tree and the shapes of the parameters say of the group, read without the inference, and how often the "
        f"group has it, in {len(judged)} models. *Tied*: held in place by an input or output, and so not expected."
    )
    unmet = _unmet(judged)
    rest = ["Unmet, by reason:", unmet] if unmet else ["All are met."]
    return "\n\n".join(["## Structure", head, _counts(judged), *rest])


def _counts(judged: Iterable[dict[str, Any]]) -> str:
    met, expected, tied = Counter[str](), Counter[str](), Counter[str]()
    for r in judged:
        for kind, (m, n) in r["expected"]["kinds"].items():
            met[kind] += m
            expected[kind] += n
        tied.update(r["expected"].get("tied", {}))
    there = [kind for kind in KINDS if expected[kind] + tied[kind]]
    rows = [(kind, MEANINGS[kind], f"{met[kind]}/{expected[kind]}", str(tied[kind] or "")) for kind in there]
    return table(("", "expected", "met", "tied"), rows)


def _unmet(judged: Iterable[dict[str, Any]]) -> str:
    """A row for each kind, reason and explanation."""
    found: dict[tuple[str, str, str], dict[str, int]] = defaultdict(dict)
    for r in judged:
        for told, n in r["expected"].get("reasons", {}).items():
            kind, _, why = told.partition(": ")
            same = found[kind, _without_numbers(why), explanation(kind, r["model"], why)]
            same[r["model"]] = same.get(r["model"], 0) + n
    rows = [
        (kind, why.replace("|", "\\|"), ", ".join(f"`{m}` {n}" for m, n in list(models.items())[:6]) + _more(models), text)
        for (kind, why, text), models in sorted(found.items(), key=lambda item: (KINDS.index(item[0][0]), -len(item[1])))
    ]
    return table(("", "found", "where", "why"), rows) if rows else ""


def _without_numbers(why: str) -> str:
    """A reason without sizes, so that the same is said of layers of several widths; dims keep theirs."""
    why = re.sub(r"(?<!dim )\b\d+\b", "n", why)
    return re.sub(r"(\bn\b[^,:]*)(, n\b[^,:]*)+", r"\1, ...", why)


def _more(models: dict[str, int]) -> str:
    return f" and {len(models) - 6} more" if len(models) > 6 else ""


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])
