"""Leaving things as they were: modules, random state, and the switches that tracing turns."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from autoperm.capture.lift import other_tensors

_CONTAINERS = (dict, list, set)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Restore every submodule's attributes afterwards, including shallow contents of its dicts, lists and sets.

    That covers hooks, training flags, parameters and buffers (their identity; nothing here copies values), and
    tensors that forward caches on the module, which would otherwise stay fake.
    """
    saved = [(module, _snapshot(module)) for module in model.modules()]
    try:
        yield
    finally:
        for module, (attributes, contents) in saved:
            _restore(module.__dict__, tuple(attributes.items()))
            for container, content in contents:
                _restore(container, content)


def _snapshot(module: nn.Module) -> tuple[dict[str, Any], list[tuple[Any, tuple[Any, ...]]]]:
    attributes = dict(module.__dict__)
    containers = [value for value in attributes.values() if isinstance(value, _CONTAINERS)]
    return attributes, [(c, tuple(c.items() if isinstance(c, dict) else c)) for c in containers]


def _restore(container: Any, content: tuple[Any, ...]) -> None:
    """Give a dict, list or set its content back, in place and in order; an unchanged dict is not touched."""
    if isinstance(container, dict):
        same = len(container) == len(content) and all(
            a is c and b is d for (a, b), (c, d) in zip(container.items(), content, strict=True)
        )
        if not same:
            container.clear()
            container.update(content)
    elif isinstance(container, list):
        container[:] = content
    else:
        container.clear()
        container.update(content)


@contextmanager
def same_random_state() -> Iterator[None]:
    """Restore the random state of Python and torch (every device in use) afterwards."""
    python, devices = random.getstate(), _devices_in_use()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)


def _devices_in_use() -> list[int]:
    if not torch.cuda.is_initialized():
        return []
    return list(range(torch.cuda.device_count()))


@contextmanager
def quiet_torch() -> Iterator[None]:
    """Silence what torch logs of attempts that fail while inside: it is in our error too."""
    loggers = [logging.getLogger(f"torch.{name}") for name in ("_subclasses.fake_tensor", "fx.experimental.symbolic_shapes")]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


@contextmanager
def tracing_switches(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, no fused attention fast path, nothing compiled, while inside; as :func:`evaluating`."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with evaluating(model), torch.no_grad(), _compiled_functions_inlined():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, nothing compiled.

    The flags are set directly: a model's own ``train`` or ``eval`` may fold weights or do other work. To be used
    within :func:`untouched`, which puts the flags back.
    """
    for module in model.modules():
        module.training = False
        if module.__dict__.get("_compiled_call_impl") is not None:
            module._compiled_call_impl = None
    yield


def _compiled_functions_inlined() -> AbstractContextManager[Any]:
    """Tracers meet functions under ``torch.compile`` as if they were not; torch would refuse."""
    from torch._dynamo import config

    return config.patch(error_on_nested_fx_trace=False) if hasattr(config, "error_on_nested_fx_trace") else nullcontext()


@contextmanager
def same_values(model: nn.Module) -> Iterator[None]:
    """Restore constants (plain attributes, non-persistent buffers) that are written in place while inside.

    Only tensors whose version counter moved are written back. Weights need no such care: programs get copies.
    """
    held = [tensor for _, tensor, _ in other_tensors(model) if not (tensor.is_meta or tensor.is_inference())]
    saved = [(tensor, tensor._version, tensor.detach().clone()) for tensor in held]
    try:
        yield
    finally:
        for tensor, version, value in saved:
            if tensor._version != version:
                with torch.no_grad():
                    tensor.copy_(value)
