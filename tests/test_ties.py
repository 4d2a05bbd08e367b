"""Choosing among scores: rows move with what they are chosen for, unless some scores may be equal, when the order decides."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autoperm
from autoperm.rules import generic, ties
from autoperm.rules.ties import covering

Scores = Callable[["Router", Tensor], Tensor]
N = 6


class Router(nn.Module):
    """The sum of the rows of a table that score best."""

    def __init__(self, scores: Scores, choose: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.gate, self.second, self.bias = nn.Linear(3, N), nn.Linear(3, N), nn.Parameter(torch.randn(N))
        self.codes, self.table = nn.Parameter(torch.randn(N, 3)), nn.Parameter(torch.randn(N, 2))
        self.scores, self.choose = scores, choose

    def forward(self, x: Tensor) -> Tensor:
        return self.table[self.choose(self.scores(self, x))].sum(1)


def top(scores: Tensor, k: int = 3) -> Tensor:
    return scores.topk(k, -1).indices


def best(scores: Tensor) -> Tensor:
    return scores.argmax(-1, keepdim=True)


def by_max(scores: Tensor) -> Tensor:
    return scores.max(-1, keepdim=True).indices


def grouped(fill: float, activation: Callable[[Tensor], Tensor], groups: int = 3, kept: int = 2) -> Scores:
    """Scores of the best groups alone, as DeepSeek-V3 chooses them."""

    def scores(m: Router, x: Tensor) -> Tensor:
        all_scores = activation(m.gate(x))
        of_group = all_scores.view(-1, groups, N // groups).topk(2, -1).values.sum(-1)
        mask = torch.zeros_like(of_group).scatter_(1, of_group.topk(kept, -1, sorted=False).indices, 1)
        mask = mask.unsqueeze(-1).expand(-1, groups, N // groups).reshape(-1, N)
        return all_scores.masked_fill(~mask.bool(), fill)

    return scores


def second_best(m: Router, x: Tensor) -> Tensor:
    z = m.gate(x)
    return z.scatter(-1, z.argmax(-1, keepdim=True), float("-inf"))


def nearest(m: Router, x: Tensor) -> Tensor:
    """Distances to codes, written out, of what has length one."""
    x, codes = F.normalize(x @ m.codes.T @ m.codes), F.normalize(m.codes)
    return -(x.pow(2).sum(1, keepdim=True) - 2 * x @ codes.T + codes.pow(2).sum(1)[None])


FREE = math.factorial(N)
GROUPS = math.factorial(3) * 2**3

#: Scores that differ for weights in general position, and the order of the group.
DIFFERENT: dict[str, tuple[Scores, int]] = {
    "products": (lambda m, x: m.gate(x), FREE),
    "softmax": (lambda m, x: m.gate(x).softmax(-1), FREE),
    "with a bias": (lambda m, x: m.gate(x).sigmoid() + m.bias, FREE),
    "with a common factor": (lambda m, x: m.gate(x) / m.gate(x).softmax(-1).amax(-1, keepdim=True), FREE),
    "two products": (lambda m, x: m.gate(x) + m.second(x).softmax(-1), FREE),
    "in three groups": (grouped(float("-inf"), torch.sigmoid), GROUPS),
    "in three groups, zeros": (grouped(0.0, lambda z: z.softmax(-1)), GROUPS),
    "in one group": (grouped(float("-inf"), torch.sigmoid, groups=1, kept=1), FREE),
    "distances": (lambda m, x: -torch.cdist(x, m.codes), FREE),
    "squared distances": (lambda m, x: -(x[:, None] - m.codes).square().sum(-1), FREE),
    "distances of length one": (nearest, FREE),
    "half precision of halves": (lambda m, x: m.gate(x).float(), FREE),
}

#: Scores of which some are equal.
EQUAL: dict[str, Scores] = {
    "masked by a product": lambda m, x: m.gate(x) * (m.gate(x) > 0),
    "masked by a sum": lambda m, x: (z := m.gate(x)) + torch.zeros_like(z).masked_fill(z < 0, float("-inf")),
    "masked, with too few left": grouped(float("-inf"), torch.sigmoid, kept=1),
    "masked by zeros that others may be below": grouped(0.0, lambda z: z),
    "filled where negative": lambda m, x: (z := m.gate(x)).masked_fill(z < 0, float("-inf")),
    "relu": lambda m, x: m.gate(x).relu(),
    "maximum": lambda m, x: torch.maximum(m.gate(x), torch.zeros(())),
    "minimum": lambda m, x: torch.minimum(z := m.gate(x), z.mean(-1, keepdim=True)),
    "hardshrink": lambda m, x: F.hardshrink(m.gate(x), 0.5),
    "softshrink": lambda m, x: F.softshrink(m.gate(x), 0.5),
    "whole numbers": lambda m, x: (m.gate(x) * 2).int(),
    "rounded": lambda m, x: torch.div(m.gate(x), 0.7, rounding_mode="floor"),
    "rounded to halves": lambda m, x: (m.gate(x) * 1e-30).half(),
    "a difference with itself": lambda m, x: (z := m.gate(x)) - z,
    "straight through": lambda m, x: ((z := m.gate(x).softmax(-1)) > z.mean(-1, True)).float() - z.detach() + z,
    "padded": lambda m, x: F.pad(m.gate(x)[:, :2], (0, 4)),
    "written over": lambda m, x: (z := m.gate(x)).index_put((z < 0,), torch.zeros(())),
    "repeated": lambda m, x: m.gate(x)[:, :1].expand(-1, N) * 1.0,
    "sums of shares": lambda m, x: m.gate(x).softmax(0).sum(0, keepdim=True),
    "squares of a unit vector": lambda m, x: F.normalize(m.gate(x), dim=0).square().sum(0, keepdim=True),
    "signs": lambda m, x: torch.copysign(torch.ones(N), m.gate(x)),
    "to the power of zero": lambda m, x: m.gate(x) ** 0,
    "counts": lambda m, x: (m.gate(x) > 0).sum(0, keepdim=True).float(),
    "products of masks": lambda m, x: torch.addcmul(torch.zeros(N), m.gate(x), (m.gate(x) > 0).float()),
    "rows of minus infinity": lambda m, x: m.gate(x) + torch.zeros(len(x), 1).masked_fill(x[:, :1] < 0, float("-inf")),
}


def inferred(scores: Scores, choose: Callable[[Tensor], Tensor]) -> tuple[int, float]:
    """The order of the group, and the largest difference that a few of its elements make."""
    worst, order = 0.0, 0
    for seed in range(2):
        torch.manual_seed(seed)
        model, x = Router(scores, choose).eval(), torch.randn(40, 3)
        spec = autoperm.infer(model, x)
        order = spec.order
        with torch.no_grad():
            before = model(x)
            for element in range(3):
                moved = copy.deepcopy(model)
                moved.load_state_dict(spec.random(element).apply(model.state_dict()))
                worst = max(worst, float((moved(x) - before).abs().max()))
    return order, worst


@pytest.mark.parametrize("name", DIFFERENT)
@pytest.mark.parametrize("choose", [top, best, by_max])
def test_where_scores_differ_rows_move(name: str, choose: Callable[[Tensor], Tensor]) -> None:
    scores, order = DIFFERENT[name]
    found, worst = inferred(scores, choose)
    assert worst < 1e-5
    assert found % order == 0  # times what moves codes or weights that are not read


@pytest.mark.parametrize("choose", [best, by_max])
def test_the_second_best(choose: Callable[[Tensor], Tensor]) -> None:
    found, worst = inferred(second_best, choose)
    assert worst < 1e-5
    assert found == FREE


#: Scores without the best one, as gates for two experts write it.
WITHOUT_BEST: dict[str, Scores] = {
    "filled (DeepSpeed)": lambda m, x: (z := m.gate(x)).masked_fill(F.one_hot(z.argmax(-1), N).bool(), float("-inf")),
    "multiplied (GShard)": lambda m, x: (p := m.gate(x).softmax(-1)) * (1 - F.one_hot(p.argmax(-1), N)),
    "multiplied by numbers": lambda m, x: (p := m.gate(x).softmax(-1)) * (1 - F.one_hot(p.max(-1).indices, N).to(p.dtype)),
    "multiplied, scattered": lambda m, x: (p := m.gate(x).sigmoid())
    * (1 - torch.zeros_like(p).scatter(-1, p.topk(2, -1).indices, 1.0)),
}
#: Others that look alike.
NOT_WITHOUT: dict[str, Scores] = {
    "by minus one": lambda m, x: (p := m.gate(x).sigmoid()) * (1 - torch.zeros_like(p).scatter(-1, p.topk(2, -1).indices, 2.0)),
    "others below": lambda m, x: (z := m.gate(x)) * (1 - F.one_hot(z.argmax(-1), N)),
    "all of one kind": lambda m, x: (p := m.gate(x).softmax(-1)) * (1 - F.one_hot(p.argmax(-1), N)).round().clamp(max=0),
}


@pytest.mark.parametrize("name", WITHOUT_BEST)
def test_the_second_best_of_masked_scores(name: str) -> None:
    found, worst = inferred(WITHOUT_BEST[name], best)
    assert worst < 1e-5 and found == FREE


@pytest.mark.parametrize("name", NOT_WITHOUT)
def test_what_is_masked_in_other_ways(name: str) -> None:
    found, worst = inferred(NOT_WITHOUT[name], best)
    assert worst < 1e-5 and found == 1


def test_more_than_are_left_by_the_best() -> None:
    assert inferred(second_best, lambda scores: top(scores, N)) == (1, 0.0)


@pytest.mark.parametrize("name", EQUAL)
def test_where_scores_may_be_equal_rows_stay(name: str) -> None:
    found, worst = inferred(EQUAL[name], top)
    assert worst < 1e-5
    assert found == 1


@pytest.mark.parametrize("before, after, dims, expected", [
    ((6,), (2, 3), {0}, {0}), ((2, 3), (6,), {0}, {0, 1}), ((5, 2, 3), (5, 6), {1}, {1, 2}), ((5, 2, 3), (5, 6), {0}, {0}),
    ((5, 1, 3), (5, 3), {1}, {2}), ((4, 6), (8, 3), {1}, {0, 1}), ((), (1,), set(), set()), ((5,), (1, 5, 1), {1}, {0}),
])  # fmt: skip
def test_dimensions_through_a_reshape(before, after, dims, expected) -> None:
    assert covering(before, after, dims) == expected


def test_scores_that_are_one_of_several_results() -> None:
    """The largest of several classes, as detectors choose their queries."""
    found, worst = inferred(lambda m, x: torch.stack([m.gate(x), m.second(x)], -1).max(-1).values, top)
    assert worst < 1e-5
    assert found == FREE * 2**N  # which of the two gives a class is no matter
    assert inferred(lambda m, x: m.gate(x).sort(-1)[1].float(), top)[0] == 1


def test_rows_of_several_entries_stay_different_under_gelu() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.first, self.last = nn.Parameter(torch.randn(N, 4)), nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.tokens[top(x @ self.last(F.gelu(self.first(self.tokens))).T)].sum(1)

    torch.manual_seed(0)
    model, x = Tokens(), torch.randn(7, 3)
    spec = autoperm.infer(model, x)
    assert spec.order % FREE == 0
    assert autoperm.verify(model, spec, x).relative < 1e-12


#: Of the ops that keep different values different, those of more than one tensor of any shape.
_MORE = {"slice": (0,), "flip": ([0],), "roll": ([1],), "_softmax": (0, False), "_log_softmax": (0, False), "_safe_softmax": (0,),
         "softmax": (0,), "log_softmax": (0,), "rms_norm": ([500],), "layer_norm": ([500],),
         "_prelu_kernel": (torch.tensor([0.25], dtype=torch.float64),)}  # fmt: skip


@pytest.mark.parametrize("name", generic._ONE_TO_ONE.split())
def test_functions_that_keep_different_values_different(name: str) -> None:
    """On positive numbers, and on others where the function has values there."""
    op = getattr(torch.ops.aten, name)
    for x in (torch.rand(500, dtype=torch.float64) + 0.1, torch.randn(500, dtype=torch.float64)):
        values = op(x, *_MORE.get(name, ()))
        assert len(values.unique()) == 500 or (bool(values.isnan().any()) and bool((x < 0).any()))


def test_what_is_flat_is_not_among_them() -> None:
    flat = ("relu", "hardtanh", "clamp", "clamp_min", "where", "masked_fill", "round", "sign", "gt", "hardshrink", "softshrink", "maximum")
    assert not {f"aten.{name}" for name in flat} & set(ties._RULES)
