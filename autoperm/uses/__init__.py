"""What else a permutation group is good for, besides matching: one small function a file."""

from __future__ import annotations

from autoperm.uses.canonical import canonicalize
from autoperm.uses.isomorphism import is_permutation_of

__all__ = ["canonicalize", "is_permutation_of"]
