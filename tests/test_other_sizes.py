"""Every op case again with one of its sizes replaced: a dimension of one position is where rules forget to say something."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator

import pytest
from direct_cases import DIRECT
from rule_cases import CASES
from sandwich import Case, unsoundness
from test_rules import model_of

from autoperm.capture import capture
from autoperm.errors import AutopermError
from autoperm.infer import infer_captured

#: In float64 throughout, and of ops that check the sizes of their operands.
OPS = [
    case
    for case in (*CASES, *(direct.case for direct in DIRECT))
    if not (case.unsupported or case.module or case.single or "batch_norm" in case.name or case.name == "_reshape_alias")
]
PARTS = 8


def others(case: Case, to: int) -> Iterator[Case]:
    """The case with all dimensions of one size replaced, for each size."""
    shapes = [o for o in case.operands if isinstance(o, tuple)]
    for size in sorted({n for shape in shapes for n in shape if abs(n) > 1 and abs(n) != to}):
        new = tuple(
            tuple((to if n > 0 else -to) if n == size else n for n in o) if isinstance(o, tuple) else o for o in case.operands
        )
        yield dataclasses.replace(case, operands=new)


def error_of(case: Case) -> float | None:
    """The worst relative change of random elements; None where the op does not take such operands."""
    try:
        model, inputs = model_of(case)
        captured = capture(model, inputs)
    except (AutopermError, RuntimeError, IndexError, ValueError, TypeError, AssertionError):
        return None
    spec = infer_captured(captured)
    model.double()
    try:
        return unsoundness(model, spec, inputs, range(2))[0]
    except (AssertionError, RuntimeError):  # not finite, as a variance of one entry, or the op says that it does not fit
        return None


def check(cases: list[Case], to: int) -> int:
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in cases:
            for other in others(case, to):
                error = error_of(other)
                if error is not None:
                    found[other.name, other.operands] = error
    wrong = {key: error for key, error in found.items() if not error < 1e-10}
    assert wrong == {}
    return len(found)


@pytest.mark.parametrize("part", range(PARTS))
def test_sizes_of_one(part: int) -> None:
    assert check(OPS[part::PARTS], 1) > 30


@pytest.mark.slow
@pytest.mark.parametrize("to", [2, 3, 4])
@pytest.mark.parametrize("part", range(PARTS))
def test_sizes_that_coincide(part: int, to: int) -> None:
    assert check(OPS[part::PARTS], to) > 30
