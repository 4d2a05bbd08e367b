"""Memory for large matrices, taken from the system and given back to it when they are dropped.

The C library keeps what is freed, for later. Matrices of megabytes in many sizes come and go here, each next to small things
that stay, and so it would hold on to about half as much again as is in use.
"""

from __future__ import annotations

import math
import mmap

import torch

#: From this many bytes on: a page that is touched for the first time costs more than a little memory that is kept.
_LARGE = 1 << 20


def zeros(*shape: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """As :func:`torch.zeros`; pages of it that nothing was written to take no memory."""
    size = math.prod(shape) * dtype.itemsize
    if size < _LARGE or device.type != "cpu":
        return torch.zeros(*shape, dtype=dtype, device=device)
    # Private to this process where the system asks; Windows does not.
    kind = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    return torch.frombuffer(mmap.mmap(-1, size, **kind), dtype=dtype).reshape(shape)
