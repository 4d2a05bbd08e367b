"""What all commands share: the application, options, progress, output."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler

from autoperm._version import __version__
from autoperm.errors import CheckpointError
from autoperm.files import refuse_existing
from autoperm.infer import UnsupportedOpWarning
from autoperm.modelspec import FORMS, INPUT_FORMS

app = typer.Typer(
    name="autoperm",
    help="Find every permutation of a model's weights that leaves its function unchanged, and align models with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_PIPED = 200  # columns: tables that are read by programs or pagers should not wrap
out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else _PIPED)
err = Console(stderr=True)

Model = Annotated[str, typer.Argument(help=FORMS)]
Inputs = Annotated[
    list[str] | None, typer.Option("--input", "-i", help=f"{INPUT_FORMS}; once per positional input")
]
Meta = Annotated[bool, typer.Option("--meta", help="build the model without memory for its weights")]
Json = Annotated[bool, typer.Option("--json", help="print JSON for machines")]
Force = Annotated[bool, typer.Option("--force", "-f", help="replace output files that exist")]
Seed = Annotated[int, typer.Option(help="of everything random")]


def _version(value: bool) -> None:
    if value:
        out.print(f"autoperm {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
    progress: Annotated[bool, typer.Option(help="show what is going on while it takes long")] = True,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="log details")] = False,
) -> None:
    """Options of all commands."""
    err.quiet_progress = not progress  # type: ignore[attr-defined]
    level = logging.DEBUG if verbose else logging.WARNING
    logging.basicConfig(level=level, handlers=[RichHandler(console=err, show_path=False, show_time=False)])
    logging.getLogger("autoperm").setLevel(logging.DEBUG if verbose else logging.INFO)


@contextmanager
def working(text: str) -> Iterator[None]:
    """A spinner on standard error while something takes its time; warnings about ops are shown once, at the end."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UnsupportedOpWarning)
        if err.is_terminal and not getattr(err, "quiet_progress", False):
            with err.status(text):
                yield
        else:
            yield
    for warning in caught:
        if issubclass(warning.category, UnsupportedOpWarning):
            err.print("[yellow]warning:[/] ", end="")
            err.print(str(warning.message), markup=False, highlight=False, soft_wrap=True)
        else:  # not ours: as if it had not been recorded
            warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)


def check_targets(*paths: Path | None, force: bool) -> None:
    """Before a long computation: files that exist are kept, and the folders of new ones must be there.

    Raises:
        CheckpointError: a file exists and ``force`` is false, its folder is missing, it is a folder, or two are the same.
    """
    given = [path for path in paths if path is not None]
    if len({path.resolve() for path in given}) < len(given):
        raise CheckpointError(f"{given[0]} is named for two different files; give each a name of its own")
    for path in given:
        if path.is_dir():
            raise CheckpointError(f"cannot write {path}: it is a folder; name a file")
        refuse_existing(path, overwrite=force)
        if not path.parent.is_dir():
            raise CheckpointError(f"cannot write {path}: there is no folder {path.parent}; make it first")


def say(text: str) -> None:
    """Text on standard output as it is: no markup, no colours, no line breaks of its own."""
    out.print(text, markup=False, highlight=False, soft_wrap=True)


def print_json(data: Any) -> None:
    """JSON on standard output, and nothing else."""
    typer.echo(json.dumps(data, indent=1))


def console_error(text: str) -> None:
    """An error on standard error."""
    err.print("[bold red]error:[/] ", end="")
    err.print(text, markup=False, highlight=False, soft_wrap=True)
