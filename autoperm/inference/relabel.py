"""Relabellings: integer arrays that say which position of one index set each position of another one is.

None stands for the identity.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def compose(outer: np.ndarray | None, inner: np.ndarray | None) -> np.ndarray | None:
    """The relabelling ``k -> outer[inner[k]]``."""
    if outer is None or inner is None:
        return inner if outer is None else outer
    both = outer[inner]
    return None if is_identity(both) else both


def inverse(relabel: np.ndarray | None) -> np.ndarray | None:
    if relabel is None:
        return None
    back = np.empty_like(relabel)
    back[relabel] = np.arange(len(relabel))
    return back


def is_identity(relabel: np.ndarray | None) -> bool:
    return relabel is None or bool((relabel == np.arange(len(relabel))).all())


def strides(relabel: np.ndarray) -> list[int]:
    """The strides of the digits that a relabelling reorders, and where those digits end."""
    found = []
    while len(relabel) > 1:
        step = int(relabel[1] - relabel[0])
        steps = np.diff(relabel) == step
        length = len(relabel) if bool(steps.all()) else int(np.argmin(steps)) + 1
        while len(relabel) % length:
            length -= 1
        if length == 1:
            return []
        found += [abs(step), abs(step) * length]
        relabel = relabel[::length]
    return found


def digits(relabel: np.ndarray, sizes: Sequence[int]) -> list[tuple[int, np.ndarray | None]] | None:
    """Where a relabelling puts each digit of a number, as strides, and how it reorders their values; None if it is not that.

    Arguments:
        sizes: how many values each digit has, the outermost first.
    """
    n = inner = len(relabel)
    found: list[tuple[int, np.ndarray | None]] = []
    for size in filter(lambda size: size > 1, sizes):
        inner //= size
        digit = (relabel // inner) % size
        stride = int(np.argmax(digit != digit[0]))
        if not stride or n % (stride * size):
            return None
        turn = digit[np.arange(size) * stride]
        if not (digit == turn[(np.arange(n) // stride) % size]).all():
            return None
        found.append((stride, None if is_identity(turn) else turn))
    expected = 1
    for stride, size in sorted(zip((stride for stride, _ in found), (size for size in sizes if size > 1), strict=True)):
        if stride != expected:
            return None
        expected *= size
    return found


def cycles_of(turn: np.ndarray) -> list[list[int]]:
    seen = np.zeros(len(turn), dtype=bool)
    found: list[list[int]] = []
    for start in range(len(turn)):
        if not seen[start]:
            cycle, at = [], start
            while not seen[at]:
                seen[at] = True
                cycle.append(at)
                at = int(turn[at])
            found.append(cycle)
    return found
