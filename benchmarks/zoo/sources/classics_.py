"""Architectures that no zoo holds, as their papers and reference codes write them, small."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.zoo.entry import Entry
from benchmarks.zoo.sources.scans import RWKV, Mamba


class Siren(nn.Module):
    """Sitzmann et al., 2020: sines of scaled linear layers."""

    def __init__(self, width: int = 12, depth: int = 3):
        super().__init__()
        widths = [2, *[width] * depth]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.last = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sin(3.0 * layer(x))
        return self.last(x)


class KanLayer(nn.Module):
    """Liu et al., 2024, with radial functions in place of splines: every edge has a function of its own."""

    def __init__(self, n_in: int, n_out: int, grid: int = 5):
        super().__init__()
        self.register_buffer("grid", torch.linspace(-2, 2, grid))
        self.coefficients = nn.Parameter(torch.randn(n_out, n_in, grid) * 0.3)
        self.base = nn.Parameter(torch.randn(n_out, n_in) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        basis = torch.exp(-((x.unsqueeze(-1) - self.grid) ** 2))
        return torch.einsum("big,oig->bo", basis, self.coefficients) + F.silu(x) @ self.base.T


class Hypernetwork(nn.Module):
    """Ha et al., 2016: a small network writes the weights of the layer that reads the input."""

    def __init__(self, code: int = 4, hidden: int = 6, n_in: int = 3, units: int = 8):
        super().__init__()
        self.shape = (units, n_in)
        self.code = nn.Parameter(torch.randn(code))
        self.body = nn.Sequential(nn.Linear(code, hidden), nn.Tanh())
        self.weight, self.bias = nn.Linear(hidden, units * n_in), nn.Linear(hidden, units)
        self.last = nn.Linear(units, 2)

    def forward(self, x: Tensor) -> Tensor:
        body = self.body(self.code)
        return self.last(F.linear(x, self.weight(body).view(self.shape), self.bias(body)).relu())


class DeepSets(nn.Module):
    """Zaheer et al., 2017: the sum over a set of what one network makes of its elements."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 10))
        self.all = nn.Sequential(nn.Linear(10, 7), nn.ReLU(), nn.Linear(7, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.all(self.each(x).sum(1))


class Capsules(nn.Module):
    """Sabour et al., 2017: routing by agreement, two rounds."""

    def __init__(self, capsules: int = 6, dim: int = 4, classes: int = 3, out: int = 5):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3)
        self.primary = nn.Conv2d(8, capsules * dim, 3, stride=2)
        self.capsules, self.dim = capsules, dim
        self.weight = nn.Parameter(torch.randn(capsules, classes, out, dim) * 0.4)

    def forward(self, x: Tensor) -> Tensor:
        u = self.primary(self.first(x).relu())
        u = squash(u.view(len(u), self.capsules, self.dim, -1).permute(0, 1, 3, 2))
        votes = torch.einsum("ckod,bcpd->bcpko", self.weight, u)
        logits = torch.zeros(votes.shape[:-1])
        for _ in range(2):
            v = squash((logits.softmax(-1).unsqueeze(-1) * votes).sum((1, 2)))
            logits = logits + torch.einsum("bcpko,bko->bcpk", votes, v)
        return v.norm(dim=-1)


def squash(x: Tensor) -> Tensor:
    square = (x * x).sum(-1, keepdim=True)
    return x * square.sqrt() / (1 + square)


class NeuralOde(nn.Module):
    """Chen et al., 2018, with four steps of Runge and Kutta's method of order 4."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.first, self.last = nn.Linear(3, width), nn.Linear(width, 2)
        self.field = nn.Sequential(nn.Linear(width + 1, 10), nn.Tanh(), nn.Linear(10, width))

    def slope(self, t: float, h: Tensor) -> Tensor:
        return self.field(torch.cat([h, torch.full_like(h[:, :1], t)], 1))

    def forward(self, x: Tensor) -> Tensor:
        h, step = self.first(x), 0.25
        for k in range(4):
            t = k * step
            a = self.slope(t, h)
            b = self.slope(t + step / 2, h + step / 2 * a)
            c = self.slope(t + step / 2, h + step / 2 * b)
            h = h + step / 6 * (a + 2 * b + 2 * c + self.slope(t + step, h + step * c))
        return self.last(h)


class Potential(nn.Module):
    """Energy of atoms by messages over pairs, after SchNet (Schütt et al. 2017), and forces: a gradient within the forward."""

    def __init__(self, width: int = 8, basis: int = 6):
        super().__init__()
        self.register_buffer("kinds", torch.tensor([0, 1, 2, 1, 0]), persistent=False)
        self.register_buffer("centres", torch.linspace(0, 3, basis), persistent=False)
        self.species = nn.Embedding(3, width)
        self.filter = nn.Sequential(nn.Linear(basis, width), nn.Softplus(), nn.Linear(width, width))
        self.inner = nn.Linear(width, width)
        self.update = nn.Sequential(nn.Linear(width, width), nn.Softplus(), nn.Linear(width, width))
        self.head = nn.Sequential(nn.Linear(width, width // 2), nn.Softplus(), nn.Linear(width // 2, 1))

    def energy(self, x: Tensor) -> Tensor:
        distance = ((x[:, None] - x).square().sum(-1) + 1e-6).sqrt()
        filters = self.filter((-(distance[..., None] - self.centres).square()).exp())
        h = self.species(self.kinds)
        for _ in range(2):
            h = h + self.update((filters * self.inner(h)).sum(1))
        return self.head(h).sum()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            energy = self.energy(x)
            return energy, -torch.autograd.grad(energy, x)[0]


class GptBlock(nn.Module):
    """A block of nanoGPT: fused query, key and value, a mask of its own."""

    def __init__(self, width: int, heads: int, length: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.register_buffer("mask", torch.tril(torch.ones(length, length)).view(1, 1, length, length))

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = (y.view(b, t, self.heads, -1).transpose(1, 2) for y in self.attention(self.norm1(x)).split(c, dim=2))
        scores = (q @ k.transpose(-2, -1)) * k.shape[-1] ** -0.5
        scores = scores.masked_fill(self.mask[:, :, :t, :t] == 0, float("-inf")).softmax(-1)
        x = x + self.project((scores @ v).transpose(1, 2).contiguous().view(b, t, c))
        return x + self.mlp(self.norm2(x))


class NanoGpt(nn.Module):
    """Karpathy's nanoGPT; the head is the embedding."""

    def __init__(self, vocabulary: int = 17, width: int = 16, heads: int = 4, layers: int = 2, length: int = 8):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(GptBlock(width, heads, length) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, index: Tensor) -> Tensor:
        x = self.tokens(index) + self.places(torch.arange(index.shape[1]))
        return self.head(self.norm(self.blocks(x)))


#: Name -> how to build it, and its input.
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "siren": (Siren, lambda: torch.randn(5, 2)),
    "kan": (lambda: nn.Sequential(KanLayer(3, 6), KanLayer(6, 5), KanLayer(5, 2)), lambda: torch.randn(4, 3)),
    "hypernetwork": (Hypernetwork, lambda: torch.randn(4, 3)),
    "deep-sets": (DeepSets, lambda: torch.randn(2, 5, 3)),
    "capsules": (Capsules, lambda: torch.randn(2, 1, 9, 9)),
    "neural-ode": (NeuralOde, lambda: torch.randn(4, 3)),
    "potential": (Potential, lambda: torch.randn(5, 3)),
    "nanogpt": (NanoGpt, lambda: torch.randint(0, 17, (2, 6))),
    "rwkv": (RWKV, lambda: torch.randint(0, 17, (2, 6))),
    "mamba": (Mamba, lambda: torch.randint(0, 17, (2, 6))),
}


def entries(full: bool) -> Sequence[Entry]:
    """All of them; ``full`` makes no difference."""
    return [_entry(name, build, inputs) for name, (build, inputs) in MODELS.items()]


def _entry(name: str, build: Callable[[], nn.Module], inputs: Callable[[], Tensor]) -> Entry:
    return Entry(name, name, build, lambda model: inputs(), counted=False)
