"""Why what is expected is not met, where people have looked: kind, model and reason (patterns), and the explanation.

These change no verdict: they are shown beside it.
"""

from __future__ import annotations

import re

EXPLAINED: tuple[tuple[str, str, str, str], ...] = (
    ("residual|norm|groups", ".*", "a constant of the model differs", "fixed (sinusoidal) positions are added to the stream"),
)  # fmt: skip


def explanation(kind: str, model: str, why: str) -> str:
    """What is known of an unmet expectation; empty if nothing."""
    for kinds, models, reasons, text in EXPLAINED:
        if re.fullmatch(kinds, kind) and re.fullmatch(models, model) and re.search(reasons, why):
            return text
    return ""
