"""Whether a group is the whole one: its order against that of the automorphism oracle, on models small enough for it.

The oracle (``tests/oracle``) shares no code with the inference: it expands the graph into a DAG of scalars and counts the
automorphisms. Most architectures of a zoo have a configuration that it can count in seconds.
"""

from __future__ import annotations

import math
import sys
import time
import warnings

import torch

from autoperm.capture import capture
from autoperm.infer import infer_captured
from benchmarks.zoo.entry import Entry
from benchmarks.zoo.measure import Report, count
from tests.oracle import true_order

#: Larger models are left to what is known of their smaller relatives.
LARGEST = 200_000
#: Statuses, best first.
VERDICTS = ("whole", "smaller", "no expansion", "too large", "timeout", "crashed", "memory", "failed", "LARGER")


def compare(entry: Entry, report: Report, largest: int) -> None:
    """Report the order found and the true one; *LARGER* would be an unsound group."""
    warnings.simplefilter("ignore")
    report({"stage": "build"})
    torch.manual_seed(0)
    try:
        with torch.device("meta" if entry.counted or entry.meta else "cpu"):
            parameters = count(entry.build())
    except Exception:  # a constructor that looks at values
        parameters = 0
    if parameters > largest:
        report({"status": "too large", "parameters": parameters})
        return
    try:
        _compare(entry, report)
    except NotImplementedError as error:
        report({"status": "no expansion", "note": str(error).partition("\n")[0]})
    except MemoryError:
        report({"status": "memory"})
    except Exception as error:
        report({"status": "failed", "note": f"{type(error).__name__}: {error}"[:300]})


def _compare(entry: Entry, report: Report) -> None:
    torch.manual_seed(0)
    model = entry.build().eval()
    torch.manual_seed(1)
    captured = capture(model, entry.inputs(model))
    report({"stage": "infer", "parameters": count(model)})
    spec = infer_captured(captured)
    report({"stage": "count", "log10_order": spec.log10_order})
    start = time.perf_counter()
    true = true_order(captured)
    verdict = "whole" if spec.order == true else "LARGER" if spec.order > true else "smaller"
    # Orders have thousands of digits: the quotient says what is missing.
    missing = true // spec.order if true % spec.order == 0 and true // spec.order < 10**12 else None
    report({"status": verdict, "log10_true": _log10(true), "seconds_count": time.perf_counter() - start, "missing": missing})


def _log10(order: int) -> float:
    sys.set_int_max_str_digits(0)
    digits = len(str(order)) - 1
    return digits + math.log10(order / 10**digits) if digits < 300 else digits + math.log10(order // 10 ** (digits - 15)) - 15

