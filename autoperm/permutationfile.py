"""Permutations as safetensors files."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

import numpy as np

from autoperm.errors import SpecError
from autoperm.files import write_atomically

if TYPE_CHECKING:
    from autoperm.permutation import Permutation
    from autoperm.spec import PermutationSpec

FORMAT = "autoperm-permutation-1"


def save(permutation: Permutation, path: str | PathLike[str], *, overwrite: bool = True) -> None:
    from safetensors.numpy import save as to_bytes

    groups = permutation.spec.groups
    arrays = {g.name: np.ascontiguousarray(a) for g, a in zip(groups, permutation.arrays, strict=True)}
    meta = {"format": FORMAT, "spec": permutation.spec.fingerprint}
    write_atomically(path, to_bytes(arrays, metadata=meta), overwrite=overwrite)


def load(path: str | PathLike[str], spec: PermutationSpec) -> Permutation:
    from safetensors import SafetensorError, safe_open

    from autoperm.permutation import Permutation

    try:
        with safe_open(path, "np") as file:
            meta = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (OSError, SafetensorError) as error:
        raise SpecError(f"cannot read the permutation {path}: {error}") from error
    if meta.get("format") != FORMAT:
        raise SpecError(f"{path} is not a permutation: it has no format {FORMAT!r}. Save one with permutation.save(path).")
    if meta.get("spec") != spec.fingerprint:
        raise SpecError(f"{path} is a permutation of another spec ({meta.get('spec')}, this one is {spec.fingerprint})")
    if names := {g.name for g in spec.groups} ^ set(arrays):
        raise SpecError(f"{path} is corrupt: {sorted(names)[0]} is not in it and in the spec. Save the permutation again.")
    return Permutation(spec, [arrays[g.name] for g in spec.groups])
