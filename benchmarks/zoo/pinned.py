"""What stays pinned though it is tied to no input or output: by reason, by model, and which axes of which weights."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

#: So many kinds of axes are listed for a reason; the rest are counted.
LISTED = 40


def reason(why: str) -> str | None:
    """The reason why a dimension is pinned, without names and numbers; None where it is tied to an input or output."""
    if re.search(r"of the (in|out)put ", why):
        return None
    why = re.sub(r"^\S+ is an integer tensor", "an integer tensor", why)
    return re.sub(r"\b(axis|dim|dimension) \d+", r"\1 n", why)


def axes(pinned: Mapping[tuple[str, int], str]) -> dict[str, dict[str, int]]:
    """The axes for each reason, those of like layers as one.

    Arguments:
        pinned: tensor and dimension -> why, as :attr:`autoperm.PermutationSpec.pinned`.

    Returns:
        Reason -> axes, as ``layers.*.conv.weight 2 3`` -> how many.
    """
    dims: dict[tuple[str, str], list[int]] = defaultdict(list)
    for (name, dim), why in pinned.items():
        told = reason(why)
        if told is not None:
            dims[told, name].append(dim)
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for (told, name), which in dims.items():
        like = re.sub(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.)", "*", name)
        found[told][" ".join([like, *map(str, sorted(which))])] += len(which)
    return {told: _shortened(counts) for told, counts in found.items()}


def _shortened(counts: Counter[str]) -> dict[str, int]:
    kept = dict(counts.most_common(LISTED))
    rest = counts.total() - sum(kept.values())
    return kept | ({"others": rest} if rest else {})


def page(records: Iterable[dict[str, Any]]) -> str:
    """A folded list per model; empty where nothing is pinned."""
    parts = [_folded(r) for r in sorted(records, key=lambda r: r["model"].lower()) if r.get("pinned")]
    head = "A dimension is of one weight; `*` stands for the numbers of layers, and the dimensions follow the weight's name."
    return "\n\n".join(["## Pinned though tied to no input or output", head, *parts]) if parts else ""


def _folded(record: dict[str, Any]) -> str:
    pinned = record["pinned"]
    detail = record.get("pinned_axes", {})
    lines = [f"- {why}: {n}" + _listed(detail.get(why, {})) for why, n in pinned.items()]
    summary = f"<code>{record['model']}</code>: {sum(pinned.values())}, {next(iter(pinned))}" + (
        f" and {len(pinned) - 1} more" if len(pinned) > 1 else ""
    )
    return f"<details><summary>{summary}</summary>\n\n" + "\n".join(lines) + "\n\n</details>"


def _listed(found: Mapping[str, int]) -> str:
    return " (" + ", ".join(f"`{what}`" + (f" x {n}" if n > 1 else "") for what, n in found.items()) + ")" if found else ""


def summary(records: Iterable[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Reason, dimensions, models, and some of these, the most frequent reason first."""
    dims: Counter[str] = Counter()
    models: dict[str, list[str]] = defaultdict(list)
    for record in records:
        for why, n in (record.get("pinned") or {}).items():
            dims[why] += n
            models[why].append(record["model"])
    return [(why, str(n), str(len(models[why])), ", ".join(f"`{m}`" for m in models[why][:4])) for why, n in dims.most_common()]
