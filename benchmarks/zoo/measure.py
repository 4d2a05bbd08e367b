"""One model, from building it to verifying its group; what is known is reported stage by stage."""

from __future__ import annotations

import resource
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import autoperm
from autoperm.capture import capture
from autoperm.errors import CaptureError
from autoperm.infer import infer_captured
from benchmarks.zoo import lean
from benchmarks.zoo.entry import LARGEST_RUN, Entry
from benchmarks.zoo.pinned import axes, reason
from benchmarks.zoo.soundness import check

Report = Callable[[dict[str, Any]], None]

#: Statuses, best first.
STATUSES = ("sound", "float32", "unverified", "untraced", "failed", "timeout", "memory", "crashed", "inputs", "build", "unsound")


def measure(entry: Entry, report: Report, largest: int = LARGEST_RUN) -> None:
    """Report the fields of one model's record, the stage first, so that a process that dies leaves what it knew.

    ``status`` is one of ``STATUSES``. *build* and *inputs* are failures of the benchmark's recipe, not of autoperm:
    the module could not be made, or does not run.
    """
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    try:
        report({"stage": "build"})
        model, inputs = _build(entry, report, largest)
    except Exception as error:
        report({"status": "build", "note": _short(error)})
        return
    try:
        _examine(model, inputs, report)
    except MemoryError:
        report({"status": "memory"})
    except Exception as error:
        memory = "allocate memory" in str(error)
        report({"status": "memory" if memory else "failed", "note": _short(error), "trace": _tail(error)})


def _build(entry: Entry, report: Report, largest: int) -> tuple[nn.Module, Any]:
    parameters = 0
    if entry.counted or entry.meta:
        try:
            with torch.device("meta"):
                model = entry.build().eval()
        except Exception:
            if entry.meta:
                raise  # a model whose constructor looks at values is counted once it is there
        else:
            parameters = count(model)
            report({"parameters": parameters})
    large = entry.meta or parameters > largest
    torch.manual_seed(0)
    model = lean.build(entry.build, model) if large else entry.build().eval()
    report({"parameters": count(model)})
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    torch.manual_seed(1)
    return model, entry.inputs(model)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _examine(model: nn.Module, inputs: Any, report: Report) -> None:
    report({"stage": "trace"})
    try:
        captured = capture(model, inputs, check=True)
    except CaptureError as error:
        refused = "does not accept the example inputs" in str(error)
        report({"status": "inputs" if refused else "untraced", "note": str(error)[:1500], "peak_gib": peak()})
        return
    report({"stage": "infer", "tracer": captured.tracer, "seconds_trace": captured.seconds, "nodes": len(captured.graph.nodes)})
    start = time.perf_counter()
    spec = infer_captured(captured)
    report({"stage": "verify", "seconds_infer": time.perf_counter() - start, "peak_gib": peak(), **_described(spec)})
    if any(t.is_meta for t in (*model.parameters(), *model.buffers())):
        report({"status": "unverified", "note": "too large to run: traced on the meta device"})
        return
    start = time.perf_counter()
    verdict = check(model, spec, inputs, samples=1 if count(model) > 10_000_000 else 3)
    report({"seconds_verify": time.perf_counter() - start, "peak_gib": peak(), **verdict})


def _described(spec: autoperm.PermutationSpec) -> dict[str, Any]:
    unsupported = [{"op": u.op, "module": u.module_path, "source": u.source, "shapes": [list(s) for s in u.shapes]}
                   for u in spec.unsupported]  # fmt: skip
    return {
        "groups": len(spec.groups),
        "log10_order": spec.log10_order,
        "coverage": spec.coverage,
        "pinned": dict(Counter(filter(None, map(reason, spec.pinned.values()))).most_common()),
        "pinned_axes": axes(spec.pinned),
        "unsupported": dict(Counter(str(u["op"]) for u in unsupported).most_common()),
        "examples": list({u["op"]: u for u in reversed(unsupported)}.values()),
    }


def peak() -> float:
    """The most memory that this process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:600]


def _tail(error: Exception) -> str:
    return "".join(traceback.format_exception(error)[-3:])[-1500:]
