"""The ops that random architectures are composed of: modules on tensors of shape (batch, tokens, channels)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Instruction name -> module of (channels, argument); the module keeps or changes the number of channels.
OPS: dict[str, Callable[..., nn.Module]] = {}
WIDTHS = (4, 6, 8)


def op(function: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    OPS[function.__name__] = function
    return function


class Apply(nn.Module):
    """A function of itself (for its parameters) and the input."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor], **modules: nn.Module | Tensor):
        super().__init__()
        self.function = function
        for name, value in modules.items():
            setattr(self, name, nn.Parameter(value) if isinstance(value, Tensor) else value)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


@op
def linear(c: int, out: int) -> nn.Module:
    return Apply(lambda m, x: torch.tanh(m.f(x)), f=nn.Linear(c, out))


@op
def residual(c: int) -> nn.Module:
    return Apply(lambda m, x: x + torch.tanh(m.f(x)), f=nn.Linear(c, c))


@op
def norm(c: int, kind: str) -> nn.Module:
    if kind == "batch":
        return Apply(lambda m, x: m.n(x.transpose(1, 2)).transpose(1, 2), n=nn.BatchNorm1d(c))
    if kind == "group":
        return Apply(lambda m, x: m.n(x.transpose(1, 2)).transpose(1, 2), n=nn.GroupNorm(2, c))
    return Apply(lambda m, x: m.n(x), n=nn.LayerNorm(c) if kind == "layer" else nn.RMSNorm(c))


@op
def attention(c: int, kind: str) -> nn.Module:
    d = c // 2

    def heads(x: Tensor, n: int = 2) -> Tensor:
        return x.unflatten(-1, (n, -1)).transpose(1, 2)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.softmax(q @ k.transpose(-1, -2), -1) @ v
        return scores.transpose(1, 2).flatten(2)

    if kind == "fused":
        parts = {"qkv": nn.Linear(c, 3 * c, bias=False), "o": nn.Linear(c, c)}
        return Apply(lambda m, x: x + m.o(attend(*(heads(p) for p in m.qkv(x).chunk(3, -1)))), **parts)
    kv = 1 if kind == "grouped" else 2
    parts = {n: nn.Linear(c, kv * d if n in "kv" else c, bias=False) for n in "qkv"}
    return Apply(
        lambda m, x: x + m.o(
            attend(heads(m.q(x)), *(heads(f(x), kv).repeat_interleave(2 // kv, 1) for f in (m.k, m.v)))
        ),
        o=nn.Linear(c, c), **parts,
    )  # fmt: skip


@op
def grouped(c: int, groups: int) -> nn.Module:
    return Apply(lambda m, x: torch.tanh(m.f(x.transpose(1, 2)).transpose(1, 2)), f=nn.Conv1d(c, c, 1, groups=groups))


@op
def conv(c: int) -> nn.Module:
    return Apply(lambda m, x: torch.tanh(m.f(x.transpose(1, 2)).transpose(1, 2)), f=nn.Conv1d(c, c, 3, padding=1))


@op
def heads(c: int, n: int, kind: str) -> nn.Module:
    """A function inside each of n heads."""
    inside: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
        "softmax": lambda m, y: y.softmax(-1),
        "norm": lambda m, y: m.n(y),
        "max": lambda m, y: y - y.amax(-1, keepdim=True),
        "across": lambda m, y: y - y.mean(-2, keepdim=True),
    }
    return Apply(lambda m, x: inside[kind](m, x.unflatten(-1, (n, -1))).flatten(-2), n=nn.LayerNorm(c // n))


@op
def concat(c: int, extra: int) -> nn.Module:
    return Apply(lambda m, x: torch.cat([x, torch.tanh(m.f(x))], -1), f=nn.Linear(c, extra))


@op
def split(c: int, at: int) -> nn.Module:
    """The parts go separate ways and come together again."""

    def apart(m: nn.Module, x: Tensor) -> Tensor:
        a, b = x.split([at, c - at], -1)
        return torch.cat([torch.tanh(a), m.f(b)], -1)

    return Apply(apart, f=nn.Linear(c - at, c - at))


@op
def shuffle(c: int, groups: int) -> nn.Module:
    return Apply(lambda m, x: x.unflatten(-1, (groups, -1)).transpose(-1, -2).flatten(-2))


@op
def cut(c: int, start: int, stop: int) -> nn.Module:
    """A slice, read beside the whole."""
    parts = {"f": nn.Linear(c, 4), "g": nn.Linear(stop - start, 4)}
    return Apply(lambda m, x: torch.tanh(m.f(x) + m.g(x[..., start:stop])), **parts)


@op
def flip(c: int, add: bool) -> nn.Module:
    return Apply(lambda m, x: x + torch.tanh(x).flip(-1) if add else x.flip(-1))


@op
def mirror(c: int) -> nn.Module:
    return Apply(lambda m, x: x + x.flip(-1))


@op
def reduce(c: int, kind: str) -> nn.Module:
    if kind == "tokens":
        return Apply(lambda m, x: x + x.mean(1, keepdim=True))
    return Apply(lambda m, x: x * (1 + x.amax(-1, keepdim=True)))  # the 1 because a "max" head leaves a largest 0


@op
def gate(c: int) -> nn.Module:
    return Apply(lambda m, x: torch.tanh(m.f(x)) * m.g(x), f=nn.Linear(c, c), g=nn.Linear(c, c))


@op
def shared(c: int) -> nn.Module:
    return Apply(lambda m, x: torch.tanh(m.f(torch.tanh(m.f(x)))), f=nn.Linear(c, c))


@op
def glu(c: int, out: int) -> nn.Module:
    return Apply(lambda m, x: F.glu(m.f(x), -1), f=nn.Linear(c, 2 * out))


@op
def scale(c: int) -> nn.Module:
    return Apply(lambda m, x: x * m.a + m.b, a=torch.randn(c), b=torch.randn(c))


@op
def roll(c: int, by: int) -> nn.Module:
    return Apply(lambda m, x: x.roll(by, -1))


@op
def gather(c: int, seed: int) -> nn.Module:
    index = torch.randperm(c, generator=torch.Generator().manual_seed(seed)).tolist()
    return Apply(lambda m, x: x[..., index])
