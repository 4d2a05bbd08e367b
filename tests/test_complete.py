"""Completeness on tiny architectures: the order found is the true one, and by hand where that was worked out."""

from __future__ import annotations

import math

import pytest
from autoperm import infer
from autoperm.capture import capture

from tests.architectures import ARCHITECTURES, seeded
from tests.oracle import true_order
from tests.trained import soundness, trained_like


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_order_and_soundness(name: str) -> None:
    model, inputs = seeded(name)
    model = trained_like(model)
    spec = infer(model, inputs, on_unknown="error")
    true = true_order(capture(model, inputs))
    by_hand = ARCHITECTURES[name].order
    assert by_hand in (None, true), f"by hand {by_hand}, the oracle says {true}"
    assert spec.order == true, f"10^{math.log10(spec.order):.2f}, should be 10^{math.log10(true):.2f}"
    assert soundness(model, spec, inputs) < 1e-10
