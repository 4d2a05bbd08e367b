"""Values that are handed to Python: what a model's control flow was decided by has to stay what it is."""

from __future__ import annotations

from autoperm.rules.op import Op
from autoperm.rules.registry import rule


@rule("aten._local_scalar_dense", "aten.equal", "aten.is_nonzero", "aten.allclose")
def read(op: Op) -> None:
    """As if it were an output of the model: permuted weights then take the same branches, for any input."""
    for view in op.tensors():
        op.pin(view, "the model's control flow reads values from it")
