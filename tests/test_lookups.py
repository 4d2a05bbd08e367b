"""Indices that are spread over other dimensions: rewritten as the index itself, with the same results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import autoperm
from autoperm.capture import capture
from autoperm.inference.lookups import simpler
from autoperm.inference.rewriting import rewritten
from tests.trained import soundness, trained_like

ROWS, SIZE, EXPERTS, CHOSEN = 6, 3, 4, 2


class Net(nn.Module):
    def __init__(self, use: Callable[..., Tensor]):
        super().__init__()
        self.use, self.router = use, nn.Linear(SIZE, EXPERTS)
        self.up, self.down = nn.Parameter(torch.randn(EXPERTS, SIZE, 3)), nn.Parameter(torch.randn(EXPERTS, 3, SIZE))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens sorted by expert, and what the experts make of them; ``use`` puts both together."""
        share, expert = self.router(x).softmax(-1).topk(CHOSEN)
        order = expert.reshape(-1).argsort(stable=True)
        chosen, token = expert.reshape(-1)[order], order // CHOSEN

        def made(rows: Tensor) -> Tensor:
            hidden = torch.einsum("nd,ndh->nh", rows, self.up[chosen]).tanh()
            return torch.einsum("nh,nhd->nd", hidden, self.down[chosen]) * share.reshape(-1)[order][:, None]

        return self.use(x, token, made)


def added(x: Tensor, token: Tensor, made: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.zeros_like(x).index_add(0, token, made(x[token]))


def spread(token: Tensor, x: Tensor) -> Tensor:
    return token[:, None].expand(-1, x.shape[1])


USES: dict[str, Callable[..., Tensor]] = {
    "gather": lambda x, t, made: torch.zeros_like(x).index_add(0, t, made(x.gather(0, spread(t, x)))),
    "gather_of_repeats": lambda x, t, made: torch.zeros_like(x).index_add(0, t, made(x.gather(0, t.view(-1, 1).repeat(1, SIZE)))),
    "scatter_add": lambda x, t, made: torch.zeros_like(x).scatter_add(0, spread(t, x), made(x[t])),
    "scatter_add_of_columns": lambda x, t, made: torch.zeros_like(x).T.scatter_add(1, t.expand(SIZE, -1), made(x[t]).T).T,
    "index_put": lambda x, t, made: torch.zeros_like(x).index_put((t,), made(x[t]), accumulate=True),
    "index_put_of_columns": lambda x, t, made: torch.ops.aten.index_put(torch.zeros_like(x).T, [None, t], made(x[t]).T, True).T,
}
#: Not rewritten: something else is done than to look up or add whole rows.
OTHERS: dict[str, Callable[..., Tensor]] = {
    "gather_in_part": lambda x, t, made: x.gather(0, t[:, None].expand(-1, 2)),
    "gather_by_two": lambda x, t, made: x.gather(0, torch.stack([t, t.flip(0), t], 1)),
    "gather_again": lambda x, t, made: x.gather(0, t[:, None].repeat(2, SIZE)),
    "gather_along_the_other": lambda x, t, made: x.gather(1, (t[:ROWS] % SIZE)[:, None].expand(-1, 2)),
    "scatter_add_in_part": lambda x, t, made: torch.zeros_like(x).scatter_add(0, t[:, None].expand(-1, 2), made(x[t])),
    "scatter_add_of_more": lambda x, t, made: torch.zeros_like(x).scatter_add(0, spread(t[:4], x), made(x[t])),
    "put_in_place": lambda x, t, made: torch.zeros_like(x).index_put((t,), made(x[t])),
    "put_by_two": lambda x, t, made: torch.zeros_like(x).index_put((t, t % SIZE), made(x[t]).sum(1), accumulate=True),
    "put_one_for_all": lambda x, t, made: torch.zeros_like(x).index_put((t,), made(x[t])[:1], accumulate=True),
    "put_by_a_mask": lambda x, t, made: torch.zeros_like(x).index_put((x[:, 0] > -9,), x, accumulate=True),
}


def net(use: Callable[..., Tensor]) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return trained_like(Net(use), seed=1), torch.randn(ROWS, SIZE, dtype=torch.float64)


@pytest.mark.parametrize("name", USES)
def test_experts_move_as_with_plain_indices(name: str) -> None:
    model, x = net(USES[name])
    spec = autoperm.infer(model, x)
    assert spec.order == autoperm.infer(net(added)[0], x).order == 24 * 6**EXPERTS
    assert soundness(model, spec, x, samples=10) < 1e-12


@pytest.mark.parametrize("name", USES | OTHERS)
def test_what_is_rewritten_computes_the_same(name: str) -> None:
    model, x = net((USES | OTHERS)[name])
    captured = capture(model, x)
    assert any(simpler(node) for node in captured.graph.nodes) == (name in USES)
    other, state = rewritten(captured), dict(model.state_dict())
    found: list[Any] = [graph.run(state, x)[0] for graph in (captured, other)]
    assert torch.allclose(*found, rtol=1e-12, atol=1e-12)
    assert soundness(model, autoperm.infer(model, x), x, samples=3) < 1e-12
