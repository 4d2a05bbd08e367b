"""What else a permutation group is good for, besides matching: one small function a file."""

from __future__ import annotations

from autoperm.uses.augment import random_batch
from autoperm.uses.canonical import canonicalize
from autoperm.uses.distance import distance
from autoperm.uses.isomorphism import is_permutation_of
from autoperm.uses.transfer import transfer

__all__ = ["canonicalize", "distance", "is_permutation_of", "random_batch", "transfer"]
