"""Groups in groups where the step is not exact: each twice in one tensor, or three levels. Planted elements are found."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autoperm


class Stream(nn.Module):
    """A residual stream of groups of channels."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv2d(3, channels, 3, padding=1), nn.Linear(channels, 5)
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(4))
        self.norms = nn.ModuleList(nn.GroupNorm(groups, channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = x + norm(conv(x)).relu()
        return self.out(x.mean((2, 3)))


class Recurrent(nn.Module):
    """Heads that each go over into themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.weight = nn.Linear(5, 64), nn.Linear(64, 3), nn.Parameter(torch.randn(8, 8, 8) / 8**0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 8, 8)
        for t in range(3):
            h = (self.first(x[:, t]).view(-1, 8, 8) + torch.einsum("bhk,hkl->bhl", h, self.weight)).tanh()
        return self.last(h.flatten(1))


class Diagonal(nn.Module):
    """A residual stream of blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(5, 64, 1), nn.Conv1d(64, 3, 1)
        self.middle = nn.ModuleList(nn.Conv1d(64, 64, 1, groups=8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.middle:
            x = x + layer(x).relu()
        return self.last(x)


class Three(nn.Module):
    """Halves, groups in them, channels in these."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv = nn.Conv2d(4, 24, 1), nn.Conv2d(24, 24, 3, padding=1, groups=2)
        self.norm, self.last = nn.GroupNorm(6, 24), nn.Conv2d(24, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.conv(self.first(x).relu())).relu())


class Experts(nn.Module):
    """Experts, groups of units, units."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 4)
        self.up, self.down = (nn.Parameter(torch.randn(4, 3, 4, 6)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.einsum("bd,egud->begu", x, self.up).relu()
        h = h / (1 + h.square().sum(-1, keepdim=True)).sqrt()
        return torch.einsum("be,begu,egud->bd", F.softmax(self.gate(x), -1), h, self.down)


NETS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "32 groups of 2": (lambda: Stream(64, 32), torch.randn(1, 3, 8, 8)),
    "8 groups of 4": (lambda: Stream(32, 8), torch.randn(1, 3, 8, 8)),
    "recurrent heads": (Recurrent, torch.randn(2, 3, 5)),
    "blocks": (Diagonal, torch.randn(2, 5, 4)),
    "three levels": (Three, torch.randn(2, 4, 6, 6)),
    "experts of groups": (Experts, torch.randn(3, 6)),
}


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("name", NETS)
def test_planted_elements_are_found(name: str, noise: float) -> None:
    build, x = NETS[name]
    spec = None
    for seed in range(4):
        torch.manual_seed(seed)
        model = build()
        spec = spec or autoperm.infer(model, x)
        planted = spec.random(seed)
        other = planted.apply(model)
        with torch.no_grad():
            for weight in other.parameters():
                weight += noise * weight.std() * torch.randn_like(weight)
        found = autoperm.match(model, other, spec, progress=False)
        assert (found.permutation @ planted).is_identity
        assert noise or (found.distance == 0.0 and autoperm.distance(model, other, spec) == 0.0)
