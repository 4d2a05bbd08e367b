"""Colour refinement of the points of a model's groups (one-dimensional Weisfeiler-Leman, on a hypergraph).

Points of one colour are those that nothing seen so far tells apart. A round gives every point a new colour from its old
one and the multiset of its entries, each with its label and the colours of its other points; it ends when no class
splits any more. Trained weights hardly ever need more than one round. Colours are ranks: a model and the same model in
another order get the same colours, point by point.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from autoperm.uses.structure import Colours, Structure


@dataclass(frozen=True)
class Colouring:
    """The colour of every point, and how it came about.

    Attributes:
        colours: for each group the ranks of its points' colours, of the shape of its arrays.
        trace: a digest of the classes in every round; two models with different traces are not permutations.
    """

    colours: Colours
    trace: bytes


@dataclass(frozen=True)
class Tie:
    """The classes of two or more points of a group, the numbers of the points ascending."""

    group: int
    classes: tuple[np.ndarray, ...]


def refined(structure: Structure, colours: Colours, changed: Collection[int]) -> Colouring:
    """Refine until nothing splits, or siblings all differ; only ``changed`` groups may have new colours."""
    trace, colours = hashlib.blake2b(digest_size=16), list(colours)
    while changed and not all(siblings_differ(c) for c in colours):
        sums = structure.sums(colours, changed)
        changed = set()
        for g in sorted(sums):
            finer = _ranked(colours[g], sums[g], trace)
            if finer.max() > colours[g].max():
                changed.add(g)
            colours[g] = finer
    return Colouring(colours, trace.digest())


def start(structure: Structure) -> Colouring:
    """What the weights alone tell apart."""
    groups = range(len(structure.spec.groups))
    return refined(structure, [np.zeros(structure.shape(g), dtype=np.int64) for g in groups], groups)


def individualised(structure: Structure, colouring: Colouring, g: int, points: Sequence[int] | np.ndarray) -> Colouring:
    """Give points of a group colours of their own, in this order and before the rest of their classes; and refine."""
    key = np.full(colouring.colours[g].size, len(points), dtype=np.uint64)
    key[np.asarray(points)] = np.arange(len(points), dtype=np.uint64)
    colours = list(colouring.colours)
    colours[g] = _ranked(colours[g], key.reshape(colours[g].shape))
    return refined(structure, colours, {g})


def siblings_differ(colours: np.ndarray) -> bool:
    """Whether no two points with the same positions of their parents have one colour: then the order is settled."""
    ordered = np.sort(colours, axis=-1)
    return not bool((ordered[..., 1:] == ordered[..., :-1]).any())


def first_tie(structure: Structure, colours: Colours) -> Tie | None:
    """The tied classes of the first group that has any, parents before dependents; None where the order is settled."""
    for g in structure.order:
        if not siblings_differ(colours[g]):
            return Tie(g, tied(colours[g]))
    return None


def tied(colours: np.ndarray) -> tuple[np.ndarray, ...]:
    """The points of each colour that more than one has."""
    flat = colours.ravel()
    order = np.argsort(flat, kind="stable")
    classes = np.split(order, np.nonzero(np.diff(flat[order]))[0] + 1)
    return tuple(c for c in classes if len(c) > 1)


def _ranked(colours: np.ndarray, sums: np.ndarray, trace: hashlib.blake2b | None = None) -> np.ndarray:
    """Ranks of (colour, sum) pairs: classes split, and keep their order."""
    flat, values = colours.ravel(), sums.ravel()
    order = np.lexsort((values, flat))
    flat, values = flat[order], values[order]
    if trace is not None:
        trace.update(flat.tobytes())
        trace.update(values.tobytes())
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.concatenate([[0], np.cumsum((np.diff(flat) != 0) | (values[1:] != values[:-1]))])
    return ranks.reshape(colours.shape)
