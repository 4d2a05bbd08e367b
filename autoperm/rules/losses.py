"""Losses: pointwise in prediction and target, then perhaps summed over everything."""

from __future__ import annotations

from autoperm.inference.equation import PIN, expand_term
from autoperm.inference.views import View
from autoperm.rules.op import Op, letters
from autoperm.rules.registry import rule


@rule(
    "aten.mse_loss", "aten.l1_loss", "aten.smooth_l1_loss", "aten.huber_loss", "aten.binary_cross_entropy",
    "aten.soft_margin_loss", "aten.kl_div", "aten.poisson_nll_loss", "aten.binary_cross_entropy_with_logits",
)  # fmt: skip
def elementwise(op: Op) -> View:
    """Terms of one prediction, one target and one weight each."""
    operands = [op.optional(name) for name in ("self", "input", "target", "weight", "pos_weight")]
    terms = [(v, expand_term("...", v.ndim)) for v in operands if v is not None]
    shape = op.shape()
    return op.state(terms, [expand_term("...", len(shape)) if shape else ()], [shape])[0]


@rule("aten.nll_loss_forward", "aten.nll_loss2d_forward", "aten.nll_loss", "aten.nll_loss2d")
def nll_loss(op: Op) -> object:
    """The target says which class, so classes cannot move; samples are summed, or pass."""
    x, target, weight = op.view("self"), op.view("target"), op.optional("weight")
    several = isinstance(op.node.meta["val"], (tuple, list))
    if several:
        op.only(0)
    samples = letters(target.ndim)
    at = 1 if x.ndim > 1 else 0
    terms = [(x, (*samples[:at], PIN, *samples[at:])), (target, tuple(samples))]
    terms += [] if weight is None else [(weight, (PIN,))]
    shape = op.shape()
    found = op.state(terms, [tuple(samples) if shape else ()], [shape], reason="classes are told apart by the target")[0]
    return [found, None] if several else found
