"""Computing in float64 what a model insists on computing in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_WIDE = {torch.float32: torch.float64, torch.float16: torch.float64, torch.bfloat16: torch.float64}
_NARROWING = {torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16}


class InDoubles(TorchFunctionMode):
    """Within it, every request for a narrower float gives float64.

    Language models compute norms and rotary tables in float32 whatever their weights are in, which would limit a check
    to float32's precision.
    """

    def __enter__(self) -> InDoubles:
        self._default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)  # of what the forward makes itself: a first state of zeros
        return super().__enter__()  # type: ignore[no-any-return]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.set_default_dtype(self._default)

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _NARROWING:
            return args[0].double()
        widened = {key: _wide(value) for key, value in (kwargs or {}).items()}
        return func(*(_wide(a) for a in args), **widened)


def _wide(argument: Any) -> Any:
    return _WIDE.get(argument, argument) if isinstance(argument, torch.dtype) else argument
