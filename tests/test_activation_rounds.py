"""Further rounds of activation matching: layers of model b read what model a's read."""

from __future__ import annotations

import signal

import pytest
import torch
from matching_cases import CASES, batches, pair
from test_activation import inputs, match, noisy
from torch import nn

import autoperm
from autoperm import AutopermError, PermutationSpec
from autoperm.activations import Taps
from autoperm.matching.lending import lenders
from autoperm.trained import randomize_


def deep(width: int = 24, depth: int = 12) -> tuple[nn.Module, PermutationSpec]:
    torch.manual_seed(0)
    layers = [layer for k in range(depth) for layer in (nn.Linear(width if k else 6, width), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Linear(width, 3))
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(2.4)
    randomize_(net, 0)
    return net, autoperm.infer(net, torch.zeros(2, 6))


def lent_ops(model: nn.Module, x: torch.Tensor) -> list[str]:
    taps = Taps(model, autoperm.infer(model, x), x)
    return [taps.activations[name].place for name in lenders(taps)]


def test_noise_of_many_layers_does_not_add_up() -> None:
    a, spec = deep()
    element = spec.random(1)
    b, data = noisy(element.apply(a), 1, 0.3), inputs(32, 6)
    once, again = (match(a, b, spec, data, rounds=rounds).permutation for rounds in (0, 10))
    assert again == element.inverse() != once


@pytest.mark.parametrize("name", CASES)
def test_what_is_right_stays(name: str) -> None:
    a, _, spec = pair(name)
    element = spec.random(0)
    found = match(a, noisy(element.apply(a), 0), spec, batches(name), rounds=5)
    assert found.permutation == element.inverse()
    assert len(found.history) == 3, "the first further round moves nothing, and is the last"


def test_a_layer_gets_no_input_that_has_a_group_of_its_output() -> None:
    """A depthwise convolution in b would answer like a's at the same places, had it read a's values."""
    torch.manual_seed(0)
    conv = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.Flatten(), nn.Linear(24, 2)
    )
    assert lent_ops(conv, torch.zeros(2, 3, 4, 4)) == ["3", "5"]  # neither the first, which reads the data, nor the depthwise one
    norms = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 2))
    assert lent_ops(norms, torch.zeros(2, 3)) == ["3"]


def test_what_rounds_need() -> None:
    a, spec = deep(8, 2)
    with pytest.raises(AutopermError, match="rounds must be 0 or more, not -1"):
        match(a, a, spec, inputs(8, 6), rounds=-1)
    with pytest.raises(AutopermError, match="2 further rounds go through the data again, but an iterator is used up by one"):
        match(a, a, spec, iter(inputs(8, 6)), rounds=2)


def test_an_interrupt_in_a_round_leaves_what_was_found() -> None:
    a, spec = deep()
    b, data = noisy(spec.random(1).apply(a), 1, 0.3), inputs(32, 6)
    calls = 0

    def press(done: int, value: float) -> None:
        nonlocal calls
        calls += 1
        if calls == len(data) + 1:
            signal.raise_signal(signal.SIGINT)

    first = match(a, b, spec, data)
    found = match(a, b, spec, data, rounds=3, progress=press)
    assert found.interrupted and found.permutation == first.permutation and len(found.history) == 2
