"""Whether permuting left a model's function as it was, and how near it came to the other model."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

#: Relative error of the outputs in float64: rounding in deep models stays below, permutations that are none do not.
TOLERANCE = 1e-6
#: *right*; *right with new statistics*: once batch norms take their statistics from the batch; *nothing*: no weight was moved.
VERDICTS = ("right", "right with new statistics", "nothing", "wrong", "timeout", "memory", "crashed")


@torch.no_grad()
def judge(a: nn.Module, b: nn.Module, moved: nn.Module, x: Tensor) -> dict[str, Any]:
    """A verdict, errors, and the matching objective <a, b> before and after."""
    record: dict[str, Any] = {"before": inner(a, b), "objective": inner(a, moved)}
    if all(torch.equal(p, q) for p, q in zip(b.state_dict().values(), moved.state_dict().values(), strict=True)):
        return record | {"status": "nothing", "error": 0.0}
    record["error"] = error = difference(b, moved, x)
    status = "right" if error < TOLERANCE else "wrong"
    if status == "wrong" and any(isinstance(m, _BatchNorm) for m in b.modules()):
        record["error_statistics"] = difference(of_the_batch(b), of_the_batch(moved), x)
        status = "right with new statistics" if record["error_statistics"] < TOLERANCE else "wrong"
    return record | {"status": status}


def difference(b: nn.Module, moved: nn.Module, x: Tensor) -> float:
    """The largest difference of outputs, relative to the largest output, in float64; infinite if there is none to compare."""
    expected, found = (_double(m)(x.double()) for m in (b, moved))
    error = float((found - expected).abs().max() / expected.abs().max()) if found.shape == expected.shape else float("inf")
    return error if error == error else float("inf")


def _double(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).double()


def of_the_batch(model: nn.Module) -> nn.Module:
    """A copy whose batch norms take the statistics of the batch, as when they are reset on data."""
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.train()
    return model


def inner(a: nn.Module, b: nn.Module) -> float:
    """The sum over parameters of <a, b>."""
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return sum(float(torch.dot(p.double().flatten(), q.double().flatten())) for p, q in pairs)
