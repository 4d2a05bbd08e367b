"""What all commands share: the application, options, progress, output."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler

from autoperm._version import __version__
from autoperm.infer import UnsupportedOpWarning

app = typer.Typer(
    name="autoperm",
    help="Find every permutation of a model's weights that leaves its function unchanged, and align models with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console()
err = Console(stderr=True)

Model = Annotated[
    str, typer.Argument(help="torchvision:NAME, timm:NAME, hf:DIR (a folder with config.json) or package.module:factory")
]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", "-i", help="1x3x224x224, 1x16:int64 or package.module:function; once per positional input"),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON for machines")]
Force = Annotated[bool, typer.Option("--force", "-f", help="replace output files that exist")]
Seed = Annotated[int, typer.Option(help="of everything random")]


def _version(value: bool) -> None:
    if value:
        out.print(f"autoperm {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")] = False,
    progress: Annotated[bool, typer.Option(help="show what is going on while it takes long")] = True,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="log details")] = False,
) -> None:
    """Options of all commands."""
    err.quiet_progress = not progress  # type: ignore[attr-defined]
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING, handlers=[RichHandler(console=err, show_path=False)])
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
            err.print(f"[yellow]warning:[/] {warning.message}", highlight=False)


def print_json(data: Any) -> None:
    """JSON on standard output, and nothing else."""
    typer.echo(json.dumps(data, indent=1))


def console_error(text: str) -> None:
    """An error on standard error."""
    err.print("[bold red]error:[/] ", end="")
    err.print(text, markup=False, highlight=False)
