"""Linear layers and convolutions of all makes: which dimension of the weight goes out and which comes in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from benchmarks.zoo.expected.acting import Axis


@dataclass(frozen=True)
class Layer:
    """A layer that maps ``ins`` features to ``outs``, in ``groups``."""

    path: str
    weight: str
    ins: int
    outs: int
    groups: int
    swapped: bool  # the weight's first dimension comes in

    @property
    def out(self) -> Axis:
        return Axis(self.weight, int(self.swapped))

    @property
    def inner(self) -> Axis:
        return Axis(self.weight, int(not self.swapped))


def layer_of(path: str, module: nn.Module | None) -> Layer | None:
    """The layer that a module is; None for other modules, and where the weight is not a parameter (it is computed)."""
    weight = getattr(module, "weight", None)
    if module is None or "weight" not in module._parameters or weight is None:
        return None
    name = f"{path}.weight" if path else "weight"
    if isinstance(module, nn.Linear):
        return Layer(path, name, module.in_features, module.out_features, 1, False)
    if isinstance(module, _ConvNd):
        swapped = isinstance(module, _ConvTransposeNd)
        return Layer(path, name, module.in_channels, module.out_channels, module.groups, swapped)
    if type(module).__name__ == "Conv1D" and weight.ndim == 2:  # of GPT-2: a linear layer whose weight is turned
        return Layer(path, name, weight.shape[0], weight.shape[1], 1, True)
    return None


def child(module: nn.Module, path: str) -> nn.Module | None:
    """The module at a path below another, None if there is none."""
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def layers_below(path: str, module: nn.Module) -> Iterator[Layer]:
    """The layers inside a module, in order."""
    for name, inner in module.named_modules():
        layer = layer_of(joined(path, name), inner)
        if layer is not None:
            yield layer
