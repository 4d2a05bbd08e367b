"""autoperm verify: the group of a model, checked by computation."""

from __future__ import annotations

from typing import Annotated

import typer

from autoperm.cli.app import Inputs, Json, Model, Seed, app, print_json, say, working
from autoperm.infer import infer
from autoperm.modelspec import load_inputs, load_model
from autoperm.verify import verify as run


@app.command()
def verify(
    model: Model,
    input: Inputs = None,
    samples: Annotated[int, typer.Option(min=1, help="how many random permutations to try")] = 3,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Apply random permutations, in float64 with trained-like weights, and compare the outputs."""
    with working(f"verifying {model}"):
        network = load_model(model)
        inputs = load_inputs(input or [], model, network)
        found = run(network, infer(network, inputs), inputs, samples=samples, seed=seed)
    if json:
        print_json({"ok": found.ok, "relative": found.relative, "outputs": [vars(e) for e in found.errors]})
    else:
        say(str(found))
    raise typer.Exit(0 if found.ok else 1)
