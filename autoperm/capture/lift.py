"""Which tensors of a model become placeholders, under which names, and how to put others in their places."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from autoperm.errors import CaptureError

Slot = tuple[Any, Any]


@dataclass
class Lifted:
    """One tensor of the model with every place that holds it.

    Attributes:
        tensor: the model's own tensor.
        names: its state-dict names; empty for a constant.
        path: for a constant, the attribute that holds it.
        apart: the attribute that holds the same memory as a tensor of its own, which a copy of the model does not share.
        slots: the dicts and keys that hold it (``_parameters``, ``_buffers`` or ``__dict__`` of a module, a dict or list of its
            own, the ``__dict__`` of a helper).
        is_parameter: whether it is an ``nn.Parameter``.
    """

    tensor: Tensor
    names: list[str] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    is_parameter: bool = False
    path: str = ""
    apart: str = ""


def identity(tensor: Tensor) -> tuple[Any, ...]:
    """A key that two tensors share if and only if they are the same numbers in the same memory."""
    try:
        storage = tensor.untyped_storage()._cdata
        return storage, tensor.storage_offset(), tensor.dtype, tuple(tensor.shape), tensor.stride()
    except (RuntimeError, NotImplementedError):  # sparse tensors and wrapper subclasses have no storage
        return (id(tensor),)


def lift(model: nn.Module, prefix: str = "", constants_too: bool = False, deep: bool = False) -> list[Lifted]:
    """The tensors to lift: parameters and persistent buffers, tied ones once, then constants on the meta device.

    Constants on a real device stay in the module, where the tracer finds them with their values, unless
    ``constants_too``. With ``deep``, places inside lists, dicts and helpers count as well: ``place`` leaves them changed.

    Raises:
        CaptureError: a lazy parameter or buffer has no shape yet.
    """
    states: dict[tuple[Any, ...], Lifted] = {}
    for name, tensor, slot, is_parameter in named_states(model, prefix):
        entry = states.setdefault(identity(tensor), Lifted(tensor))
        entry.names.append(name)
        entry.slots.append(slot)
        entry.is_parameter |= is_parameter
    constants: dict[tuple[Any, ...], Lifted] = {}
    for path, tensor, slot in other_tensors(model):
        key = identity(tensor)
        if key in states:
            states[key].slots.append(slot)
            states[key].apart = states[key].apart or (path if _comes_apart(states[key], tensor) else "")
        elif tensor.is_meta or constants_too:
            constants.setdefault(key, Lifted(tensor, path=path)).slots.append(slot)
    if deep:
        _add_held(model, {id(held[name]): entry for entry in states.values() for held, name in entry.slots})
    return [*states.values(), *constants.values()]


def _comes_apart(entry: Lifted, other: Tensor) -> bool:
    """Whether another tensor of an entry's memory has memory of its own in a copy of the model: copies clone parameters."""
    return entry.is_parameter and all(other is not held[name] for held, name in entry.slots[: len(entry.names)])


def _add_held(model: nn.Module, entries: Mapping[int, Lifted]) -> None:
    """Add the lists, dicts and helpers that hold a lifted tensor itself, which a copy of the model then finds there too."""
    seen: set[int] = set()
    for module in model.modules():
        seen |= {id(held) for held in (module._parameters, module._buffers, module._modules)}
        waiting: list[dict[Any, Any] | list[Any]] = [module.__dict__]
        while waiting:
            held = waiting.pop()
            for key, value in list(held.items() if isinstance(held, dict) else enumerate(held)):
                if id(value) in seen or isinstance(value, nn.Module):
                    continue
                if id(value) in entries:
                    if held is not module.__dict__:
                        entries[id(value)].slots.append((held, key))
                elif type(value) is tuple and any(id(part) in entries for part in value):
                    for k, part in enumerate(value):
                        if id(part) in entries:
                            entries[id(part)].slots.append((_InTuple(held, key), k))
                elif (inside := _inside(value)) is not None:
                    seen |= {id(value), id(inside)}
                    waiting.append(inside)


@dataclass
class _InTuple:
    """A tuple in a place, as if its parts could be replaced."""

    held: Any
    key: Any

    def __getitem__(self, k: int) -> Any:
        return self.held[self.key][k]

    def __setitem__(self, k: int, part: Any) -> None:
        parts = list(self.held[self.key])
        parts[k] = part
        self.held[self.key] = tuple(parts)


def _inside(value: Any) -> dict[Any, Any] | list[Any] | None:
    """What a list, a dict or an object of a plain class holds."""
    if type(value) in (list, dict, OrderedDict):
        return value  # type: ignore[no-any-return]
    if isinstance(value, type | Tensor | ModuleType | FunctionType) or type(value).__module__ == "builtins":
        return None
    found = getattr(value, "__dict__", None)
    return found if type(found) is dict else None


def sharing(lifted: Sequence[Lifted]) -> dict[str, str]:
    """Why weights have to stay of which permuting one would change another tensor, or not change it with them."""
    of_storage: dict[Any, list[Lifted]] = {}
    for entry in lifted:
        key = identity(entry.tensor)
        if entry.names and len(key) > 1:
            of_storage.setdefault(key[0], []).append(entry)
    found = {e.names[0]: f"it shares memory with {e.apart}, which copies of the model do not" for e in lifted if e.apart}
    for a, b in (pair for entries in of_storage.values() for pair in itertools.combinations(entries, 2)):
        if _overlap(a.tensor, b.tensor):
            for one, other in ((a, b), (b, a)):
                found.setdefault(one.names[0], f"it shares memory with {other.names[0]}, in another order or in part")
    return found


def stored_otherwise(model: nn.Module, lifted: Sequence[Lifted], prefix: str) -> dict[str, str]:
    """Why weights have to stay that state dicts have in another form, such as transposed, by a hook or method of a module's."""
    if not any(_saves_otherwise(module) for module in model.modules()):
        return {}
    state = model.state_dict(prefix=prefix)
    reason = "state dicts have it in another form, by a hook or a method of a module"
    return {
        entry.names[0]: reason
        for entry in lifted
        for name in entry.names
        if isinstance(value := state.get(name), Tensor) and identity(value) != identity(entry.tensor)
    }


def _saves_otherwise(module: nn.Module) -> bool:
    methods = ("state_dict", "_save_to_state_dict")
    return bool(module._state_dict_hooks) or any(getattr(type(module), m) is not getattr(nn.Module, m) for m in methods)


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one storage have an entry in common; bytes are compared where their types differ."""
    (first, end), (other, other_end) = _extent(a), _extent(b)
    if first >= other_end or other >= end:
        return False
    if a.element_size() != b.element_size():
        return True
    size = max(end, other_end) // a.element_size()
    marked = torch.zeros(size, dtype=torch.bool, device="cpu")
    marked.as_strided(a.shape, a.stride(), a.storage_offset()).fill_(True)
    return bool(marked.as_strided(b.shape, b.stride(), b.storage_offset()).any())


def _extent(tensor: Tensor) -> tuple[int, int]:
    """From which byte of its storage a tensor reaches to which."""
    if tensor.numel() == 0:
        return 0, 0
    last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start, width = tensor.storage_offset(), tensor.element_size()
    return start * width, (start + last + 1) * width


def named_states(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, Tensor, Slot, bool]]:
    """Parameters and persistent buffers under each of their names, where they are held, and whether they are parameters."""
    for path, module in model.named_modules(remove_duplicate=False):
        start = prefix + path + "." if path else prefix
        for held, is_parameter in ((module._parameters, True), (module._buffers, False)):
            for name, tensor in held.items():
                if tensor is None or (not is_parameter and name in module._non_persistent_buffers_set):
                    continue
                _check_initialised(tensor, start + name, module)
                yield start + name, tensor, (held, name), is_parameter


def other_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor, Slot]]:
    """Non-persistent buffers and tensors that are plain attributes, with their dotted paths and places."""
    for path, module in model.named_modules():
        start = path + "." if path else ""
        for name in module._non_persistent_buffers_set:
            if isinstance(tensor := module._buffers.get(name), Tensor):
                yield start + name, tensor, (module._buffers, name)
        for name, value in module.__dict__.items():
            if isinstance(value, Tensor):
                yield start + name, value, (module.__dict__, name)


def _check_initialised(tensor: Tensor, name: str, module: nn.Module) -> None:
    if is_lazy(tensor):
        raise CaptureError(
            f"{name} of the lazy module {type(module).__name__} has no shape yet; run the model once on an example "
            "input, model(*inputs), before you capture it"
        )


def changeable(model: nn.Module) -> list[tuple[str, Slot]]:
    """Where tensors are that a forward may change for the next one: buffers and plain attributes."""
    buffers = [
        (f"{path}.{name}" if path else name, (module._buffers, name))
        for path, module in model.named_modules()
        for name, tensor in module._buffers.items()
        if isinstance(tensor, Tensor)
    ]
    plain = [(path, slot) for path, _, slot in other_tensors(model)]
    return list({(id(slot[0]), slot[1]): (path, slot) for path, slot in [*buffers, *plain]}.values())


def place(lifted: Sequence[Lifted], tensors: Sequence[Tensor]) -> None:
    """Put one tensor into each lifted tensor's places. Only inside :func:`autoperm.capture.guard.untouched`."""
    for entry, tensor in zip(lifted, tensors, strict=True):
        for held, name in entry.slots:
            held[name] = tensor
