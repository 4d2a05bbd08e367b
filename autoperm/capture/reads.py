"""Values that a model hands to Python by ways that no op stands for: ``tolist``, ``numpy`` and what NumPy calls, DLPack."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

from autoperm.capture.lift import identity
from autoperm.capture.sizes import Sizes
from autoperm.errors import CaptureError

_READS = (Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__, Tensor.__repr__, Tensor.__format__)

#: Python functions run entry by entry, in place: no graph can hold that, and torch reads memory that is not there.
_LOOPS = (Tensor.apply_, Tensor.map_, Tensor.map2_)


class Reads(TorchFunctionMode):
    """While inside, such reads are known.

    Arguments:
        memories: of the weights, as :func:`autoperm.capture.lift.identity` tells them apart.
        seen: to which those are added that are read from tensors that do not stand for the weights.
        recorded: the tensors have values: each read leaves a comparison of the tensor with itself in the graph, and lists of
            which Python sees the lengths are marked (:class:`autoperm.capture.sizes.Sizes`). Otherwise
            a tensor that stands for another has none, and what memory happens to hold must not be taken for them; what a
            weight's own holds must not be taken for a constant.
    """

    def __init__(self, memories: Collection[Any], seen: set[Any], *, recorded: bool = False):
        super().__init__()
        self._memories, self._seen, self._recorded = memories, seen, recorded
        self._sizes = Sizes()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _LOOPS:
            raise CaptureError(f"the model calls a Python function for each entry ({func.__name__}); use torch's functions")
        if func in _READS and isinstance(args[0], Tensor):
            args = (self._readable(args[0], func.__name__), *args[1:])
        if self._recorded:
            self._sizes.note(func, args, kwargs or {})
        if func is torch.nn.functional.one_hot and (found := _one_hot(*args, **(kwargs or {}))) is not None:
            return found
        return func(*args, **(kwargs or {}))

    def _readable(self, tensor: Tensor, how: str) -> Tensor:
        if self._recorded:
            torch.ops.aten.equal(tensor, tensor)
        wrapped = torch._is_functional_tensor(tensor)
        if wrapped:
            torch._sync(tensor)
            tensor = torch._from_functional_tensor(tensor)
        if not self._recorded and (wrapped or isinstance(tensor, FakeTensor)):
            raise CaptureError(f"the model looks at values ({how}), which a tensor without memory does not have")
        if (memory := identity(tensor)[0]) in self._memories:
            if not self._recorded:
                raise CaptureError(f"the model looks at values of a weight ({how})")
            self._seen.add(memory)
        return tensor


def _one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor | None:
    """The one-hot form without a look at the least and the largest number, which torch takes to check them."""
    if num_classes < 1 or tensor.dtype != torch.int64:
        return None
    return (tensor.unsqueeze(-1) == torch.arange(num_classes, device=tensor.device)).to(torch.int64)
