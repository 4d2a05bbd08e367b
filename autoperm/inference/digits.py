"""Products whose factors a relabelling only reorders: the digits of a number, written in another order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from autoperm.inference.relabel import compose, digits

if TYPE_CHECKING:
    from autoperm.inference.classes import Classes
    from autoperm.inference.forest import Ref


def match(classes: Classes, leaves: list[Ref], relabel: np.ndarray) -> list[Ref] | None:
    """A product read through a relabelling as a product of the same leaves, if it is one."""
    points = [ref for ref in leaves if classes.size[ref[0]] == 1]
    classes.stuck.update(leaf for leaf, _ in points)
    wide = [ref for ref in leaves if classes.size[ref[0]] > 1]
    found = digits(relabel, [classes.size[leaf] for leaf, _ in wide])
    if found is None:
        return None
    placed = [(stride, (leaf, compose(own, turn))) for (stride, turn), (leaf, own) in zip(found, wide, strict=True)]
    return points + [ref for _, ref in sorted(placed, key=lambda p: -p[0])]


def would_match(classes: Classes, leaves: list[Ref], relabel: np.ndarray, boundaries: Sequence[int]) -> bool:
    """Whether leaves, split at boundaries, are digits that a relabelling reorders."""
    if not all(classes.is_leaf(leaf) for leaf, _ in leaves):
        return False
    cuts: dict[int, set[int]] = {leaf: set() for leaf, _ in leaves}
    inner = 1
    for leaf, _ in reversed(leaves):
        size = classes.size[leaf]
        cuts[leaf] |= {b // inner for b in boundaries if inner < b < inner * size and b % inner == 0}
        inner *= size
    sizes: list[int] = []
    for leaf, _ in leaves:
        rest, parts = classes.size[leaf], []
        for cut in sorted(cuts[leaf], reverse=True):
            if rest % cut == 0:
                parts.append(rest // cut)
                rest = cut
        sizes += [*parts, rest]
    return digits(relabel, sizes) is not None


def split_at(classes: Classes, leaves: list[Ref], boundaries: Sequence[int]) -> None:
    """Split leaves so that boundaries (products of innermost sizes) fall between two of them, where they can."""
    outer, waiting = 1, list(leaves)
    while waiting:
        ref = waiting.pop()
        size, inner = classes.size[ref[0]], outer
        if not classes.is_leaf(ref[0]):  # it is there twice, and was split at its other place
            relabel, parts = classes.describe(ref)
            if relabel is None:
                waiting += parts
            else:
                outer *= size
            continue
        outer *= size
        for boundary in sorted({b for b in boundaries if inner < b < outer}):
            if boundary % inner == 0 and size % (boundary // inner) == 0:
                ref, _ = classes.split(ref, boundary // inner)
                size, inner = classes.size[ref[0]], boundary
