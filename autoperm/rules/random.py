"""Random draws: the same numbers at the same positions, whatever the weights.

A model with permuted weights draws from the same generator, in the same order and as often, so what it draws is like a
constant table: no data, and its axes are fixed, since the numbers at two positions differ. Where the numbers drawn depend on
values (how likely, how often), these stay at their positions too: otherwise other numbers would be drawn, there and later.
"""

from __future__ import annotations

from autoperm.inference.views import View
from autoperm.rules.op import Op
from autoperm.rules.registry import rule

_WHY = "random numbers are drawn position by position"
#: Of tensor operands only the shape is read.
_DRAWN = """rand rand_like randn randn_like randint randint_like randperm uniform exponential normal_functional cauchy geometric
log_normal"""


@rule(*(f"aten.{name}" for name in _DRAWN.split()), "aten.bernoulli.p")
def drawn(op: Op) -> View:
    """Numbers that depend on nothing."""
    return op.pinned(op.shape(), _WHY)


@rule("aten.bernoulli", "aten.binomial", "aten.poisson", "aten.multinomial", "aten.normal")
def drawn_from_values(op: Op) -> View:
    """Probabilities, rates or means, one for each number or a row for several."""
    return noisy(op, *op.tensors())


def noisy(op: Op, *operands: View, result: int = 0) -> View:
    """A function of operands and of noise: nothing moves."""
    for view in operands:
        op.pin(view, _WHY)
    return op.pinned(op.shape(result), _WHY)
