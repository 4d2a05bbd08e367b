"""Every registered rule is reached by some test."""

from __future__ import annotations

import warnings

import pytest
import reach
from torch import nn

from autoperm.capture import capture
from autoperm.rules.registry import _RULES


@pytest.fixture(scope="module")
def found() -> reach.Reach:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return reach.reached_by_cases()


def test_every_rule_is_reached(found: reach.Reach) -> None:
    """A new rule needs a case: in rule_cases, module_cases, direct_cases or choice_cases."""
    assert [name for name in found.missing() if not name.startswith("transformers.")] == []


def test_what_is_reached_is_measured(found: reach.Reach, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that nothing reaches is missing, and no graph reaches more than its ops."""
    monkeypatch.setitem(_RULES, "aten.new_rule", lambda op: None)
    assert "aten.new_rule" in found.missing()
    import torch

    captured = capture(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.randn(2, 3))
    assert reach.of_inference(captured) == {"aten.t", "aten.addmm", "aten.relu"}
