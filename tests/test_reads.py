"""Forwards that look at weights in ways that no op stands for: what they tell stays in place, or the trace says what is wrong."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import autoperm
from autoperm.errors import CaptureError

Way = Callable[["Reader"], Tensor]


class Reader(nn.Module):
    def __init__(self, way: Way) -> None:
        super().__init__()
        self.first, self.last, self.way = nn.Linear(3, 4), nn.Linear(4, 2), way

    def forward(self, x: Tensor) -> Tensor:
        return self.last((self.first(x) + self.way(self).to(x.dtype)).tanh())


def _bias(model: Reader) -> Tensor:
    return model.first.bias.detach()


#: Ways, and the order of the group.
WAYS: dict[str, tuple[Way, int]] = {
    "constructed": (lambda m: torch.tensor(_bias(m)), 24),
    "copied": (lambda m: copy.deepcopy(m.first).bias, 24),
    "of the state dict": (lambda m: m.first.state_dict()["bias"], 24),
    "bits": (lambda m: _bias(m).view(torch.int64).view(torch.float64), 24),
    "called with weights": (lambda m: torch.func.functional_call(m.first, dict(m.first.named_parameters()), (torch.ones(3).double(),)), 24),
    "differentiated": (lambda m: torch.func.grad(lambda b: (b**3).sum())(_bias(m)), 24),
    "median": (lambda m: _bias(m).median() * torch.ones(4), 24),
    "one number": (lambda m: torch.tensor([float(f"{float(_bias(m)[0]):.4f}")] * 4), 6),
    "list": (lambda m: torch.tensor(_bias(m).tolist()), 1),
    "sorted list": (lambda m: torch.tensor(sorted(_bias(m).tolist())), 1),
    "NumPy": (lambda m: torch.from_numpy(np.array(_bias(m))), 1),
    "DLPack": (lambda m: torch.from_dlpack(_bias(m)), 1),
    "hash": (lambda m: torch.full((4,), float(hash(tuple(_bias(m).tolist())) % 97)), 1),
}


@pytest.mark.parametrize("name", WAYS)
def test_what_a_forward_reads_of_its_weights(name: str) -> None:
    way, order = WAYS[name]
    torch.manual_seed(0)
    model, x = Reader(way).double().eval(), torch.randn(5, 3, dtype=torch.float64)
    with torch.no_grad():
        spec = autoperm.infer(model, x)
        assert spec.order == order
        for seed in range(3):
            moved = spec.random(seed).apply(model)
            assert float((moved(x) - model(x)).abs().max()) < 1e-12


def _saved(model: Reader) -> Tensor:
    file = io.BytesIO()
    torch.save(_bias(model), file)
    file.seek(0)
    return torch.load(file)


@pytest.mark.parametrize("way, text", [
    (lambda m: _bias(m).clone().apply_(lambda v: 2 * v), r"a Python function for each entry \(apply_\); use torch's functions"),
    (lambda m: _bias(m).clone().map_(_bias(m), lambda a, b: a + b), r"a Python function for each entry \(map_\)"),
    (lambda m: torch.tensor(m.first.bias.untyped_storage().tolist()[:4]), "could not be traced"),
    (_saved, "could not be traced"),
], ids=["apply_", "map_", "storage", "saved"])  # fmt: skip
def test_what_cannot_be_traced_is_refused(way: Way, text: str) -> None:
    with pytest.raises(CaptureError, match=text):
        autoperm.infer(Reader(way), torch.randn(5, 3))


class Checked(nn.Module):
    """Images put among the tokens of a text, if there is as much of them as there is room."""

    def __init__(self, taken: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.words, self.pixels, self.last, self.taken = nn.Embedding(5, 4), nn.Linear(3, 4), nn.Linear(4, 2), taken

    def forward(self, text: Tensor, image: Tensor) -> Tensor:
        words, image = self.words(text), self.pixels(image)
        room = (text == 1).unsqueeze(-1).expand_as(words)
        if self.taken(words, room).numel() != image.numel():
            raise ValueError("the image has no room")
        return self.last(words.masked_scatter(room, image).tanh())


@pytest.mark.parametrize("taken", [lambda x, mask: x[mask], torch.masked_select])
def test_how_many_are_taken_leaves_what_is_taken_alone(taken: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model, inputs = Checked(taken).double().eval(), (torch.tensor([3, 1, 2, 1]), torch.randn(2, 3, dtype=torch.float64))
    spec = autoperm.infer(model, inputs)
    assert spec.order == 24
    moved = spec.random(0).apply(model)
    assert float((moved(*inputs) - model(*inputs)).abs().max()) < 1e-14


class Counted(nn.Module):
    """How many values are above zero, unit by unit or of all of them."""

    def __init__(self, one_by_one: bool) -> None:
        super().__init__()
        self.first, self.last, self.one_by_one = nn.Linear(3, 4), nn.Linear(4, 2), one_by_one

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        columns = hidden.unbind(1) if self.one_by_one else [hidden]
        numbers = [column[column > 0].numel() for column in columns]
        return self.last(hidden) + sum((k + 1) * n for k, n in enumerate(numbers))


@pytest.mark.parametrize("one_by_one", [True, False])
def test_how_many_are_taken_is_sound(one_by_one: bool) -> None:
    torch.manual_seed(0)
    model, x = Counted(one_by_one).double().eval(), torch.randn(5, 3, dtype=torch.float64)
    spec = autoperm.infer(model, x)
    assert spec.order == 1
    assert one_by_one or spec.pinned["first.weight", 0] == "how many there are is seen by Python"
