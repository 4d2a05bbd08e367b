"""autoperm: every permutation of a model's weights that leaves its function unchanged, found and proved."""

from __future__ import annotations

from autoperm._version import __version__
from autoperm.align import align
from autoperm.capture import Inputs
from autoperm.errors import AutopermError
from autoperm.infer import UnsupportedOpWarning, ValueDependentWarning, infer
from autoperm.interpolate import Interpolation, interpolate
from autoperm.layout import Group
from autoperm.matching import Match, match
from autoperm.merging import Merge, merge
from autoperm.permutation import Permutation
from autoperm.spec import PermutationSpec
from autoperm.uses import canonicalize, distance, is_permutation_of, random_batch, transfer
from autoperm.verify import Verification, verify

__all__ = [
    "AutopermError",
    "Group",
    "Inputs",
    "Interpolation",
    "Match",
    "Merge",
    "Permutation",
    "PermutationSpec",
    "UnsupportedOpWarning",
    "ValueDependentWarning",
    "Verification",
    "__version__",
    "align",
    "canonicalize",
    "distance",
    "infer",
    "interpolate",
    "is_permutation_of",
    "match",
    "merge",
    "random_batch",
    "transfer",
    "verify",
]
