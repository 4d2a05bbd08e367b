"""Progress and interruption of long runs."""

from __future__ import annotations

import io
import logging
import signal
import threading

import pytest

from autoperm.running import running


def test_a_function_is_told_of_every_step() -> None:
    told = []
    with running("matching", total=2, progress=lambda done, value: told.append((done, value))) as run:
        run.advance(1.5)
        run.advance(2.5)
    assert told == [(1, 1.5), (2, 2.5)] and run.done == 2 and not run.stopped


def test_the_first_interrupt_stops_between_steps_and_the_second_at_once(caplog: pytest.LogCaptureFixture) -> None:
    before = signal.getsignal(signal.SIGINT)
    with caplog.at_level(logging.WARNING), running("matching", progress=False) as run:
        signal.raise_signal(signal.SIGINT)
        assert run.stopped
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert "matching: stopping after this step, with the best so far" in caplog.text
    assert signal.getsignal(signal.SIGINT) is before


def test_signals_are_left_alone_off_the_main_thread() -> None:
    seen = []

    def work() -> None:
        with running("matching", progress=False) as run:
            seen.append((run.stopped, signal.getsignal(signal.SIGINT)))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def test_a_bar_on_a_terminal_and_nothing_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr("sys.stderr", stream)
        with running("weight matching", total=3) as run:
            run.advance(12.5)
        assert ("weight matching" in stream.getvalue()) == shown
