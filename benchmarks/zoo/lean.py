"""Models without memory for their weights, but with their buffers and constants, whose values say which heads are alike."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator

from torch import nn

#: Parameters up to which a model may be built whole, to be stripped of them afterwards.
REAL = 400_000_000


@contextlib.contextmanager
def weights_on_meta() -> Iterator[None]:
    """Parameters of modules that are built inside go to the meta device as soon as they are registered.

    Under ``torch.device("meta")`` index tables and masks would have no values either, and what they index would be pinned.
    """
    register = nn.Module.register_parameter

    def registered(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:  # one that is there already may be tied: it stays the same object
            parameter = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = registered  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def build(make: Callable[[], nn.Module], blind: nn.Module) -> nn.Module:
    """A model with its weights on the meta device, and all else on a real one if its constructor can do that.

    Constructors that write into what they take from a weight's device need real weights first: up to ``REAL`` of them.
    ``blind`` is the model that was built under ``torch.device("meta")``, for what is larger.
    """
    try:
        with weights_on_meta():
            return make().eval()
    except Exception:
        if sum(parameter.numel() for parameter in blind.parameters()) > REAL:
            return blind
    return without_weights(make().eval())


def without_weights(model: nn.Module) -> nn.Module:
    """The model itself, its parameters on the meta device; tied ones stay tied."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                meta = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
                module._parameters[name] = made.setdefault(parameter, meta)
    return model


def on_meta(model: nn.Module) -> nn.Module:
    """A copy with everything on the meta device, to see whether it takes an input."""
    return copy.deepcopy(model).to("meta")
