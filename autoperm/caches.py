"""What forwards keep on their modules between calls: tensors in a dict or an attribute, which are no weights.

A kept function of the weights (the attention biases of LeViT, gathered from a table) is stale in a copy of the module that
has other weights, and passes for a constant where the module is traced. An entry counts as such only if the forward puts an
equal one there again after it was taken out: dicts hold constants as well, and what the forward finds there is its function.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from autoperm.errors import AutopermError

#: Where a tensor is kept: the path of an attribute, and the key if it is a dict, in a tuple of its own.
Entry = tuple[str, tuple[Any, ...]]

Kept = Mapping[Entry, torch.Tensor]

#: How far values that are computed again may be off, in units of the dtype's precision.
_ROUNDING = 1000


@dataclass(frozen=True)
class Cache:
    """A dict of a module, or an attribute that is None otherwise, in which its forward keeps what it computes.

    Attributes:
        path: of the module and the attribute, such as ``blocks.0.attn.attention_bias_cache``.
        stays: the keys of the dict, as ``repr`` writes them, of what the forward does not compute.
        absent: whether there is no such attribute before the forward has run.
    """

    path: str
    stays: tuple[str, ...] = ()
    absent: bool = False


def entries(model: nn.Module, prefix: str = "") -> dict[Entry, torch.Tensor]:
    """The tensors that modules keep in dicts of nothing but tensors, in lists and tuples (the first), and as plain attributes."""
    found: dict[Entry, torch.Tensor] = {}
    for path, module, name in _places(model, prefix):
        value = module.__dict__[name]
        if isinstance(value, dict):
            found |= {(path, (key,)): tensor for key, tensor in value.items()}
        elif value is not None:
            found[path, ()] = value if _is_plain(value) else _tensors_in(value)[0]
    return found


def take_out(model: nn.Module, gone: Collection[Entry], prefix: str = "") -> None:
    """Take entries of dicts out of a model, in place."""
    for path, module, name in _places(model, prefix) if gone else ():
        value = module.__dict__[name]
        for key in [key for key in value if (path, (key,)) in gone] if isinstance(value, dict) else ():
            del value[key]


def computed_again(kept: Kept, run: Callable[[frozenset[Entry]], Kept]) -> frozenset[Entry]:
    """The entries of dicts that a forward puts back, equal, once they are taken out.

    Arguments:
        kept: what the model keeps.
        run: runs the forward without some entries, leaves the model as it was, and returns what it kept, also where it
            came to its end too early; that shows by entries that are not there.
    """
    gone = frozenset(entry for entry in kept if entry[1])
    while gone:
        after = run(gone)
        right = frozenset(entry for entry in gone if entry in after and _equal(kept[entry], after[entry]))
        if right == gone:
            break
        gone = right
    return gone


@dataclass(frozen=True)
class Snapshot:
    """What a model keeps before its forward runs.

    Attributes:
        left: the entries.
        there: the paths of attributes that hold some, or may.
    """

    left: frozenset[Entry]
    there: frozenset[str]

    @classmethod
    def of(cls, model: nn.Module, prefix: str = "") -> Snapshot:
        return cls(frozenset(entries(model, prefix)), frozenset(path for path, _, _ in _places(model, prefix)))

    def filled(self, after: Iterable[Entry]) -> tuple[Cache, ...]:
        """The caches of a forward, from what was kept after it ran."""
        paths = dict.fromkeys(path for path, key in after if (path, key) not in self.left)
        return tuple(Cache(path, self._stays(path), path not in self.there) for path in paths)

    def _stays(self, path: str) -> tuple[str, ...]:
        return tuple(repr(key[0]) for p, key in self.left if p == path and key)


def forget(model: nn.Module, caches: Collection[Cache]) -> None:
    """Take out of a model, in place, what its forward has kept of the weights that it had."""
    of_path = {cache.path: cache for cache in caches}
    for path, module, name in list(_places(model)) if caches else ():
        if (cache := of_path.get(path)) is None:
            continue
        if cache.absent:
            del module.__dict__[name]
        else:
            module.__dict__[name] = _emptied(module.__dict__[name], cache)


def copied(model: nn.Module, caches: Collection[Cache]) -> nn.Module:
    """A deep copy of a model without what its forward has kept.

    Raises:
        AutopermError: a module cannot be copied.
    """
    # What gradients are recorded for, deepcopy refuses to copy.
    memo = {id(t): t.detach().clone() for t in _held(model) if t.requires_grad and not t.is_leaf}
    of_path = {cache.path: cache for cache in caches}
    for path, module, name in _places(model) if caches else ():
        if path in of_path and isinstance(value := module.__dict__[name], dict):
            memo[id(value)] = _emptied(value, of_path[path])
    try:
        new = copy.deepcopy(model, memo)
    except Exception as error:
        raise AutopermError(
            f"the {type(model).__name__} cannot be copied ({error}); pass its state dict, or a module that copy.deepcopy accepts"
        ) from error
    old = {id(module) for module in model.modules()}
    if shared := [path for path, module in new.named_modules() if id(module) in old]:
        raise AutopermError(
            f"the {type(model).__name__} cannot be copied (its copy shares the module {shared[0] or 'itself'} with it, by a "
            "__deepcopy__ of its own); pass its state dict, or a module that copy.deepcopy copies"
        )
    forget(new, caches)
    return new


def _emptied(value: Any, cache: Cache) -> Any:
    if not isinstance(value, dict):
        return None
    return {key: tensor for key, tensor in value.items() if repr(key) in cache.stays}


def _places(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module, str]]:
    """Where modules may keep tensors: attributes that are None, a tensor, or a list, tuple or dict of tensors, with paths."""
    for path, module in model.named_modules(prefix=prefix.rstrip(".")):
        own = (module._parameters, module._buffers, module._modules)
        for name, value in module.__dict__.items():
            if value is None or _is_plain(value) or _tensors_in(value) or (_is_held(value) and all(value is not o for o in own)):
                yield f"{path}.{name}" if path else name, module, name


def _held(model: nn.Module) -> Iterator[torch.Tensor]:
    """All tensors that modules keep."""
    for _, module, name in _places(model):
        value = module.__dict__[name]
        yield from [value] if _is_plain(value) else value.values() if isinstance(value, dict) else _tensors_in(value)


def _is_held(value: Any) -> bool:
    return type(value) is dict and all(map(_is_plain, value.values()))


def _tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors of a list or tuple."""
    return [part for part in value if _is_plain(part)] if type(value) in (list, tuple) else []


def _is_plain(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter)


def _equal(old: torch.Tensor, new: torch.Tensor) -> bool:
    """Whether two tensors are the same but for rounding; where one has no values, whether they may be."""
    if old.shape != new.shape or old.dtype != new.dtype:
        return False
    if old.is_meta or new.is_meta or isinstance(new, FakeTensor):
        return True
    if not (old.is_floating_point() or old.is_complex()):
        return torch.equal(old, new.to(old.device))
    near = _ROUNDING * torch.finfo(old.dtype).eps
    scale = float(old.detach().abs().nan_to_num(0, 0, 0).max()) if old.numel() else 0.0
    return torch.allclose(old.detach(), new.detach().to(old.device), rtol=near, atol=near * scale, equal_nan=True)
