"""One model: build, trace, infer, and judge what is expected of the spec."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from autoperm.capture import capture
from autoperm.errors import CaptureError
from autoperm.infer import infer_captured
from benchmarks.zoo.entry import Entry
from benchmarks.zoo.expected.acting import Acting
from benchmarks.zoo.expected.expectation import KINDS, Verdict, judge
from benchmarks.zoo.expected.gather import expectations
from benchmarks.zoo.measure import Report, _build
from benchmarks.zoo.pinned import reason

#: Statuses, best first: *nothing* where the module tree says nothing that is known here.
STATUSES = ("as expected", "unmet", "nothing", "untraced", "build", "timeout", "memory", "crashed", "failed")
#: So many unmet expectations are listed with their modules; the others are counted.
LISTED = 30


def examine(entry: Entry, report: Report, largest: int) -> None:
    """Report how many expectations of each kind are met, and which are not; the largest models are on the meta device."""
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    report({"stage": "build"})
    try:
        model, inputs = _build(entry, report, largest)
    except Exception as error:
        report({"status": "build", "note": f"{type(error).__name__}: {error}"[:300]})
        return
    try:
        report({"stage": "infer"})
        start = time.perf_counter()
        acting = Acting(infer_captured(capture(model, inputs)))
        report({"stage": "judge", "seconds_infer": time.perf_counter() - start})
        report(told([judge(e, acting) for e in expectations(model)]))
    except CaptureError as error:
        report({"status": "untraced", "note": str(error)[:300]})
    except MemoryError:
        report({"status": "memory"})
    except Exception as error:
        report({"status": "failed", "note": f"{type(error).__name__}: {error}"[:300]})


def told(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The fields of a record: by kind [met, expected]; what is tied to an input or output, or unused, is not expected."""
    by_status = {s: Counter(v.kind for v in verdicts if v.status == s) for s in ("met", "tied", "unused", "unmet")}
    met, unmet = by_status["met"], by_status["unmet"]
    wrong = [v for v in verdicts if v.status == "unmet"]
    return {
        "status": "unmet" if wrong else "as expected" if met else "nothing",
        "kinds": {kind: [met[kind], met[kind] + unmet[kind]] for kind in KINDS if met[kind] + unmet[kind]},
        "tied": dict(by_status["tied"]),
        "unused": dict(by_status["unused"]),
        "unmet": [{"kind": v.kind, "where": v.where, "why": v.why} for v in wrong[:LISTED]],
        "reasons": dict(Counter(f"{v.kind}: {short(v.why)}" for v in wrong).most_common()),
    }


def short(why: str) -> str:
    """A reason without the names of layers."""
    told = reason(why.rpartition("pinned: ")[2]) if "pinned: " in why else None
    return told or " ".join(w for w in why.split() if "." not in w)[:120]


def line(record: dict[str, Any]) -> str:
    """Counts by kind, then reasons of what is unmet."""
    counts = " ".join(f"{kind} {met}/{of}" for kind, (met, of) in record.get("kinds", {}).items())
    reasons = "; ".join(f"{n} {why}" for why, n in record.get("reasons", {}).items())
    return "  ".join(part for part in (counts, reasons[:300], record.get("note", "")) if part)
