"""One element of a spec's group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from autoperm.caches import copied
from autoperm.errors import SpecError, StateError
from autoperm.gathering import gather
from autoperm.layout import Group, all_coordinates
from autoperm.spec import PermutationSpec
from autoperm.stacks import stacked, unstacked
from autoperm.state import check_module, check_state, like, put, tensors_of

Model = TypeVar("Model", nn.Module, Mapping[str, torch.Tensor])


class Permutation:
    """An element of the group of a spec.

    ``arrays[g]`` belongs to ``spec.groups[g]``; it has shape (*sizes of the group's parents, size), and position i
    of the permuted weights reads position ``array[..., i]`` of the original ones.

    Raises:
        SpecError: the arrays are not permutations of the spec's groups.

    Example:
        >>> import torch, autoperm
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = autoperm.infer(mlp, torch.zeros(1, 4))
        >>> element = spec.random(0)
        >>> x = torch.randn(3, 4)
        >>> torch.allclose(element.apply(mlp)(x), mlp(x), atol=1e-6)
        True
        >>> element @ element.inverse() == spec.identity()
        True
    """

    def __init__(self, spec: PermutationSpec, arrays: Sequence[np.ndarray]):
        if len(arrays) != len(spec.groups):
            raise SpecError(f"{len(arrays)} arrays for {len(spec.groups)} groups")
        self.spec = spec
        self.arrays = [_checked(spec, g, array) for g, array in zip(spec.groups, arrays, strict=True)]

    def __getitem__(self, group: str) -> np.ndarray:
        """The permutation of the group of that name."""
        return self.arrays[self.spec.groups.index(self.spec.group(group))]

    def apply(self, model: Model) -> Model:
        """The permuted weights: a new module for a module, a new dict for a state dict.

        What a module's forward has kept of its weights (``spec.caches``) is left out, and computed again.

        Raises:
            AutopermError: the module cannot be copied.
            StateError: keys, shapes or ties differ from the spec's; the first few differences are listed.
        """
        if isinstance(model, nn.Module):
            check_module(self.spec, model)
            permuted = copied(model, self.spec.caches)
            put(permuted, self._apply_state(tensors_of(model)))
            return permuted  # type: ignore[return-value]
        if not isinstance(model, Mapping):
            raise StateError(f"expected a module or a state dict, got {type(model).__name__}")
        check_state(self.spec, model)
        return self._apply_state(model)  # type: ignore[return-value]

    def _apply_state(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        stacks = self.spec.stacks
        return like(state, unstacked(stacks, self.reordered(stacked(stacks, state)), state))

    def reordered(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The permuted tensors of a state dict that has what the spec has as one as one (``spec.stacks``); nothing is checked."""
        done: dict[str, torch.Tensor] = {}
        out: dict[str, torch.Tensor] = {}
        for name, tensor in state.items():
            home = self.spec.aliases.get(name)
            if home is None:  # a tensor that the forward never reads
                out[name] = tensor.detach().clone() if isinstance(tensor, torch.Tensor) else tensor
                continue
            if home not in done:
                done[home] = gather(self.spec.action, self.spec.layouts[home], self.arrays, tensor.detach())
            out[name] = done[home]
        return like(state, out)

    def inverse(self) -> Permutation:
        """The element that undoes this one."""
        return Permutation(self.spec, [self._inverse(k) for k in range(len(self.arrays))])

    def _inverse(self, k: int) -> np.ndarray:
        array, out = self.arrays[k], np.empty_like(self.arrays[k])
        at = self._parents_moved(self.spec.groups[k])
        out[(*at, array)] = np.arange(array.shape[-1])
        return out

    def __matmul__(self, other: Permutation) -> Permutation:
        """``(a @ b).apply(x)`` is ``a.apply(b.apply(x))``."""
        if not isinstance(other, Permutation):
            return NotImplemented
        _same_spec(self.spec, other.spec)
        arrays = []
        for group, mine, theirs in zip(self.spec.groups, self.arrays, other.arrays, strict=True):
            arrays.append(theirs[(*self._parents_moved(group), mine)])
        return Permutation(self.spec, arrays)

    def _parents_moved(self, group: Group) -> list[np.ndarray]:
        """Where each combination of the parents' positions is read from, shaped (*parents, 1)."""
        here = all_coordinates(self.spec.leaves, group.parents)
        return [self.spec.action.moved(p, here, self.arrays) for p in group.parents]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Permutation):
            return NotImplemented
        same = self.spec is other.spec or self.spec.fingerprint == other.spec.fingerprint
        return same and all(np.array_equal(a, b) for a, b in zip(self.arrays, other.arrays, strict=True))

    __hash__ = None  # type: ignore[assignment]

    @property
    def is_identity(self) -> bool:
        """Whether nothing moves."""
        return all(bool((a == np.arange(a.shape[-1])).all()) for a in self.arrays)

    def moved(self) -> dict[str, float]:
        """For each group the share of its positions that move."""
        return {
            g.name: float((a != np.arange(g.size)).mean()) for g, a in zip(self.spec.groups, self.arrays, strict=True)
        }

    def save(self, path: str | PathLike[str], *, overwrite: bool = True) -> None:
        """Write the permutation as safetensors, atomically."""
        from autoperm.permutationfile import save

        save(self, path, overwrite=overwrite)

    @staticmethod
    def load(path: str | PathLike[str], spec: PermutationSpec) -> Permutation:
        """Read a permutation of ``spec``.

        Raises:
            SpecError: the file is not a permutation, or one of another spec.
        """
        from autoperm.permutationfile import load

        return load(path, spec)

    def __repr__(self) -> str:
        moved = sum(1 for share in self.moved().values() if share)
        return f"<Permutation: moves {moved} of {len(self.arrays)} groups>"


def _checked(spec: PermutationSpec, group: Group, array: np.ndarray) -> np.ndarray:
    shape = (*(spec.leaves[p].size for p in group.parents), group.size)
    array = np.asarray(array)
    if array.shape != shape:
        raise SpecError(f"group {group.name}: an array of shape {array.shape}, not {shape}")
    if not (np.sort(array, axis=-1) == np.arange(group.size)).all():
        raise SpecError(f"group {group.name}: not a permutation of 0..{group.size - 1}")
    return array.astype(np.int64)


def _same_spec(mine: PermutationSpec, theirs: PermutationSpec) -> None:
    if mine is not theirs and mine.fingerprint != theirs.fingerprint:
        raise SpecError(
            f"permutations of different specs ({mine.fingerprint} and {theirs.fingerprint}): infer both from one architecture"
        )
