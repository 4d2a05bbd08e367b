"""Classes of index sets that must move together: what becomes of them when they are tied to one another.

Unifying two products refines both until their factors agree (congruence), whatever the order in which the ties arrive.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from autoperm.inference.digits import match, split_at, would_match
from autoperm.inference.forest import Forest, Product, Ref
from autoperm.inference.relabel import compose, cycles_of, inverse, is_identity, strides


class Conflict(Exception):
    """Raised where classes can stay free only if the positions along some leaves are told apart."""

    def __init__(self, leaves: frozenset[int]):
        super().__init__(leaves)
        self.leaves = leaves


class NeedsCut(Exception):
    """Raised where a class can stay free only if its positions are told apart by ``key``."""

    def __init__(self, leaf: int, key: np.ndarray):
        super().__init__(leaf)
        self.leaf, self.key = leaf, key


class Classes(Forest):
    """The union-find with what is known of its leaves, and how classes are unified.

    A class of size 1 cannot move by itself; where its axis is cut, it stands for a position that may yet turn out to be
    exchangeable with others (see ``merging``). It is *stuck* where the union-find has lost track of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pinned: dict[int, str] = {}  # leaf root -> reason
        self.blurred: set[int] = set()  # leaf roots on which nothing may depend
        self.stuck: set[int] = set()  # leaf roots that must not be merged with others
        self.allow_cuts = True
        self.strict = False  # whether to cut rather than split a leaf for a relabelling
        self.lossy = False  # whether a leaf was split for one
        self.may_conflict: Callable[[frozenset[int]], bool] = lambda leaves: True  # whether to pin them, or raise

    def describe(self, ref: Ref, *, split: bool = False) -> Product:
        """A class as a product of leaves, outermost first, read through a relabelling where it needs one.

        Position k is position ``relabel[k]`` of the product. A relabelling that only reorders the factors, or acts
        within each, is absorbed by them; with ``split`` leaves may be split for that.
        """
        root, relabel = self.resolve(ref)
        factors = self.factors[root]
        if factors is None:
            return None, [(root, relabel)]
        inner, leaves = self._join([self.describe(f, split=split) for f in factors], [self.size[f[0]] for f in factors])
        return self._absorb(compose(inner, relabel), leaves, split)

    def _join(self, parts: list[Product], sizes: list[int]) -> Product:
        leaves = [leaf for _, found in parts for leaf in found]
        if all(relabel is None for relabel, _ in parts):
            return None, leaves
        joined = np.zeros(1, dtype=np.int64)
        for (relabel, _), size in zip(parts, sizes, strict=True):
            digit = np.arange(size) if relabel is None else relabel
            joined = (joined[:, None] * size + digit).reshape(-1)
        return joined, leaves

    def _absorb(self, relabel: np.ndarray | None, leaves: list[Ref], split: bool = True) -> Product:
        if relabel is None:
            return None, leaves
        found = match(self, leaves, relabel)
        if found is None and split and not self.strict and would_match(self, leaves, relabel, boundaries := strides(relabel)):
            split_at(self, leaves, boundaries)
            inner, leaves = self._join([self.describe(ref) for ref in leaves], [self.size[leaf] for leaf, _ in leaves])
            relabel, self.lossy = compose(inner, relabel), True
            found = leaves if relabel is None else match(self, leaves, relabel)
        return (relabel, leaves) if found is None else (None, found)

    def pin(self, ref: Ref, reason: str, blur: bool = False) -> None:
        for leaf in self.leaves(ref):
            self.pinned.setdefault(leaf, reason)
            if blur:
                self.blurred.add(leaf)

    def unify(self, a: Ref, b: Ref) -> None:
        """Position k of ``a`` and position k of ``b`` move together."""
        (ra, pa), (rb, pb) = self.resolve(a), self.resolve(b)
        between = None if pa is None and pb is None else compose(pb, inverse(pa))  # ra[j] is rb[between[j]]
        if ra == rb:
            if between is not None:
                self._tie_to_itself(ra, between)
        elif self.factors[ra] is None:
            self._define(ra, rb, between)
        elif self.factors[rb] is None:
            self._define(rb, ra, inverse(between))
        else:
            self._unify_products(ra, rb, between)

    # -- the cases of unify --------------------------------------------------------------------------------

    def _define(self, leaf: int, root: int, relabel: np.ndarray | None) -> None:
        """Make a leaf a synonym of ``root``, unless it is that up to factors of size 1."""
        if self.factors[root] is None or leaf not in (inside := self.leaves((root, None))):
            self._link(leaf, root, relabel)
            return
        self.stuck.update(inside)
        of, refs = self.describe((root, None))
        own = next(r for item, r in refs if item == leaf)
        turn = compose(own, compose(of, relabel))
        if turn is not None and self.size[leaf] > 1:
            self._tie_to_itself(leaf, turn)

    def _link(self, child: int, root: int, relabel: np.ndarray | None) -> None:
        """Make a leaf a synonym of ``root``, which inherits what is known of it."""
        self.parent[child], self.relabel[child] = root, relabel
        reason = self.pinned.pop(child, None)
        blurred = child in self.blurred
        self.blurred.discard(child)
        if child in self.stuck:
            self.stuck.update(self.leaves((root, None)))
        if reason is not None:
            self.pin((root, None), reason, blur=blurred)
        elif blurred:
            self.blurred.update(self.leaves((root, None)))

    def _unify_products(self, ra: int, rb: int, between: np.ndarray | None) -> None:
        (of_a, left), (of_b, right) = self.describe((ra, None), split=True), self.describe((rb, None), split=True)
        # Position j of ra is position of_a[j] of the left product, and ra[j] is rb[between[j]].
        turn = compose(compose(of_b, between), inverse(of_a))
        self._align_turned(left, right, turn, "a reordering of the axis meets another view of it")

    def _align_turned(self, left: list[Ref], right: list[Ref], turn: np.ndarray | None, reason: str) -> None:
        """Unify position j of the left product with position ``turn[j]`` of the right one."""
        if turn is None:
            return self._align(left, right)
        rest, turned = self._absorb(turn, right)
        if rest is None:
            return self._align(left, turned)
        rest, turned = self._absorb(inverse(turn), left)
        if rest is None:
            return self._align(turned, right)
        self._conflict([*left, *right], reason)

    def _align(self, left: list[Ref], right: list[Ref]) -> None:
        """Unify two products of one size factor by factor, splitting leaves where that is needed."""
        while left and right:
            a, b = self._pop(left), self._pop(right)
            if not self.is_leaf(a[0]):  # looking at b has split it
                left.append(a)
                right.append(b)
                continue
            na, nb = self.size[a[0]], self.size[b[0]]
            if na == nb:
                self.unify(a, b)
            elif na == 1:
                self.stuck.add(a[0])
                right.append(b)
            elif nb == 1:
                self.stuck.add(b[0])
                left.append(a)
            elif na % nb == 0:
                outer, inner = self.split(a, nb)
                left.append(outer)
                self.unify(inner, b)
            elif nb % na == 0:
                outer, inner = self.split(b, na)
                right.append(outer)
                self.unify(a, inner)
            elif (common := math.gcd(na, nb)) > 1:
                (a, low_a), (b, low_b) = self.split(a, common), self.split(b, common)
                self.unify(low_a, low_b)
                left.append(a)
                right.append(b)
            else:
                self._conflict(self._span(a, left, b, right), "the axis is viewed in two ways that do not fit")

        self.stuck.update(leaf for ref in (*left, *right) for leaf in self.leaves(ref))

    def _pop(self, stack: list[Ref]) -> Ref:
        """The innermost leaf of a stack; what was a leaf when it was pushed may have been split since."""
        relabel, leaves = self.describe(stack.pop(), split=True)
        if relabel is not None:
            self._conflict(leaves, "a reordering of the axis meets another view of it")
        stack.extend(leaves)
        return stack.pop()

    def _span(self, a: Ref, left: list[Ref], b: Ref, right: list[Ref]) -> list[Ref]:
        """The innermost leaves on both sides up to where their sizes agree again."""
        na, nb, found = self.size[a[0]], self.size[b[0]], [a, b]
        while na != nb:
            if na < nb:
                found.append(self._pop(left))
                na *= self.size[found[-1][0]]
            else:
                found.append(self._pop(right))
                nb *= self.size[found[-1][0]]
        return found

    def split(self, ref: Ref, inner: int) -> tuple[Ref, Ref]:
        """Write a leaf, in the order in which ``ref`` lists it, as a product with the given inner size."""
        leaf, relabel = ref
        high, low = self.leaf(self.size[leaf] // inner), self.leaf(inner)
        self._link(leaf, self.product([(high, None), (low, None)]), inverse(relabel))
        return (high, None), (low, None)

    def _conflict(self, refs: Sequence[Ref], reason: str) -> None:
        inside = frozenset(leaf for ref in refs for leaf in self.leaves(ref) if self.size[leaf] > 1)
        if not self.may_conflict(inside):
            raise Conflict(inside)
        for ref in refs:
            self.pin(ref, reason, blur=True)

    def _tie_to_itself(self, root: int, turn: np.ndarray) -> None:
        """Position j and position ``turn[j]`` move together: what is left is the centraliser of ``turn``.

        Cycles of one length can be exchanged whole; the two positions of a 2-cycle as well. Larger cycles could
        also rotate (a cyclic group), which is not a symmetric group: their phase is pinned.
        """
        # What is tied may be one factor at different positions of another, and what is beside it may differ there.
        self.lossy = True
        if self.strict:
            self._conflict([(root, None)], "the axis is tied to a reordering of itself")
            return
        if self.factors[root] is not None:
            of, leaves = self.describe((root, None), split=True)
            turn = compose(compose(of, turn), inverse(of))  # type: ignore[assignment]
            self._align_turned(leaves, leaves, turn, "the axis is tied to a reordering of itself")
            return
        cycles = cycles_of(turn)
        lengths = np.empty(len(turn), dtype=np.int64)
        for cycle in cycles:
            lengths[cycle] = len(cycle)
        if len(set(lengths.tolist())) > 1:
            if self.allow_cuts and root in self.cuttable:
                raise NeedsCut(root, lengths)
            self.pin((root, None), "the axis is tied to a reordering of itself", blur=True)
            return
        order = np.array([j for cycle in cycles for j in cycle])
        self._fold(root, order, len(cycles[0]))

    def _fold(self, root: int, order: np.ndarray, length: int) -> None:
        """Make a leaf the product (cycles, phase)."""
        phase = self.leaf(length)
        if length > 2:
            self.pinned[phase] = "the axis is tied to a reordering of itself in longer cycles"
        self.blurred.add(phase)
        factors: list[Ref] = [(phase, None)]
        if len(order) > length:
            factors.insert(0, (self.leaf(len(order) // length), None))
        pinned = self.pinned.get(root)
        back = None if is_identity(order) else inverse(order)
        if len(factors) == 1:
            self._link(root, phase, back)
        else:
            self._link(root, self.product(factors), back)
        if pinned is not None:
            self.pin((root, None), pinned)
