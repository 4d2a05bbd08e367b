"""A spec as readable text and as a notebook table."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoperm.spec import PermutationSpec

_SHOWN = 40


def rows(spec: PermutationSpec) -> list[tuple[str, str, str, str, str]]:
    """One row per group: name, size, copies, parent, what it moves."""
    found = []
    for g in spec.groups:
        first = f"{g.moves[0][0]}[{g.moves[0][1]}]"
        more = f" and {len(g.moves) - 1} more" if len(g.moves) > 1 else ""
        found.append((g.name, str(g.size), str(g.copies), g.parent or "", first + more))
    return found


def summary(spec: PermutationSpec) -> str:
    """One line: groups, order, coverage, what is pinned."""
    order = f"{spec.order}" if spec.log10_order < 15 else f"10^{spec.log10_order:.1f}"
    unknown = f", {len(spec.unsupported)} ops without a rule" if spec.unsupported else ""
    return (
        f"{_count(len(spec.groups), 'group')}, order {order}, {spec.coverage:.1%} of the parameters move, "
        f"{_count(len(spec.pinned), 'parameter dimension')} {'is' if len(spec.pinned) == 1 else 'are'} pinned{unknown}"
    )


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def as_text(spec: PermutationSpec) -> str:
    header = ("group", "size", "copies", "parent", "moves")
    table = [header, *rows(spec)[:_SHOWN]]
    widths = [max(len(row[k]) for row in table) for k in range(len(header))]
    lines = [summary(spec)]
    lines += ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]
    if len(spec.groups) > _SHOWN:
        lines.append(f"... and {len(spec.groups) - _SHOWN} more groups")
    return "\n".join(lines)


def as_html(spec: PermutationSpec) -> str:
    head = "".join(f"<th>{h}</th>" for h in ("group", "size", "copies", "parent", "moves"))
    body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows(spec))
    return f"<p>{html.escape(summary(spec))}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
