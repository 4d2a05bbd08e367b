"""Matching two models: a registry of matchers, one file each."""

from __future__ import annotations

from autoperm.matching.registry import Match, match, matcher, matchers

from autoperm.matching import weight  # noqa: F401  isort: skip  (registers the matcher)
from autoperm.matching import activation  # noqa: F401  isort: skip
from autoperm.matching import frank_wolfe  # noqa: F401  isort: skip
from autoperm.matching import search  # noqa: F401  isort: skip
from autoperm.matching import sinkhorn  # noqa: F401  isort: skip
from autoperm.matching import ste  # noqa: F401  isort: skip

__all__ = ["Match", "match", "matcher", "matchers"]
