"""The matching problem: maximise the sum over parameters of <a, g.b> over the elements g of a group.

The permuted b is kept up to date, so that a step only ever looks for the *relative* element that improves on it.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import nn

from autoperm.errors import AutopermError
from autoperm.layout import Group, all_coordinates, gather, identity_element
from autoperm.matching.unfold import Unfolding, unfoldings
from autoperm.permutation import Permutation
from autoperm.spec import PermutationSpec

#: Entries summed at a time: they stay in the cache, and torch starts no threads for so few. Threads cost more than
#: they bring here, by far where the cores are shared.
_CHUNK = 1 << 15

#: The groups to match: their names, or a predicate on :class:`autoperm.Group`; None for all.
Groups: TypeAlias = Collection[str] | Callable[[Group], bool] | None


def part_of(spec: PermutationSpec, groups: Groups) -> PermutationSpec:
    """The spec with only some of its groups acting: the others keep their places but have no leaves to move.

    Raises:
        AutopermError: a name is unknown, and the nearest are listed; or nothing is chosen.
    """
    if groups is None:
        return spec
    if callable(groups):
        chosen = {g for g, group in enumerate(spec.groups) if groups(group)}
    else:
        index = {group.name: g for g, group in enumerate(spec.groups)}
        chosen = {_index_of(name, index) for name in ([groups] if isinstance(groups, str) else groups)}
    if not chosen:
        raise AutopermError(f"groups= chooses none of the spec's {len(spec.groups)} groups; leave it out to match all")
    kept = [group if g in chosen else dataclasses.replace(group, leaves=()) for g, group in enumerate(spec.groups)]
    # Layouts remember what an action lets them do at once, so that each action needs its own.
    layouts = {name: dataclasses.replace(layout, _plans={}) for name, layout in spec.layouts.items()}
    part = dataclasses.replace(spec, groups=kept, layouts=layouts)
    part.fingerprint = spec.fingerprint  # it is the same architecture's, and its elements are elements of the whole
    return part


def _index_of(name: str, index: Mapping[str, int]) -> int:
    if name not in index:
        near = difflib.get_close_matches(name, index, n=5, cutoff=0.0)
        raise AutopermError(f"groups= names {name!r}, which is no group of the spec; the nearest are {', '.join(near)}")
    return index[name]


class Problem:
    """Two models, a group, and the current element.

    Attributes:
        matched: the groups to match, all of them unless the spec is a :func:`part_of` one; the others do not move.
        a: the parameters of model a that some group moves, in float32 or wider.
        b: those of model b under the current element.
        version: how often each tensor of b has changed, so that matchers can skip what did not.
        moves: how often each group has moved.
        states: the two state dicts as they were given, buffers included.
        network: a module of the architecture, for matchers that run the models; its weights are not looked at. None
            where none was given.
        kept: terms of Gram matrices (see ``grams.py``), each with the moves of the groups that it depends on.
    """

    def __init__(
        self,
        spec: PermutationSpec,
        a: Mapping[str, torch.Tensor],
        b: Mapping[str, torch.Tensor],
        network: nn.Module | None = None,
    ):
        self.spec, self.action = spec, spec.action
        self.matched = frozenset(spec.action.group_of.values())
        self.states, self.network = (a, b), network
        self.element = identity_element(spec.leaves, spec.groups)
        self.a: dict[str, torch.Tensor] = {}
        self.b: dict[str, torch.Tensor] = {}
        self.version: dict[str, int] = {}
        self.moves = [0] * len(spec.groups)
        self.kept: dict[tuple[int, tuple[Unfolding, ...]], tuple[tuple[int, ...], torch.Tensor]] = {}
        self.cells: dict[int, list[Unfolding]] = {g: [] for g in range(len(spec.groups))}
        self._still, self._still_distance = 0.0, 0.0
        for home in spec.layouts:
            if home in spec.parameters:
                self._add(home, _lookup(a, spec, home), _lookup(b, spec, home))
        self._terms = {name: _inner(self.a[name], self.b[name]) for name in self.a}

    def _add(self, home: str, a: torch.Tensor, b: torch.Tensor) -> None:
        found = unfoldings(self.action, home, self.spec.layouts[home])
        a, b = _together(a, b)
        if not found:
            self._still += _inner(a, b)
            self._still_distance += _squared_distance(a, b)
            return
        self.a[home], self.b[home], self.version[home] = a, b, 0
        for unfolding in found:
            for g in {self.action.group_of[m] for m in unfolding.leaves if m in self.action.group_of}:
                self.cells[g].append(unfolding)

    @property
    def objective(self) -> float:
        """The sum over parameters of <a, b> under the current element."""
        return self._still + math.fsum(self._terms.values())

    @property
    def distance(self) -> float:
        """The L2 distance between the parameters under the current element, from the differences themselves."""
        moving = math.fsum(_squared_distance(self.a[n], self.b[n]) for n in self.a)
        return math.sqrt(self._still_distance + moving)

    @property
    def permutation(self) -> Permutation:
        return Permutation(self.spec, [array.copy() for array in self.element])

    def tensors_of(self, groups: Sequence[int]) -> list[str]:
        """The tensors that any of the groups moves."""
        return list(dict.fromkeys(u.name for g in groups for u in self.cells[g]))

    def apply(self, relative: Mapping[int, np.ndarray], *, always: bool = False) -> bool:
        """Follow the current element by one that is the identity but for the given groups, if the objective rises.

        Returns whether it was applied; with ``always`` it is, whatever the objective does.
        """
        relative = {g: array for g, array in relative.items() if g in self.matched}
        full = [relative.get(g) for g in range(len(self.element))]
        names = self.tensors_of(list(relative))
        step = _Sparse(full, self)
        permuted = {n: gather(self.action, self.spec.layouts[n], step, self.b[n]) for n in names}
        terms = {n: _inner(self.a[n], permuted[n]) for n in names}
        gain = math.fsum(terms.values()) - math.fsum(self._terms[n] for n in names)
        if not always and gain <= 1e-10 * abs(self.objective):
            return False
        self.b.update(permuted)
        self._terms.update(terms)
        for n in names:
            self.version[n] += 1
        for g, array in relative.items():
            self.moves[g] += not bool((array == np.arange(array.shape[-1])).all())
        self._compose(relative, step)
        return True

    def restore(self, element: Sequence[np.ndarray], tensors: Mapping[str, torch.Tensor]) -> None:
        """Go back to an element and the permuted tensors that belong to it."""
        self.element = list(element)
        self.moves = [count + 1 for count in self.moves]
        self.b.update(tensors)
        for name in tensors:
            self.version[name] += 1
            self._terms[name] = _inner(self.a[name], self.b[name])

    def _compose(self, relative: Mapping[int, np.ndarray], step: _Sparse) -> None:
        """(step @ current): a group reads the current element where its parents are read from."""
        affected = [
            g for g, group in enumerate(self.spec.groups)
            if g in relative or any(self.action.group_of.get(p) in relative for p in group.parents)
        ]  # fmt: skip
        new = {g: self._composed(g, step) for g in affected}
        for g, array in new.items():
            self.element[g] = array

    def _composed(self, g: int, step: _Sparse) -> np.ndarray:
        group = self.spec.groups[g]
        here = all_coordinates(self.spec.leaves, group.parents)
        at = [self.action.moved(p, here, step) for p in group.parents]
        return self.element[g][(*at, step[g])]


class _Sparse(Sequence[np.ndarray]):
    """An element most of whose groups are the identity, made only where it is asked for."""

    def __init__(self, arrays: list[np.ndarray | None], problem: Problem):
        self._arrays, self._spec = arrays, problem.spec

    def __getitem__(self, g):  # type: ignore[no-untyped-def]
        found = self._arrays[g]
        if found is None:
            group = self._spec.groups[g]
            shape = (*(self._spec.leaves[p].size for p in group.parents), group.size)
            found = self._arrays[g] = np.broadcast_to(np.arange(group.size), shape)
        return found

    def __len__(self) -> int:
        return len(self._arrays)


def _lookup(state: Mapping[str, torch.Tensor], spec: PermutationSpec, home: str) -> torch.Tensor:
    if home in state:
        return state[home].detach()
    return next(state[n] for n, h in spec.aliases.items() if h == home and n in state).detach()


def _together(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both on a's device, in their common dtype, float32 at least."""
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return a.to(dtype), b.to(a.device, dtype)


def _inner(a: torch.Tensor, b: torch.Tensor) -> float:
    """<a, b>, in float64."""
    return math.fsum(float((x * y.conj()).real.sum()) for x, y in _chunks(a, b))


def _squared_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return math.fsum(float((x - y).abs().square().sum()) for x, y in _chunks(a, b))


def _chunks(a: torch.Tensor, b: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pieces of both in double precision; no wide copy of a large tensor is made."""
    wide = torch.promote_types(a.dtype, torch.float64)
    size = _CHUNK if a.device.type == "cpu" else 1 << 24
    for x, y in zip(a.reshape(-1).split(size), b.reshape(-1).split(size), strict=True):
        yield x.to(wide), y.to(wide)
