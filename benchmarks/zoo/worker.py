"""Models in processes of their own: one that crashes, hangs or eats all memory costs its own record only.

The processes are forked, so that torch and the zoo are imported once.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import nn

from benchmarks.zoo.entry import LARGEST_RUN, Entry
from benchmarks.zoo.measure import Report, measure

Examine = Callable[[Entry, Report, int], None]

_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Limits:
    """What a model may take.

    Attributes:
        seconds: after which its process is ended.
        gib: of memory, beyond what is shared by all.
        parameters: above which it is traced on the meta device and not run.
    """

    seconds: float = 300.0
    gib: float = 8.0
    parameters: int = LARGEST_RUN


@dataclass
class Job:
    """A model that is being measured, and what it has reported."""

    entry: Entry
    process: BaseProcess
    pipe: Connection
    deadline: float
    started: float
    record: dict[str, Any] = field(default_factory=dict)


def measured(
    entries: Sequence[Entry],
    *,
    jobs: int,
    limits: Limits,
    go_on: Callable[[], bool] = lambda: True,
    examine: Examine = measure,
) -> Iterator[tuple[Entry, dict[str, Any]]]:
    """The record of each model as it is done.

    Arguments:
        jobs: how many to measure at a time.
        limits: of each model.
        go_on: asked before each model; False ends the run.
        examine: what to do with each, in its process; it reports fields of the record, ``stage`` and ``status`` among them.
    """
    waiting, running = list(entries), list[Job]()
    if waiting:
        _warm_up()
    try:
        while running or (waiting and go_on()):
            while waiting and len(running) < jobs and go_on():
                running.append(_start(waiting.pop(0), limits, examine))
            for job in _finished(running):
                running.remove(job)
                yield job.entry, _record(job)
    finally:
        for job in running:
            job.process.kill()


def _warm_up() -> None:
    """Infer and verify one layer, so that what torch imports on first use is not imported in every process again."""
    tiny = Entry(
        "warm-up", "", lambda: nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), lambda model: torch.ones(1, 2), counted=False
    )
    with torch.random.fork_rng(devices=[]):
        measure(tiny, lambda fields: None)


def _start(entry: Entry, limits: Limits, examine: Examine) -> Job:
    here, there = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_run, args=(entry, there, limits, examine), daemon=True)
    process.start()
    there.close()
    now = time.monotonic()
    return Job(entry, process, here, now + limits.seconds, now)


def _run(entry: Entry, pipe: Connection, limits: Limits, examine: Examine) -> None:
    """The body of a model's process. What zoos print is not ours to show."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + int(limits.gib * 2**30),) * 2)
    sys.setrecursionlimit(10_000)
    with contextlib.suppress(BrokenPipeError):
        examine(entry, pipe.send, limits.parameters)


def _address_space() -> int:
    """What the process has mapped already: libraries, above all."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _finished(running: Sequence[Job]) -> Iterator[Job]:
    """Wait for news; the jobs that have ended, those out of time included."""
    left = max(0.0, min(job.deadline for job in running) - time.monotonic())
    wait([job.pipe for job in running], timeout=left)
    for job in list(running):
        if not _read(job) or time.monotonic() > job.deadline:
            yield job


def _read(job: Job) -> bool:
    """Take in what a job has reported; False once it has ended."""
    try:
        while job.pipe.poll():
            job.record.update(job.pipe.recv())
    except EOFError:
        return False
    return True


def _record(job: Job) -> dict[str, Any]:
    late = job.process.is_alive() and time.monotonic() > job.deadline
    if late:
        job.process.kill()
    job.process.join()
    job.pipe.close()
    record = job.record | {"seconds": time.monotonic() - job.started}
    stage = record.pop("stage", "start")
    if "status" not in record:
        what = "timeout" if late else "crashed"
        note = f"no answer from stage {stage!r} in {job.deadline - job.started:.0f} s"
        record |= {"status": what, "note": note if late else f"exit code {job.process.exitcode} in stage {stage!r}"}
        if stage == "verify":  # the group is there; only the check of it is missing
            record["status"] = "unverified"
    return record
