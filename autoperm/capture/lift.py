"""Which tensors of a model become placeholders, under which names, and how to put others in their places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from autoperm.errors import CaptureError

Slot = tuple[dict[str, Any], str]


@dataclass
class Lifted:
    """One tensor of the model with every place that holds it.

    Attributes:
        tensor: the model's own tensor.
        names: its state-dict names; empty for a constant.
        path: for a constant, the attribute that holds it.
        slots: the dicts and keys that hold it (``_parameters``, ``_buffers`` or ``__dict__`` of a module).
        is_parameter: whether it is an ``nn.Parameter``.
    """

    tensor: Tensor
    names: list[str] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    is_parameter: bool = False
    path: str = ""


def identity(tensor: Tensor) -> tuple[Any, ...]:
    """A key that two tensors share if and only if they are the same numbers in the same memory."""
    try:
        storage = tensor.untyped_storage()._cdata
        return storage, tensor.storage_offset(), tensor.dtype, tuple(tensor.shape), tensor.stride()
    except (RuntimeError, NotImplementedError):  # sparse tensors and wrapper subclasses have no storage
        return (id(tensor),)


def lift(model: nn.Module, prefix: str = "", constants_too: bool = False) -> list[Lifted]:
    """The tensors to lift: parameters and persistent buffers, tied ones once, then constants on the meta device.

    Constants on a real device stay in the module, where the tracer finds them with their values, unless
    ``constants_too``.

    Raises:
        CaptureError: a lazy parameter or buffer has no shape yet.
    """
    states: dict[tuple[Any, ...], Lifted] = {}
    for name, tensor, slot, is_parameter in _named_states(model, prefix):
        entry = states.setdefault(identity(tensor), Lifted(tensor))
        entry.names.append(name)
        entry.slots.append(slot)
        entry.is_parameter |= is_parameter
    constants: dict[tuple[Any, ...], Lifted] = {}
    for path, tensor, slot in other_tensors(model):
        key = identity(tensor)
        if key in states:
            states[key].slots.append(slot)
        elif tensor.is_meta or constants_too:
            constants.setdefault(key, Lifted(tensor, path=path)).slots.append(slot)
    return [*states.values(), *constants.values()]


def _named_states(model: nn.Module, prefix: str) -> Iterator[tuple[str, Tensor, Slot, bool]]:
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


def place(lifted: Sequence[Lifted], tensors: Sequence[Tensor]) -> None:
    """Put one tensor into each lifted tensor's places. Only inside :func:`autoperm.capture.guard.untouched`."""
    for entry, tensor in zip(lifted, tensors, strict=True):
        for held, name in entry.slots:
            held[name] = tensor
