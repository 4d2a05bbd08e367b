"""autoperm: every permutation of a model's weights that leaves its function unchanged, found and proved."""

from __future__ import annotations

from autoperm._version import __version__
from autoperm.capture import Inputs
from autoperm.errors import AutopermError
from autoperm.infer import UnsupportedOpWarning, infer
from autoperm.layout import Group
from autoperm.permutation import Permutation
from autoperm.spec import PermutationSpec

__all__ = [
    "AutopermError",
    "Group",
    "Inputs",
    "Permutation",
    "PermutationSpec",
    "UnsupportedOpWarning",
    "__version__",
    "infer",
]
