"""Example inputs in their several forms, as positional and keyword arguments and as flat named tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from autoperm.capture.structure import leaves, map_leaves, tensors
from autoperm.errors import CaptureError


class Inputs:
    """Positional and keyword arguments together: ``Inputs(x, mask=mask)`` calls ``model(x, mask=mask)``.

    Example:
        >>> import torch, autoperm
        >>> model = torch.nn.Bilinear(4, 4, 2)
        >>> autoperm.infer(model, autoperm.Inputs(torch.zeros(1, 4), input2=torch.zeros(1, 4))).order
        1
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args
        self.kwargs = kwargs


def split_inputs(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and keyword arguments that example inputs stand for.

    A tensor is the one argument, a tuple or list holds positional arguments, a mapping keyword arguments, an
    :class:`Inputs` both. A tuple is always positional: ``(args, kwargs)`` is a call with two arguments.

    Raises:
        CaptureError: another type, or a mapping with a key that is not a string.
    """
    if isinstance(example_inputs, Inputs):
        return example_inputs.args, dict(example_inputs.kwargs)
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    if isinstance(example_inputs, Mapping):
        return (), _keywords(example_inputs)
    raise CaptureError(
        f"example_inputs is a {type(example_inputs).__name__}; give a tensor, a tuple or list of positional "
        "arguments, a dict of keyword arguments, or autoperm.Inputs(*args, **kwargs)"
    )


def _keywords(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    if wrong := [key for key in mapping if not isinstance(key, str)]:
        raise CaptureError(
            f"example_inputs is a dict of keyword arguments, but its key {wrong[0]!r} is not a string; "
            "to pass a dict as one argument, put it in a tuple: (inputs,)"
        )
    return dict(mapping)


@dataclass(frozen=True)
class FlatInputs:
    """A call's arguments as flat tensors with names, and the call again from other tensors."""

    structure: tuple[tuple[Any, ...], dict[str, Any]]
    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]

    def rebuild(self, tensors: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with other tensors in place of the example ones."""
        rest = iter(tensors)
        return map_leaves(lambda leaf: next(rest) if isinstance(leaf, Tensor) else leaf, self.structure)

    def describe(self) -> str:
        """Names, types and shapes, for messages: ``args[0]: float32[2, 3]``."""
        parts = [f"{n}: {describe_tensor(t)}" for n, t in zip(self.names, self.tensors, strict=True)]
        return ", ".join(parts) or "no tensors"


def describe_tensor(tensor: Tensor) -> str:
    """A tensor's type and shape, such as ``float32[2, 3]``."""
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def flatten_inputs(example_inputs: Any) -> FlatInputs:
    """The tensors of the example inputs in order, named as in the call.

    Raises:
        CaptureError: the inputs have a wrong form, or an object in them holds tensors that cannot be seen.
    """
    args, kwargs = split_inputs(example_inputs)
    named = leaves(args, "args") + leaves(kwargs, "kwargs")
    for name, leaf in named:
        _check_leaf(name, leaf)
    tensors = [(name, leaf) for name, leaf in named if isinstance(leaf, Tensor)]
    return FlatInputs((args, kwargs), tuple(name for name, _ in tensors), tuple(leaf for _, leaf in tensors))


def _check_leaf(name: str, leaf: Any) -> None:
    """Refuse an opaque object with numbers inside: they would silently be taken for constants."""
    if isinstance(leaf, Tensor):
        return
    what = f"{name} of the example inputs is a {type(leaf).__name__}"
    if isinstance(leaf, np.ndarray):
        raise CaptureError(f"{what}, whose numbers would become fixed; pass a tensor, torch.from_numpy(...), and wrap the model")
    if isinstance(leaf, nn.Module) and (own := [key for key, _ in (*leaf.named_parameters(), *leaf.named_buffers())]):
        raise CaptureError(f"{what} with tensors of its own ({', '.join(own[:5])}); make it a submodule of the model")
    if hidden := [key.removeprefix(f"{name}.") for key, _ in tensors(leaf, name, caches=True)]:
        raise CaptureError(
            f"{what} that holds tensors ({', '.join(hidden[:5])}) in a "
            "way autoperm cannot see; make it a dataclass, register it with torch.utils._pytree.register_pytree_node, "
            "or wrap the model in a module that takes the tensors and builds the object"
        )
