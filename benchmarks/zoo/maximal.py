"""Whether a group is the whole one: its order against that of the automorphism oracle, on models small enough for it.

The oracle (``tests/oracle``) shares no code with the inference: it expands the graph into a DAG of scalars and counts the
automorphisms. Most architectures of a zoo have a configuration that it can count in seconds.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from autoperm.capture import Capture, capture
from autoperm.errors import AutopermError
from autoperm.infer import infer_captured
from autoperm.spec import PermutationSpec
from benchmarks.zoo.beyond import beyond
from benchmarks.zoo.entry import Entry
from benchmarks.zoo.measure import Report, count
from benchmarks.zoo.shrunken import runs, shrunken
from tests.oracle import true_order

#: Larger models are left to what is known of their smaller relatives.
LARGEST = 200_000
#: Seconds to look for smaller inputs.
SHRINKING = 20.0
#: Statuses, best first.
VERDICTS = ("whole", "smaller", "no expansion", "too large", "timeout", "crashed", "memory", "failed", "LARGER")


def compare(entry: Entry, report: Report, largest: int) -> None:
    """Report the order found and the true one; *LARGER* would be an unsound group.

    On the smallest inputs parts of a weight may have the same effect by chance (one key a query, windows that are all padding),
    and the true order is larger than the architecture's. So where it is, larger ones follow, and the nearest verdict counts.
    """
    warnings.simplefilter("ignore")
    report({"stage": "build"})
    parameters = _parameters(entry)
    if parameters > largest:
        report({"status": "too large", "parameters": parameters})
        return
    nearest: dict[str, Any] = {}
    try:
        for model, captured, spec in _instances(entry, report):
            verdict = _verdict(model, captured, spec)
            if not nearest or _missing(verdict) < _missing(nearest) or verdict["status"] == "LARGER":
                nearest = verdict
                report(verdict)
            if verdict["status"] != "smaller":
                break
    except Exception as error:
        if not nearest:
            report(_failure(error))


def _failure(error: Exception) -> dict[str, Any]:
    if isinstance(error, NotImplementedError):
        return {"status": "no expansion", "note": str(error).partition("\n")[0]}
    if isinstance(error, MemoryError):
        return {"status": "memory"}
    return {"status": "failed", "note": f"{type(error).__name__}: {error}"[:300]}


def _instances(entry: Entry, report: Report) -> Iterator[tuple[nn.Module, Capture, PermutationSpec]]:
    """Versions of the model that the oracle may count, traced on inputs that it may count, the smallest first."""
    for model, inputs in _models(entry):
        captured = capture(model, inputs)
        report({"stage": "infer"})
        spec = infer_captured(captured)
        report({"stage": "count"})
        if not hasattr(model, "zoo_side"):  # that has the smallest images of more than one pixel at the end
            yield from ((model, found, spec) for found in _smaller(model, inputs, captured, spec))
        yield model, captured, spec


def _verdict(model: nn.Module, captured: Capture, spec: PermutationSpec) -> dict[str, Any]:
    """The fields of the record for one trace."""
    start = time.perf_counter()
    true = true_order(captured, across=bool(spec.stacks))  # where weights move across tensors, there too
    status = "whole" if spec.order == true else "LARGER" if spec.order > true else "smaller"
    more = beyond(model, captured, spec) if status == "smaller" else {}
    if status == "smaller" and not more:
        status, true = "whole", spec.order  # the graph of scalars also has automorphisms that move no weight
    # Orders have thousands of digits: the quotient says what is missing.
    missing = true // spec.order if true % spec.order == 0 and true // spec.order < 10**12 else None
    return {
        "status": status,
        "parameters": count(model),
        "log10_order": spec.log10_order,
        "log10_true": _log10(true),
        "seconds_count": time.perf_counter() - start,
        "missing": missing,
        "beyond": more,
    }


def _missing(verdict: dict[str, Any]) -> float:
    """By how many powers of ten the order is too small."""
    return float(verdict["log10_true"]) - float(verdict["log10_order"])


def _parameters(entry: Entry) -> int:
    """How many parameters the smallest version has; 0 where a constructor looks at values, which the meta device has not."""
    if entry.narrow is not None:
        with contextlib.suppress(Exception):
            torch.manual_seed(0)
            return count(next(iter(entry.narrow())))
    with contextlib.suppress(Exception), torch.device("meta" if entry.counted or entry.meta else "cpu"):
        torch.manual_seed(0)
        return count(entry.build())
    return 0


def _models(entry: Entry) -> Iterator[tuple[nn.Module, Any]]:
    """The narrow versions that run, and the model itself where there are none or it is small too; and inputs."""
    some = False
    with contextlib.suppress(Exception):  # half of a width need not fit an architecture
        torch.manual_seed(0)
        for model in entry.narrow() if entry.narrow is not None else ():
            found = _with_inputs(entry, model)
            if runs(*found):
                some = True
                yield found
    if not some or not entry.counted:
        torch.manual_seed(0)
        yield _with_inputs(entry, entry.build())


def _with_inputs(entry: Entry, model: nn.Module) -> tuple[nn.Module, Any]:
    torch.manual_seed(1)
    return model.eval(), entry.inputs(model)


def _smaller(model: nn.Module, inputs: Any, captured: Capture, spec: PermutationSpec) -> Iterator[Capture]:
    """Traces on smaller inputs with which the order is the same: fewer tokens and pixels, the same symmetries."""
    spent = 0.0
    for small in shrunken(inputs):
        start, found = time.perf_counter(), None
        if spent < SHRINKING and runs(model, small):
            with contextlib.suppress(AutopermError):
                found = capture(model, small)
                found = found if infer_captured(found).order == spec.order else None
        spent += time.perf_counter() - start
        if found is not None:
            yield found


def _log10(order: int) -> float:
    sys.set_int_max_str_digits(0)
    digits = len(str(order)) - 1
    return digits + math.log10(order / 10**digits) if digits < 300 else digits + math.log10(order // 10 ** (digits - 15)) - 15

