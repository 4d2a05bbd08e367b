"""autoperm canonicalize: a checkpoint in an order that does not depend on the one it is in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoperm.checkpoint import load_checkpoint, save_checkpoint
from autoperm.cli.align import File
from autoperm.cli.app import Force, Inputs, Json, Seed, app, check_targets, print_json, say, working
from autoperm.cli.group import verified_group
from autoperm.modelspec import FORMS
from autoperm.uses import canonicalize as canonical_order


@app.command()
def canonicalize(
    a: File,
    output: Annotated[Path, typer.Option("--output", "-o", help="where to write a in its canonical order")],
    model: Annotated[str, typer.Option("--model", "-m", help=FORMS)],
    input: Inputs = None,
    permutation: Annotated[Path | None, typer.Option("--permutation", "-p", help="write the permutation there too")] = None,
    force: Force = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Put checkpoint A in canonical order: equal for all permutations of one network, whose function is unchanged."""
    check_targets(output, permutation, force=force)
    state = load_checkpoint(a)
    spec = verified_group(model, input, seed)
    with working("finding the canonical order"):
        canonical, found = canonical_order(state, spec)
    save_checkpoint(canonical, output, overwrite=force)
    if permutation is not None:
        found.save(permutation, overwrite=force)
    moved = {name: share for name, share in found.moved().items() if share}
    if json:
        print_json({"output": str(output), "moved": moved})
        return
    say(f"{len(moved)} of {len(found.arrays)} groups permuted")
    say(f"wrote {output}")
