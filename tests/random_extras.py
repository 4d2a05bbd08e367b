"""More ops for random architectures, rarer in practice: tied weights, learned tokens, rotations, pieces of parameters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.random_ops import Apply

EXTRAS: dict[str, Callable[..., nn.Module]] = {}


def extra(function: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    EXTRAS[function.__name__] = function
    return function


@extra
def tied(c: int, hidden: int) -> nn.Module:
    """A layer and back through the same weight."""
    return Apply(lambda m, x: x + torch.tanh(F.linear(x, m.w)) @ m.w, w=torch.randn(hidden, c))


@extra
def registers(c: int, n: int) -> nn.Module:
    """Learned tokens that the others attend to."""

    def attend(m: nn.Module, x: Tensor) -> Tensor:
        y = torch.cat([m.tokens.expand(x.shape[0], -1, -1), x], 1)
        return x + (m.q(y) @ m.k(y).transpose(1, 2)).softmax(-1)[:, n:] @ y

    return Apply(attend, tokens=torch.randn(1, n, c), q=nn.Linear(c, 2, bias=False), k=nn.Linear(c, 2, bias=False))


@extra
def rolled(c: int, by: int) -> nn.Module:
    return Apply(lambda m, x: x + torch.tanh(x.roll(by, -1)))


@extra
def halves(c: int, kind: str) -> nn.Module:
    """The halves meet and go on beside one of them."""

    def meet(m: nn.Module, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat([torch.tanh(a) * b if kind == "product" else a - b, b], -1)

    return Apply(meet)


@extra
def interleave(c: int, back: bool) -> nn.Module:
    if back:
        return Apply(lambda m, x: torch.stack(torch.tanh(x).chunk(2, -1), -1).flatten(-2))
    return Apply(lambda m, x: torch.cat([torch.tanh(x[..., ::2]), x[..., 1::2]], -1))


@extra
def rotate(c: int, n: int) -> nn.Module:
    """A rotary embedding inside each of n heads."""

    def turned(m: nn.Module, x: Tensor) -> Tensor:
        y = x.unflatten(-1, (n, -1))
        a, b = y[..., : y.shape[-1] // 2], y[..., y.shape[-1] // 2 :]
        return (0.8 * y + 0.6 * torch.cat([-b, a], -1)).flatten(-2)

    return Apply(turned)


@extra
def per_head(c: int, n: int, shared: bool) -> nn.Module:
    """A layer inside each of n heads, one for all or one for each."""
    d = c // n
    if shared:
        return Apply(lambda m, x: torch.tanh(m.f(x.unflatten(-1, (n, -1)))).flatten(-2), f=nn.Linear(d, d))
    return Apply(
        lambda m, x: torch.tanh(torch.einsum("bthd,hde->bthe", x.unflatten(-1, (n, -1)), m.w)).flatten(-2),
        w=torch.randn(n, d, d),
    )


@extra
def pieces(c: int, at: int) -> nn.Module:
    """A part of a parameter is used once more."""
    return Apply(lambda m, x: torch.tanh(m.f(x)) + F.linear(x[..., :at], m.f.weight[:, :at]), f=nn.Linear(c, c))


@extra
def experts(c: int, n: int) -> nn.Module:
    def mix(m: nn.Module, x: Tensor) -> Tensor:
        hidden = torch.relu(torch.einsum("btc,ech->bteh", x, m.up))
        return x + torch.einsum("bte,bteh,ehc->btc", m.router(x).softmax(-1), hidden, m.down)

    return Apply(mix, router=nn.Linear(c, n), up=torch.randn(n, c, 2), down=torch.randn(n, 2, c))


@extra
def ordered(c: int, kind: str) -> nn.Module:
    """What orders the channels of each half."""
    inside = {"sort": lambda y: y.sort(-1).values, "cumsum": lambda y: y.cumsum(-1)}[kind]
    return Apply(lambda m, x: inside(x.unflatten(-1, (2, -1))).flatten(-2))


@extra
def crossed(c: int, how: str) -> nn.Module:
    """Both a part of the channels and their complement, in another order."""
    k = c // 2 + 1
    if how == "swap":
        return Apply(lambda m, x: torch.cat([torch.tanh(x[..., k:]), x[..., :k]], -1))
    return Apply(lambda m, x: torch.cat([x[..., :1], F.softmax(x[..., 1:k], -1), x[..., k:]], -1))


@extra
def padded(c: int, before: int) -> nn.Module:
    """A shortcut narrower than its stream."""
    return Apply(lambda m, x: m.f(x) + F.pad(torch.tanh(x[..., :2]), (before, c - 2 - before)), f=nn.Linear(c, c))


def choices(c: int) -> list[list[tuple]]:
    """The instructions possible at a width."""
    factors = [n for n in (2, 3) if c % n == 0]
    return [
        [("tied", 3), ("tied", c)],
        [("registers", 2)],
        [("rolled", k) for k in range(1, c)],
        [("halves", kind) for kind in ("product", "difference")],
        [("interleave", back) for back in (False, True)],
        [("rotate", n) for n in (1, 2, 3) if c % (2 * n) == 0],
        [("per_head", n, shared) for n in factors for shared in (False, True)],
        [("pieces", k) for k in range(1, c)],
        [("experts", n) for n in (2, 3)],
        [("ordered", kind) for kind in ("sort", "cumsum")],
        [("crossed", how) for how in ("swap", "middle")],
        [("padded", k) for k in range(c - 1)],
    ]
