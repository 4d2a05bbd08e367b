"""The completeness oracle: the true number of function-preserving permutations of a tiny model's weights.

It shares nothing with ``autoperm`` but the captured graph. The graph of ATen ops is expanded into a DAG of scalars, in
which the entries of one state tensor share a colour and inputs, constants and outputs are told apart; the order is the
number of automorphisms of that DAG, which BLISS counts.
"""

from __future__ import annotations

from typing import Any

from .count import count_automorphisms
from .expand import Expander

__all__ = ["true_order"]


def true_order(capture: Any, swaps: bool = True) -> int:
    """The order of the permutation symmetry group of a captured model.

    **Arguments**

    - `capture`: has `graph_module`, `states` and `constants`, as `autoperm.capture.capture` returns them.
    - `swaps`: whether the operands of an elementwise sum or product may trade places. In
      `a, b = x.chunk(2, -1); a * b` unit i of `a` may be swapped with unit i of `b`; a theory in which axes move as
      wholes does not see that, and is to be compared with `swaps=False`.

    **Returns** the number of permutations of the entries within each parameter and persistent buffer on which an
    output depends that leave every output scalar unchanged, term by term.
    """
    expander = Expander(capture, swaps)
    outputs = expander.expand()
    return count_automorphisms(expander.scalars, outputs)
