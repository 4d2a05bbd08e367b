"""Ops on the indices that ``topk`` returns, on what is looked up by them, and on rows sorted by them.

Each is put between a router and the experts that it chooses: the experts can be reordered with the router's rows, and the
hidden units of each for itself, whatever the op does in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

aten = torch.ops.aten
TOKENS, SIZE, EXPERTS, HIDDEN, CHOSEN = 5, 3, 4, 2, 2
ORDER = math.factorial(EXPERTS) * math.factorial(HIDDEN) ** EXPERTS


class Choosing(nn.Module):
    """``use`` gets the model, the tokens, their scores and the numbers of the two experts of each."""

    def __init__(self, use: Callable[[Choosing, Tensor, Tensor, Tensor], Tensor]):
        super().__init__()
        self.router, self.use = nn.Linear(SIZE, EXPERTS), use
        self.up = nn.Parameter(torch.randn(EXPERTS, HIDDEN, SIZE))
        self.down = nn.Parameter(torch.randn(EXPERTS, SIZE, HIDDEN))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.router(x)
        return self.use(self, x, scores, scores.topk(CHOSEN, -1)[1])

    def experts(self, x: Tensor, number: Tensor) -> Tensor:
        """What the experts of these numbers make of the tokens (tokens, SIZE): (tokens, chosen, SIZE)."""
        hidden = torch.tanh((self.up[number] * x[:, None, None, :]).sum(-1))
        return (self.down[number] * hidden[..., None, :]).sum(-1)


@dataclass(frozen=True)
class Case:
    name: str
    use: Callable[[Choosing, Tensor, Tensor, Tensor], Tensor]
    single: bool = False  # the op has no kernel for float64
    order: int = ORDER

    def build(self) -> Choosing:
        return Choosing(self.use)


CASES: list[Case] = []

# -- ops that move indices about -------------------------------------------------------------------------------------------


def moved(name: str, move: Callable[[Tensor], Tensor]) -> None:
    """``move`` gives indices of the same shape."""
    CASES.append(Case(f"choice_{name}", lambda m, x, scores, number: m.experts(x, move(number))))


moved("_to_copy", lambda n: n.int().long())
moved("to", lambda n: n.to(torch.int32).to(torch.int64))
moved("alias", aten.alias)
moved("clone", torch.clone)
moved("detach", lambda n: n.detach())
moved("contiguous", lambda n: n.t().contiguous().t())
moved("lift_fresh_copy", aten.lift_fresh_copy)
moved("flatten", lambda n: n.flatten().view(TOKENS, CHOSEN))
moved("reshape", lambda n: n.reshape(-1).reshape(TOKENS, CHOSEN))
moved("_unsafe_view", lambda n: aten._unsafe_view(n, [CHOSEN * TOKENS]).view(TOKENS, CHOSEN))
moved("squeeze", lambda n: n.unsqueeze(1).squeeze(1))
moved("permute", lambda n: n.permute(1, 0).permute(1, 0))
moved("t", lambda n: n.t().t())
moved("transpose", lambda n: n.transpose(0, 1).transpose(0, 1))
moved("expand", lambda n: n.unsqueeze(-1).expand(TOKENS, CHOSEN, 2)[..., 0])
moved("cat", lambda n: torch.cat([n[:, 1:], n[:, :1]], 1))
moved("concat", lambda n: aten.concat([n[:, 1:], n[:, :1]], 1))
moved("concatenate", lambda n: aten.concatenate([n.t()[:1], n.t()[1:]], 0).t())
moved("slice", lambda n: n[:, 1:].expand(TOKENS, CHOSEN))



def best_two(m: Choosing, x: Tensor, scores: Tensor, number: Tensor) -> Tensor:
    """The best expert, and the best of the others."""
    first = scores.max(-1, keepdim=True)[1]
    second = scores.scatter(-1, first, -torch.inf).max(-1, keepdim=True)[1]
    return m.experts(x, torch.cat([first, second], -1))


CASES.append(Case("choice_best_two", best_two))

# -- ops that look something up by indices, or write by them ---------------------------------------------------------------


def used(name: str, use: Callable[[Choosing, Tensor, Tensor, Tensor], Tensor], **options: Any) -> None:
    """``use`` gives for every token a share of every expert (tokens, EXPERTS), or what the experts make of them."""

    def whole(m: Choosing, x: Tensor, scores: Tensor, number: Tensor) -> Tensor:
        hidden = torch.tanh(torch.einsum("ehd,td->teh", m.up, x))
        return (torch.einsum("edh,teh->ted", m.down, hidden) * use(m, x, scores, number)[..., None]).sum(1)

    CASES.append(Case(f"choice_{name}", whole, **options))


def _ones(number: Tensor, x: Tensor) -> Tensor:
    return torch.ones_like(number, dtype=x.dtype)


used("one_hot", lambda m, x, scores, n: F.one_hot(n, EXPERTS).sum(1))
used("eq_along_the_last", lambda m, x, scores, n: (n[..., None] == torch.arange(EXPERTS)).to(x).sum(1))
used("eq_along_the_first", lambda m, x, scores, n: (n == torch.arange(EXPERTS)[:, None, None]).to(x).sum(-1).t())
used("eq_in_between", lambda m, x, scores, n: (n[:, None] == torch.arange(EXPERTS)[:, None]).to(x).sum(-1))
used("eq_in_front", lambda m, x, scores, n: (n[:, 0] == torch.arange(EXPERTS)[:, None, None]).to(x)[:, 0].t())
used("eq_with_more_dimensions", lambda m, x, scores, n: (n[..., None] == torch.arange(EXPERTS)[None, None, None]).to(x)[0].sum(1))
used("eq_in_another_order", lambda m, x, scores, n: (n[..., None] == torch.arange(EXPERTS).flip(0)).to(x).sum(1).flip(-1))
used("eq_many_times", lambda m, x, scores, n: (n == torch.arange(EXPERTS).repeat(9)[:, None, None]).to(x).sum(-1)[-EXPERTS:].t(),
     order=math.factorial(HIDDEN) ** EXPERTS)  # fmt: skip
used("scatter_add", lambda m, x, scores, n: torch.zeros_like(scores).scatter_add(1, n, _ones(n, x)))
used("scatter_reduce", lambda m, x, scores, n: torch.zeros_like(scores).scatter_reduce(1, n, scores.gather(1, n), "amax"))
used("scatter", lambda m, x, scores, n: scores * torch.zeros_like(scores).scatter(1, n, 1.5))
used("take_along_dim", lambda m, x, scores, n: scores * torch.take_along_dim(scores, n, 1).sum(1, keepdim=True))
used("index_add", lambda m, x, scores, n: scores * torch.zeros_like(scores[0]).index_add(0, n[:, 0], x[:, 0]))
used("bincount", lambda m, x, scores, n: scores * n.flatten().bincount(minlength=EXPERTS))
used("histc", lambda m, x, scores, n: scores * n.int().float().histc(EXPERTS, 0, EXPERTS - 1))
CASES.append(Case("choice_index_select", lambda m, x, s, n: (
    m.down.index_select(0, n[:, 0]) * torch.tanh((m.up.index_select(0, n[:, 0]) * x[:, None]).sum(-1))[:, None]).sum(-1)))  # fmt: skip
CASES.append(Case("choice_embedding", lambda m, x, s, n: (
    F.embedding(n[:, 0], m.down.flatten(1)).view(TOKENS, SIZE, HIDDEN)
    * torch.tanh((F.embedding(n[:, 0], m.up.flatten(1)).view(TOKENS, HIDDEN, SIZE) * x[:, None]).sum(-1))[:, None]).sum(-1)))  # fmt: skip
CASES.append(Case("choice__unsafe_index", lambda m, x, s, n: (
    aten._unsafe_index(m.down, [n]) * torch.tanh((aten._unsafe_index(m.up, [n]) * x[:, None, None]).sum(-1))[..., None, :]).sum(-1)))  # fmt: skip

# -- ops on what was looked up ---------------------------------------------------------------------------------------------


def looked_up(name: str, reduce: Callable[[Tensor], Tensor]) -> None:
    """``reduce`` makes (tokens, chosen, HIDDEN) of the experts' weights times the tokens, (tokens, chosen, HIDDEN, SIZE)."""

    def use(m: Choosing, x: Tensor, scores: Tensor, number: Tensor) -> Tensor:
        hidden = torch.tanh(reduce(m.up[number] * x[:, None, None, :]))
        return (m.down[number] * hidden[..., None, :]).sum(-1)

    CASES.append(Case(f"lookup_{name}", use))


for _name in ("amax", "amin", "mean", "prod", "var", "std", "logsumexp"):
    looked_up(_name, lambda p, op=_name: getattr(p, op)(-1))
for _name, _same in {"alias": aten.alias, "clone": torch.clone, "detach": torch.detach, "lift_fresh_copy": aten.lift_fresh_copy}.items():
    looked_up(_name, lambda p, op=_same: op(p).sum(-1))
looked_up("contiguous", lambda p: p.transpose(0, 1).contiguous().transpose(0, 1).sum(-1))
looked_up("expand", lambda p: p.expand(TOKENS, CHOSEN, HIDDEN, SIZE).sum(-1))
looked_up("flatten", lambda p: p.flatten(0, 1).unflatten(0, (TOKENS, CHOSEN)).sum(-1))
looked_up("reshape", lambda p: p.reshape(-1, HIDDEN, SIZE).reshape(p.shape).sum(-1))
looked_up("_unsafe_view", lambda p: aten._unsafe_view(p, [TOKENS * CHOSEN, HIDDEN, SIZE]).view(p.shape).sum(-1))
looked_up("permute", lambda p: p.permute(1, 0, 2, 3).permute(1, 0, 2, 3).sum(-1))
looked_up("transpose", lambda p: p.transpose(1, 2).transpose(1, 2).sum(-1))
looked_up("slice", lambda p: p[..., :2].sum(-1) + 2 * p[..., 2])
looked_up("split_with_sizes", lambda p: sum(k * part.sum(-1) for k, part in enumerate(p.split_with_sizes([1, 2], -1))))
looked_up("chunk", lambda p: sum(k * part.squeeze(-1) for k, part in enumerate(p.chunk(3, -1))))
CASES.append(Case("lookup_mm", lambda m, x, s, n: torch.tanh((m.up[n[:, 0]] * x[:, None]).sum(-1)) @ torch.arange(6.0).reshape(2, 3).to(x),
    order=math.factorial(EXPERTS)))  # fmt: skip
CASES.append(Case("lookup_t", lambda m, x, s, n: (
    m.down[n[:, 0]] * torch.tanh(m.up.mean(-1)[n[:, 0]].t().t() + (m.up[n[:, 0]] * x[:, None]).sum(-1))[:, None]).sum(-1)))  # fmt: skip

# -- ops on the order of sorted rows, and on such rows -----------------------------------------------------------------------


def listed(name: str, place: Callable[[Tensor], Tensor]) -> None:
    """``place`` makes of the order, for each sorted row, the token that it was of."""

    def use(m: Choosing, x: Tensor, scores: Tensor, number: Tensor) -> Tensor:
        chosen, order = number.reshape(-1).sort()
        token = place(order)
        hidden = torch.tanh(torch.bmm(m.up[chosen], x[token][..., None]).squeeze(-1))
        found = torch.bmm(m.down[chosen], hidden[..., None]).squeeze(-1)
        return torch.zeros_like(x).index_add(0, token, found)

    CASES.append(Case(f"list_{name}", use))


listed("floor_divide", lambda o: o // CHOSEN)
listed("div", lambda o: o.div(CHOSEN, rounding_mode="floor"))
listed("remainder", lambda o: (o // CHOSEN).remainder(TOKENS))
listed("add_sub", lambda o: (o + 2 - 2) // CHOSEN)
listed("mul", lambda o: o * 3 // (3 * CHOSEN))
listed("view", lambda o: (o.view(CHOSEN * TOKENS)) // CHOSEN)
listed("reshape", lambda o: (o.reshape(-1)) // CHOSEN)
listed("clone", lambda o: o.clone() // CHOSEN)
listed("detach", lambda o: o.detach() // CHOSEN)
listed("alias", lambda o: aten.alias(o) // CHOSEN)
listed("lift_fresh_copy", lambda o: aten.lift_fresh_copy(o) // CHOSEN)
listed("_to_copy", lambda o: (o.int() // CHOSEN).long())


def put_back(name: str, back: Callable[[Tensor, Tensor], Tensor], chosen: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
    def use(m: Choosing, x: Tensor, scores: Tensor, number: Tensor) -> Tensor:
        sorted_numbers, order = chosen(number.reshape(-1))
        hidden = torch.tanh(torch.bmm(m.up[sorted_numbers], x[order // CHOSEN][..., None]).squeeze(-1))
        found = torch.bmm(m.down[sorted_numbers], hidden[..., None]).squeeze(-1)
        return back(found, order).view(TOKENS, CHOSEN, SIZE)

    CASES.append(Case(f"list_{name}", use))


def _inverse(order: Tensor, put: Callable[..., Tensor]) -> Tensor:
    return put(torch.empty_like(order), [order], torch.arange(len(order)))


put_back("argsort_twice", lambda found, order: found[order.argsort()], lambda n: (n[(order := n.argsort())], order))
put_back("_unsafe_index", lambda found, order: aten._unsafe_index(found, [order.argsort()]), torch.sort)
put_back("index_put", lambda found, order: found[_inverse(order, aten.index_put)], torch.sort)
put_back("_unsafe_index_put", lambda found, order: found[_inverse(order, aten._unsafe_index_put)], torch.sort)


def grouped(name: str, count: Callable[[Tensor], Tensor]) -> None:
    """Products of sorted rows in groups, which end where the running total of ``count`` says."""

    def use(m: Choosing, x: Tensor, scores: Tensor, number: Tensor) -> Tensor:
        chosen, order = number.reshape(-1).sort()
        ends = count(chosen).cumsum(0).int()
        x, up, down = (F.pad(v, (0, 4 - v.shape[-1])).contiguous() for v in (x, m.up.mT, m.down.mT))
        up = F.pad(up, (0, 0, 0, 4 - SIZE))
        hidden = torch.tanh(torch._grouped_mm(x[order // CHOSEN], up, offs=ends))
        found = torch._grouped_mm(hidden, F.pad(down, (0, 0, 0, 4 - HIDDEN)), offs=ends)
        return torch.zeros_like(x[:, :SIZE]).index_add(0, order // CHOSEN, found[:, :SIZE])

    CASES.append(Case(f"list_grouped_{name}", use, single=True))


grouped("bincount", lambda chosen: chosen.bincount(minlength=EXPERTS))
grouped("histc", lambda chosen: chosen.int().float().histc(EXPERTS, 0, EXPERTS - 1))

# -- indices that reductions return ----------------------------------------------------------------------------------------

for _name, _reduce in {
    "max_dim": lambda scores: scores.max(-1, keepdim=True),
    "min_dim": lambda scores: scores.min(-1, keepdim=True),
    "kthvalue": lambda scores: scores.kthvalue(2, -1, keepdim=True),
    "median_dim": lambda scores: scores.median(-1, keepdim=True),
    "max_dim_dropped": lambda scores: (scores.max(-1)[0], scores.max(-1)[1][:, None]),
}.items():

    def _best(m: Choosing, x: Tensor, scores: Tensor, number: Tensor, reduce: Callable[[Tensor], Any] = _reduce) -> Tensor:
        value, at = reduce(scores)
        return m.experts(x, at) * value[..., None].reshape(-1, 1, 1)

    CASES.append(Case(f"index_of_{_name}", _best))
CASES.append(
    Case("index_of_max_clamped", lambda m, x, scores, number: m.experts(x, scores.clamp(-0.1, 0.1).max(-1, keepdim=True)[1]), order=2**EXPERTS)

)
