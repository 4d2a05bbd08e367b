"""Tables for the terminal and for docs/results/, where they go, and times for them."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from autoperm.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "docs" / "results"

Row = Mapping[str, object]


def folder(out: Path | None, *, quick: bool) -> Path:
    """Where results go, made if it is not there; a quick run leaves those of full runs alone."""
    target = out or (RESULTS / "quick" if quick else RESULTS)
    target.mkdir(parents=True, exist_ok=True)
    return target


def names(text: str) -> list[str]:
    """The names of an option that takes several, with commas between them."""
    return [name.strip() for name in text.split(",") if name.strip()]


def command() -> str:
    """The command that runs this script with these arguments, from the repository's root."""
    script = Path(sys.argv[0]).resolve()
    shown = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script
    return " ".join(["python", str(shown), *sys.argv[1:]])


def show(title: str, rows: Sequence[Row]) -> None:
    """Print rows as a table, each a value by column."""
    table = Table(*columns(rows), title=title, title_justify="left")
    for row in rows:
        table.add_row(*(str(row.get(name, "")) for name in columns(rows)))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def markdown(rows: Sequence[Row]) -> str:
    """Rows as a table in Markdown."""
    header = columns(rows)
    lines = [header, ["---"] * len(header), *([str(row.get(name, "")) for name in header] for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def columns(rows: Sequence[Row]) -> list[str]:
    """The columns of all rows, in order of first sight."""
    return list(dict.fromkeys(name for row in rows for name in row))


def write(
    path: Path,
    title: str,
    settings: Sequence[str],
    rows: Sequence[Row],
    *,
    plots: Sequence[str] = (),
    notes: str = "",
    by: str = "",
) -> None:
    """Write a page: the command (``by``, where there were several), the settings, the table, the plots beside it."""
    parts = [f"# {title}", f"Written by {by or f'`{command()}`'}.", "\n".join(f"- {line}" for line in settings), markdown(rows)]
    parts += [notes] if notes else []
    parts += [f"![{title}]({name})" for name in plots]
    write_atomically(path, ("\n\n".join(parts) + "\n").encode(), overwrite=True)


def remember(path: Path, name: str, found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Put what was found under a name into a JSON file, and return all that the file holds, sorted."""
    known = json.loads(path.read_text()) if path.exists() else {}
    known[name] = found
    ordered = {key: known[key] for key in sorted(known, key=_natural)}
    write_atomically(path, (json.dumps(ordered, indent=1) + "\n").encode(), overwrite=True)
    return ordered


def _natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts 8 before 32."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", text)]


def spread(values: Sequence[float], digits: int = 3) -> str:
    """The mean of some runs, and their range where there are several."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """The result, and the CPU seconds."""
    start = time.process_time()
    return function(), time.process_time() - start
