"""autoperm distance: how far apart two checkpoints are, whatever order their units are in."""

from __future__ import annotations

from typing import Annotated

import typer

from autoperm.checkpoint import load_checkpoint
from autoperm.cli.align import File
from autoperm.cli.app import Inputs, Json, Seed, app, print_json, say, working
from autoperm.cli.group import verified_group
from autoperm.modelspec import FORMS
from autoperm.state import check_pair
from autoperm.state import distance as plain_distance
from autoperm.uses import distance as distance_modulo_permutation


@app.command()
def distance(
    a: File,
    b: File,
    model: Annotated[str, typer.Option("--model", "-m", help=FORMS)],
    input: Inputs = None,
    method: Annotated[str, typer.Option(help="the matcher")] = "weight",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Bound the L2 distance between A and B over all permutations of their units."""
    state_a, state_b = load_checkpoint(a), load_checkpoint(b)
    check_pair(state_a, state_b)
    spec = verified_group(model, input, seed)
    with working("matching"):
        found = distance_modulo_permutation(state_a, state_b, spec, method=method, seed=seed)
    plain = plain_distance(spec, state_a, state_b)
    if json:
        print_json({"distance": found, "plain_distance": plain})
    else:
        say(f"L2 distance at most {found:.6g} modulo permutation, {plain:.6g} as they are")
