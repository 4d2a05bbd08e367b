"""Activation matching: the forms that data may take, and what is said about data that does not fit."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from matching_cases import batches, mlp, pair
from test_activation import inputs, match
from torch import nn

import autoperm
from autoperm import AutopermError, Match
from autoperm.errors import CaptureError, SpecError, StateError


class Two(nn.Module):
    """A net of two inputs, the second by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor, shift: torch.Tensor | None = None) -> torch.Tensor:
        h = self.first(x)
        return self.last((h if shift is None else h + shift).relu())


def test_forms_of_batches() -> None:
    torch.manual_seed(0)
    a = Two()
    x = inputs(16, 3)
    shift = torch.ones(16, 1)
    labels = torch.zeros(16, dtype=torch.long)
    spec = autoperm.infer(a, (x[0], shift))
    b = spec.random(0).apply(a)
    forms = [
        [(t, shift) for t in x],
        [{"x": t, "shift": shift} for t in x],
        [autoperm.Inputs(t, shift=shift) for t in x],
        ((t, shift) for t in x),
    ]
    assert [match(a, b, spec, form).distance for form in forms] == [0.0] * 4
    picked = match(a, b, spec, [(t, labels) for t in x], inputs=lambda batch: (batch[0], shift))
    assert picked.distance == 0.0
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.cat(x), labels.repeat(4)), batch_size=24)
    assert match(a, b, spec, loader, inputs=lambda batch: batch[0]).distance == 0.0


def test_state_dicts_need_a_template() -> None:
    a, _, spec = pair("mlp")
    b = spec.random(0).apply(a)
    states = a.state_dict(), b.state_dict()
    with pytest.raises(AutopermError, match="both are state dicts: pass template=, a module of their architecture"):
        match(*states, spec, batches("mlp"))
    other = mlp()
    assert match(*states, spec, batches("mlp"), template=other).distance == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    a, _, spec = pair("mlp")
    a = a.to(dtype)
    data = [x.to(dtype) for x in batches("mlp")]
    assert match(a, spec.random(0).apply(a), spec, data).distance == 0.0


def test_weights_of_another_dtype_than_the_template() -> None:
    a, _, spec = pair("mlp")
    half = a.half().state_dict()
    assert match(half, spec.random(0).apply(half), spec, batches("mlp"), template=mlp()).distance == 0.0


class Noise(nn.Module):
    """A net that draws noise, even in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last((self.first(x + 10 * torch.randn_like(x))).relu())


def test_both_models_see_the_same_noise_and_the_global_random_state_stays() -> None:
    torch.manual_seed(0)
    a = Noise()
    spec = autoperm.infer(a, torch.zeros(2, 3))
    state = torch.get_rng_state()
    found = [match(a, spec.random(0).apply(a), spec, inputs(16, 3)) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert found[0].distance == 0.0 and found[0].permutation == found[1].permutation


def test_progress_and_the_most_batches() -> None:
    a, b, spec = pair("mlp")
    told: list[int] = []
    options = {"progress": lambda done, value: told.append(done)}
    some = match(a, b, spec, batches("mlp"), max_batches=3, **options)
    assert told == [1, 2, 3]
    assert some.permutation == match(a, b, spec, batches("mlp")[:3]).permutation


def test_an_interrupt_returns_what_the_data_so_far_says() -> None:
    a, b, spec = pair("mlp")

    def stop(done: int, value: float) -> None:
        if done == 2:
            signal.raise_signal(signal.SIGINT)

    found = match(a, b, spec, batches("mlp"), progress=stop)
    assert found.interrupted
    assert found.permutation == match(a, b, spec, batches("mlp")[:2]).permutation


def used_up() -> Iterator[torch.Tensor]:
    data = iter(batches("mlp"))
    list(data)
    return data


def test_errors_about_data() -> None:
    a, b, spec = pair("mlp")
    x = batches("mlp")[0]
    none = "data gave no batch: it is empty, or an iterator that was used up before; pass a list or a data loader"
    cases: list[tuple[Any, dict[str, Any], str]] = [
        ([], {}, none),
        (used_up(), {}, none),
        (x, {}, r"data must be batches, such as a list or a data loader, not one Tensor; pass \[data\]"),
        (3, {}, "data must be batches, such as a list or a data loader, not one int"),
        ([x], {"inputs": 0}, r"inputs must be a function of a batch, such as lambda batch: batch\[0\], not 0"),
        ([x], {"max_batches": 0}, "max_batches must be at least 1, or None for all, not 0"),
        ([x], {"statistic": "magic"}, "statistic must be \"correlation\" or \"inner\", not 'magic'"),
        ([x[:1]], {}, "a correlation needs 2 samples or more, but the data gave 1 at node relu; pass more data"),
    ]
    for data, options, message in cases:
        with pytest.raises(AutopermError, match=message):
            match(a, b, spec, data, **options)
    with pytest.raises(AutopermError, match="method 'activation' needs data="):
        autoperm.match(a, b, spec, method="activation")
    assert isinstance(match(a, b, spec, [x[:1]], statistic="inner"), Match)


def test_errors_about_batches_that_do_not_fit() -> None:
    a, b, spec = pair("mlp")
    labelled = [(x, torch.zeros(8, dtype=torch.long)) for x in batches("mlp")]
    message = r"does not fit the model: a batch is args\[0\]: float32\[8, 3\], args\[1\]: int64\[8\]. [^$]*inputs=lambda batch: batch\[0\]"
    with pytest.raises(CaptureError, match=message):
        match(a, b, spec, labelled)
    with pytest.raises(CaptureError, match=r"a batch is args\[0\]: float32\[8, 5\]"):
        match(a, b, spec, [*batches("mlp"), torch.zeros(8, 5)])
    with pytest.raises(CaptureError, match="a batch is a str"):
        match(a, b, spec, ["words"])


class Cumulative(nn.Module):
    """Units in an order."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.cumsum(-1)


def test_the_spec_of_another_model() -> None:
    a, b, spec = pair("mlp")
    other = autoperm.infer(nn.Sequential(a[0], Cumulative(), *a[2:]), torch.zeros(1, 3))
    message = r"traced on the data, the model has another spec \(<PermutationSpec: 2 groups.*than the one given \(<PermutationSpec: 1 groups"
    with pytest.raises(SpecError, match=message):
        match(a, b, other, batches("mlp"))
    named = autoperm.infer(a, autoperm.Inputs(input=torch.zeros(1, 3)))
    assert named.fingerprint != spec.fingerprint  # the input that pins a dimension has another name, which is no matter
    assert match(a, b, named, batches("mlp")).history == match(a, b, spec, batches("mlp")).history
    some = [match(a, b, s, batches("mlp"), groups=["2.weight[0]"]).history for s in (named, spec)]
    assert some[0] == some[1]


def test_activations_that_are_not_finite_are_named() -> None:
    a, b, spec = pair("mlp")
    x = batches("mlp")[0]
    broken = x.clone()
    broken[2, 1] = float("nan")
    with pytest.raises(StateError, match=r"model_a: activations hold NaN at node addmm \(addmm\) in 0 \(16 of 128 entries are not finite\)"):
        match(a, b, spec, [x, broken])
    with torch.no_grad():
        b[0].weight.fill_(1e38)
    with pytest.raises(StateError, match=r"model_b: activations hold infinity at node addmm \(addmm\) in 0"):
        match(a, b, spec, [x * 100])


def test_values_that_do_not_fit_name_the_node() -> None:
    a = nn.Sequential(nn.Embedding(5, 8), nn.ReLU(), nn.Linear(8, 2))
    spec = autoperm.infer(a, torch.zeros(2, 3, dtype=torch.long))
    message = r"the model cannot be run on the data: at node embedding \(embedding\) in 0: index out of range"
    with pytest.raises(StateError, match=message):
        match(a, a, spec, [torch.full((2, 3), 7)])


class Forked(nn.Module):
    """A net that treats large batches in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        return self.last(h.relu() if len(x) > 4 else h.tanh())


def test_shapes_on_which_the_model_computes_other_things() -> None:
    torch.manual_seed(0)
    a = Forked()
    spec = autoperm.infer(a, torch.zeros(8, 3))
    with pytest.raises(AutopermError, match=r"on batches of another shape the model computes other things.*drop_last=True"):
        match(a, spec.random(0).apply(a), spec, [*inputs(8, 3), torch.zeros(2, 3)])
