"""Forwards that change what the next one reads: buffers and attributes that hold a state, from one call to another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import autoperm
from autoperm.capture import capture
from autoperm.capture.tracers import TRACERS

X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Recurrent(nn.Module):
    """A layer whose units read what they were at the end of the last call."""

    def __init__(self, kind: str, write: Callable[[Recurrent, Tensor], None]) -> None:
        super().__init__()
        self.first, self.back, self.last = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.double()
        state = torch.zeros(4, dtype=torch.float64)
        if kind == "attribute":
            self.state = state
        else:
            self.register_buffer("state", state, persistent=kind == "buffer")
        self.write = write

    def forward(self, x: Tensor) -> Tensor:
        units = torch.tanh(self.first(x) + self.back(self.state))
        self.write(self, units[-1])
        return self.last(units)


def replace(m: Recurrent, state: Tensor) -> None:
    m.state = state.detach()


def overwrite(m: Recurrent, state: Tensor) -> None:
    m.state.copy_(state)


def add(m: Recurrent, state: Tensor) -> None:
    m.state += state


WRITES = [replace, overwrite, add]


@pytest.mark.parametrize("write", WRITES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", ["attribute", "buffer", "no part of the state dict"])
def test_states_stay_in_order_from_call_to_call(kind: str, write: Callable[[Recurrent, Tensor], None]) -> None:
    torch.manual_seed(0)
    model = Recurrent(kind, write).eval()
    with torch.no_grad():
        spec = autoperm.infer(model, X)
        model(X)
        moved = spec.random(1).apply(model)
        for _ in range(3):
            assert torch.equal(model(X), moved(X))
    assert spec.order == 1  # the units are those of the state, which nothing says how to reorder once it is written
    if kind == "buffer":
        assert "the forward changes it" in spec.pinned.get(("first.weight", 0), "") or spec.layouts["state"]


@pytest.mark.parametrize("tracer", ["make_fx-fake", "make_fx-real"])
@pytest.mark.parametrize("kind", ["attribute", "buffer", "no part of the state dict"])
def test_new_states_are_outputs(kind: str, tracer: str) -> None:
    assert set(TRACERS) >= {tracer}
    for write in WRITES:
        model = Recurrent(kind, write).eval()
        model.state += torch.randn(4, dtype=torch.float64)
        old = model.state.clone()
        found = capture(model, X, tracers=[tracer])
        assert found.outputs == ["output", "the new state"]
        assert torch.equal(model.state, old)
        _, new = found.run(model.state_dict(), X)
        with torch.no_grad():
            model(X)
        assert float((new - model.state).abs().max()) < 1e-12


def test_what_is_only_written_leaves_no_trace() -> None:
    class Recorder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
            self.seen, self.double_seen = torch.zeros(5, 4), torch.zeros(5, 4)
            self.register_buffer("calls", torch.zeros((), dtype=torch.long))

        def forward(self, x: Tensor) -> Tensor:
            units = self.first(x).tanh()
            self.seen = units.detach()
            self.double_seen.copy_(units)
            self.calls += 1
            return self.last(units)

    model = Recorder()
    spec = autoperm.infer(model, X.float())
    assert spec.order == 24
    assert "the new seen" not in capture(model, X.float()).outputs
