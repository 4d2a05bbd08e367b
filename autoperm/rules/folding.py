"""A commutative function of a tensor and its own mirror image.

In ``x + x.flip(1)`` the entries k and n-1-k of the result are one value: the result is a reduction over pairs of
positions, repeated. Said like that, pairs move as pairs, each may turn round, and so may each pair of the result,
independently. Any other tie of an axis to a reordering of itself is left to the union-find.
"""

from __future__ import annotations

import numpy as np

from autoperm.inference import views
from autoperm.inference.views import View
from autoperm.rules.joining import assembled, origin, picked
from autoperm.rules.movement import narrowed, reshaped
from autoperm.rules.op import Op

COMMUTATIVE = {"aten.add", "aten.mul", "aten.maximum", "aten.minimum", "aten.fmax", "aten.fmin", "aten.logaddexp"}


def mirrored(op: Op, operands: list[View]) -> int | None:
    """The dimension along which the second operand is the first one flipped, if that is all that differs."""
    if op.name.rpartition(".")[0] not in COMMUTATIVE or op.get("alpha", 1) != 1 or len(operands) != 2:
        return None
    first, second = operands
    nodes = op.node.all_input_nodes
    if len(nodes) != 2 or origin(nodes[0]) is not origin(nodes[1]):  # labels may agree where values do not
        return None
    if first.source is not second.source or first.shape != second.shape:
        return None
    for dim in range(first.ndim):
        if first.shape[dim] > 1:
            turned = views.flip(first, dim)
            if turned.dims == second.dims and turned.offsets == second.offsets:
                return dim
    return None


def folded(op: Op, view: View, dim: int) -> View:
    """The label of f(x, flip(x)) for a commutative f."""
    shape, n = view.shape, view.shape[dim]
    half = n // 2
    order = np.stack([np.arange(half), n - 1 - np.arange(half)], axis=1).reshape(-1)
    paired = (*shape[:dim], half, 2, *shape[dim + 1 :])
    pairs = picked(op, view, dim, order, (*shape[:dim], 2 * half, *shape[dim + 1 :]))
    reduced = _over_pairs(op, reshaped(op, pairs, paired), dim + 1)
    repeated = reshaped(op, views.insert(reduced, dim + 1, 2), (*shape[:dim], 2 * half, *shape[dim + 1 :]))
    parts = [(repeated, order)]
    if n % 2:
        parts.append((narrowed(op, view, dim, half, 1), np.array([half])))
    return assembled(op, shape, dim, parts)


def _over_pairs(op: Op, pairs: View, dim: int) -> View:
    spec = tuple((f"l{k}",) for k in range(pairs.ndim))
    kept = tuple(s for k, s in enumerate(spec) if k != dim)
    return op.state([(pairs, spec)], [kept], [tuple(n for k, n in enumerate(pairs.shape) if k != dim)])[0]
