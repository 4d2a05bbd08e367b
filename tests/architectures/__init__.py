"""Tiny architectures for the completeness oracle; importing this package registers them."""

from __future__ import annotations

from tests.architectures import attention, convolution, recurrent, structure  # noqa: F401
from tests.architectures.registry import CASES, Case

__all__ = ["CASES", "Case"]
