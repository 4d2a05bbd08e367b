"""Tiny architectures for the completeness oracle; importing this package registers them."""

from __future__ import annotations

from tests.architectures import (  # noqa: F401
    attention,
    attention_groups,
    attention_more,
    convolution,
    convolution_more,
    experts,
    ordering,
    positions,
    recurrence,
    recurrent,
    residual,
    reuse,
    sharing,
    slicing,
    structure,
)  # fmt: skip
from tests.architectures.registry import CASES, Case

__all__ = ["CASES", "Case"]
