"""Experts chosen by rows of which some are zero: they trade places only where what these choose is no matter."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autoperm
from tests.trained import trained_like

TOKENS, SIZE, EXPERTS, HIDDEN, CHOSEN = 6, 3, 4, 2, 2
UNITS = math.factorial(HIDDEN) ** EXPERTS * math.factorial(SIZE)
ORDER = UNITS * math.factorial(EXPERTS)
#: The padding token, whose row is zero, is 0: at the start, in the middle, at the end.
TEXT = torch.tensor([0, 0, 3, 1, 0, 2])

Mix = Callable[["Text", Tensor, Tensor, Tensor], Tensor]


class Text(nn.Module):
    """Two of four experts for every token of a text; ``mix`` says how tokens and experts come together."""

    def __init__(self, mix: Mix) -> None:
        super().__init__()
        self.words, self.router = nn.Embedding(5, SIZE, padding_idx=0), nn.Linear(SIZE, EXPERTS, bias=False)
        self.scale, self.out = nn.Parameter(torch.randn(SIZE)), nn.Linear(SIZE, 2)
        self.up = nn.Parameter(torch.randn(EXPERTS, 2 * HIDDEN, SIZE))
        self.down = nn.Parameter(torch.randn(EXPERTS, SIZE, HIDDEN))
        self.bias, self.level = nn.Parameter(torch.randn(EXPERTS, SIZE)), nn.Parameter(torch.randn(EXPERTS))
        self.mix = mix

    def forward(self, text: Tensor) -> Tensor:
        x = self.words(text)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale
        weight, number = self.router(x.view(-1, SIZE)).softmax(-1).topk(CHOSEN, -1)
        found = self.mix(self, x, weight / weight.sum(-1, keepdim=True), number)
        return self.out(x + found)  # type: ignore[no-any-return]


def gated(x: Tensor) -> Tensor:
    gate, value = x.chunk(2, -1)
    return F.silu(gate) * value


def experts(m: Text, x: Tensor) -> Tensor:
    """The answers of all experts, of shape (tokens, experts, size)."""
    return torch.einsum("edh,teh->ted", m.down, gated(torch.einsum("ehd,td->teh", m.up, x)))


def shares(weight: Tensor, number: Tensor) -> Tensor:
    return (F.one_hot(number, EXPERTS).to(weight.dtype) * weight[..., None]).sum(1)


def dense(m: Text, x: Tensor, weight: Tensor, number: Tensor) -> Tensor:
    return (shares(weight, number)[..., None] * experts(m, x)).sum(1)


def masked(m: Text, x: Tensor, weight: Tensor, number: Tensor) -> Tensor:
    kept = torch.zeros(TOKENS, EXPERTS, dtype=torch.bool).scatter(1, number, True)
    share = m.router(x).masked_fill(~kept, 0.0)
    return torch.bmm(share[:, None], experts(m, x)).squeeze(1)


def scattered(m: Text, x: Tensor, weight: Tensor, number: Tensor) -> Tensor:
    share = torch.zeros(TOKENS, EXPERTS, dtype=x.dtype).scatter(1, number, weight)
    return torch.einsum("te,ted->td", share, experts(m, x))


def looped(m: Text, x: Tensor, weight: Tensor, number: Tensor) -> Tensor:
    found = torch.zeros_like(x)
    for e in range(EXPERTS):
        share = (weight * (number == e)).sum(-1, keepdim=True)
        found = found + share * (gated(x @ m.up[e].T) @ m.down[e].T)
    return found


def looked_up(m: Text, x: Tensor, weight: Tensor, number: Tensor) -> Tensor:
    chosen, tokens = number.reshape(-1), x.repeat_interleave(CHOSEN, dim=0)
    hidden = gated(torch.bmm(m.up[chosen], tokens[..., None]).squeeze(-1))
    found = torch.bmm(m.down[chosen], hidden[..., None]).squeeze(-1)
    return (found * weight.reshape(-1, 1)).view(TOKENS, CHOSEN, SIZE).sum(1)


def gathered(m: Text, x: Tensor, weight: Tensor, number: Tensor) -> Tensor:
    return (experts(m, x).gather(1, number[..., None].expand(-1, -1, SIZE)) * weight[..., None]).sum(1)


def in_order(m: Text, x: Tensor, weight: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
    chosen, order = number.reshape(-1).sort()
    hidden = gated(torch.bmm(m.up[chosen], x[order // CHOSEN][..., None]).squeeze(-1))
    found = torch.bmm(m.down[chosen], hidden[..., None]).squeeze(-1)
    return found * weight.reshape(-1)[order].unsqueeze(-1), order


def sorted_and_back(m: Text, x: Tensor, weight: Tensor, number: Tensor) -> Tensor:
    found, order = in_order(m, x, weight, number)
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order))
    return found[back].view(TOKENS, CHOSEN, SIZE).sum(1)


def sorted_twice(m: Text, x: Tensor, weight: Tensor, number: Tensor) -> Tensor:
    found, order = in_order(m, x, weight, number)
    return found[order.argsort()].view(TOKENS, CHOSEN, SIZE).sum(1)


def sorted_and_added(m: Text, x: Tensor, weight: Tensor, number: Tensor) -> Tensor:
    found, order = in_order(m, x, weight, number)
    return torch.zeros_like(x).index_add(0, order // CHOSEN, found)


def in_groups(m: Text, x: Tensor, weight: Tensor, number: Tensor) -> Tensor:
    """Two of the four, of those that were chosen, by another router's scores."""
    kept = torch.zeros(TOKENS, EXPERTS, dtype=torch.bool).scatter(1, number, True)
    scores = (x @ m.bias.T).sigmoid()
    which = scores.masked_fill(~kept, -math.inf).topk(1, -1)[1]
    return (scores.gather(1, which)[..., None] * experts(m, x).gather(1, which[..., None].expand(-1, -1, SIZE))).sum(1)


def clipped(m: Text, x: Tensor, weight: Tensor, number: Tensor) -> Tensor:
    return (shares(weight, number)[..., None] * experts(m, F.hardtanh(x).clamp(-0.5, 0.5))).sum(1)


#: Lists in groups that end at a running count are in the tests of Mixtral (test_routing.py).
FORMS = [clipped, dense, masked, scattered, looped, looked_up, gathered, sorted_and_back, sorted_twice, sorted_and_added, in_groups]


def worst(model: nn.Module, spec: autoperm.PermutationSpec, text: Tensor) -> float:
    with torch.no_grad():
        wanted = model(text)
        return max(float((spec.random(seed).apply(model)(text) - wanted).abs().max()) for seed in range(10))


def made(mix: Mix) -> Text:
    torch.manual_seed(0)
    model = trained_like(Text(mix), seed=1)
    with torch.no_grad():
        model.words.weight[0] = 0
    return model


@pytest.mark.parametrize("mix", FORMS)
def test_experts_trade_places_where_zeros_stay_zeros(mix: Mix) -> None:
    model = made(mix)
    spec = autoperm.infer(model, TEXT)
    assert spec.order == ORDER
    assert worst(model, spec, TEXT) < 1e-12


def test_the_one_of_the_largest_score() -> None:
    model = made(lambda m, x, weight, number: experts(m, x)[torch.arange(TOKENS), m.router(x).argmax(-1)])
    assert autoperm.infer(model, TEXT).order == UNITS
    model = made(lambda m, x, weight, number: (F.one_hot(m.router(x).argmax(-1), EXPERTS)[..., None] * experts(m, x)).sum(1))
    spec = autoperm.infer(model, TEXT)
    assert spec.order == ORDER
    assert worst(model, spec, TEXT) < 1e-12


def routed_by(scaled: Callable[[Text, Tensor], Tensor]) -> Mix:
    """Experts of the rows themselves, chosen by what is made of them."""
    return lambda m, x, weight, number: dense(m, x, *m.router(scaled(m, x)).softmax(-1).topk(CHOSEN, -1))


@pytest.mark.parametrize(
    "scaled",
    [
        lambda m, x: x * x.pow(2).mean(-1, keepdim=True).add(1e-6).pow(-0.5) * m.scale * SIZE**-0.5,
        lambda m, x: 0.5 * (x * x.sum(-1, keepdim=True).sigmoid()),
    ],
)
def test_scores_of_rows_that_are_scaled(scaled: Callable[[Text, Tensor], Tensor]) -> None:
    model = made(routed_by(scaled))
    spec = autoperm.infer(model, TEXT)
    assert spec.order == ORDER
    assert worst(model, spec, TEXT) < 1e-12


@pytest.mark.parametrize("scaled", [lambda m, x: x * 0.0, lambda m, x: x * x.sum(-1, keepdim=True).relu()])
def test_scores_of_rows_that_are_made_zero(scaled: Callable[[Text, Tensor], Tensor]) -> None:
    assert autoperm.infer(made(routed_by(scaled)), TEXT).order == UNITS


def kept(number: Tensor) -> Tensor:
    return F.one_hot(number, EXPERTS).sum(1).double()


#: What depends on what rows of zeros choose.
MATTERS: dict[str, Mix] = {
    "biases": lambda m, x, weight, number: (shares(weight, number)[..., None] * (experts(m, x) + m.bias)).sum(1),
    "biases, looked up": lambda m, x, weight, number: m.bias[number].sum(1),
    "units that are not zero of zero": lambda m, x, weight, number: (
        shares(weight, number)[..., None] * torch.einsum("edh,teh->ted", m.down, torch.einsum("ehd,td->teh", m.up, x).cos()[..., :2])
    ).sum(1),
    "units that are clipped elsewhere": lambda m, x, weight, number: (
        shares(weight, number)[..., None] * (experts(m, F.hardtanh(x, 0.5, 1.0)) + experts(m, x.clamp(min=0.1)))
    ).sum(1),
    "the order of a list": lambda m, x, weight, number: (
        dense(m, x, weight, number) + in_order(m, x, weight, number)[1][:TOKENS, None].double()
    ),
    "a count of all choices": lambda m, x, weight, number: dense(m, x, weight, number) + kept(number).sum(0) @ m.bias,
    "a mean of all choices": lambda m, x, weight, number: dense(m, x, weight, number) * (kept(number).mean(0) * m.level).sum(),
    "no more than a few for an expert": lambda m, x, weight, number: (
        (shares(weight, number) * (kept(number).cumsum(0) < 3))[..., None] * experts(m, x)
    ).sum(1),
    "another row": lambda m, x, weight, number: dense(m, x, weight, number) + (kept(number) @ m.bias).roll(1, 0) * x,
    "rows from the end": lambda m, x, weight, number: (shares(weight, number).flip(0)[..., None] * experts(m, x)).sum(1),
    "rows among one another": lambda m, x, weight, number: dense(m, x, weight, number) + kept(number) @ kept(number).T @ x,
    "a sum over rows": lambda m, x, weight, number: torch.einsum("te,tf,fd->ed", kept(number), kept(number), m.bias)[:1] + x,
    "infinities": lambda m, x, weight, number: ((kept(number) * m.level)[:, :1].reciprocal() * x).nan_to_num(1.0),
    "infinities of a mask": lambda m, x, weight, number: (
        (shares(weight, number).masked_fill(number[:, :1] == 2, math.inf))[..., None] * experts(m, x)
    ).sum(1).nan_to_num(1.0),
    "only where it is not zero": lambda m, x, weight, number: torch.where(x == 0, kept(number) @ m.bias, x),
    "numbers": lambda m, x, weight, number: dense(m, x, weight, number) + number.sum(1, keepdim=True).double(),
    "a list, its neighbours": lambda m, x, weight, number: in_order(m, x, weight, number)[0].view(TOKENS, CHOSEN, SIZE).sum(1),
}  # fmt: skip


@pytest.mark.parametrize("name", MATTERS)
def test_experts_stay_where_it_matters(name: str) -> None:
    model = made(MATTERS[name])
    spec = autoperm.infer(model, TEXT)
    assert worst(model, spec, TEXT) < 1e-12
    assert all(group.size != EXPERTS for group in spec.groups)


def test_the_reason_is_told() -> None:
    spec = autoperm.infer(made(MATTERS["biases"]), TEXT)
    assert spec.pinned["router.weight", 0] == "aten.topk.default tells where the values came from, and some may be equal"


def test_random_uses_of_choices_are_sound() -> None:
    """Sums of products of what was chosen, of rows and of experts' answers, in one of many ways."""
    draw = torch.Generator().manual_seed(0)
    moving = 0
    for _ in range(30):
        steps = torch.randint(0, 6, (3,), generator=draw).tolist()
        model = made(lambda m, x, weight, number, steps=steps: _random(m, x, weight, number, steps))
        spec = autoperm.infer(model, TEXT)
        assert worst(model, spec, TEXT) < 1e-10, steps
        moving += any(group.size == EXPERTS for group in spec.groups)
    assert 3 < moving < 27


def _random(m: Text, x: Tensor, weight: Tensor, number: Tensor, steps: list[int]) -> Tensor:
    share, answers = shares(weight, number), experts(m, x)
    for step in steps:
        if step == 0:
            answers = answers * (share[..., None] + 1)
        elif step == 1:
            share = share * m.level
        elif step == 2:
            share = share + share.roll(1, 0)
        elif step == 3:
            answers = F.silu(answers) - answers.sum(-1, keepdim=True)
        elif step == 4:
            answers = answers + (share @ m.bias)[:, None] * x[:, None]
        elif step == 5:
            share = (share @ m.bias).sum(-1, keepdim=True) * share
    return (share[..., None] * answers).sum(1)
