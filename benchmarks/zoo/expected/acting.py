"""How a spec acts along one dimension of a parameter, in the words that expectations are written in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoperm.layout import Group
from autoperm.spec import PermutationSpec


@dataclass(frozen=True)
class Axis:
    """A dimension of a tensor of the state dict, or the positions ``start`` to ``stop`` of it."""

    name: str
    dim: int
    start: int = 0
    stop: int | None = None

    def __str__(self) -> str:
        part = "" if self.stop is None else f"[{self.start}:{self.stop}]"
        return f"{self.name} dim {self.dim}{part}"


@dataclass(frozen=True)
class Part:
    """Positions along a dimension that are a product of leaves, outermost first."""

    positions: tuple[int, ...]
    leaves: tuple[int, ...]


class Unused(Exception):
    """No output depends on what the expectation is about."""


class Acting:
    """A spec, asked dimension by dimension."""

    def __init__(self, spec: PermutationSpec):
        self.spec = spec
        self._parts: dict[Axis, list[Part]] = {}

    def parts(self, axis: Axis) -> list[Part]:
        """The pieces of a dimension, each once for every way in which its cells move.

        Raises:
            Unused: no output depends on the tensor.
        """
        if axis not in self._parts:
            self._parts[axis] = self._find(axis)
        if not self._parts[axis]:
            raise Unused
        return self._parts[axis]

    def _find(self, axis: Axis) -> list[Part]:
        home, dim = self.spec.place(axis.name, axis.dim)
        layout = self.spec.layouts[home]
        stop = layout.shape[dim] if axis.stop is None else axis.stop
        found: dict[Part, None] = {}
        for cell in layout.cells:
            positions = layout.pieces[dim][cell[dim]]
            inside = positions[(positions >= axis.start) & (positions < stop)]
            if len(inside):
                found[Part(tuple(np.asarray(inside).tolist()), tuple(layout.leaves_at(cell, dim)))] = None
        return list(found)

    def used(self, name: str) -> bool:
        """Whether an output depends on a tensor."""
        entry = self.spec.tensors.get(name)
        return entry is not None and bool(self.spec.layouts[entry.home].cells)

    def size(self, leaf: int) -> int:
        return self.spec.leaves[leaf].size

    def group(self, leaf: int) -> Group | None:
        """The group that moves a leaf; None where it is pinned."""
        index = self.spec.action.group_of.get(leaf)
        return None if index is None else self.spec.groups[index]

    def whole(self, axis: Axis, size: int) -> tuple[int, ...] | str:
        """The leaves by which one group moves all of a dimension, or why none does."""
        parts = self.parts(axis)
        if len(parts) > 1:
            return f"{axis} is in {len(parts)} parts: {self.shown(parts)}"
        (part,) = parts
        groups = {id(g): g for g in map(self.group, part.leaves)}
        if None in groups.values() or not groups:
            return f"{axis} is pinned: {self.why(axis, part.leaves)}" if len(groups) < 2 else f"{axis} is {self.shown(parts)}"
        group = next(iter(groups.values()))
        if len(groups) > 1 or group is None or group.size != size or set(group.leaves) != set(part.leaves):
            return f"{axis} is {self.shown(parts)}"
        return part.leaves

    def why(self, axis: Axis, leaves: Sequence[int] = ()) -> str:
        """The reason why a dimension, or some leaf of it, is pinned."""
        reasons = [self.spec.leaves[leaf].pinned for leaf in leaves if self.group(leaf) is None]
        home, dim = self.spec.place(axis.name, axis.dim)
        told = self.spec.pinned.get((home, dim)) if home in self.spec.parameters else None
        return next((r for r in (*reasons, told) if r), "no reason is given")

    def shown(self, parts: Sequence[Part]) -> str:
        """Parts in short, as ``12 x 64`` with ``pinned`` where a factor is."""
        told = [" x ".join(map(self._factor, p.leaves)) or f"{len(p.positions)} alone" for p in parts]
        return ", ".join(dict.fromkeys(told[:6]))[:200]

    def _factor(self, leaf: int) -> str:
        return f"{self.size(leaf)}{'' if self.group(leaf) else ' pinned'}"


def tied(why: str) -> bool:
    """Whether a reason says that a dimension is one of the inputs or outputs."""
    return re.search(r"of the (in|out)put ", why) is not None
