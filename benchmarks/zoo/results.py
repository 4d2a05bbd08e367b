"""Results as lines of JSON, one per model, in one file per source."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

#: Where results and tables are kept.
DOCS = Path(__file__).resolve().parent.parent.parent / "docs" / "zoo"


def path_of(source: str, folder: Path | None = None) -> Path:
    return (folder or DOCS / "results") / f"{source}.jsonl"


def append(path: Path, record: dict[str, Any]) -> None:
    """Add a line, in one write under a lock: several runs may share the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(_rounded(record), allow_nan=True) + "\n").encode()
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.write(file.fileno(), line)


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The last record of each model; a line that was cut short is skipped."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[record["model"]] = record
    return found


def _rounded(value: Any) -> Any:
    """Floats to four digits: lines are read by people too."""
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
