"""Smaller example inputs, with which the automorphism oracle has fewer scalars to look at."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

#: Tokens of a text and pixels of a side, the smallest first.
_SIZES = ((3, 8), (4, 16), (6, 24))


def shrunken(inputs: Any) -> Iterator[Any]:
    """One example of a batch, with fewer tokens or pixels, the fewest first; inputs that are as small already are none."""
    seen = {_shapes(inputs)}
    batch = _batch(inputs)
    for tokens, side in _SIZES:
        for cut in ({"tokens": tokens, "side": side}, {"tokens": tokens}, {"side": side}):
            small = pytree.tree_map_only(Tensor, lambda t, cut=cut: _smaller(t, batch, **cut), inputs)
            if _shapes(small) not in seen:
                seen.add(_shapes(small))
                yield small


def runs(model: nn.Module, inputs: Any) -> bool:
    """Whether a copy of the model runs on inputs."""
    model = copy.deepcopy(model)
    try:
        with torch.no_grad():
            model(**inputs) if isinstance(inputs, dict) else model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    except Exception:
        return False
    return True


def _batch(inputs: Any) -> int:
    """The size of the first dimension of all tensors; 1 if they differ in it."""
    sizes = {t.shape[0] for t in pytree.tree_leaves(inputs) if isinstance(t, Tensor) and t.ndim}
    return sizes.pop() if len(sizes) == 1 else 1


def _smaller(tensor: Tensor, batch: int, tokens: int | None = None, side: int | None = None) -> Tensor:
    if tensor.ndim and batch > 1:
        tensor = tensor[:1]
    if tokens and tensor.ndim == 2 and not tensor.is_floating_point():
        tensor = tensor[:, :tokens]
    if side and tensor.ndim >= 4 and tensor.shape[-1] == tensor.shape[-2] > side:
        tensor = tensor[..., :side, :side]
    return tensor.clone()


def _shapes(inputs: Any) -> tuple[torch.Size, ...]:
    return tuple(t.shape for t in pytree.tree_leaves(inputs) if isinstance(t, Tensor))
