"""A union-find with relabelling and products, on which classes rest.

A class is a *leaf* (its positions are exchangeable), or the product of smaller classes. An element of a class
need not list its positions in the order of the root: each edge of the union-find may carry a relabelling, which
is how a flipped or shuffled axis stays tied to the original.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoperm.inference.relabel import compose

#: A class seen through a relabelling: position k is position ``relabel[k]`` of the class (None: the identity).
Ref = tuple[int, np.ndarray | None]
#: A product of leaves read through a relabelling (None: in its own order).
Product = tuple[np.ndarray | None, list[Ref]]


class Forest:
    """Classes, as small integers."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.relabel: list[np.ndarray | None] = []
        self.size: list[int] = []
        self.factors: list[tuple[Ref, ...] | None] = []
        self.cuttable: set[int] = set()  # classes whose axis can be cut finer on request

    def leaf(self, size: int, cuttable: bool = False) -> int:
        new = len(self.parent)
        self.parent.append(new)
        self.relabel.append(None)
        self.size.append(size)
        self.factors.append(None)
        if cuttable:
            self.cuttable.add(new)
        return new

    def product(self, factors: Sequence[Ref]) -> int:
        size = 1
        for factor, _ in factors:
            size *= self.size[factor]
        new = self.leaf(size)
        self.factors[new] = tuple(factors)
        return new

    def find(self, item: int) -> Ref:
        """The root of a class, and how its positions are labelled there."""
        parent = self.parent
        if parent[parent[item]] == parent[item]:
            return parent[item], self.relabel[item]
        path = []
        while parent[item] != item:
            path.append(item)
            item = parent[item]
        relabel: np.ndarray | None = None
        for step in reversed(path):
            relabel = compose(relabel, self.relabel[step])
            self.parent[step], self.relabel[step] = item, relabel
        return item, relabel

    def resolve(self, ref: Ref) -> Ref:
        root, relabel = self.find(ref[0])
        return root, compose(relabel, ref[1])

    def leaves(self, ref: Ref) -> list[int]:
        """The leaves whose product a class is, in no particular order."""
        root = self.find(ref[0])[0]
        factors = self.factors[root]
        return [root] if factors is None else [leaf for factor in factors for leaf in self.leaves(factor)]

    def is_leaf(self, item: int) -> bool:
        return self.parent[item] == item and self.factors[item] is None
