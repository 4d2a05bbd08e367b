"""Experts chosen by products of rows that may be zero: the scores are equal then, and the order decides."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autoperm

EXPERTS, WIDTH = 4, 6
Rows = Callable[["Routed", Tensor], Tensor]


class Routed(nn.Module):
    """Rows of a table, chosen by scores of what is made of the input, of shape (batch, tokens, 6)."""

    def __init__(self, rows: Rows) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.shift, self.gate = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, EXPERTS, bias=False)
        self.norm, self.words = nn.LayerNorm(WIDTH), nn.Embedding(5, WIDTH)
        self.level, self.table = nn.Parameter(torch.rand(WIDTH)), nn.Parameter(torch.randn(EXPERTS, 2))
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        return self.table[self.gate(self.rows(self, x)).argmax(-1)]


def mlp(m: Routed, x: Tensor) -> Tensor:
    return m.down(m.up(x).relu())  # type: ignore[no-any-return]


def causal(m: Routed, x: Tensor) -> Tensor:
    """Attention without a bias: of a first row of zeros it makes zeros."""
    scores = (m.up(x) @ m.down(x).mT).masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
    return scores.softmax(-1) @ m.up(x)  # type: ignore[no-any-return]


def attention(m: Routed, x: Tensor) -> Tensor:
    scores = (m.up(x) @ m.down(x).mT).masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
    return scores.softmax(-1) @ m.shift(x)  # type: ignore[no-any-return]


#: What may be zero as a whole row, whatever the weights.
ZERO: dict[str, Rows] = {
    "behind a ReLU, by einsum": lambda m, x: torch.einsum("bti,oi->bto", m.up(x).relu(), m.down.weight),
    "above a level": lambda m, x: m.down((h := m.up(x)) * (h > m.level)),
    "maximum": lambda m, x: m.down(torch.maximum(m.up(x), torch.zeros(()))),
    "hard sigmoid": lambda m, x: m.down(F.hardsigmoid(3 * m.up(x))),
    "shrunken": lambda m, x: m.down(F.softshrink(m.up(x))),
    "rounded": lambda m, x: m.down(m.up(x).round()),
    "pooled": lambda m, x: m.down(F.avg_pool1d(m.up(x).relu(), 1)),
    "beside one another": lambda m, x: m.down(torch.cat([m.up(x)[..., :3].relu(), m.up(x)[..., 3:].relu()], -1)),
    "selected": lambda m, x: m.down(m.up(x).relu()[..., [1, 0, 2, 3, 5, 4]]),
    "without what is no number": lambda m, x: m.down(m.up(x).relu().nan_to_num()),
    "interpolated": lambda m, x: m.down(torch.lerp(torch.zeros_like(x), m.up(x), m.up(x).relu())),
    "windows, padded": lambda m, x: F.pad(x, (0, 0, 0, 3)).view(-1, 4, WIDTH),
    "shifted by a token": lambda m, x: F.pad(x, (0, 0, 1, -1)),
    "behind a row of zeros": lambda m, x: torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1),
    "sums of those before": lambda m, x: x.cumsum(1) - x,
    "relative to the first": lambda m, x: x - x[:, :1],
    "differences": lambda m, x: torch.diff(x, dim=1, prepend=x[:, :1]),
    "mixed strictly causally": lambda m, x: (x @ x.mT).tril(-1) @ x,
    "attention by ReLU": lambda m, x: (x @ x.mT - 6).relu() @ x,
    "messages of some": lambda m, x: torch.zeros(2, 5, WIDTH, dtype=x.dtype).index_add(1, torch.tensor([0, 1, 1]), m.up(x)[:, :3]),
    "written over by a ReLU": lambda m, x: x.masked_scatter(x[..., :1] > 0, m.up(x).relu()),
    "a padding token first": lambda m, x: (h := F.embedding(torch.tensor([[0, 1, 2, 0, 4]]), m.words.weight, 0)) + causal(m, h),
    "sums of centred rows": lambda m, x: x * F.layer_norm(x, (WIDTH,)).sum(-1, keepdim=True),
    "a ReLU, out of what is beside the input": lambda m, x: torch.cat([x, m.up(x).relu()], -1).chunk(2, -1)[1],
    "a ReLU, selected": lambda m, x: torch.cat([m.shift(x), m.up(x).relu()], -1)[..., WIDTH:],
    "padded units, in two heads": lambda m, x: F.pad(m.up(x), (0, WIDTH)).view(2, 5, 2, WIDTH),
    "units as rows": lambda m, x: torch.cat([x[:, :3], m.up(x)[:, :3].relu()], -1).mT @ m.table.new_ones(3, WIDTH),
    "a constant's zeros": lambda m, x: (m.shift(x).repeat(1, 1, 2) * torch.arange(2).repeat_interleave(WIDTH))[..., :WIDTH],
    "scaled by a ReLU": lambda m, x: x * (m.up(x).relu() @ m.level)[..., None],
    "one layer, twice": lambda m, x: m.up(x) - m.up(x.cumsum(1) / torch.arange(1.0, 6.0)[:, None]),
}

#: What is not.
NOT_ZERO: dict[str, Rows] = {
    "a residual stream": lambda m, x: x + mlp(m, x),
    "a longer one": lambda m, x: (h := x + attention(m, m.norm(x))) + mlp(m, m.norm(h)),
    "normed": lambda m, x: m.norm(mlp(m, x)),
    "attention": attention,
    "scaled and shifted": lambda m, x: m.norm(x) * (1 + m.up(x)) + m.shift(x),
    "with a bias": lambda m, x: m.shift(m.up(x).relu()),
    "gated": lambda m, x: m.down(F.silu(m.up(x)) * m.shift(x)),
    "words and places": lambda m, x: m.words(torch.tensor([[1, 2, 2, 0, 4]])) + m.level + 0 * x,
    "another layer": lambda m, x: m.up(x) - m.down(x.cumsum(1)),
    "a mean over streams": lambda m, x: (m.norm(x)[..., None, :] * torch.stack([m.up(x), m.shift(x)], -2).sigmoid()).mean(-2),
    "clipped": lambda m, x: m.down(m.up(x).clamp(-0.5, 0.5)),
    "written over": lambda m, x: x.masked_scatter(x[..., :1] > 0, m.up(x)),
    "beside the input": lambda m, x: m.down(torch.cat([x[..., :3], m.up(x)[..., 3:].relu()], -1)),
}


def found(rows: Rows) -> tuple[list[int], float]:
    """Sizes of groups, and the worst error."""
    model, x = Routed(rows).double().eval(), torch.randn(2, 5, WIDTH, dtype=torch.float64)
    spec = autoperm.infer(model, x)
    with torch.no_grad():
        wanted = model(x)
        worst = max(float((spec.random(seed).apply(model)(x) - wanted).abs().max()) for seed in range(10))
    return [group.size for group in spec.groups], worst


@pytest.mark.parametrize("name", ZERO)
def test_experts_stay_where_all_scores_may_be_zero(name: str) -> None:
    sizes, worst = found(ZERO[name])
    assert EXPERTS not in sizes and worst == 0


@pytest.mark.parametrize("name", NOT_ZERO)
def test_experts_move_where_rows_are_not_zero(name: str) -> None:
    sizes, worst = found(NOT_ZERO[name])
    assert EXPERTS in sizes and worst == 0


SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "a slope of zero": lambda s: F.leaky_relu(s, 0.0),
    "logarithms of negative numbers": lambda s: s.log(),
    "roots of negative numbers": lambda s: s.sqrt(),
    "powers of negative numbers": lambda s: s**0.3,
    "an ELU of no height": lambda s: F.elu(s, 0.0),
}


@pytest.mark.parametrize("name", SCORES)
def test_scores_that_become_equal_are_seen(name: str) -> None:
    model = Routed(lambda m, x: x)
    model.gate = nn.Sequential(model.gate, Scores(SCORES[name]))  # type: ignore[assignment]
    assert not autoperm.infer(model.double().eval(), torch.randn(2, 5, WIDTH, dtype=torch.float64)).groups


class Scores(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, scores: Tensor) -> Tensor:
        return self.function(scores)


def test_roots_of_positive_scores_are_different() -> None:
    model = Routed(lambda m, x: x)
    model.gate = nn.Sequential(model.gate, Scores(lambda s: F.softplus(s).sqrt()))  # type: ignore[assignment]
    spec = autoperm.infer(model.double().eval(), torch.randn(2, 5, WIDTH, dtype=torch.float64))
    assert [group.size for group in spec.groups] == [EXPERTS]


def test_sums_of_what_is_made_of_nothing_are_no_bug() -> None:
    """A tensor that the forward makes itself has no operands."""
    sizes, worst = found(lambda m, x: (x * torch.ones(WIDTH, dtype=x.dtype)).mean(-1, keepdim=True) + m.up(x))
    assert EXPERTS in sizes and worst == 0
