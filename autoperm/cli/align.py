"""autoperm align: one checkpoint, permuted towards another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoperm.checkpoint import load_checkpoint, save_checkpoint
from autoperm.cli.app import Force, Inputs, Json, Seed, app, check_targets, print_json, say, working
from autoperm.errors import AutopermError
from autoperm.infer import infer
from autoperm.matching import Match, match
from autoperm.modelspec import FORMS, load_inputs, load_model
from autoperm.state import check_pair, distance
from autoperm.verify import verify

File = Annotated[Path, typer.Argument(help="a checkpoint: safetensors, or torch.save of a state dict")]


@app.command()
def align(
    a: File,
    b: File,
    output: Annotated[Path, typer.Option("--output", "-o", help="where to write b, permuted towards a")],
    model: Annotated[str, typer.Option("--model", "-m", help=FORMS)],
    input: Inputs = None,
    permutation: Annotated[
        Path | None, typer.Option("--permutation", "-p", help="write the permutation there too")
    ] = None,
    method: Annotated[str, typer.Option(help="the matcher")] = "weight",
    force: Force = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Permute checkpoint B towards checkpoint A; the function of B is unchanged."""
    check_targets(output, permutation, force=force)
    state_a, state_b = load_checkpoint(a), load_checkpoint(b)
    check_pair(state_a, state_b)
    with working("inferring and verifying the group"):
        network = load_model(model)
        inputs = load_inputs(input or [], model, network)
        spec = infer(network, inputs)
        checked = verify(network, spec, inputs, samples=1, seed=seed)
    if not checked.ok:
        raise AutopermError(f"{model}: {checked}. Nothing was written; please report this model")
    with working("matching"):
        found = match(state_a, state_b, spec, method=method, seed=seed)
        aligned = found.permutation.apply(state_b)
    save_checkpoint(aligned, output, overwrite=force)
    if permutation is not None:
        found.permutation.save(permutation, overwrite=force)
    before = distance(spec, state_a, state_b)
    _report(found, before, output, json)


def _report(found: Match, before: float, output: Path, json: bool) -> None:
    moved = {name: share for name, share in found.permutation.moved().items() if share}
    if json:
        print_json({"output": str(output), "distance_before": before, "distance": found.distance, "moved": moved})
        return
    say(f"L2 distance {before:.6g} before, {found.distance:.6g} after; {len(found.history) - 1} steps")
    say(f"{len(moved)} of {len(found.permutation.arrays)} groups permuted")
    say(f"wrote {output}")
