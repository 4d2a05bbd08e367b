"""The matching problem: maximise the sum over parameters of <a, g.b> over the elements g of a group.

The permuted b is kept up to date, so that a step only ever looks for the *relative* element that improves on it.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from autoperm.errors import AutopermError
from autoperm.layout import Group, all_coordinates, identity_element
from autoperm.matching.current import Current, Indices
from autoperm.matching.products import inner, rise, squared_distance
from autoperm.matching.unfold import Unfolding, unfoldings
from autoperm.permutation import Permutation
from autoperm.spec import PermutationSpec

#: The groups to match: their names, or a predicate on :class:`autoperm.Group`; None for all.
Groups: TypeAlias = Collection[str] | Callable[[Group], bool] | None


def part_of(spec: PermutationSpec, groups: Groups) -> PermutationSpec:
    """The spec with only some of its groups acting: the others keep their places but have no leaves to move.

    Raises:
        AutopermError: a name is unknown, and the nearest are listed; or nothing is chosen.
    """
    if groups is None:
        return spec
    if not callable(groups) and not isinstance(groups, Iterable):
        raise AutopermError(f"groups= is a {type(groups).__name__}; give names of groups, group.name, or a function of a group")
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
    if not isinstance(name, str):
        raise AutopermError(f"groups= holds a {type(name).__name__}; give names of groups, group.name, or a function of a group")
    if name not in index:
        near = difflib.get_close_matches(name, index, n=5, cutoff=0.0)
        raise AutopermError(f"groups= names {name!r}, which is no group of the spec; the nearest are {', '.join(near)}")
    return index[name]


@dataclasses.dataclass(frozen=True)
class Mark:
    """A state of a problem."""

    element: tuple[np.ndarray, ...]
    terms: Mapping[str, float]
    version: Mapping[str, int]
    moves: tuple[int, ...]


class Problem:
    """Two models, a group, and the current element.

    Attributes:
        matched: the groups to match, all of them unless the spec is a :func:`part_of` one; the others do not move.
        a: the parameters of model a that some group moves, in float32 or wider.
        b: those of model b under the current element; a mapping that makes permuted copies where they are asked for.
        given: the same of a and of b as they were given; ``dtypes`` what to widen them to, ``size`` how many bytes b has.
        version: how often each tensor of b has changed, so that matchers can skip what did not.
        moves: how often each group has moved.
        states: the two state dicts, buffers included; what the spec has as one (``spec.stacks``) is one there.
        network: a module of the architecture, for matchers that run the models; its weights are not looked at. None
            where none was given.
        kept: Gram matrices with what they were computed from, see ``grams.py``.
        prices: by group what the positions of model b cost in its last assignment, see ``assignment.py``.
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
        self.version: dict[str, int] = {}
        self.moves = [0] * len(spec.groups)
        self.kept: dict[Any, Any] = {}
        self.prices: dict[int, np.ndarray] = {}
        self.cells: dict[int, list[Unfolding]] = {g: [] for g in range(len(spec.groups))}
        self._still, self._still_distance = 0.0, 0.0
        pairs, dtypes = {}, {}
        for home in spec.layouts:
            if home in spec.parameters and (found := self._add(home, _lookup(a, spec, home), _lookup(b, spec, home))):
                pairs[home], dtypes[home] = found
        given = [{home: pair[k] for home, pair in pairs.items()} for k in (0, 1)]
        self.a: Mapping[str, torch.Tensor] = Current(spec.action, spec.layouts, given[0], dtypes, self.element)
        self.b: Mapping[str, torch.Tensor] = Current(spec.action, spec.layouts, given[1], dtypes, self.element)
        self._current, self.given, self.dtypes = self.b, given, dtypes
        self.size = sum(t.numel() * t.element_size() for t in given[1].values())
        self._terms = dict.fromkeys(pairs, 0.0)
        self._stale = set(pairs)

    def _add(self, home: str, a: torch.Tensor, b: torch.Tensor) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.dtype] | None:
        """Both tensors on a's device, and the dtype to compare them in; None if nothing moves them."""
        b = b.to(a.device)
        found = unfoldings(self.action, home, self.spec.layouts[home])
        if not found:
            self._still += inner(a, b)
            self._still_distance += squared_distance(a, b)
            return None
        self.version[home] = 0
        for unfolding in found:
            for g in {self.action.group_of[m] for m in unfolding.leaves if m in self.action.group_of}:
                self.cells[g].append(unfolding)
        return (a, b), torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)

    def _product(self, product: Callable[..., float], name: str) -> float:
        """A product of a tensor of a and the same of b under the current element."""
        indices = self._current.indices(name)
        if indices is None:
            return product(self.given[0][name], self._current[name])
        return product(self.given[0][name], self.given[1][name], indices)

    @property
    def objective(self) -> float:
        """The sum over parameters of <a, b> under the current element."""
        self._settle()
        return self._still + math.fsum(self._terms.values())

    def _settle(self) -> None:
        """Bring the terms up to date, which nobody asked for since."""
        for name in self._stale:
            self._terms[name] = self._product(inner, name)
        self._stale.clear()

    @property
    def distance(self) -> float:
        """The L2 distance between the parameters under the current element, from the differences themselves."""
        moving = math.fsum(self._product(squared_distance, name) for name in self._terms)
        return math.sqrt(self._still_distance + moving)

    @property
    def permutation(self) -> Permutation:
        return Permutation(self.spec, [array.copy() for array in self.element])

    def tensors_of(self, groups: Sequence[int]) -> list[str]:
        """The tensors that any of the groups moves."""
        return list(dict.fromkeys(u.name for g in groups for u in self.cells[g]))

    def versions(self, groups: Sequence[int]) -> dict[str, int]:
        """How often each tensor that any of the groups moves has changed."""
        return {name: self.version[name] for name in self.tensors_of(groups)}

    def apply(self, relative: Mapping[int, np.ndarray], *, always: bool = False) -> bool:
        """Follow the current element by one that is the identity but for the given groups, if the objective rises.

        Returns whether it was applied; with ``always`` it is, whatever the objective does.
        """
        relative = {g: array for g, array in relative.items() if g in self.matched}
        names = self.tensors_of(list(relative))
        if not always:
            self._settle()
        before, old = list(self.element), {name: self._current.indices(name) for name in names}
        self._compose(relative, _Sparse([relative.get(g) for g in range(len(before))], self))
        self._current.changed(names)
        if always:
            self._stale.update(names)
        else:
            rises = {name: self._rise(name, old[name]) for name in names}
            if math.fsum(rises.values()) <= 1e-10 * abs(self.objective):
                self.element[:] = before
                self._current.changed(names)
                return False
            for name in names:
                self._terms[name] += rises[name]
        for name in names:
            self.version[name] += 1
        for g, array in relative.items():
            self.moves[g] += not bool((array == np.arange(array.shape[-1])).all())
        return True

    def _rise(self, name: str, old: Indices | None) -> float:
        """By how much the term of a tensor is larger than it was."""
        new = self._current.indices(name)
        if old is not None and new is not None:
            found = rise(self.given[0][name], self.given[1][name], old, new)
            if found is not None:
                return found
        return self._product(inner, name) - self._terms[name]

    def restore(self, element: Sequence[np.ndarray]) -> None:
        """Go to another element."""
        self.element[:] = element
        self.moves = [count + 1 for count in self.moves]
        self._current.changed(self._terms)
        self._stale.update(self._terms)
        for name in self._terms:
            self.version[name] += 1

    def mark(self) -> Mark:
        """Where the problem stands, to go back to."""
        self._settle()
        return Mark(tuple(self.element), dict(self._terms), dict(self.version), tuple(self.moves))

    def back_to(self, mark: Mark) -> None:
        """Undo what happened since; the tensors have the versions again that they had."""
        self._current.changed([name for name, version in mark.version.items() if version != self.version[name]])
        self.element[:] = mark.element
        self._stale.clear()
        self._terms, self.version, self.moves = dict(mark.terms), dict(mark.version), list(mark.moves)

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
