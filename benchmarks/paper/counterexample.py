"""Two solutions of one problem that no permutation connects (Ainsworth et al. 2023, Section 6 and its appendix).

    python benchmarks/paper/counterexample.py

A net of 2 - 2 - 2 - 1 units, leaky ReLU of slope 0.01, is positive where x1 <= 0 and x2 >= 0. Solutions A and B shift a
different coordinate by one and back between their layers, so that no unit of B means what a unit of A means. The group
has four elements, and all are tried: whatever a matcher finds, there is a barrier.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import autoperm
from autoperm import Interpolation, Permutation, PermutationSpec
from autoperm.evaluation import plots
from benchmarks.paper import report

SLOPE = 0.01
#: Of logits, so that the loss of right answers is small: the outputs are of the order of 0.01.
SHARPNESS = 1000.0
Weights = list[tuple[list[list[float]], list[float]]]
A: Weights = [([[-1, 0], [0, -1]], [1, 0]), ([[-1, 0], [0, 1]], [1, 0]), ([[-1, -1]], [0])]
B: Weights = [([[1, 0], [0, 1]], [0, 1]), ([[1, 0], [0, -1]], [0, 1]), ([[-1, -1]], [0])]


def solution(weights: Weights) -> nn.Module:
    """The net with these weights and biases, in float64."""
    layers = [nn.Linear(len(w[0]), len(w)) for w, _ in weights]
    for layer, (w, b) in zip(layers, weights, strict=True):
        layer.weight.data, layer.bias.data = (torch.tensor(v, dtype=torch.float64) for v in (w, b))
    return nn.Sequential(layers[0], nn.LeakyReLU(SLOPE), layers[1], nn.LeakyReLU(SLOPE), layers[2])


def problem(points: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A grid on [-1, 1]^2 that keeps away from both borders of the quadrant, and whether each point is in it.

    The points are the centres of an even number of columns and rows. The leak lets both solutions err within a
    hundredth of the borders.
    """
    at = (torch.arange(points, dtype=torch.float64) + 0.5) / points * 2 - 1
    x = torch.cartesian_prod(at, at)
    return x, ((x[:, 0] <= 0) & (x[:, 1] >= 0)).double()


def elements(spec: PermutationSpec) -> Iterator[Permutation]:
    """All elements of a group without parents."""
    choices = [[np.array(p) for p in itertools.permutations(range(group.size))] for group in spec.groups]
    for arrays in itertools.product(*choices):
        yield Permutation(spec, arrays)


def lines(points: int, steps: int) -> list[tuple[Permutation, nn.Module, Interpolation]]:
    """For every element of the group, the permuted b and the line from a to it."""
    x, y = problem(points)
    a, b = solution(A), solution(B)
    spec = autoperm.infer(a, x[:2])

    def measure(model: nn.Module) -> dict[str, float]:
        out = model(x)[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(SHARPNESS * out, y)
        return {"loss": float(loss), "accuracy": float(((out >= 0) == (y > 0)).double().mean())}

    found = []
    for element in elements(spec):
        moved = element.apply(b)
        if not torch.equal(moved(x), b(x)):
            raise RuntimeError(f"{element} changes the function; this is a bug")
        line = autoperm.interpolate(a, moved, measure, steps, higher_is_better="accuracy")
        found.append((element, moved, line))
    if len(found) != spec.order:
        raise RuntimeError(f"{len(found)} elements were tried of {spec.order}")
    return found


def swapped(element: Permutation) -> str:
    """Which layers an element swaps."""
    return {(0, 0): "none", (1, 0): "first", (0, 1): "second", (1, 1): "both"}[element.arrays[0][0], element.arrays[1][0]]


def rows(found: list[tuple[Permutation, nn.Module, Interpolation]], matched: Permutation) -> list[report.Row]:
    table = []
    for element, _, line in found:
        accuracy = line.curves["accuracy"]
        table.append({
            "layers of B swapped": swapped(element),
            "accuracy of A": f"{accuracy[0]:.3f}",
            "accuracy of π(B)": f"{accuracy[-1]:.3f}",
            "worst between": f"{accuracy.min():.3f}",
            "accuracy barrier": f"{line.barrier_of('accuracy'):.3f}",
            "loss barrier": f"{line.barrier_of('loss'):.3f}",
            "weight matching": "chooses it" if element == matched else "",
        })  # fmt: skip
    return table


def draw(found: list[tuple[Permutation, nn.Module, Interpolation]], path: Path) -> None:
    """The accuracy along all lines, and what their midpoints call positive."""
    figure, panels = plots.subplots(1, 1 + len(found), panel=(2.3, 2.4))
    lines = {swapped(element): line for element, _, line in found}
    plots.plot_lines(lines, "accuracy", panels[0, 0], barriers=False, legend=False)
    panels[0, 0].set_xlabel(r"$\lambda$ from A to $\pi(B)$", fontsize=8)
    a, grid = solution(A), torch.linspace(-1, 1, 201, dtype=torch.float64)
    for k, (ax, (element, moved, _)) in enumerate(zip(panels[0, 1:], found, strict=True)):
        middle = {n: (t + moved.state_dict()[n]) / 2 for n, t in a.state_dict().items()}
        with torch.no_grad():
            out = torch.func.functional_call(moved, middle, (torch.cartesian_prod(grid, grid),))[:, 0]
        ax.contourf(grid, grid, out.reshape(201, 201).T, [-1e9, 0, 1e9], colors=["#EEEEEE", plots.COLORS[k]])
        ax.plot([0, 0, -1], [1, 0, 0], "--", color="black", lw=1)
        ax.set_title(f"swapped: {swapped(element)}", fontsize=8, color=plots.COLORS[k], fontweight="bold")
        ax.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal", xticks=(-1, 0, 1), yticks=(-1, 0, 1))
        ax.tick_params(labelsize=7)
    plots.save(figure, path)


def main(
    quick: Annotated[bool, typer.Option(help="a coarser grid")] = False,
    out: Annotated[Path | None, typer.Option(help="folder for the page and the plot")] = None,
) -> None:
    """Try every permutation; write counterexample.md."""
    target = report.folder(out, quick=quick)
    points, steps = (20, 51) if quick else (100, 201)
    found = lines(points, steps)
    a, b = solution(A), solution(B)
    matched = autoperm.match(a, b, found[0][0].spec).permutation
    table = rows(found, matched)
    report.show("A counterexample: all four permutations", table)
    draw(found, target / "counterexample.png")
    settings = [
        f"A 2-2-2-1 net, leaky ReLU of slope {SLOPE}, in float64; the group's order is {found[0][0].spec.order}.",
        f"{points} x {points} points in [-1, 1]^2, {steps} points on each line; loss of {SHARPNESS:g} times the output.",
        "Panels: which layers of B are swapped. The dashed corner is to be learned; coloured is where the midpoint says yes.",
    ]
    report.write(target / "counterexample.md", "A counterexample", settings, table, plots=["counterexample.png"])
    typer.echo(f"least accuracy barrier of all: {min(f[2].barrier_of('accuracy') for f in found):.3f}")


if __name__ == "__main__":
    typer.run(main)
