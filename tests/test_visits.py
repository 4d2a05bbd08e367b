"""Experts that take the tokens which chose them, one after the other: transformers' eager form."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import autoperm
from autoperm.capture import capture
from autoperm.infer import infer_captured
from autoperm.inference.rewriting import rewritten
from tests.trained import trained_like

WIDTH, HIDDEN, EXPERTS, TOKENS = 4, 5, 3, 12

Turn = Callable[["Experts", Any, Tensor, Tensor, Tensor], Tensor]


def gated(m: Experts, e: Any, rows: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
    gate, up = nn.functional.linear(rows, m.up[e]).chunk(2, -1)
    return nn.functional.linear(nn.functional.silu(gate) * up, m.down[e])


class Experts(nn.Module):
    """A mixture of experts.

    Arguments:
        turn: what an expert makes of its rows.
        visit: runs all turns: from tokens, the weights and numbers of what each chose, and what adds a turn's rows up.
    """

    def __init__(self, turn: Turn = gated, visit: Any = None, end: Callable[..., Tensor] | None = None):
        super().__init__()
        self.turn, self.visit, self.end = [turn], [visit or by_hits], [end]
        self.up, self.down = nn.Parameter(torch.randn(EXPERTS, 2 * HIDDEN, WIDTH)), nn.Parameter(torch.randn(EXPERTS, WIDTH, HIDDEN))
        self.router = nn.Linear(WIDTH, EXPERTS)

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.router(x).softmax(-1).topk(2, -1)
        out, seen = torch.zeros_like(x), []

        def add(e: Any, mask: Tensor) -> None:
            places, tokens = torch.where(mask)
            seen.append(tokens)
            rows = self.turn[0](self, e, x[tokens], tokens, places) * weights[tokens, places, None]
            out.index_add_(0, tokens, rows)

        self.visit[0](chosen, add)
        return out if self.end[0] is None else self.end[0](out, seen, chosen)


def by_hits(chosen: Tensor, add: Callable[[Any, Tensor], None]) -> None:
    """As transformers does, a class more included that none chooses."""
    mask = nn.functional.one_hot(chosen, num_classes=EXPERTS + 1).permute(2, 1, 0)
    for e in torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero():
        e = e[0]
        if e != EXPERTS:
            add(e, mask[e])


def by_numbers(chosen: Tensor, add: Callable[[Any, Tensor], None]) -> None:
    for e in range(EXPERTS):
        add(e, (chosen == e).T)


def by_classes(chosen: Tensor, add: Callable[[Any, Tensor], None]) -> None:
    mask = nn.functional.one_hot(chosen, EXPERTS).permute(2, 1, 0)
    for e in range(EXPERTS):
        add(e, mask[e])


def model_of(*args: Any, **kwargs: Any) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = trained_like(Experts(*args, **kwargs), seed=1)
    x = torch.randn(TOKENS, WIDTH, dtype=torch.float64)
    counts = model.router(x).topk(2)[1].flatten().bincount(minlength=EXPERTS).tolist()
    assert min(counts) > 0 and len(set(counts)) == EXPERTS  # or nothing below would be seen to go wrong
    return model, x


def inferred(model: nn.Module, x: Tensor) -> autoperm.PermutationSpec:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", autoperm.ValueDependentWarning)
        spec = infer_captured(capture(model, x, tracers=("make_fx-real",)))  # the others refuse, which takes a while
    assert autoperm.verify(model, spec, x, samples=10).relative < 1e-10
    return spec


UNITS, ALL = math.factorial(HIDDEN) ** EXPERTS, math.factorial(EXPERTS)


def normed(m: Experts, e: Any, rows: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
    return nn.functional.layer_norm(gated(m, e, rows, tokens, places), (WIDTH,))


@pytest.mark.parametrize("visit", [by_hits, by_numbers, by_classes], ids=lambda f: f.__name__)
@pytest.mark.parametrize("turn", [gated, normed], ids=lambda f: f.__name__)
def test_experts_move(visit: Any, turn: Turn) -> None:
    assert inferred(*model_of(turn, visit)).order == ALL * UNITS


@pytest.mark.parametrize("visit", [by_hits, by_numbers, by_classes], ids=lambda f: f.__name__)
def test_the_rewritten_graph_computes_the_same_for_other_tokens(visit: Any) -> None:
    model, x = model_of(visit=visit)
    graph = rewritten(capture(model, x, tracers=("make_fx-real",)))
    assert not graph.graph.find_nodes(op="call_function", target=torch.ops.aten.nonzero.default)
    for seed in range(3):
        other = torch.randn(TOKENS, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(graph.run(model.state_dict(), other)[0], model(other), rtol=1e-12, atol=1e-12)


def test_planted_experts_are_found() -> None:
    model, x = model_of()
    spec = inferred(model, x)
    element = spec.random(3)
    for more in ({"method": "weight"}, {"method": "activation", "data": [x, torch.randn(40, WIDTH, dtype=torch.float64)]}):
        assert autoperm.match(model, element.apply(model), spec, progress=False, **more).permutation == element.inverse()


def test_experts_stay_where_some_are_not_chosen() -> None:
    model, x = model_of()
    with torch.no_grad():
        model.router.bias[1] = -100.0
    assert inferred(model, x).order in (math.factorial(HIDDEN) ** 2, UNITS)


def _turn(change: Callable[[Tensor, Any, Tensor, Tensor], Tensor]) -> Turn:
    return lambda m, e, rows, tokens, places: change(gated(m, e, rows, tokens, places), e, tokens, places)


#: What a turn, or the end, may do that tells experts apart, or rows of an expert from one another.
TURNS: dict[str, Turn] = {
    "length": _turn(lambda y, e, t, k: y * t.shape[0]),
    "length of a dead part": _turn(lambda y, e, t, k: y * len(y[1:])),
    "many": _turn(lambda y, e, t, k: y * 2 if t.numel() > 8 else y),
    "parts": _turn(lambda y, e, t, k: y * len(t.split(1))),
    "parts of the transpose": _turn(lambda y, e, t, k: y * len(y.T.chunk(1000, 1))),
    "parts of a row": _turn(lambda y, e, t, k: y * len((torch.ones(2, 1) * t).chunk(1000, 1))),
    "dimensions": _turn(lambda y, e, t, k: y * t[6:].squeeze().dim()),
    "size": _turn(lambda y, e, t, k: y * y.size(0)),
    "mean": _turn(lambda y, e, t, k: y - y.mean(0)),
    "mean beside": _turn(lambda y, e, t, k: y - y.mean(0, keepdim=True)),
    "softmax": _turn(lambda y, e, t, k: y.softmax(0)),
    "flip": _turn(lambda y, e, t, k: y.flip(0)),
    "sum so far": _turn(lambda y, e, t, k: y.cumsum(0)),
    "product of rows": _turn(lambda y, e, t, k: (y @ y.T) @ y),
    "number": _turn(lambda y, e, t, k: y * e),
    "place": _turn(lambda y, e, t, k: y * t[:, None]),
    "first row": _turn(lambda y, e, t, k: y + y[0]),
    "norm of all": _turn(lambda y, e, t, k: y / y.norm()),
    "value": _turn(lambda y, e, t, k: y * (2 if float(y.sum()) > 0 else 3)),
}
ENDS: dict[str, Callable[..., Tensor]] = {
    "how many took the first": lambda out, seen, chosen: out * len(seen[0]),
    "shape": lambda out, seen, chosen: out * (1 + seen[0].shape[0]),
    "more than the next": lambda out, seen, chosen: out if len(seen[0]) > len(seen[1]) else -out,
    "iterated": lambda out, seen, chosen: out * sum(1 for _ in seen[0]),
    "filled": lambda out, seen, chosen: out * torch.ones(len(seen[1])).sum(),
    "counted": lambda out, seen, chosen: out * (chosen == 0).sum(),
    "listed again": lambda out, seen, chosen: out * (chosen == 0).nonzero().shape[0],
    "the first's tokens": lambda out, seen, chosen: out * seen[0].sum(),
}


@pytest.mark.parametrize("name", TURNS)
@pytest.mark.parametrize("visit", [by_hits, by_numbers], ids=lambda f: f.__name__)
def test_turns_that_look_at_more_than_a_row_stay_sound(name: str, visit: Any) -> None:
    inferred(*model_of(TURNS[name], visit))


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("visit", [by_hits, by_numbers], ids=lambda f: f.__name__)
def test_ends_that_tell_experts_apart_stay_sound(name: str, visit: Any) -> None:
    assert inferred(*model_of(visit=visit, end=ENDS[name])).order in (UNITS, 2 * UNITS)  # two of them may be alike


def test_the_order_of_those_that_are_hit_may_be_read() -> None:
    """Where all are chosen, the numbers that the loop reads are the same in whatever order the experts are."""

    def visit(chosen: Tensor, add: Callable[[Any, Tensor], None]) -> None:
        mask = nn.functional.one_hot(chosen, num_classes=EXPERTS).permute(2, 1, 0)
        for k, e in enumerate(torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero()):
            add(e[0], mask[e[0]] * (k + 1))

    inferred(*model_of(visit=visit))
