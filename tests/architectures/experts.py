"""Mixtures of experts with batched weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.architectures.nets import Net, architecture


def _weights() -> dict[str, nn.Module | Tensor]:
    return {
        "first": nn.Linear(2, 3), "router": nn.Linear(3, 2), "last": nn.Linear(3, 2),
        "up": torch.randn(2, 3, 2), "middle": torch.randn(2, 1, 2), "down": torch.randn(2, 2, 3),
    }  # fmt: skip


@architecture((2, 2), order=6 * 2 * 2**2)
def experts_bmm() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        share = m.router(x).softmax(-1)
        hidden = torch.relu(torch.bmm(x.expand(2, *x.shape), m.up) + m.middle)
        found = torch.bmm(hidden, m.down)
        return m.last(x + (share.t()[..., None] * found).sum(0))

    return Net(forward, **_weights())


@architecture((2, 2), order=2 * 6 * 2**2)  # modules of their own, which trade places with the router's outputs
def experts_separate() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        share = m.router(x).softmax(-1)
        return m.last(share[:, :1] * m.a(x) + share[:, 1:] * m.b(x))

    def expert() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))

    return Net(forward, first=nn.Linear(2, 3), router=nn.Linear(3, 2), a=expert(), b=expert(), last=nn.Identity())


@architecture((2, 2), order=6 * 2 * 2)  # rows, experts, the code that routes
def mixed_weights() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        share = m.router(m.z).softmax(-1)
        up = torch.einsum("e,eoi->oi", share, m.up)
        return m.last(torch.relu(x @ up.t()))

    return Net(forward, router=nn.Linear(2, 2), z=torch.randn(2), up=torch.randn(2, 3, 2), last=nn.Linear(3, 2))


def _routed(forward) -> nn.Module:  # type: ignore[no-untyped-def]
    """Two of three experts for every token."""
    parts = {"router": nn.Linear(2, 3), "up": torch.randn(3, 2, 2), "down": torch.randn(3, 2, 2)}
    return Net(forward, **parts)


def _all_experts(m: nn.Module, x: Tensor, share: Tensor) -> Tensor:
    hidden = torch.tanh(torch.einsum("ehd,bd->beh", m.up, x))
    return (share[..., None] * torch.einsum("edh,beh->bed", m.down, hidden)).sum(1)


@architecture((2, 2), order=6 * 2**3)
def routed_one_hot() -> nn.Module:
    """The numbers of the chosen experts, compared with all numbers."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        weight, number = m.router(x).softmax(-1).topk(2, -1)
        chosen = nn.functional.one_hot(number, 3).to(x.dtype)
        return _all_experts(m, x, (chosen * weight[..., None]).sum(1))

    return _routed(forward)


@architecture((2, 2), order=6 * 2**3)
def routed_scatter() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        scores = m.router(x).sigmoid()
        weight, number = scores.topk(2, -1)
        return _all_experts(m, x, torch.zeros_like(scores).scatter(1, number, weight / weight.sum(-1, keepdim=True)))

    return _routed(forward)


@architecture((2, 2), order=6 * 2**3)
def routed_loop() -> nn.Module:
    """A loop over the experts that adds up their results: each number is compared by itself."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        weight, number = m.router(x).softmax(-1).topk(2, -1)
        out = torch.zeros_like(x)
        for e in range(3):
            share = (weight * (number == e)).sum(-1, keepdim=True)
            out = out + share * (torch.tanh(x @ m.up[e].t()) @ m.down[e].t())
        return out

    return _routed(forward)


@architecture((2, 2), order=6 * 2**3)
def routed_gather() -> nn.Module:
    """The weights of the chosen experts are looked up; in each the hidden units have an order of their own."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        weight, number = m.router(x).softmax(-1).topk(2, -1)
        hidden = torch.tanh(torch.einsum("bkhd,bd->bkh", m.up[number], x))
        return (weight[..., None] * torch.einsum("bkdh,bkh->bkd", m.down[number], hidden)).sum(1)

    return _routed(forward)


@architecture((2, 2), order=6)
def routed_best() -> nn.Module:
    """One expert a token: a row of a table, and its score gathered."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        scores = m.router(x)
        best = scores.argmax(-1)
        return m.table[best] * scores.gather(1, best[:, None])

    return Net(forward, router=nn.Linear(2, 3), table=torch.randn(3, 2))


@architecture((2, 2), order=2**3)
def routed_by_number() -> nn.Module:
    """The number itself is used: experts stay in place, their hidden units do not."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        weight, number = m.router(x).softmax(-1).topk(2, -1)
        chosen = nn.functional.one_hot(number, 3).to(x.dtype)
        return _all_experts(m, x, (chosen * weight[..., None] * (1 + number[..., None])).sum(1))

    return _routed(forward)


@architecture((2, 2), order=6 * 2**3)
def routed_among_equals() -> nn.Module:
    """Scores that a ReLU makes equal: which of them is chosen depends on their order."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        weight, number = m.router(x).relu().topk(2, -1)
        chosen = nn.functional.one_hot(number, 3).to(x.dtype)
        return _all_experts(m, x, (chosen * (1 + weight[..., None])).sum(1))

    return _routed(forward)


@architecture((2, 2), order=6 * 2**3)
def routed_gated() -> nn.Module:
    """Flat tokens, one batched product each, gate and value in one weight, as transformers' batched experts have them."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        weight, number = m.router(x).softmax(-1).topk(2, -1)
        chosen, tokens = number.reshape(-1), x.repeat_interleave(2, dim=0)
        gate, value = torch.bmm(m.both[chosen], tokens[..., None]).squeeze(-1).chunk(2, -1)
        found = torch.bmm(m.down[chosen], (torch.sigmoid(gate) * value)[..., None])[..., 0] + m.bias[chosen]
        return (found * weight.reshape(-1, 1)).view(2, 2, 2).sum(1)

    parts = {"both": torch.randn(3, 4, 2), "down": torch.randn(3, 2, 2), "bias": torch.randn(3, 2)}
    return Net(forward, router=nn.Linear(2, 3), **parts)


@architecture((2, 2))
def routed_crosswise() -> nn.Module:
    """Hidden units of one choice meet the weights of another: they have one order for all experts."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        number = m.router(x).topk(2, -1).indices
        up, down = m.up[number[:, 0]], m.down[number[:, 1]]
        return torch.bmm(down, torch.tanh(torch.bmm(up, x[..., None]))).squeeze(-1)

    return _routed(forward)


@architecture((2, 2))
def routed_by_the_first() -> nn.Module:
    """Every token's hidden units meet the weights that the first token chose."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        number = m.router(x).argmax(-1)
        up, down = m.up[number], m.down[number[0]]
        return torch.tanh(torch.bmm(up, x[..., None]).squeeze(-1)) @ down.t()

    return _routed(forward)


@architecture((2, 2))
def routed_tokens_joined() -> nn.Module:
    """The hidden units that two tokens chose are added: a sum over what is not of one choice."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        number = m.router(x).argmax(-1)
        hidden = torch.tanh(torch.bmm(m.up[number], x[..., None]).squeeze(-1))
        return hidden.sum(0, keepdim=True) * m.down[number].sum(2)

    return _routed(forward)
