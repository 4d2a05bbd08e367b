"""All expectations of a model."""

from __future__ import annotations

from torch import nn

from benchmarks.zoo.expected import experts, grouped, heads, hidden, norms, streams
from benchmarks.zoo.expected.attention import attentions
from benchmarks.zoo.expected.expectation import Expectation


def expectations(model: nn.Module) -> list[Expectation]:
    """What the module tree and the shapes of the parameters say that the spec has."""
    attending = list(attentions(model))
    mlps = hidden.mlps(model)
    return [
        *streams.expectations(list(streams.streams(model, attending, mlps))),
        *hidden.expectations(mlps, [a.path for a in attending]),
        *heads.expectations(attending),
        *experts.expectations(model),
        *norms.expectations(model),
        *grouped.expectations(model),
    ]
