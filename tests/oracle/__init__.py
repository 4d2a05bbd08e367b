"""The completeness oracle: the true number of function-preserving permutations of a tiny model's weights.

It shares nothing with ``autoperm`` but the captured graph. The graph of ATen ops is expanded into a DAG of
scalars, in which the entries of one state tensor share a colour and inputs, constants and outputs are told
apart; the order is the number of automorphisms of that DAG, which BLISS counts.
"""

from __future__ import annotations

from typing import Any

from .count import Coloured, coloured_graph, count_automorphisms, leaf_generators
from .expand import Expander

__all__ = ["generators", "true_order"]


def true_order(capture: Any, swaps: bool = True, across: bool = False) -> int:
    """The order of the permutation symmetry group of a captured model.

    **Arguments**

    - `capture`: has `graph_module`, `states` and `constants`, as `autoperm.capture.capture` returns them.
    - `swaps`: whether the operands of an elementwise sum or product may trade places. In
      `a, b = x.chunk(2, -1); a * b` unit i of `a` may be swapped with unit i of `b`; a theory in which axes
      move as wholes does not see that, and is to be compared with `swaps=False`.

    - `across`: whether entries may move from one tensor to another one of its shape and type.

    **Returns** the number of permutations of the entries within each parameter and persistent buffer (or across
    those alike) on which an output depends that leave every output scalar unchanged, term by term.
    """
    return count_automorphisms(_coloured(Expander(capture, swaps, across)))


def generators(capture: Any, swaps: bool = True) -> list[dict[str, list[int]]]:
    """Generators of that group: for each state placeholder, where each entry of the flattened tensor comes
    from.
    """
    expander = Expander(capture, swaps)
    coloured = _coloured(expander)
    found = leaf_generators(coloured, [leaf for leaves in expander.leaves.values() for leaf in leaves])
    return [_per_state(expander.leaves, sources) for sources in found]


def _coloured(expander: Expander) -> Coloured:
    outputs = expander.expand()
    return coloured_graph(expander.scalars, outputs)


def _per_state(leaves: dict[str, list[int]], sources: list[int]) -> dict[str, list[int]]:
    """Cut the positions of all leaves into those of each tensor; leaves of one tensor keep to it."""
    out, start = {}, 0
    for name, own in leaves.items():
        out[name] = [source - start for source in sources[start : start + len(own)]]
        start += len(own)
    return out
