"""Is the group sound, and could the comparison that says so have failed.

An error near 1e-10 may be rounding in a deep model, so what rounding alone does is measured beside it. And an output
that hardly depends on the weights would agree whatever was done to them, so half of a permutation, which is none, is
tried too.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import autoperm
from autoperm.capture.inputs import split_inputs
from autoperm.capture.structure import map_leaves
from autoperm.errors import VerificationError
from autoperm.state import like
from autoperm.trained import randomize_
from autoperm.verify import _cast, _check_repeats, _check_telling, _difference, _outputs

TOLERANCE = 1e-10


def check(model: nn.Module, spec: autoperm.PermutationSpec, inputs: Any, samples: int) -> dict[str, Any]:
    """The worst relative error over random elements, and what it is to be held against.

    Returns:
        ``status`` (sound, unsound, float32, or unverified with a ``note``), ``error``, and ``control``: the error that half of a
        permutation makes. ``noise`` is there if the error is above 1e-10: the change that rounding of the weights makes.
    """
    if spec.order == 1:
        return {"status": "sound", "error": 0.0, "note": "the group is trivial"}
    try:
        copied = Copied(model, inputs)
        half: dict[str, Tensor] = {}
        error, worst = 0.0, ""
        for seed in range(samples):
            moved = spec.random(seed).apply(copied.state)
            half = half or _half(spec, copied.state, moved)
            error, worst = max((error, worst), copied.changed(moved))
            del moved
        control = copied.changed(half)[0]
    except VerificationError as refusal:
        return {"status": "unverified", "note": str(refusal)[:300], **_in_own_dtype(model, spec, inputs)}
    record: dict[str, Any] = {"status": "sound", "error": error, "control": control, "samples": samples}
    if not error < TOLERANCE:
        record |= _judge(error, worst, copied)
    if record["status"] == "sound" and control <= 1e3 * max(error, 1e-16):
        record |= {"status": "unverified", "note": f"half a permutation changes the outputs by {control:.0e} only"}
    return record


def _in_own_dtype(model: nn.Module, spec: autoperm.PermutationSpec, inputs: Any) -> dict[str, Any]:
    """The error where a model does not run in float64: rounding hides small errors there, so this is a status of its own."""
    try:
        copied = Copied(model, inputs, torch.float32)
        moved = spec.random(0).apply(copied.state)
        error, worst = copied.changed(moved)
        control = copied.changed(_half(spec, copied.state, moved))[0]
    except VerificationError:
        return {}
    found: dict[str, Any] = {"error_float32": error, "control": control}
    if not error < 1e-3:
        return found | {"status": "unsound", "note": f"in float32 the worst output is {worst}"}
    noise = max(copied.changed(_rounded(copied.state, seed))[0] for seed in range(3))
    told = error <= 10 * noise and control > 1e3 * error
    return found | {"noise": noise} | ({"status": "float32"} if told else {})


def _judge(error: float, worst: str, copied: Copied) -> dict[str, Any]:
    """Whether rounding explains an error."""
    noise = max(copied.changed(_rounded(copied.state, seed))[0] for seed in range(3))
    if error <= 1e3 * noise and error < 1e-4:
        return {"noise": noise, "note": f"rounding grows on the way to {worst}"}
    return {"status": "unsound", "noise": noise, "note": f"the worst output is {worst}"}


class Copied:
    """A trained-like copy of a model, and how much its outputs change with its weights.

    Raises:
        VerificationError: the copy does not run, or agreement would say nothing.
    """

    def __init__(self, model: nn.Module, inputs: Any, dtype: torch.dtype = torch.float64):
        self.model = copy.deepcopy(model).eval().to(dtype)
        randomize_(self.model, 0)
        self.args, self.kwargs = map_leaves(lambda leaf: _cast(leaf, dtype), split_inputs(inputs))
        state = self.model.state_dict()
        self.state = like(state, {name: tensor.clone() for name, tensor in state.items()})
        self.reference = _outputs(self.model, self.args, self.kwargs)
        _check_telling(self.reference)
        _check_repeats(self.reference, _outputs(self.model, self.args, self.kwargs), TOLERANCE)

    def changed(self, state: Mapping[str, Tensor]) -> tuple[float, str]:
        """The largest relative change of an output and which one; infinite if an output is gone or has another shape."""
        self.model.load_state_dict(like(self.state, dict(state)))  # with its metadata, which some models read
        found = _outputs(self.model, self.args, self.kwargs)
        worst = (0.0, "")
        for name, value in self.reference.items():
            same = name in found and found[name].shape == value.shape
            error = _difference(name, found[name], value).relative if same else float("inf")
            worst = max(worst, (error, name))
        return worst


def _half(spec: autoperm.PermutationSpec, state: Mapping[str, Tensor], moved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every second of the tensors that moved is moved."""
    firsts = {name: entry.first for name, entry in spec.tensors.items()}
    names = [name for name in dict.fromkeys(firsts.values()) if not torch.equal(moved[name], state[name])]
    chosen = set(names[::2]) if len(names) > 1 else set(names)
    return {name: moved[name] if firsts.get(name) in chosen else tensor for name, tensor in state.items()}


def _rounded(state: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """The weights with a relative error of the size that their dtype makes."""
    generator = torch.Generator().manual_seed(seed)

    def off(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return tensor * (1 + torch.finfo(tensor.dtype).eps * torch.randint(-1, 2, tensor.shape, generator=generator))

    return {name: off(tensor) for name, tensor in state.items()}
