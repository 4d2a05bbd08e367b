"""Small programs whose group was once too large: parts that are uniform, padded, repeated, viewed in ways that do not fit;
choices of which some positions are read; scores that are equal as a rule. Each is tried on random elements, and none of its
groups may be larger than what moves nothing but units that are alike."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autoperm

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
MANY = torch.randn(40, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
ONE = torch.tensor(1.3, dtype=torch.float64)
ONES, HALF = torch.ones(40, 1, dtype=torch.float64), (torch.arange(40) % 2).double()[:, None]


class Program(nn.Module):
    def __init__(self, function: Callable[..., Tensor], shapes: dict[str, Any]) -> None:
        super().__init__()
        self.function = function
        generator = torch.Generator().manual_seed(0)
        for name, shape in shapes.items():
            shape = shape if isinstance(shape, tuple) else (shape,)
            setattr(self, name, nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self, *inputs)


def gate(s: Any, x: Tensor) -> Tensor:
    return x @ s.r.T


def halves(y: Tensor) -> Tensor:
    return y[:, :2] * y[:, 2:]


def twice(y: Tensor) -> Tensor:
    return torch.outer(y, y)


#: name -> function, parameters, the largest order, inputs, other inputs to compare on.
CASES: dict[str, tuple[Callable[..., Tensor], dict[str, Any], int, Any, Any]] = {}


def case(name: str, function: Callable[..., Tensor], order: int, inputs: Any = ONE, others: Any = None, **shapes: Any) -> None:
    CASES[name] = (function, shapes, order, inputs, inputs if others is None else others)


case("cat with an expanded vector", lambda s, x: halves(torch.cat([s.a[None].expand(2, 2), s.b], 1)) * x, 1, a=2, b=(2, 2))
case("an expanded vector, in part overwritten",
     lambda s, x: F.glu(torch.slice_scatter(s.a[None].expand(2, 4), s.b, 1, 2, 4), 1) * x, 1, a=4, b=(2, 2))
case("hidden units beside an expanded vector",
     lambda s, x: (lambda y: y[:, :2] * y[:, 2:].sigmoid())(torch.cat([s.a[None].expand(3, 2), (s.t @ s.w).tanh()], 1)) @ s.o * x,
     48, a=2, t=(3, 4), w=(4, 2), o=(2, 2))
case("padded, then rolled", lambda s, x: (lambda h: h - h.roll(1, 1))(F.pad(s.a, (0, 1)))[:, [0, -1]].prod(1) * x, 1, a=(2, 3))
case("padded, then added to by index",
     lambda s, x: F.pad(s.a, (0, 1)).index_add(0, torch.tensor([0, 1]), s.b) * x, 1, a=(3, 1), b=(2, 2))
case("blocks, then added to by index",
     lambda s, x: torch.block_diag(s.a, s.b).index_add(1, torch.tensor([1, 3]), s.c) * x, 1, a=(2, 2), b=(2, 2), c=(4, 2))
case("one expert's part of a choice",
     lambda s, x: ((gate(s, x).softmax(-1) + s.b).argmax(-1) == 1).double(), 6, MANY, r=(4, 4), b=4)
case("one expert's part of some that are chosen",
     lambda s, x: F.one_hot((gate(s, x).softmax(-1) + s.b).topk(2)[1], 4)[:, :, 1].double(), 6, MANY, r=(4, 4), b=4)
case("a row and its own number", lambda s, x: (lambda i: s.t[i] * i[:, None])(gate(s, x).argmax(-1)), 1, X, r=(4, 4), t=(4, 4))
for rows, columns, n in ((4, 3, 6), (8, 3, 12), (4, 5, 10), (6, 4, 8), (6, 5, 10)):
    case(f"an outer product of {rows} and {columns} as {n} rows",
         lambda s, x, n=n: (torch.outer(s.a, s.b).reshape(n, -1) * s.c).sum() * x,
         math.factorial(rows) * math.factorial(columns), a=rows, b=columns, c=(n, rows * columns // n))
case("softmax both ways, as other rows", lambda s, x: (s.a.softmax(1).softmax(0).reshape(6, 2) * s.c).sum() * x, 144, a=(4, 3),
     c=(6, 2))
case("a repeated vector with itself", lambda s, x: (twice(torch.cat([s.a, s.a])) * s.q).sum() * x, 144, a=3, q=(6, 6))
case("repeated rows with themselves",
     lambda s, x: ((lambda y: y @ y.T)(s.a.repeat_interleave(2, 0)) * s.q).sum() * x, 96, a=(2, 2), q=(4, 4))
case("sums of a repeated vector with itself",
     lambda s, x: ((lambda y: (y[:, None] + y[None]).tanh())(s.a.repeat(2)) * s.q).sum() * x, 144, a=3, q=(6, 6))
case("a diagonal written into what is padded",
     lambda s, x: (torch.diagonal_scatter(F.pad(s.a, (0, 1)), s.d) * s.r).sum() * x, 96, a=(3, 2), d=3, r=(3, 3))
case("a diagonal written into repeated rows",
     lambda s, x: torch.diagonal_scatter(F.rms_norm(s.a, (4,), s.g).repeat(2, 1), s.d)[:1] * x, 1, a=(2, 4), g=4, d=4)
case("the first of some in no order",
     lambda s, x: (s.t[gate(s, x).topk(4, sorted=False)[1]] * torch.arange(1.0, 5)[:, None]).sum(1), 1, X, r=(12, 4), t=(12, 4))
case("shares in no order, read with another one", lambda s, x: beside_a_shared_one(s, x, last=True), 1, X, r=(12, 4), t=(12, 4), s=(4, 1))
case("shares in no order, added up from the first",
     lambda s, x: torch.cat([gate(s, x).topk(4, sorted=False)[0], x], -1).cumsum(-1)[:, 4:], 1, X, r=(12, 4))
case("shares in no order beside others, weighed by place",
     lambda s, x: (torch.cat([gate(s, x).topk(4, sorted=False)[0], x], -1) * torch.arange(8.0)).sum(-1), 1, X, r=(12, 4))
case("values in no order", lambda s, x: gate(s, x).topk(5, sorted=False)[0], 1, X, r=(16, 4))
case("values in no order, two at one place",
     lambda s, x: (lambda v, i: torch.zeros(6, 8, dtype=x.dtype).scatter(1, i // 2, v) @ s.t)(*gate(s, x).topk(8, sorted=False)), 1, X,
     r=(16, 4), t=(8, 4))
case("householder vectors of a batch",
     lambda s, x: (torch.linalg.householder_product(s.A, s.t) * s.w[:, None, None]).sum(0) * x, 24, A=(4, 5, 3), t=(4, 3), w=4)
case("least squares of a batch", lambda s, x: (torch.linalg.lstsq(s.A, s.y).solution * s.w[:, None]).sum(0) * x, 24, A=(4, 5, 3),
     y=(4, 5), w=4)
case("numbers as halves of themselves", lambda s, x: (s.a.view(torch.int32)[:, :2].double() * 1e-9).sum(-1) * x, 1, a=(2, 3))
case("bits of numbers", lambda s, x: s.a.view(torch.int32).view(3, 4).double().sum() * 0 * x + s.b.sum() * x, 120, a=6, b=5)
case("compared with fractions",
     lambda s, x: (gate(s, x).argmax(-1)[:, None] == torch.tensor([0.0, 1.5, 2.0, 3.0])).double() @ s.t, 1, X, r=(4, 4), t=(4, 4))
case("repeats of repeats", lambda s, x: s.a[[2, 2, 1]].repeat(2, 1).prod(0) * x, 1, a=(3, 6))
case("a system for a batch of matrices", lambda s, x: torch.linalg.solve(s.A, s.B) * x, 1, A=(2, 3, 3), B=(3, 4))
case("a triangular system for a batch", lambda s, x: torch.linalg.solve_triangular(s.A, s.B, upper=True) * x, 1, A=(3, 3, 3), B=(3, 4))
case("none of them", lambda s, x: gate(s, x).topk(0)[0].sum(-1, keepdim=True) + gate(s, x), 1, X, r=(4, 4))
case("windows of a number", lambda s, x: s.a.unfold(0, 1, 1) * x, 1, a=())

FOUR = {"r": (4, 4), "t": (4, 4)}
case("the softmax of one token", lambda s, x: s.t[gate(s, x).softmax(0).argmax(-1)], 1, X[:1], **FOUR)
case("the softmax of one number", lambda s, x: s.t[gate(s, x).unsqueeze(-1).softmax(-1).squeeze(-1).argmax(-1)], 1, X, **FOUR)
case("sums of shares, by ones",
     lambda s, x: s.t[(gate(s, x).view(6, 4, 2).softmax(-1) @ torch.ones(2, 1, dtype=x.dtype)).squeeze(-1).argmax(-1)], 16, X,
     r=(8, 4), t=(4, 4))
case("unit vectors with themselves",
     lambda s, x: s.t[torch.einsum("nek,nek->ne", *[F.normalize(gate(s, x).view(6, 4, 2), dim=-1)] * 2).argmax(-1)], 16, X,
     r=(8, 4), t=(4, 4))
case("two experts that do nothing",
     lambda s, x: s.t[torch.cat([gate(s, x), x.new_full((len(x), 1), 0.5), x.new_full((len(x), 1), 0.5)], -1).topk(2)[1]].sum(1),
     1, X, r=(4, 4), t=(6, 4))
case("the nearest of the others", lambda s, x: s.t[torch.cdist(s.r, s.r).amin(1).topk(2)[1]].sum(0) * x, 24, **FOUR)
case("after a relu that may leave nothing",
     lambda s, x: s.t[((x @ s.a.T).relu() @ s.r.T).argmax(-1)], 2, MANY, a=(2, 4), r=(4, 2), t=(4, 4))
case("scores by a mask", lambda s, x, m: s.t[((gate(s, x) + s.b) * m).argmax(-1)], 1, (MANY, ONES), (MANY, HALF), b=4, **FOUR)
case("inputs by a mask", lambda s, x, m: s.t[gate(s, x * m).argmax(-1)], 1, (MANY, ONES), (MANY, HALF), **FOUR)
case("inputs by a mask of integers", lambda s, x, m: s.t[gate(s, x * m).argmax(-1)], 1, (MANY, ONES.long()), (MANY, HALF.long()),
     **FOUR)
case("rows of which one is padding", lambda s, i: s.t[gate(s, F.embedding(i, s.e, padding_idx=0)).argmax(-1)], 24,
     torch.arange(5), e=(5, 4), **FOUR)
TWO = {"r": (2, 4), "t": (2, 4)}
case("how far two are from their mean",
     lambda s, x: s.t[(lambda v: (v - v.mean(-1, keepdim=True)).abs().argmax(-1))(gate(s, x))], 1, MANY, **TWO)
case("a norm of two, squared", lambda s, x: s.t[F.layer_norm(gate(s, x), (2,)).square().argmax(-1)], 1, MANY, **TWO)
case("how far two shares are from a half", lambda s, x: s.t[(gate(s, x).softmax(-1) - 0.5).abs().argmax(-1)], 1, MANY, **TWO)
case("masked where a mask of minus ones is above zero",
     lambda s, x: (lambda v: s.t[v.masked_fill(~(torch.zeros_like(v).scatter(1, v.topk(2)[1], -1.0) > 0), -math.inf)
                                 .topk(2)[1]].sum(1))(gate(s, x)), 1, X, **FOUR)


@pytest.mark.parametrize("name", CASES)
def test_programs(name: str) -> None:
    function, shapes, largest, inputs, others = CASES[name]
    model = Program(function, shapes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec = autoperm.infer(model, inputs)
    assert spec.order <= largest
    others = others if isinstance(others, tuple) else (others,)
    with torch.no_grad():
        before = model(*others)
        for seed in range(8):
            moved = spec.random(seed).apply(model)
            assert float((moved(*others) - before).abs().max()) <= 1e-9 * max(float(before.abs().max()), 1e-3)
            for name, weight in model.named_parameters():
                assert torch.equal(moved.get_parameter(name).flatten().sort()[0], weight.flatten().sort()[0])


def sorted_stably(s: Any, x: Tensor) -> Tensor:
    """Tokens in the order of their experts, as torchtitan has them."""
    shares, experts = gate(s, x).softmax(-1).topk(2)
    order = experts.reshape(-1).argsort(stable=True)
    chosen, tokens = experts.reshape(-1)[order], order // 2
    hidden = torch.einsum("nd,ndh->nh", x[tokens], s.up[chosen]).tanh()
    out = torch.einsum("nh,nhd->nd", hidden, s.down[chosen]) * shares.reshape(-1)[order][:, None]
    return torch.zeros_like(x).index_add(0, tokens, out)


def beside_a_shared_one(s: Any, x: Tensor, last: bool = False) -> Tensor:
    """Shares of the chosen experts and of one that all tokens have; or what is read of them by their places."""
    scores, experts = gate(s, x).topk(2, sorted=False)
    shares = torch.cat([F.logsigmoid(scores), x @ s.s], -1)
    shares = (shares - shares.logsumexp(-1, keepdim=True)).exp()
    used, shared = (shares[:, 1:], shares[:, :1]) if last else (shares[:, :2], shares[:, 2:])
    return (used[..., None] * s.t[experts]).sum(1) + shared * x[:, :1]


#: Experts that move, also by a topk that does not sort.
ROUTERS: dict[str, tuple[Callable[..., Tensor], dict[str, Any], int]] = {
    "rows summed": (lambda s, x: s.t[gate(s, x).topk(2, sorted=False)[1]].sum(1), FOUR, 24),
    "weighted rows": (lambda s, x: (lambda w, i: (w.softmax(-1)[..., None] * s.t[i]).sum(1))(*gate(s, x).topk(2, sorted=False)), FOUR, 24),
    "marked": (lambda s, x: torch.zeros(6, 4, dtype=x.dtype).scatter(1, gate(s, x).topk(2, sorted=False)[1], 1.0) @ s.t, FOUR, 24),
    "weighed beside a shared one": (beside_a_shared_one, {**FOUR, "s": (4, 1)}, 24),
    "sorted stably": (sorted_stably, {"r": (4, 4), "up": (4, 4, 3), "down": (4, 3, 4)}, 24 * 6**4),
    "one row": (lambda s, x: s.t[gate(s, x).topk(1, sorted=False)[1]][:, 0], FOUR, 24),
    "after a norm": (lambda s, x: s.t[gate(s, F.layer_norm(x @ s.a, (4,), s.g, s.c)).topk(2)[1]].sum(1),
                     {**FOUR, "a": (4, 4), "g": 4, "c": 4}, 24 * 24),
    "after a residual with a relu": (
        lambda s, x: s.t[gate(s, F.rms_norm(x + (x @ s.u).relu() @ s.d, (4,), s.g)).topk(2)[1]].sum(1),
        {**FOUR, "u": (4, 5), "d": (5, 4), "g": 4}, 24 * 120),
}  # fmt: skip


@pytest.mark.parametrize("name", ROUTERS)
def test_routers_move(name: str) -> None:
    function, shapes, order = ROUTERS[name]
    model = Program(function, shapes)
    spec = autoperm.infer(model, X)
    assert spec.order == order
    with torch.no_grad():
        assert max(float((spec.random(k).apply(model)(X) - model(X)).abs().max()) for k in range(4)) < 1e-9


class Shuffled(nn.Module):
    """Entries of ``t' x t`` in some order, in two rows that are multiplied by weights as one: one axis twice in a product."""

    def __init__(self, size: int, order: list[int], rows: int = 2):
        super().__init__()
        self.order, self.rows = order, rows
        self.t, self.v = nn.Parameter(torch.randn(size, size)), nn.Parameter(torch.randn(rows, size * size))

    def forward(self, x: Tensor) -> Tensor:
        z = (self.t.t() @ x @ self.t).reshape(-1, self.rows, len(self.order))[:, :, self.order]
        return (z.reshape(len(z), -1) * self.v.reshape(-1)).view(z.shape).sum(-1)


@pytest.mark.parametrize("size, seeds", [(3, 20), (4, 40)])
def test_an_axis_that_is_there_twice_is_split_once(size: int, seeds: int) -> None:
    """It was split a second time at its other place, and what it was made of there came loose: 10^11 elements in place of 24."""
    whole = 0
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = Shuffled(size, torch.randperm(size * size).tolist()).double()
        x = torch.randn(3, 2, size, size, dtype=torch.float64)
        spec = autoperm.infer(model, x)
        assert math.factorial(size) % spec.order == 0
        assert autoperm.verify(model, spec, x, samples=3).relative < 1e-10
        whole += spec.order == math.factorial(size)
    assert whole == seeds
