"""Recurrent language models from plain ops, step by step: RWKV-4 and Mamba."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TimeMix(nn.Module):
    """RWKV-4's attention in its recurrent form (Peng et al., 2023, equations 11 to 15)."""

    def __init__(self, width: int):
        super().__init__()
        self.mix = nn.Parameter(torch.rand(3, width))
        self.decay, self.first = nn.Parameter(torch.randn(width)), nn.Parameter(torch.randn(width))
        self.key, self.value, self.gate = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        before = F.pad(x, (0, 0, 1, -1))
        k, v, g = (f(x * m + before * (1 - m)) for f, m in zip((self.key, self.value, self.gate), self.mix, strict=True))
        above, below = torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0])
        steps = []
        for t in range(x.shape[1]):
            now = torch.exp(self.first + k[:, t])
            steps.append((above + now * v[:, t]) / (below + now))
            fade = torch.exp(-torch.exp(self.decay))
            above, below = fade * above + torch.exp(k[:, t]) * v[:, t], fade * below + torch.exp(k[:, t])
        return self.out(torch.sigmoid(g) * torch.stack(steps, 1))


class ChannelMix(nn.Module):
    """RWKV-4's feed-forward part (equations 16 to 18)."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.mix = nn.Parameter(torch.rand(2, width))
        self.key, self.value = nn.Linear(width, inner, bias=False), nn.Linear(inner, width, bias=False)
        self.gate = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        before = F.pad(x, (0, 0, 1, -1))
        k, g = (f(x * m + before * (1 - m)) for f, m in zip((self.key, self.gate), self.mix, strict=True))
        return torch.sigmoid(g) * self.value(torch.relu(k) ** 2)


class MambaBlock(nn.Module):
    """The selective scan of Gu and Dao, 2023, algorithm 2, one step at a time."""

    def __init__(self, width: int, inner: int, state: int = 4, rank: int = 3, kernel: int = 3):
        super().__init__()
        self.state, self.rank = state, rank
        self.into, self.out = nn.Linear(width, 2 * inner, bias=False), nn.Linear(inner, width, bias=False)
        self.conv = nn.Conv1d(inner, inner, kernel, groups=inner, padding=kernel - 1)
        self.select, self.step = nn.Linear(inner, rank + 2 * state, bias=False), nn.Linear(rank, inner)
        self.log_a = nn.Parameter(torch.randn(inner, state) * 0.3)
        self.skip = nn.Parameter(torch.randn(inner))

    def forward(self, x: Tensor) -> Tensor:
        u, z = self.into(x).chunk(2, -1)
        u = F.silu(self.conv(u.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        delta, b, c = self.select(u).split([self.rank, self.state, self.state], -1)
        delta = F.softplus(self.step(delta))
        h, steps = torch.zeros(len(x), u.shape[-1], self.state).to(x), []
        for t in range(x.shape[1]):
            fade = torch.exp(-delta[:, t, :, None] * torch.exp(self.log_a))
            h = fade * h + delta[:, t, :, None] * b[:, t, None] * u[:, t, :, None]
            steps.append((h * c[:, t, None]).sum(-1))
        return self.out((torch.stack(steps, 1) + u * self.skip) * F.silu(z))


class Language(nn.Module):
    """Embedding, residual parts behind norms, head."""

    def __init__(self, width: int, parts: list[nn.Module], norm: type[nn.Module], vocabulary: int = 17):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.norms, self.parts = nn.ModuleList(norm(width) for _ in parts), nn.ModuleList(parts)
        self.norm, self.head = norm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, index: Tensor) -> Tensor:
        x = self.tokens(index)
        for norm, part in zip(self.norms, self.parts, strict=True):
            x = x + part(norm(x))
        return self.head(self.norm(x))


class RWKV(Language):
    """Two blocks of RWKV-4."""

    def __init__(self, width: int = 12):
        parts = [part for _ in range(2) for part in (TimeMix(width), ChannelMix(width, 20))]
        super().__init__(width, parts, nn.LayerNorm)


class Mamba(Language):
    """Two blocks of Mamba."""

    def __init__(self, width: int = 12):
        super().__init__(width, [MambaBlock(width, 10), MambaBlock(width, 10)], nn.RMSNorm)
