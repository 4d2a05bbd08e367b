"""autoperm inspect: the groups of a model, and what is pinned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from autoperm.cli.app import Force, Inputs, Json, Meta, Model, app, check_targets, out, print_json, say, working
from autoperm.infer import infer
from autoperm.modelspec import load_inputs, load_model
from autoperm.report import rows, summary
from autoperm.spec import PermutationSpec

_SHOWN = 25


@app.command()
def inspect(
    model: Model,
    input: Inputs = None,
    everything: Annotated[bool, typer.Option("--all", help="show all rows")] = False,
    save: Annotated[Path | None, typer.Option(help="write the spec as JSON to this file")] = None,
    force: Force = False,
    meta: Meta = False,
    json: Json = False,
) -> None:
    """Infer a model's permutation groups and show them."""
    check_targets(save, force=force)
    with working(f"inferring the group of {model}"):
        network = load_model(model, meta=meta)
        spec = infer(network, load_inputs(input or [], model, network))
    if save is not None:
        spec.save(save, overwrite=force)
    if json:
        print_json(as_json(spec))
        return
    shown = None if everything else _SHOWN
    out.print(_groups(spec, shown))
    if spec.pinned:
        out.print(_pinned(spec, shown))
    say(summary(spec))


def as_json(spec: PermutationSpec) -> dict:
    """What the tables say."""
    return {
        "order_log10": spec.log10_order,
        "order": str(spec.order) if spec.log10_order < 4000 else None,
        "coverage": spec.coverage,
        "groups": [
            {
                "name": g.name,
                "size": g.size,
                "copies": g.copies,
                "parent": g.parent,
                "moves": [list(m) for m in g.moves],
            }
            for g in spec.groups
        ],
        "pinned": [{"parameter": name, "dim": dim, "reason": reason} for (name, dim), reason in spec.pinned.items()],
        "unsupported": [str(u) for u in spec.unsupported],
    }


def _groups(spec: PermutationSpec, shown: int | None) -> Table:
    table = Table("group", "size", "copies", "parent", "moves", title="groups", title_justify="left")
    listed = rows(spec)
    for row in listed[:shown]:
        table.add_row(*map(escape, row))
    if shown is not None and len(listed) > shown:
        table.caption = f"{len(listed) - shown} more: --all"
    return table


def _pinned(spec: PermutationSpec, shown: int | None) -> Table:
    table = Table("parameter", "dim", "reason", title="pinned", title_justify="left")
    for (name, dim), reason in list(spec.pinned.items())[:shown]:
        table.add_row(escape(name), str(dim), escape(reason))
    if shown is not None and len(spec.pinned) > shown:
        table.caption = f"{len(spec.pinned) - shown} more: --all"
    return table
