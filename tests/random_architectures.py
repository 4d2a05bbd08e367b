"""Random architectures: programs of up to six ops, composed by hypothesis.

    python -m tests.random_architectures N SEED [DEPTH] [rich]

prints the share of N programs whose order is the true one, and each mismatch shrunk to a minimal program.
"""

from __future__ import annotations

import random
import sys
import warnings
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import autoperm
from autoperm.capture import capture
from tests import random_extras
from tests.oracle import true_order
from tests.random_ops import OPS, WIDTHS
from tests.trained import soundness, trained_like

Instruction = tuple[Any, ...]
Program = tuple[int, tuple[Instruction, ...]]  # width of the first layer, instructions

TOLERANCE = 1e-10  # of the relative error of an output


class Choices:
    """The instructions possible at a width, each a tuple (name, *arguments)."""

    def __init__(self, c: int):
        halves = [n for n in (2, 3) if c % n == 0]
        self.all: list[list[Instruction]] = [
            [("linear", w) for w in WIDTHS],
            [("residual",)],
            [("norm", kind) for kind in ("layer", "rms", "batch", "group")],
            [("attention", kind) for kind in ("fused", "separate", "grouped")],
            [("grouped", n) for n in (*halves, c)],
            [("conv",)],
            [("heads", n, kind) for n in halves for kind in ("softmax", "norm", "max", "across")],
            [("concat", w - c) for w in WIDTHS if w > c],
            [("split", k) for k in range(1, c)],
            [("shuffle", n) for n in halves],
            [("cut", a, b) for a in range(c) for b in range(a + 1, c + 1) if b - a < c],
            [("flip", add) for add in (False, True)],
            [("reduce", kind) for kind in ("tokens", "channels")],
            [("gate",)],
            [("shared",)],
            [("glu", w) for w in (4, 6)],
            [("scale",)],
            [("roll", k) for k in range(1, c)],
            [("gather", seed) for seed in range(4)],
        ]


def families(c: int, rich: bool = False) -> list[list[Instruction]]:
    """The instructions possible at a width, by family."""
    return [f for f in Choices(c).all + (random_extras.choices(c) if rich else []) if f]


def width_after(c: int, instruction: Instruction) -> int:
    """The width that an instruction leaves."""
    name = instruction[0]
    if name == "concat":
        return c + instruction[1]
    return {"linear": instruction[-1], "glu": instruction[-1], "cut": 4}.get(name, c)


@st.composite
def programs(draw: st.DrawFn, depth: int = 6, rich: bool = False) -> Program:
    """Programs of one to ``depth`` instructions."""
    first = c = draw(st.sampled_from(WIDTHS))
    found = []
    for _ in range(draw(st.integers(1, depth))):
        found.append(draw(st.sampled_from(draw(st.sampled_from(families(c, rich))))))
        c = width_after(c, found[-1])
    return first, tuple(found)


def random_program(seed: int, depth: int = 6, rich: bool = False) -> Program:
    """A program of exactly ``depth`` instructions from a seed alone; ``rich`` ones have rarer ops too."""
    rng = random.Random(seed)
    first = c = rng.choice(WIDTHS)
    found = []
    for _ in range(depth):
        found.append(rng.choice(rng.choice(families(c, rich))))
        c = width_after(c, found[-1])
    return first, tuple(found)


class Net(nn.Module):
    """A linear layer, the program, a linear layer."""

    def __init__(self, program: Program):
        super().__init__()
        first, instructions = program
        self.first = nn.Linear(2, first)
        body, c = [], first
        for name, *arguments in instructions:
            body.append((OPS.get(name) or random_extras.EXTRAS[name])(c, *arguments))
            c = width_after(c, (name, *arguments))
        self.body, self.last = nn.Sequential(*body), nn.Linear(c, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(torch.tanh(self.first(x))))


def build(program: Program) -> tuple[nn.Module, Tensor]:
    """The program's trained-like model and an input, both from fixed seeds."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = trained_like(Net(program))
        return net, torch.randn(1, 2, 2, dtype=torch.float64)


class Result(NamedTuple):
    """The order found, the true one, and the worst relative error of random elements."""

    found: int
    true: int
    error: float

    @property
    def kind(self) -> str:
        """What is wrong, worst first: 'unsound', 'above' the true order, 'no divisor' of it, 'below' it, or ''."""
        if not self.error < TOLERANCE:  # NaN counts too
            return "unsound"
        if self.found > self.true:
            return "above"
        if self.true % self.found:
            return "no divisor"
        return "below" if self.found < self.true else ""


def orders(program: Program) -> Result:
    """Infer the program's group, count the true one, and apply random elements."""
    net, x = build(program)
    with warnings.catch_warnings():
        warnings.simplefilter("error", autoperm.UnsupportedOpWarning)
        spec = autoperm.infer(net, x)
    true = true_order(capture(net, x), across=bool(spec.stacks))
    return Result(spec.order, true, soundness(net, spec, x, samples=3))


def verdict(program: Program) -> str:
    """What is wrong with a program: the kind of its result, or the name of the exception it raises."""
    try:
        return orders(program).kind
    except Exception as error:
        return type(error).__name__


def runs(program: Program) -> bool:
    """Whether the widths of a program fit each other."""
    try:
        net, x = build(program)
        net(x)
    except (RuntimeError, ValueError, IndexError):
        return False
    return True


def shrink(program: Program, kind: str) -> Program:
    """Drop instructions, greedily, while the same thing is wrong."""
    first, body = program
    for k in range(len(body)):
        candidate = (first, (*body[:k], *body[k + 1 :]))
        if runs(candidate) and verdict(candidate) == kind:
            return shrink(candidate, kind)
    return program


def main(count: int, seed: int, depth: int, rich: bool = False) -> None:
    """Print the share of equal orders, and what is wrong with the others."""
    equal = 0
    for k in range(count):
        program = random_program(seed * 100_003 + k, depth, rich)
        kind = verdict(program)
        equal += not kind
        if kind:
            small = shrink(program, kind)
            try:
                found, true, error = orders(small)
                print(f"{kind}: {small} found {found}, true {true}, error {error:.1e}, from {program}", flush=True)
            except Exception as error:
                print(f"{kind}: {small} {error}, from {program}", flush=True)
    print(f"{equal} of {count} equal at depth {depth}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 6, "rich" in sys.argv[4:])
