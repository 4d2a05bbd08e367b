"""The comparison with other tools: verdicts, groups of channels as permutations, and the page."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from autoperm.trained import randomize_
from benchmarks.zoo.peers import page
from benchmarks.zoo.peers.judge import judge
from benchmarks.zoo.peers.pruning import _exchanged, permuted_groups, reordering


class Convolutions(nn.Module):
    """A classifier of as many classes as torchvision's: the layer that makes them is left out by the tool."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.two, self.head = nn.Conv2d(8, 6, 3), nn.Linear(6, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.norm(self.one(x)).relu()).relu()
        return self.head(x.mean((2, 3)))


IMAGES = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))


def trained(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = Convolutions().eval()
    randomize_(model, seed)
    return model


def permuted(model: nn.Module, statistics: bool = True, following: bool = True) -> nn.Module:
    """Channels of the first convolution in another order; the layers after it may be forgotten."""
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    model = copy.deepcopy(model)
    for tensor in (model.one.weight, model.one.bias, model.norm.weight, model.norm.bias):
        tensor.data = tensor.data[order]
    if statistics:
        model.norm.running_mean, model.norm.running_var = model.norm.running_mean[order], model.norm.running_var[order]
    if following:
        model.two.weight.data = model.two.weight.data[:, order]
    return model


def test_verdicts() -> None:
    a, b = trained(0), trained(1)
    assert judge(a, b, permuted(b), IMAGES)["status"] == "right"
    assert judge(a, b, permuted(b, statistics=False), IMAGES)["status"] == "right with new statistics"
    assert judge(a, b, permuted(b, following=False), IMAGES)["status"] == "wrong"
    assert judge(a, b, copy.deepcopy(b), IMAGES)["status"] == "nothing"


def test_the_objective_is_that_of_the_permuted_model() -> None:
    a, b = trained(0), trained(1)
    found = judge(b, b, permuted(b), IMAGES)
    assert found["before"] == pytest.approx(sum(float((p.double() ** 2).sum()) for p in b.parameters()))
    assert found["objective"] < found["before"]
    assert judge(a, b, permuted(b), IMAGES)["before"] == pytest.approx(judge(b, a, permuted(a), IMAGES)["before"])


def test_positions_are_read_in_order() -> None:
    swap = {0: 1, 1: 0}
    assert reordering(swap, 4).tolist() == [1, 0, 2, 3]
    assert reordering(swap, 6, copies=3).tolist() == [1, 0, 3, 2, 5, 4]
    assert reordering({0: 3, 3: 0}, 2).tolist() == [0, 1]  # of one group's channels, which have no third


def test_only_channels_that_are_alike_trade_places() -> None:
    roots = range(4)
    everywhere, half = {r: [r] for r in roots}, {0: [0], 1: [1], 2: [], 3: []}
    source, order = _exchanged(roots, [everywhere, half], 1, torch.Generator().manual_seed(0))
    assert {source[0], source[1]} == {0, 1} and {source[2], source[3]} == {2, 3}
    assert order == pytest.approx(2 * math.log10(2))


def test_blocks_trade_places_alike() -> None:
    roots = range(6)
    source, order = _exchanged(roots, [{r: [r] for r in roots}], 2, torch.Generator().manual_seed(0))
    assert all(source[r + 3] == source[r] + 3 for r in range(3))
    assert order == pytest.approx(math.log10(6))


def test_groups_of_channels_leave_the_outputs() -> None:
    pytest.importorskip("torch_pruning")
    a, b = trained(0), trained(1)
    moved = copy.deepcopy(b)
    share, order = permuted_groups(moved, IMAGES)
    assert judge(a, b, moved.eval(), IMAGES)["status"] == "right"
    assert order == pytest.approx(math.log10(math.factorial(8) * math.factorial(6)))
    assert share == pytest.approx(1 - 1000 / sum(p.numel() for p in b.parameters()))  # all but the biases of the classes


def test_the_page_has_every_verdict() -> None:
    right = {
        "status": "right",
        "error": 1e-15,
        "share": 1.0,
        "log10_order": 12.0,
        "seconds_tool": 2.0,
        "before": 1.0,
        "objective": 9.0,
    }
    tools = {
        "autoperm": right,
        "rebasin": {**right, "objective": 5.0},
        "torch-pruning": {"status": "crashed", "note": "ValueError: x"},
    }
    text = page.page({"net": {"model": "net", "parameters": 2_000_000, "tools": tools}})
    assert "| `net` | 2.0 M | right | 1e-15 | 100.0% | 10^12 | 2.0 | right" in text
    assert "| `net` | 1 | 9 | 5 |" in text
    assert "| torch-pruning | `ValueError: x` | 1 |" in text
