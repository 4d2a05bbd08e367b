"""Tiny architectures: the order found is the true one, counted by the automorphism oracle, and the function stays."""

from __future__ import annotations

import warnings

import pytest

import autoperm
from autoperm.capture import capture
from tests.architectures import CASES
from tests.oracle import true_order
from tests.trained import soundness, trained_like


@pytest.mark.parametrize("name", CASES)
def test_the_whole_group_is_found(name: str) -> None:
    case = CASES[name]
    model, inputs = trained_like(case.build(), seed=1), case.inputs()
    with warnings.catch_warnings():
        warnings.simplefilter("error", autoperm.UnsupportedOpWarning)
        spec = autoperm.infer(model, inputs)
    if case.order is not None:
        assert spec.order == case.order, "the order worked out by hand"
    assert spec.order == true_order(capture(model, inputs)), "the order counted by the oracle"
    assert soundness(model, spec, inputs) < 1e-10


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 36
    assert sum(case.order is not None for case in CASES.values()) >= 12
