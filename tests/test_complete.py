"""Tiny architectures: the order found is the true one, counted by the automorphism oracle, and the function stays."""

from __future__ import annotations

import warnings

import pytest

import autoperm
from autoperm.capture import capture
from tests.architectures import CASES
from tests.oracle import true_order
from tests.trained import soundness, trained_like

#: Where the group found is known to be smaller than the true one; docs/limits.md says why.
LIMITS = {"diagonal_of_parameter", "roll_added", "routed_among_equals", "shuffle_v1"}


@pytest.mark.parametrize("name", CASES)
def test_the_whole_group_is_found(name: str) -> None:
    case = CASES[name]
    model, inputs = trained_like(case.build(), seed=1), case.inputs()
    with warnings.catch_warnings():
        warnings.simplefilter("error", autoperm.UnsupportedOpWarning)
        spec = autoperm.infer(model, inputs)
    assert soundness(model, spec, inputs) < 1e-10
    true = true_order(capture(model, inputs), across=True)
    if case.order is not None:
        assert true == case.order, "the order worked out by hand is the oracle's"
    if name in LIMITS:
        assert spec.order < true and true % spec.order == 0, "a limit that is gone belongs off the list"
    else:
        assert spec.order == true


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 100
    assert sum(case.order is not None for case in CASES.values()) >= 90
