"""Whether it is no matter which of several equal scores ``topk`` chooses: they are zero, and are written back where they were.

Sparse autoencoders keep the largest of units behind a ReLU and put zeros in place of the others (Makhzani and Frey 2013; Gao et
al. 2024). Where too few are above zero, some that are zero are chosen by position, and zeros are written over zeros.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection
from typing import Any

from torch import fx

from autoperm.rules.op import Labels, Op
from autoperm.rules.ties import Values, covering, is_op

_RESHAPES = ("view", "reshape", "_unsafe_view", "clone", "alias", "detach")


def only_written_back(op: Op, dim: int) -> bool:
    """Whether scores are different where they are not zero, and all that ``topk`` is used for is to put them back there."""
    if not op.name.startswith("aten.topk.") or not _equal_if_zero(op.labels, op["self"], {dim}):
        return False
    return all(_puts_back(op, use, dim) for result in op.node.users if result.args[1] == 1 for use in result.users)


def _equal_if_zero(labels: Labels, scores: Any, dims: Collection[int]) -> bool:
    """Whether entries along some dimensions are different but for those that a ReLU makes zero."""
    if not isinstance(scores, fx.Node) or not is_op(scores):
        return False
    op = Op(labels, scores)
    name = op.name.split(".")[1]
    if name in _RESHAPES:
        return _equal_if_zero(labels, op["self"], covering(op["self"].meta["val"].shape, op.shape(), dims))
    cut = name == "relu" or (name in ("clamp_min", "clamp") and op["min"] == 0 and op.get("max") is None)
    return cut and Values(labels).origins(op["self"], dims) is not None


def _puts_back(topk: Op, use: fx.Node, dim: int) -> bool:
    """Whether a use of the positions writes the values into zeros there, or marks there which of the scores to keep."""
    if not is_op(use) or str(use.target) not in ("aten.scatter.src", "aten.scatter.value", "aten.scatter_add.default"):
        return False
    op = Op(topk.labels, use)
    base, positions, shape = op.value("self"), op["index"], topk["self"].meta["val"].shape
    if base is None or bool(base.any()) or base.shape != shape or op["dim"] % len(shape) != dim:
        return False
    if not _is_result(positions, topk.node, 1):
        return False
    if "src" in op.args:
        return _is_result(op["src"], topk.node, 0)
    return math.isfinite(op["value"]) and all(str(u.target) == "aten.mul.Tensor" and topk["self"] in u.args for u in use.users)


def _is_result(node: Any, topk: fx.Node, which: int) -> bool:
    return isinstance(node, fx.Node) and node.target is operator.getitem and node.args == (topk, which)
