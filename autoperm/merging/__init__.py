"""Merging several models into one: a registry of mergers, one file each."""

from __future__ import annotations

from autoperm.merging.registry import Merge, merge, merger, mergers
from autoperm.merging.repair import Repairer, repair
from autoperm.merging.zip import Zip as Zip
from autoperm.merging.zip import zip_models as zip_models

from autoperm.merging import average, many, universe  # noqa: F401  isort: skip  (registers the mergers)

__all__ = ["Merge", "Repairer", "merge", "merger", "mergers", "repair"]
