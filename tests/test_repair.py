"""REPAIR: after it, every channel has the statistics that the endpoints have on average; nothing is mutated."""

from __future__ import annotations

import copy
import itertools
import logging
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from matching_cases import Attention, group_norm, grouped, mlp
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autoperm import AutopermError
from autoperm.errors import CaptureError, StateError
from autoperm.merging import Repairer, measuring, repair
from autoperm.trained import randomize_


class Normed(nn.Module):
    """A residual MLP with LayerNorm; its last layer has no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(5, 12), nn.LayerNorm(12)
        self.up, self.down, self.head = nn.Linear(12, 20), nn.Linear(20, 12), nn.Linear(12, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x + self.down(self.up(self.norm(x)).relu()))


class PerHead(nn.Module):
    """Weights that are no layer's: one matrix per head, and a bias that is added afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.shift = nn.Parameter(torch.randn(2, 4, 5)), nn.Parameter(torch.randn(2, 4))
        self.mid, self.head = nn.Parameter(torch.randn(2, 3, 4)), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = (torch.einsum("hdi,bi->bhd", self.up, x) + self.shift).relu()
        return self.head(torch.einsum("hed,bhd->bhe", self.mid, h).tanh().flatten(1))


def convolutions() -> nn.Module:
    body = [nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, groups=2), nn.ReLU(), nn.Conv2d(6, 6, 2, groups=3)]
    return nn.Sequential(*body, nn.ReLU(), nn.Flatten(), nn.Linear(6 * 6 * 6, 4))


def batch_norms() -> nn.Module:
    """BatchNorm behind a convolution and behind a nonlinearity, so that a repaired layer is before one."""
    body = [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.BatchNorm2d(6)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(6 * 16, 5), nn.ReLU(), nn.Linear(5, 2))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (3,)),
    "layer_norm": (Normed, (4, 5)),
    "convolutions": (convolutions, (3, 8, 8)),
    "grouped": (grouped, (3, 5, 5)),
    "group_norm": (group_norm, (3, 8, 8)),
    "attention": (lambda: Attention(12, 3, 12, residual=True), (4, 3)),
    "batch_norm": (batch_norms, (3, 8, 8)),
}
LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def three(build: Callable[[], nn.Module]) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Two endpoints with statistics of their own, and their average."""
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(build())
        randomize_(models[-1], seed)
    return models[0], models[1], between(*models)


def between(a: nn.Module, b: nn.Module) -> nn.Module:
    middle = copy.deepcopy(a)
    x, y = a.state_dict(), b.state_dict()
    middle.load_state_dict({k: (v + y[k]) / 2 if v.is_floating_point() else v for k, v in x.items()})
    return middle


def inputs(shape: tuple[int, ...], sizes: tuple[int, ...] = (24, 24, 9)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(n, *shape, generator=generator) for n in sizes]


def statistics(model: nn.Module, data: list[Any]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """For every layer's channels the mean and the deviation over all data, in eval mode."""
    seen: dict[str, list[torch.Tensor]] = {}
    watched = copy.deepcopy(model).eval()
    for name, module in watched.named_modules():
        if isinstance(module, LAYERS):
            dim = -1 if isinstance(module, nn.Linear) else 1
            module.register_forward_hook(
                lambda m, args, out, name=name, dim=dim: seen.setdefault(name, []).append(out.movedim(dim, 0).flatten(1).double())
            )
    with torch.no_grad():
        for x in data:
            watched(x)
    whole = {name: torch.cat(parts, dim=1) for name, parts in seen.items()}
    return {name: (rows.mean(1), rows.std(1, correction=0)) for name, rows in whole.items()}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("weights", [None, (1, 3)])
def test_statistics_are_those_of_the_endpoints_on_average(name: str, weights: tuple[float, float] | None) -> None:
    build, shape = NETS[name]
    a, b, middle = three(build)
    data = inputs(shape)
    repaired = repair(middle, [a, b], data, weights=weights)
    share = 0.5 if weights is None else 0.25
    found, before, *ends = (statistics(m, data) for m in (repaired, middle, a, b))
    layers = dict(middle.named_modules())
    for layer, (mean, deviation) in found.items():
        if name == "batch_norm" and layer == "0":  # feeds BatchNorm alone
            assert torch.equal(repaired.get_parameter("0.weight"), middle.get_parameter("0.weight"))
            continue
        wanted = [share * x + (1 - share) * y for x, y in zip(ends[0][layer], ends[1][layer])]
        assert torch.allclose(deviation, wanted[1], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(before[layer][1], wanted[1], rtol=1e-2)
        if layers[layer].bias is not None:
            assert torch.allclose(mean, wanted[0], rtol=1e-4, atol=1e-4)


def test_weights_that_no_layer_holds() -> None:
    """The two einsums' channels are pairs of a head and a dimension."""
    a, b, middle = three(PerHead)
    (x,) = data = inputs((5,), (60,))
    repaired = repair(middle, [a, b], data)

    def seen(model: PerHead) -> list[torch.Tensor]:
        up = torch.einsum("hdi,bi->hdb", model.up, x).double() + model.shift[..., None]
        return [up, torch.einsum("hed,hdb->heb", model.mid.double(), up.relu())]

    for k, (found, first, second) in enumerate(zip(*(seen(m) for m in (repaired, a, b)))):
        assert torch.allclose(found.std(-1), (first.std(-1) + second.std(-1)) / 2, atol=1e-4)
        if k == 0:
            assert torch.allclose(found.mean(-1), (first.mean(-1) + second.mean(-1)) / 2, atol=1e-4)


def test_the_fused_projection_of_multi_head_attention() -> None:
    def build() -> nn.Module:
        return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    a, b, middle = three(build)
    data = inputs((5, 8))
    repaired = repair(middle, [a, b], data)
    x = torch.cat(data)
    first, second, found = ((x @ m.self_attn.in_proj_weight.T + m.self_attn.in_proj_bias).flatten(0, 1) for m in (a, b, repaired))
    assert torch.allclose(found.mean(0), (first.mean(0) + second.mean(0)) / 2, atol=1e-4)
    assert torch.allclose(found.std(0), (first.std(0) + second.std(0)) / 2, atol=1e-4)
    ends, mine = [statistics(m, data) for m in (a, b)], statistics(repaired, data)
    for layer in ("linear1", "linear2"):
        for k in range(2):
            assert torch.allclose(mine[layer][k], (ends[0][layer][k] + ends[1][layer][k]) / 2, atol=1e-4)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("room", [0, 12_000])
def test_values_that_are_not_kept_are_computed_again(name: str, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for no values, or for those of some batches, the result is the same to the last bit."""
    build, shape = NETS[name]
    a, b, middle = three(build)
    kept = repair(middle, [a, b], inputs(shape))
    monkeypatch.setattr(measuring, "KEPT_BYTES", room)
    again = repair(middle, [a, b], inputs(shape))
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in kept.state_dict().items())


def test_no_layer_runs_more_often_than_twice_on_the_model() -> None:
    """However deep it is; once before it is corrected, and once after."""
    a, b, middle = three(lambda: nn.Sequential(*[m for _ in range(6) for m in (nn.Linear(4, 4), nn.Tanh())]))
    repairer = Repairer([a, b], inputs((4,), (10, 10)))
    with FlopCounterMode(display=False) as counter:
        repairer(middle)
    layer, average = 2 * 10 * 4 * 4, 2 * 2 * 4  # on a batch; of the endpoints' means or deviations
    runs = 2 * (6 * 2 + 6 + 5)  # of two batches: both endpoints, then the model; its last layer is not run again
    assert counter.get_total_flops() == runs * layer + 6 * 2 * average


def test_many_models_of_the_same_endpoints() -> None:
    a, b, middle = three(Normed)
    data = inputs((4, 5))
    repairer = Repairer([a.state_dict(), b], data, inputs=lambda batch: batch)
    runs = [repairer(middle, weights=weights) for weights in ((1, 3), None, (1, 3))]
    for found, weights in zip(runs, ((1, 3), None, (1, 3))):
        expected = repair(middle, [a, b], data, weights=weights)
        assert all(torch.equal(v, found.state_dict()[k]) for k, v in expected.state_dict().items())
    with FlopCounterMode(display=False) as again:
        repairer(middle)
    fresh = Repairer([a, b], data)
    with FlopCounterMode(display=False) as first:
        fresh(middle)
    assert again.get_total_flops() < 0.6 * first.get_total_flops()
    with pytest.raises(StateError, match="the endpoints and the model: the two models differ:\n  - "):
        repairer(mlp())
    with pytest.raises(AutopermError, match="the endpoints are state dicts: pass template=, a module of their architecture"):
        Repairer([a.state_dict()], data)


def test_a_stopped_run_measures_the_endpoints_again() -> None:
    a, b, middle = three(mlp)

    def data() -> Iterator[torch.Tensor]:
        yield from inputs((3,))

    repairer = Repairer([a, b], data())
    repairer(middle, progress=lambda done, value: signal.raise_signal(signal.SIGINT))
    assert torch.equal(repairer(middle)[2].weight, repair(middle, [a, b], inputs((3,)))[2].weight)


# -- BatchNorm -------------------------------------------------------------------------------------------------------


def test_batch_norm_is_reset_as_in_training() -> None:
    torch.manual_seed(0)

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 6), nn.BatchNorm1d(6))

    a, b, middle = three(build)
    middle[1].momentum = 0.3
    data = inputs((5,))
    repaired = repair(middle, [a, b], data)
    expected = copy.deepcopy(middle)
    for norm in (expected[1], expected[5]):
        norm.reset_running_stats()
        norm.momentum = None
    expected.train()
    expected[3].eval()
    with torch.no_grad():
        for x in data:
            expected(x)
    for name, value in expected.state_dict().items():
        assert torch.allclose(repaired.state_dict()[name], value, atol=1e-6), name
    assert repaired[1].momentum == 0.3


def test_on_one_batch_normalised_channels_get_the_weights_of_their_norm() -> None:
    a, b, middle = three(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4)))
    (x,) = data = inputs((3, 8, 8), (400,))  # variances are exact to one part in the number of samples
    repaired = repair(middle, [a, b], data).eval()
    out = repaired(x).transpose(0, 1).flatten(1)
    assert torch.allclose(out.mean(1), middle[4].bias, atol=1e-4)
    held = repaired[4].running_var
    assert torch.allclose(out.std(1), middle[4].weight.abs() * (held / (held + repaired[4].eps)).sqrt(), atol=1e-4)


def test_norms_that_the_forward_does_not_use_keep_their_statistics() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm, self.spare = nn.Linear(5, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.layer(x))

    a, b, middle = three(Spare)
    repaired = repair(middle, [a, b], inputs((5,)))
    assert torch.equal(repaired.spare.running_var, middle.spare.running_var)
    assert not torch.equal(repaired.norm.running_var, middle.norm.running_var)


# -- what is left alone ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_a_model_that_is_its_own_endpoint_keeps_its_function(name: str) -> None:
    build, shape = NETS[name]
    a, _, _ = three(build)
    (x,) = data = inputs(shape, (40,))
    reference = repair(a, [a], data).eval()  # the first run resets BatchNorm
    again = repair(reference, [reference], data).eval()
    assert torch.allclose(again(x), reference(x), atol=1e-4)


@pytest.mark.parametrize("name", ["mlp", "batch_norm"])
def test_nothing_is_mutated(name: str) -> None:
    build, shape = NETS[name]
    models = three(build)
    models[2][0].eval()
    data = inputs(shape)
    before = [copy.deepcopy(m.state_dict()) for m in models], [x.clone() for x in data], torch.get_rng_state()
    repaired = repair(models[2], models[:2], data)
    for model, state in zip(models, before[0]):
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(map(torch.equal, data, before[1])) and torch.equal(torch.get_rng_state(), before[2])
    assert [m.training for m in repaired.modules()] == [m.training for m in models[2].modules()]
    again = repair(models[2], models[:2], data)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in repaired.state_dict().items())


class Tied(nn.Module):
    """A weight that is used twice, a bias that two layers share, and a product of two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(9, 6), nn.Linear(6, 9, bias=False)
        self.out.weight = self.table.weight
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.bias = self.first.bias
        self.left, self.right = nn.Parameter(torch.randn(6, 2)), nn.Parameter(torch.randn(2, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(self.table(x)).tanh()) @ (self.left @ self.right)
        return self.out(x.tanh())


def test_what_is_used_twice_is_left_alone_and_a_shared_bias_too(caplog: pytest.LogCaptureFixture) -> None:
    a, b, middle = three(Tied)
    data = [torch.randint(0, 9, (12, 5), generator=torch.Generator().manual_seed(0))]
    with caplog.at_level(logging.INFO, "autoperm"):
        repaired = repair(middle, [a, b], data)
    for name in ("table.weight", "first.bias", "left", "right"):
        assert torch.equal(repaired.state_dict()[name], middle.state_dict()[name]), name
    assert repaired.out.weight is repaired.table.weight
    ends, found = [statistics(m, data) for m in (a, b)], statistics(repaired, data)
    for layer in ("first", "second"):
        assert torch.allclose(found[layer][1], (ends[0][layer][1] + ends[1][layer][1]) / 2, atol=1e-4)
    assert "first.weight has no bias of its own: its channels get the deviation, not the mean" in caplog.text


def test_constant_channels_stay_finite() -> None:
    a, b, middle = three(mlp)
    with torch.no_grad():
        middle[0].weight[2] = 0.0
        a[2].weight[5], b[2].weight[5] = 0.0, 0.0
    repaired = repair(middle, [a, b], inputs((3,)))
    assert all(bool(v.isfinite().all()) for v in repaired.state_dict().values())
    mean = (statistics(a, inputs((3,)))["0"][0][2] + statistics(b, inputs((3,)))["0"][0][2]) / 2
    assert repaired[0].bias[2].item() == pytest.approx(mean.item(), abs=1e-5)
    assert not repaired[2].weight[5].any()


# -- data and errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes_and_state_dicts(dtype: torch.dtype) -> None:
    a, b, middle = (m.to(dtype) for m in three(mlp))
    data = [x.to(dtype) for x in inputs((3,))]
    repaired = repair(middle, [a.state_dict(), b.state_dict()], iter(data))
    assert repaired[0].weight.dtype == dtype
    ends, found = [statistics(m, data) for m in (a, b)], statistics(repaired, data)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-2
    assert torch.allclose(found["4"][1], (ends[0]["4"][1] + ends[1]["4"][1]) / 2, rtol=tolerance, atol=tolerance)


def test_batches_with_labels_and_the_most_batches() -> None:
    a, b, middle = three(mlp)
    data = inputs((3,))
    labelled = [(x, torch.zeros(len(x))) for x in data]
    found = repair(middle, [a, b], labelled, inputs=lambda batch: batch[0], max_batches=2)
    expected = repair(middle, [a, b], data[:2])
    assert torch.equal(found[0].weight, expected[0].weight)
    assert not torch.equal(found[0].weight, repair(middle, [a, b], data)[0].weight)


def test_progress_and_an_interrupt_between_layers() -> None:
    a, b, middle = three(mlp)
    told: list[int] = []
    whole = repair(middle, [a, b], inputs((3,)), progress=lambda done, value: told.append(done))
    assert told == [1, 2, 3]
    part = repair(middle, [a, b], inputs((3,)), progress=lambda done, value: signal.raise_signal(signal.SIGINT))
    assert torch.equal(part[0].weight, whole[0].weight) and torch.equal(part[2].weight, middle[2].weight)


def test_errors() -> None:
    a, b, middle = three(mlp)
    data = inputs((3,))
    broken = copy.deepcopy(a)
    with torch.no_grad():
        broken[2].weight[0] = float("nan")
    cases: list[tuple[type[Exception], tuple[Any, ...], dict[str, Any], str]] = [
        (AutopermError, (middle.state_dict(), [a, b], data), {}, "repair runs the model, but got a OrderedDict: pass a module"),
        (AutopermError, (middle, a, data), {}, "endpoints must be a list of the models that the model was merged from, at least one"),
        (AutopermError, (middle, [], data), {}, "endpoints must be a list"),
        (AutopermError, (middle, [a, b], data), {"weights": [1]}, "weights= holds 1 weights for 2 models; give one per model"),
        (AutopermError, (middle, [a, b], data), {"weights": [1, -1]}, "weights= must be finite and have a positive sum"),
        (AutopermError, (middle, [a, b], []), {}, "data gave no batch"),
        (StateError, (middle, [a, mlp(8)], data), {}, r"the model and endpoints\[1\]: the two models differ:\n  - 0.weight: shape"),
        (StateError, (middle, [a, broken], data), {}, "values of addmm_1 in 2 are not finite; check the data and the weights"),
        (CaptureError, (middle, [a, b], [(data[0], data[0])]), {}, r"a batch is args\[0\]: float32\[24, 3\], args\[1\]: float32\[24, 3\]"),
    ]
    for error, arguments, options, message in cases:
        with pytest.raises(error, match=message):
            repair(*arguments, **options)
    norms = three(lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    with pytest.raises(AutopermError, match="BatchNorm's statistics cannot be reset on the data: Expected more than 1 value per channel"):
        repair(norms[2], norms[:2], inputs((3,), (1,)))


def test_averaging_loses_variance_and_repair_brings_it_back() -> None:
    a, b, middle = three(lambda: mlp(64))
    data = inputs((3,), (200,))
    spreads = [[float(deviation.mean()) for _, deviation in statistics(m, data).values()] for m in (a, b, middle, repair(middle, [a, b], data))]
    for first, second, averaged, repaired in itertools.islice(zip(*spreads), 1, None):
        assert averaged < 0.8 * (first + second) / 2
        assert repaired == pytest.approx((first + second) / 2, rel=1e-4)
