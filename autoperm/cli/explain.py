"""autoperm explain: why a parameter's dimension moves as it does."""

from __future__ import annotations

from typing import Annotated

import typer

from autoperm.cli.app import Inputs, Json, Meta, Model, app, print_json, say, working
from autoperm.infer import infer
from autoperm.modelspec import load_inputs, load_model


@app.command()
def explain(
    model: Model,
    parameter: Annotated[str, typer.Argument(help="a parameter's name, such as layer1.0.conv2.weight")],
    dim: Annotated[int, typer.Argument(help="its dimension")],
    input: Inputs = None,
    meta: Meta = False,
    json: Json = False,
) -> None:
    """Show the chain of ops that ties a parameter's dimension to others, or pins it."""
    with working(f"inferring the group of {model}"):
        network = load_model(model, meta=meta)
        spec = infer(network, load_inputs(input or [], model, network))
    found = spec.explain(parameter, dim)
    if json:
        path = [vars(step) for step in found.path]
        print_json({"groups": found.groups, "reason": found.reason, "target": found.target, "path": path})
    else:
        say(str(found))
