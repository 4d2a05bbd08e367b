"""From a module and example inputs to one flat torch.fx graph of ATen ops, with names, places and sources."""

from __future__ import annotations

from autoperm.capture.api import capture
from autoperm.capture.inputs import Inputs, split_inputs
from autoperm.capture.result import Capture
from autoperm.capture.tracers import TRACERS

__all__ = ["TRACERS", "Capture", "Inputs", "capture", "split_inputs"]
