"""Which submodule and which line of the model's code made each node of a graph that is being traced."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

_SITE = sysconfig.get_paths()["purelib"]
_LIBRARY = sysconfig.get_paths()["stdlib"]
_TORCH = os.path.dirname(torch.__file__) + os.sep
_HERE = os.path.dirname(__file__) + os.sep
#: Its frames lie between those of the model and of torch.
_BETWEEN = _HERE + "reads.py"
_SKIP, _STOP = "skip", "stop"


class ModuleStack:
    """The dotted paths of the submodules that are running, innermost last; empty outside the model."""

    def __init__(self, model: nn.Module) -> None:
        self._names = {id(module): path for path, module in model.named_modules()}
        self._running: list[tuple[nn.Module, str]] = []
        self.deepest = ""

    @property
    def path(self) -> str:
        """The path of the innermost running submodule, ``""`` for the root."""
        return self._running[-1][1] if self._running else ""

    @contextmanager
    def follow(self) -> Iterator[None]:
        """Keep the stack through global hooks while inside; after an exception ``deepest`` says where it rose."""
        handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave),
        ]
        try:
            yield
        except BaseException:
            self.deepest = self.path
            raise
        finally:
            for handle in handles:
                handle.remove()
            self._running.clear()

    def place(self) -> Place:
        """The running submodule's path and the line of the model that is being executed."""
        return self.path, source_of(sys._getframe(2))

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._running.append((module, self._names.get(id(module), self.path)))

    def _leave(self, module: nn.Module, args: Any, result: Any) -> None:
        # A submodule left by an exception that the model caught had no hook: leave it too.
        while self._running and self._running.pop()[0] is not module:
            pass


Place = tuple[str, str]


@contextmanager
def stamped(place: Callable[[], Place]) -> Iterator[None]:
    """Give each node made by the running tracer its ``module_path`` and ``source``; nothing where none is running."""
    mode = get_proxy_mode()
    graph = getattr(getattr(mode, "tracer", None), "graph", None)
    if graph is None:
        yield
        return
    original = graph.create_node

    def create_node(*args: Any, **kwargs: Any) -> fx.Node:
        node = original(*args, **kwargs)
        path, source = place()
        # "custom" is the one entry that export carries through its passes.
        node.meta.update(module_path=path, source=source, custom={"autoperm": (path, source)})
        return node

    graph.create_node = create_node
    try:
        yield
    finally:
        del graph.create_node


class Replay(fx.Interpreter):
    """Run a graph again under a tracer; what it makes keeps the places of the old nodes."""

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        with stamped(self._place):
            return self.run(*tensors, enable_io_processing=False)

    def run_node(self, n: fx.Node) -> Any:
        self._current = n
        return super().run_node(n)

    def _place(self) -> Place:
        return self._current.meta.get("module_path", ""), self._current.meta.get("source", "")


def source_of(frame: FrameType | None) -> str:
    """The innermost line outside torch and the standard library, as ``file.py:123``; ``""`` if there is none."""
    while frame is not None:
        kind = _kind(frame.f_code)
        if kind is _STOP:
            return ""
        if kind is not _SKIP:
            return f"{kind}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


_kinds: dict[str, str] = {}


def _kind(code: CodeType) -> str:
    """What a frame of this code is: to be skipped, the end of the search, or the model's, by its file's name."""
    path = code.co_filename
    known = _kinds.get(path)
    if known is None:
        known = _kinds[path] = _classify(path)
    return known


def _classify(path: str) -> str:
    if path == _BETWEEN:
        return _SKIP
    if path.startswith(_HERE):
        return _STOP
    library = path.startswith(_LIBRARY) and not path.startswith(_SITE)
    if path.startswith((_TORCH, "<")) or library:
        return _SKIP
    return os.path.basename(path)


def source_of_error(error: BaseException) -> str:
    """The innermost line of the model's own code in an exception's traceback, as ``file.py:123``, or ``""``."""
    found, entry = "", error.__traceback__
    while entry is not None:
        kind = _kind(entry.tb_frame.f_code)
        if kind is not _SKIP and kind is not _STOP:
            found = f"{kind}:{entry.tb_lineno}"
        entry = entry.tb_next
    return found
