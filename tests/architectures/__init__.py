"""Tiny architectures, small enough for the completeness oracle; each is named for what it covers."""

from tests.architectures import attention, convolution, experts, ordering, positions, recurrence, residual, sharing, slicing
from tests.architectures.registry import ARCHITECTURES, Architecture, seeded

__all__ = ["ARCHITECTURES", "Architecture", "seeded"]
_ = (attention, convolution, experts, ordering, positions, recurrence, residual, sharing, slicing)
