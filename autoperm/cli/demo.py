"""autoperm demo: everything at once, on real images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from autoperm.cli.app import Force, Json, app, check_targets, err, out, print_json, say, working
from autoperm.errors import CheckpointError

if TYPE_CHECKING:
    from autoperm.demo import Outcome

PLOT = "barrier.png"
METRICS = ("train loss", "test loss", "train accuracy", "test accuracy")


@app.command()
def demo(
    out_dir: Annotated[Path, typer.Option("--out", help="folder for the plot and the weights")] = Path("demo-output"),
    quick: Annotated[bool, typer.Option(help="less training, narrower nets")] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Train pairs of networks from different seeds, verify, align, and measure the barrier before and after."""
    from autoperm.demo import run

    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot make the folder {out_dir}: {error.strerror}") from error
    check_targets(out_dir / PLOT, *out_dir.glob("*-aligned.safetensors"), force=force)
    with working("training, verifying, aligning"):
        outcomes = run(out_dir, quick=quick, report=lambda line: err.print(line, highlight=False, style="dim"))
    if json:
        print_json([_as_json(o) for o in outcomes])
        return
    for outcome in outcomes:
        _show(outcome)
    say(f"\nplot: {out_dir / PLOT}")


def _barriers(outcome: Outcome) -> dict[str, dict[str, float]]:
    return {name: {m: curve.barrier_of(m) for m in METRICS} for name, curve in outcome.curves.items()}


def _as_json(outcome: Outcome) -> dict:
    return {
        "name": outcome.name,
        "log10_order": outcome.spec.log10_order,
        "relative_error": outcome.verification.relative,
        "distance_before": outcome.distance_before,
        "distance": outcome.match.distance,
        "barriers": _barriers(outcome),
        "weights": str(outcome.weights),
        "seconds": outcome.seconds,
    }


def _show(outcome: Outcome) -> None:
    table = Table("line between the two models", *METRICS, title=f"{outcome.name}: barriers", title_justify="left")
    for name, row in _barriers(outcome).items():
        table.add_row(name, *(f"{row[m]:.4f}" for m in METRICS))
    ends = ", ".join(f"{outcome.curves['naive'].curves['test accuracy'][k]:.1%}" for k in (0, -1))
    out.print()
    out.print(table)
    say(f"group of order 10^{outcome.spec.log10_order:.1f}; {outcome.verification}".splitlines()[0])
    say(f"test accuracy of the two models: {ends}")
    say(
        f"L2 distance {outcome.distance_before:.2f} before matching, {outcome.match.distance:.2f} after; "
        f"{outcome.seconds:.0f} s; aligned weights: {outcome.weights}"
    )
