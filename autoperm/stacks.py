"""Tensors that a spec has as one: weights of modules that may trade places, side by side along a first dimension.

Experts, heads or branches that are modules of their own (a ``ModuleList``) trade places as a whole: their weights are
separate tensors of a state dict, and positions along the first dimension of one tensor in the spec.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from autoperm.errors import StateError

if TYPE_CHECKING:
    from autoperm.spec import PermutationSpec

#: The tensors that one is made of, in order, each by all its names.
Parts: TypeAlias = tuple[tuple[str, ...], ...]
#: By the name of the one; those that others are made of come first.
Stacks: TypeAlias = Mapping[str, Parts]


def name_of(parts: Parts) -> str:
    """A name for tensors as one: ``experts.{0-7}.weight``."""
    words = [names[0].split(".") for names in parts]
    head = _shared(words)
    tail = _shared([own[head:][::-1] for own in words])
    inner = [".".join(own[head : len(own) - tail]) for own in words]
    numbers = [int(x) for x in inner if x.isdecimal()]
    if len(numbers) == len(inner) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        inner = [f"{numbers[0]}-{numbers[-1]}"]
    return ".".join([*words[0][:head], "{" + ",".join(inner) + "}", *words[0][len(words[0]) - tail :]])


def _shared(rows: Sequence[Sequence[str]]) -> int:
    """With how many words all rows begin alike."""
    return len(list(itertools.takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))))


def stacked(stacks: Stacks, state: Mapping[str, Any], what: str = "the state dict", dim: int = 0) -> Mapping[str, Any]:
    """A state dict with one tensor in the place of those that it is made of; itself where there are none.

    It is on the device of the first of them: experts may be spread over several.

    Arguments:
        state: one that fits, see :func:`autoperm.state.check_state`.
        dim: where the new dimension goes: behind that of a batch, say.

    Raises:
        StateError: tensors that are one in the spec differ in dtype, or some of them are on the meta device.
    """
    for name, parts in stacks.items():
        present = [next(n for n in names if n in state) for names in parts]
        _check_alike(state, present, what)
        whole = torch.stack([state[n].detach().to(state[present[0]].device) for n in present], dim)
        gone = {n for names in parts for n in names}
        place = next(n for n in state if n in gone)
        state = {name if n == place else n: whole if n == place else t for n, t in state.items() if n == place or n not in gone}
    return state


def _check_alike(state: Mapping[str, torch.Tensor], names: Sequence[str], what: str) -> None:
    first = state[names[0]]
    for name in names[1:]:
        other = state[name]
        if (first.dtype, first.is_meta) != (other.dtype, other.is_meta):
            raise StateError(
                f"{what}: {names[0]} is {first.dtype} on {first.device}, {name} {other.dtype} on {other.device}, but they may "
                "trade places: bring them to one dtype first, with .to(...)"
            )


def by_name(spec: PermutationSpec, tensors: Mapping[str, torch.Tensor], names: Collection[str]) -> dict[str, torch.Tensor]:
    """Tensors by their names in the layouts, by those of a network that are among ``names``."""
    found = {name: tensors[home] for name, home in spec.aliases.items() if home in tensors}
    return unstacked(spec.stacks, found, names)


def unstacked(stacks: Stacks, state: Mapping[str, Any], names: Iterable[str], dim: int = 0) -> dict[str, Any]:
    """The tensors by the names of a model's own state dict, in the order of these; what is not among them is left out.

    Where ``names`` is that state dict itself, parts go to the devices that they have there.
    """
    found = dict(state)
    for name, parts in reversed(list(stacks.items())):
        for tensor, own in zip(found.pop(name).unbind(dim) if name in found else (), parts, strict=False):
            found.update(dict.fromkeys(own, tensor.clone().to(_device_of(own, names))))
    return {name: found[name] for name in names if name in found}


def _device_of(own: Sequence[str], names: Iterable[str]) -> torch.device | None:
    """The device of a tensor in a state dict; None where it is not there, or there are only names."""
    held = [names[n] for n in own if n in names] if isinstance(names, Mapping) else []
    return held[0].device if held and isinstance(held[0], torch.Tensor) else None
