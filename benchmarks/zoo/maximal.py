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
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from autoperm import is_permutation_of
from autoperm.capture import Capture, capture
from autoperm.errors import AutopermError
from autoperm.infer import infer_captured
from autoperm.spec import PermutationSpec
from benchmarks.zoo.entry import Entry
from benchmarks.zoo.measure import Report, count
from benchmarks.zoo.shrunken import runs, shrunken
from tests.oracle import generators, true_order

#: Larger models are left to what is known of their smaller relatives.
LARGEST = 200_000
#: Seconds to look for smaller inputs.
SHRINKING = 20.0
#: Statuses, best first.
VERDICTS = ("whole", "smaller", "no expansion", "too large", "timeout", "crashed", "memory", "failed", "LARGER")


def compare(entry: Entry, report: Report, largest: int) -> None:
    """Report the order found and the true one; *LARGER* would be an unsound group."""
    warnings.simplefilter("ignore")
    report({"stage": "build"})
    parameters = _parameters(entry)
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
    model, inputs = _model(entry)
    captured = capture(model, inputs)
    report({"stage": "infer", "parameters": count(model)})
    spec = infer_captured(captured)
    report({"stage": "shrink", "log10_order": spec.log10_order})
    if not hasattr(model, "zoo_side"):  # that has the smallest images of more than one pixel at the end
        captured = _smallest(model, inputs, captured, spec)
    report({"stage": "count"})
    start = time.perf_counter()
    true = true_order(captured)
    verdict = "whole" if spec.order == true else "LARGER" if spec.order > true else "smaller"
    if verdict == "smaller" and _generated(model, captured, spec):
        verdict, true = "whole", spec.order  # the graph of scalars also has automorphisms that move no weight
    # Orders have thousands of digits: the quotient says what is missing.
    missing = true // spec.order if true % spec.order == 0 and true // spec.order < 10**12 else None
    report({"status": verdict, "log10_true": _log10(true), "seconds_count": time.perf_counter() - start, "missing": missing})


def _generated(model: nn.Module, captured: Capture, spec: PermutationSpec) -> bool:
    """Whether every generator of the oracle's group is an element of the one that was found."""
    noise = torch.Generator().manual_seed(0)
    weights = {n: torch.randn(t.shape, generator=noise) if t.is_floating_point() else t for n, t in model.state_dict().items()}
    for first, *others in captured.states.values():  # tied ones are one
        weights |= dict.fromkeys(others, weights[first])
    for found in generators(captured):
        moved = dict(weights)
        for placeholder, sources in found.items():
            names = captured.states[placeholder]
            weight = weights[names[0]]
            moved |= dict.fromkeys(names, weight.reshape(-1)[sources].reshape(weight.shape))
        if is_permutation_of(moved, weights, spec) is None:
            return False
    return True


def _parameters(entry: Entry) -> int:
    """How many parameters the smallest version has; 0 where a constructor looks at values, which the meta device has not."""
    for build in (entry.narrow, entry.build):
        whole = build is entry.build and (entry.counted or entry.meta)
        with contextlib.suppress(Exception), torch.device("meta" if whole else "cpu"):
            if build is not None:
                torch.manual_seed(0)
                return count(build())
    return 0


def _model(entry: Entry) -> tuple[nn.Module, Any]:
    """The narrow version, if there is one that runs, or the model itself; and its inputs."""
    if entry.narrow is not None:
        with contextlib.suppress(Exception):  # half of a width need not fit an architecture
            found = _made(entry, entry.narrow)
            if runs(*found):
                return found
    return _made(entry, entry.build)


def _made(entry: Entry, build: Callable[[], nn.Module]) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = build().eval()
    torch.manual_seed(1)
    return model, entry.inputs(model)


def _smallest(model: nn.Module, inputs: Any, captured: Capture, spec: PermutationSpec) -> Capture:
    """The trace on the smallest inputs with which the order is the same: fewer tokens and pixels, the same symmetries."""
    start = time.perf_counter()
    for small in shrunken(inputs):
        if time.perf_counter() - start < SHRINKING and runs(model, small):
            try:
                found = capture(model, small)
                if infer_captured(found).order == spec.order:
                    return found
            except AutopermError:
                continue
    return captured


def _log10(order: int) -> float:
    sys.set_int_max_str_digits(0)
    digits = len(str(order)) - 1
    return digits + math.log10(order / 10**digits) if digits < 300 else digits + math.log10(order // 10 ** (digits - 15)) - 15

