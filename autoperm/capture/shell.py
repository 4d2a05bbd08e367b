"""A copy of a model's modules around the model's own memory, to be traced in the model's place.

What a forward leaves on its modules and helpers stays in the copy. And a forward that reaches weights by a way that copies
of the model do not follow (a closure, a forward that was wrapped) reads those of the model itself, as it would in a
permuted copy, so that it shows.
"""

from __future__ import annotations

import copy
import functools
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

logger = logging.getLogger(__name__)


def shell(model: nn.Module) -> nn.Module:
    """A deep copy of a model, but for the memory of its tensors; the model itself where it cannot be copied."""
    parameters = [p for module in model.modules() for p in module._parameters.values() if type(p) is nn.Parameter]
    memo: dict[int, Any] = {id(p): _alias(p) for p in parameters if not p.is_quantized}
    try:
        with _Sharing():
            return copy.deepcopy(model, memo)
    except Exception:
        logger.debug("%s cannot be copied and is traced itself", type(model).__name__, exc_info=True)
        return model


def _alias(parameter: nn.Parameter) -> nn.Parameter:
    """Another parameter of the same memory."""
    with torch.inference_mode(parameter.is_inference()):
        alias = nn.Parameter(parameter.detach(), parameter.requires_grad)
    alias.__dict__.update(parameter.__dict__)
    return alias


class _Sharing(TorchFunctionMode):
    """While inside, copies of tensors that are not parameters share their memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.__deepcopy__ or type(args[0]) is not Tensor:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        return memo.setdefault(id(tensor), tensor.detach())


@contextmanager
def fresh_tables(model: nn.Module) -> Iterator[None]:
    """Forget afterwards what functions under ``functools.lru_cache`` were asked while inside: the answers are stand-ins.

    Those are looked at that stand in the files of the model's classes, or on the classes.
    """
    cached = [(function, function.cache_info().misses) for function in _cached_functions(model)]
    try:
        yield
    finally:
        for function, misses in cached:
            if function.cache_info().misses != misses:
                function.cache_clear()


def _cached_functions(model: nn.Module) -> list[Any]:
    classes = {base for module in model.modules() for base in type(module).__mro__ if not _is_torch(base.__module__)}
    files = [vars(module) for name in {c.__module__ for c in classes} if (module := sys.modules.get(name)) is not None]
    found = [value for names in (*files, *map(vars, classes)) for value in list(names.values())]
    return list({id(f): f for f in found if isinstance(f, functools._lru_cache_wrapper)}.values())


def _is_torch(name: str) -> bool:
    return name == "builtins" or name.partition(".")[0] == torch.__name__
