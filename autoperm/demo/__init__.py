"""The demo: train pairs of networks from different seeds, align them, and measure the barrier before and after."""

from __future__ import annotations

from autoperm.demo.experiment import Outcome, run

__all__ = ["Outcome", "run"]
