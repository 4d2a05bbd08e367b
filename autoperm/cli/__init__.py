"""The command line. Thin: it names models, calls the public API, and prints."""

from __future__ import annotations

import sys

from autoperm.cli import align, canonicalize, demo, distance, explain, inspect, verify  # noqa: F401  (they register their commands)
from autoperm.cli.app import app, console_error
from autoperm.errors import AutopermError


def main() -> None:
    """Run the command line: exit code 0, 1 for a controlled error, 2 for wrong usage."""
    try:
        app(prog_name="autoperm")
    except AutopermError as error:
        console_error(str(error))
        sys.exit(1)


__all__ = ["app", "main"]
