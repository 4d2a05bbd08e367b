"""Nested inputs and outputs: their leaves, the name of each, and how to put them back together."""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, Set, ValuesView
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
import torch.utils._pytree as pytree

from autoperm.errors import CaptureError

Rebuild = Callable[[Sequence[Any]], Any]
Parts = tuple[list[tuple[str, Any]], Rebuild]


def leaves(value: Any, name: str) -> list[tuple[str, Any]]:
    """All ``(name, leaf)`` of a nested value, in a fixed order; a leaf is whatever has no known inside."""
    parts = _open(value)
    if parts is None:
        return [(name, value)]
    return [leaf for suffix, part in parts[0] for leaf in leaves(part, name + suffix)]


def tensors(value: Any, name: str, *, caches: bool = False) -> list[tuple[str, torch.Tensor]]:
    """All ``(name, tensor)`` of what a model returns; what is no container is looked into as well, by its attributes.

    Caches of keys and values, of transformers, are passed over unless ``caches``: they are for the same model's next call.

    Raises:
        CaptureError: there is a generator, whose items come later.
    """
    found: list[tuple[str, torch.Tensor]] = []
    waiting, seen = [(name, value)], set()
    while waiting:
        inside: list[tuple[str, Any]] = []
        for path, leaf in leaves(waiting[0][1], waiting[0][0]):
            if isinstance(leaf, torch.Tensor):
                found.append((path, leaf))
            elif id(leaf) not in seen:
                seen.add(id(leaf))
                inside += [(path + suffix, part) for suffix, part in _attributes(leaf, path, caches)]
        waiting[:1] = inside
    return found


#: What holds no tensors, or is not for those who call the model.
_CLOSED = (str, bytes, int, float, complex, type, torch.nn.Module, ModuleType, FunctionType, MethodType, BuiltinFunctionType)


def _attributes(value: Any, name: str, caches: bool) -> list[tuple[str, Any]]:
    """What an object that is no container holds."""
    if isinstance(value, Iterator):
        raise CaptureError(f"{name} is a {type(value).__name__}, whose items come later; return a list or a tuple")
    if isinstance(value, Set | KeysView | ValuesView | ItemsView | deque):
        return _numbered(value)
    if isinstance(value, _CLOSED) or (not caches and _is_cache(value)):
        return []
    slots = [key for base in type(value).__mro__ for key in _slots(base)]
    held = {key: getattr(value, key) for key in slots if hasattr(value, key)} | getattr(value, "__dict__", {})
    return [(f".{key}", part) for key, part in held.items()]


def _is_cache(value: Any) -> bool:
    return any(base.__module__ == "transformers.cache_utils" for base in type(value).__mro__)


def _slots(base: type) -> tuple[str, ...]:
    slots = base.__dict__.get("__slots__", ())
    slots = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(key for key in slots if not key.startswith("__"))


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """The nested value with every leaf replaced, visited in the order of :func:`leaves`."""
    parts = _open(value)
    if parts is None:
        return function(value)
    return parts[1]([map_leaves(function, part) for _, part in parts[0]])


def _open(value: Any) -> Parts | None:
    """One level of a container: its parts with the suffix of each, and its rebuilding; None for a leaf."""
    if isinstance(value, (torch.Tensor, str, type)) or value is None:
        return None
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return [("." + f, getattr(value, f)) for f in value._fields], lambda new: type(value)(*new)
    if isinstance(value, tuple):
        return _numbered(value), tuple
    if isinstance(value, list):
        return _numbered(value), list
    if dataclasses.is_dataclass(value):
        return _open_dataclass(value)
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", part) for key, part in value.items()], _rebuild_mapping(value)
    if type(value) in pytree.SUPPORTED_NODES:
        return _open_registered(value)
    return None


def _numbered(parts: Iterable[Any]) -> list[tuple[str, Any]]:
    return [(f"[{index}]", part) for index, part in enumerate(parts)]


def _open_dataclass(value: Any) -> Parts:
    fields = [field.name for field in dataclasses.fields(value) if hasattr(value, field.name)]
    if isinstance(value, Mapping):  # an output class that is both, where a field left out is None
        fields = [field for field in fields if field in value]

    def rebuild(new: Sequence[Any]) -> Any:
        other = copy.copy(value)
        for field, part in zip(fields, new, strict=True):
            object.__setattr__(other, field, part)  # also where the dataclass is frozen
        return other

    return [("." + field, getattr(value, field)) for field in fields], rebuild


def _rebuild_mapping(value: Mapping[Any, Any]) -> Rebuild:
    def rebuild(new: Sequence[Any]) -> Any:
        items = dict(zip(value, new, strict=True))
        if type(value) is dict or not hasattr(value, "update"):
            return items
        other = copy.copy(value)  # keeps the class, an OrderedDict's order and a defaultdict's factory
        other.update(items)
        return other

    return rebuild


def _open_registered(value: Any) -> Parts:
    node = pytree.SUPPORTED_NODES[type(value)]
    parts, context = node.flatten_fn(value)
    return _numbered(parts), lambda new: node.unflatten_fn(list(new), context)
