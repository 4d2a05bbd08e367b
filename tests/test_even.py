"""What meets a constant, padding or repeats in a joined tensor, is free there; what meets different ones is told apart."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autoperm
from autoperm.capture import capture
from tests.oracle import true_order
from tests.trained import soundness, trained_like


class Joined(nn.Module):
    """Two hidden units, and weights for what is put beside them."""

    def __init__(self, use: Callable[[Joined, Tensor], Tensor | tuple[Tensor, ...]]):
        super().__init__()
        self.first, self.use = nn.Linear(3, 2), use
        self.narrow, self.square, self.two = (nn.Parameter(torch.randn(n)) for n in ((6, 4), (6, 6), (2,)))
        self.four, self.six = nn.Linear(4, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.use(self, torch.tanh(self.first(x)))


def beside(*parts: Tensor) -> Tensor:
    return torch.cat(parts, 1)


def filled(h: Tensor, width: int, value: float = 0.0) -> Tensor:
    return torch.full((len(h), width), value, dtype=h.dtype)


def sums(h: Tensor) -> list[Tensor]:
    """The sum of the units twice, and the largest of them twice."""
    return [h.sum(1, keepdim=True).expand(-1, 2), h.amax(1, keepdim=True).expand(-1, 2)]


def reused(m: Joined, x: Tensor) -> Tensor:
    """Read by a matrix and added to what that makes of it, as in a residual stream."""
    return m.six(x + torch.tanh(x @ m.square))


WHOLE: dict[str, Callable[[Joined, Tensor], Tensor | tuple[Tensor, ...]]] = {
    "padded": lambda m, h: m.four(beside(h, filled(h, 4)) @ m.narrow),
    "padded_again": lambda m, h: m.six(beside(h, filled(h, 4)) + torch.tanh(beside(h, filled(h, 4)) @ m.square)),
    "padded_and_reused": lambda m, h: reused(m, beside(h, filled(h, 4))),
    "padded_on_both_sides": lambda m, h: reused(m, F.pad(h, (1, 3))),
    "padded_by_different_numbers": lambda m, h: m.four(beside(h, filled(h, 2, 1.0), filled(h, 2, 2.0)) @ m.narrow),
    "different_numbers_reused": lambda m, h: reused(m, beside(h, filled(h, 2, 1.0), filled(h, 2, 2.0))),
    "repeats_of_sums": lambda m, h: m.four(beside(h, *sums(h)) @ m.narrow),
    "repeats_of_sums_reused": lambda m, h: reused(m, beside(h, *sums(h))),
    "padded_and_cut": lambda m, h: m.four((beside(h, filled(h, 4))[:, 1:5] * m.narrow[:4, 0]) @ m.narrow[:4]),
    "padded_and_seen": lambda m, h: (beside(h, filled(h, 4)), m.six(beside(h, filled(h, 4)) @ m.square)),
    "padded_and_reversed": lambda m, h: m.six((x := beside(h, filled(h, 4))) + x.flip(1) @ m.square),
    "repeats_of_weights": lambda m, h: m.four(beside(h, m.two[:1].expand(len(h), 2), m.two[1:].expand(len(h), 2)) @ m.narrow),
    "repeats_of_units": lambda m, h: m.six(beside(h[:, :1].expand(-1, 3), h[:, 1:].expand(-1, 3)) * m.square[0]),
}
#: The same but for values that coincide.
HALF: dict[str, Callable[[Joined, Tensor], Tensor | tuple[Tensor, ...]]] = {
    "repeats_of_units_reused": lambda m, h: reused(m, beside(h[:, :1].expand(-1, 3), h[:, 1:].expand(-1, 3))),
}


@pytest.mark.parametrize(("name", "missing"), [*((name, 1) for name in WHOLE), *((name, 2) for name in HALF)])
def test_the_whole_group_is_found(name: str, missing: int) -> None:
    torch.manual_seed(0)
    model, x = trained_like(Joined((WHOLE | HALF)[name]), seed=1), torch.randn(5, 3, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error", autoperm.UnsupportedOpWarning)
        spec = autoperm.infer(model, x)
    assert soundness(model, spec, x, samples=10) < 1e-12
    assert spec.order * missing == true_order(capture(model, x))
