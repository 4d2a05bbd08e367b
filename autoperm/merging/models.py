"""Several models of one architecture, each under an element of the group: their sums, their means, their agreement."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from autoperm.errors import AutopermError, StateError
from autoperm.gathering import gather
from autoperm.matching.problem import Groups, Problem, part_of
from autoperm.matching.registry import check_values
from autoperm.permutation import Permutation
from autoperm.spec import PermutationSpec
from autoperm.stacks import stacked
from autoperm.state import check_pair, check_same_kind, check_state, state_of

#: Entries summed at a time.
_CHUNK = 1 << 15

Model: TypeAlias = nn.Module | Mapping[str, Tensor]


class Models:
    """The models to merge.

    Attributes:
        spec: the spec, whose elements put the models in order.
        groups: the groups to match; None for all.
        part: the spec with only those groups acting.
        given: the state dicts as they were given.
        states: the same with one tensor for those that the spec has as one (``spec.stacks``).
        network: a module of the architecture, for matchers that run the models; None where none was given.
        names: for each tensor of the spec its name in the state dicts.

    Raises:
        AutopermError: fewer than two models, or ``models`` is not a sequence of them.
        StateError: a model does not fit the spec or the first model, or holds NaN; which one is said.
    """

    def __init__(
        self,
        models: Sequence[Model],
        spec: PermutationSpec,
        *,
        groups: Groups = None,
        template: nn.Module | None = None,
    ):
        if not isinstance(models, Sequence):
            raise AutopermError(f"merging needs a list of at least 2 models, got one {type(models).__name__}; pass a list")
        if len(models) < 2:
            raise AutopermError(f"merging needs a list of at least 2 models, got {len(models)}")
        self.spec, self.groups, self.part = spec, groups, part_of(spec, groups)
        self.given = [state_of(model, f"models[{k}]") for k, model in enumerate(models)]
        self.network = next((m for m in (template, *models) if isinstance(m, nn.Module)), None)
        self._check()
        self.states = [stacked(spec.stacks, state, f"models[{k}]") for k, state in enumerate(self.given)]
        self.names = _names(spec, self.states[0])
        self._squares = math.fsum(square(s[self.names[h]]) for h in self.parameters for s in self.states)

    def _check(self) -> None:
        check_state(self.spec, self.given[0], "models[0]")
        for k, state in enumerate(self.given):
            try:
                check_pair(self.given[0], state)
                check_same_kind(self.given[0], state)
            except StateError as error:
                raise StateError(f"models[0] and models[{k}]: {error}") from error
            check_state(self.spec, state, f"models[{k}]")
            check_values(self.spec, state, f"models[{k}]")
            _check_buffers(self.spec, state, f"models[{k}]")
        _check_infinities(self.spec, self.given)

    def __len__(self) -> int:
        return len(self.given)

    @property
    def parameters(self) -> list[str]:
        """The parameters, tied ones once, in the order of the spec."""
        return [home for home in self.spec.layouts if home in self.spec.parameters]

    def identity(self) -> list[Permutation]:
        """The identity for every model."""
        return [self.spec.identity() for _ in self.given]

    def permuted(self, k: int, home: str, permutation: Permutation) -> Tensor:
        """A tensor of model k under an element."""
        return gather(self.spec.action, self.spec.layouts[home], permutation.arrays, self.states[k][self.names[home]].detach())

    def total(self, home: str, permutations: Sequence[Permutation], of: Sequence[int]) -> Tensor:
        """The sum of a tensor over some of the models, each under its element, in double precision."""
        first = self.states[0][self.names[home]]
        total = torch.zeros(first.shape, dtype=torch.promote_types(first.dtype, torch.float64), device=first.device)
        for k in of:
            total += self.permuted(k, home, permutations[k])
        return total

    def mean(self, permutations: Sequence[Permutation], of: Sequence[int]) -> dict[str, Tensor]:
        """The mean of the parameters of some of the models, each under its element, in float32 at least."""
        found = {}
        for home in self.parameters:
            dtype = torch.promote_types(self.states[0][self.names[home]].dtype, torch.float32)
            found[home] = (self.total(home, permutations, of) / len(of)).to(dtype)
        return found

    def agreement(self, permutations: Sequence[Permutation]) -> float:
        """The sum over the models of <model, mean of the others>, each under its element, in double precision.

        It is (|sum of the models|² - sum of |model|²) / (n - 1).
        """
        everyone = range(len(self))
        whole = math.fsum(square(self.total(home, permutations, everyone)) for home in self.parameters)
        return (whole - self._squares) / (len(self) - 1)

    def problem(self, k: int, target: Mapping[str, Tensor], permutation: Permutation) -> Problem:
        """Model k, under its element, to be matched to other parameters."""
        problem = Problem(self.part, target, self.states[k], self.network)
        if not permutation.is_identity:
            problem.apply(dict(enumerate(permutation.arrays)), always=True)
        return problem


def _names(spec: PermutationSpec, state: Mapping[str, Tensor]) -> dict[str, str]:
    """The spec's own name for a tensor where the state has it, otherwise the first of the tied ones."""
    found: dict[str, str] = {}
    for name, home in spec.aliases.items():
        if name in state and (home not in found or name == home):
            found[home] = name
    return found


def square(tensor: Tensor) -> float:
    """The sum of squares, in double precision."""
    return math.fsum(float(part.abs().square().sum()) for part in _chunks(tensor))


def squared_gap(x: Tensor, y: Tensor) -> float:
    """The squared L2 distance between two tensors, in double precision."""
    return math.fsum(float((s - t).abs().square().sum()) for s, t in zip(_chunks(x), _chunks(y), strict=True))


def _chunks(tensor: Tensor) -> Iterator[Tensor]:
    """Pieces in double precision; no wide copy of a large tensor is made."""
    wide = torch.promote_types(tensor.dtype, torch.float64)
    for part in tensor.detach().reshape(-1).split(_CHUNK):
        yield part.to(wide)


def _check_buffers(spec: PermutationSpec, state: Mapping[str, Tensor], what: str) -> None:
    """Buffers are averaged too; masks may hold infinities."""
    for name, tensor in state.items():
        if spec.is_parameter(name) or not isinstance(tensor, Tensor) or tensor.is_meta:
            continue
        if (tensor.is_floating_point() or tensor.is_complex()) and bool(tensor.isnan().any()):
            raise StateError(f"{what}: {name} holds NaN ({int(tensor.isnan().sum())} of {tensor.numel()} entries)")


def _check_infinities(spec: PermutationSpec, states: Sequence[Mapping[str, Tensor]]) -> None:
    """Of infinities of both signs there is no mean."""
    for name, first in states[0].items():
        if spec.is_parameter(name) or not isinstance(first, Tensor) or first.is_meta:
            continue
        if not first.is_floating_point() or all(bool(s[name].isfinite().all()) for s in states):
            continue
        for k, state in enumerate(states):
            if bool((first.isinf() & state[name].isinf() & (first != state[name])).any()):
                raise StateError(f"models[0] and models[{k}]: {name} holds infinities of both signs, of which there is no mean")
