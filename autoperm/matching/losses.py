"""The loss of a network with given tensors, for the matchers that are told one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from autoperm.batches import Pick
from autoperm.capture.guard import untouched
from autoperm.capture.inputs import flatten_inputs
from autoperm.errors import AutopermError


def loss_with(
    network: nn.Module, state: Mapping[str, Tensor], batch: Any, loss: Callable[[Any, Any], Any], inputs: Pick | None
) -> Tensor:
    """The loss on one batch, a tensor of shape (); the network is left as it was, without what its forward keeps of the tensors.

    Arguments:
        loss: from the model's output and the batch to a tensor of one number.
        inputs: picks from a batch what the forward takes; None for all of it.

    Raises:
        AutopermError: the forward does not accept the batch, the loss fails on it, or is not a tensor of one number.
    """
    flat = flatten_inputs(batch if inputs is None else inputs(batch))
    args, kwargs = flat.structure
    try:
        with untouched(network):
            output = functional_call(network, dict(state), args, kwargs, tie_weights=False)
    except Exception as error:
        raise AutopermError(
            f"the forward of {type(network).__name__} does not accept a batch of data= ({type(error).__name__}: {error}); shapes "
            f"given: {flat.describe()}. Where batches hold more than the inputs, pass inputs=, such as lambda batch: batch[0]"
        ) from error
    try:
        value = loss(output, batch)
    except AutopermError:
        raise
    except Exception as error:
        raise AutopermError(
            f"loss= fails on the model's output and a batch ({type(error).__name__}: {error}); it is called as "
            "loss(output, batch), and by default takes batches for pairs (x, labels)"
        ) from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise AutopermError(f"loss= must return a tensor of one number, not {what}; take the mean over the batch")
    if value.is_complex():
        raise AutopermError("loss= must return a real number, not a complex one; take its absolute value or its real part")
    return value.reshape(())


def check_differentiable(value: Tensor) -> None:
    """Check that a loss has a gradient.

    Raises:
        AutopermError: it has none.
    """
    if not value.requires_grad:
        raise AutopermError("the loss does not depend on the weights: loss= must be differentiable, without detach() or item()")
