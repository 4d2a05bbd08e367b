"""The op rules, one file per family. Importing this package registers them all."""

from __future__ import annotations

from autoperm.rules.op import Op
from autoperm.rules.registry import NoRule, find_rule, registered, rule

from autoperm.rules import (  # noqa: F401  isort: skip
    attention,
    contraction,
    control,
    convolution,
    generic,
    indexing,
    joining,
    linalg,
    losses,
    movement,
    normalization,
    ordering,
    placing,
    pointwise,
    products,
    random,
    recurrent,
    reduction,
    routing,
    spatial,
    strided,
    writing,
)

__all__ = ["NoRule", "Op", "find_rule", "registered", "rule"]
