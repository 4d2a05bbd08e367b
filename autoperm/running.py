"""Long runs: a progress bar with an estimate of what is left, and Ctrl-C that stops between steps.

    with running("weight matching", total=max_sweeps, progress=progress) as run:
        for sweep in range(max_sweeps):
            ...                      # one step; what was found so far is consistent after it
            run.advance(objective)
            if run.stopped:          # Ctrl-C was pressed: return the best so far
                break
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

logger = logging.getLogger(__name__)

#: True for a bar on a terminal's stderr, False or None for none, or a function of (steps done, value).
Progress = bool | None | Callable[[int, float], None]


class Run:
    """One long run.

    Attributes:
        done: how many steps are done.
        stopped: whether Ctrl-C was pressed.
        end: when its time is up, on the clock of ``time.monotonic()``; infinity without a limit.
    """

    def __init__(self, advance: Callable[[int, float], None]):
        self.done, self.stopped, self.end = 0, False, math.inf
        self._advance = advance

    @property
    def over(self) -> bool:
        """Whether Ctrl-C was pressed, or the time is up."""
        return self.stopped or time.monotonic() >= self.end

    def advance(self, value: float = float("nan")) -> None:
        """Say that another step is done, and what the run has come to (an objective, a loss)."""
        self.done += 1
        self._advance(self.done, value)


@contextlib.contextmanager
def running(description: str, *, total: int | None = None, progress: Progress = True) -> Iterator[Run]:
    """A run of ``total`` steps (None: not known).

    The first Ctrl-C sets ``run.stopped``, which the caller looks at between steps; the second raises
    ``KeyboardInterrupt`` as ever. Off the main thread, signals are left alone.
    """
    with contextlib.ExitStack() as stack:
        run = Run(_shown(description, total, progress, stack))
        stack.enter_context(_stopping(run, description))
        yield run


def _shown(
    description: str, total: int | None, progress: Progress, stack: contextlib.ExitStack
) -> Callable[[int, float], None]:
    if callable(progress):
        return progress
    if not progress or not sys.stderr.isatty():
        return lambda done, value: None
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    bar = stack.enter_context(Bar(*columns, console=Console(stderr=True), transient=True))
    task = bar.add_task(description, total=total)

    def advance(done: int, value: float) -> None:
        bar.update(task, completed=done, description=f"{description} ({value:.6g})" if value == value else description)

    return advance


@contextlib.contextmanager
def _stopping(run: Run, description: str) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if run.stopped:
            raise KeyboardInterrupt
        run.stopped = True
        logger.warning("%s: stopping after this step, with the best so far; press Ctrl-C again to stop at once", description)

    before: Any = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
