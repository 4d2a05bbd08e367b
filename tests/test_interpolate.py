"""Interpolation: what is mixed, what is not, and the barrier as the paper defines it."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import autoperm
from autoperm import AutopermError
from autoperm.errors import StateError


def point(*values: float) -> nn.Module:
    model = nn.Linear(len(values), 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([values]))
    return model


def double_well(model: nn.Module) -> float:
    """(w^2 - 1)^2: zero at both ends of [-1, 1], one in the middle."""
    return float((model.weight[0, 0] ** 2 - 1) ** 2)


def test_the_barrier_of_a_double_well() -> None:
    curve = autoperm.interpolate(point(-1), point(1), double_well)
    assert curve.lambdas.tolist() == np.linspace(0, 1, 25).tolist()
    assert curve.values == pytest.approx([((2 * t - 1) ** 2 - 1) ** 2 for t in curve.lambdas], abs=1e-6)
    assert curve.barrier == pytest.approx(1.0)


def test_the_barrier_is_above_the_mean_of_the_endpoints() -> None:
    """On a line from 0 to 4 the mean is 2 and the worst is an endpoint: 2, where a chord would give 0."""
    curve = autoperm.interpolate(point(0), point(4), lambda m: float(m.weight), steps=5)
    assert curve.values.tolist() == [0, 1, 2, 3, 4]
    assert curve.barrier == 2.0


def metrics(model: nn.Module) -> dict[str, float]:
    return {"loss": double_well(model), "accuracy": 1 - double_well(model) / 2}


@pytest.mark.parametrize("up", ["accuracy", ("accuracy",), {"accuracy"}])
def test_a_dict_gives_a_curve_per_metric(up: Any) -> None:
    curve = autoperm.interpolate(point(-1), point(1), metrics, steps=3, higher_is_better=up)
    assert curve.curves["loss"].tolist() == [0, 1, 0] and curve.curves["accuracy"].tolist() == [1, 0.5, 1]
    assert curve.barrier == curve.barrier_of("loss") == 1.0
    assert curve.barrier_of("accuracy") == 0.5


def test_higher_is_better_for_a_plain_number() -> None:
    curve = autoperm.interpolate(point(-1), point(1), lambda m: 1 - double_well(m), 3, higher_is_better=True)
    assert curve.values.tolist() == [1, 0, 1] and curve.barrier == 1.0


def test_floating_tensors_are_mixed_and_integers_are_the_firsts() -> None:
    a, b = nn.BatchNorm1d(2).train(), nn.BatchNorm1d(2)
    b.running_mean += 4
    b.num_batches_tracked += 7
    seen: list[tuple[float, int, bool]] = []

    def look(model: nn.Module) -> float:
        seen.append((float(model.running_mean[0]), int(model.num_batches_tracked), model.training))
        return 0.0

    autoperm.interpolate(a, b, look, steps=3)
    assert seen == [(0.0, 0, False), (2.0, 0, False), (4.0, 0, False)]
    assert a.training and float(a.running_mean[0]) == 0.0 and float(b.running_mean[0]) == 4.0


def test_state_dicts_need_a_template() -> None:
    a, b = point(-1), point(1)
    curve = autoperm.interpolate(a.state_dict(), b.state_dict(), double_well, steps=3, template=point(9))
    assert curve.values.tolist() == [0, 1, 0]
    with pytest.raises(AutopermError, match="model_a is a state dict: pass template=, a module of the same architecture"):
        autoperm.interpolate(a.state_dict(), b, double_well)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_once(dtype: torch.dtype) -> None:
    a, b = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)).to(dtype).unbind()
    first, second = (nn.Linear(64, 1, bias=False).to(dtype) for _ in "ab")
    first.weight.data, second.weight.data = a[None], b[None]
    mixed: list[torch.Tensor] = []
    autoperm.interpolate(first, second, lambda m: mixed.append(m.weight[0].clone()) or 0.0, steps=4)
    third = 1 / 3
    assert torch.equal(mixed[1], ((1 - third) * a.float() + third * b.float()).to(dtype))


def test_prepare_and_progress() -> None:
    told: list[tuple[int, int]] = []
    curve = autoperm.interpolate(
        point(0), point(1), lambda m: float(m.weight), 3,
        prepare=lambda m: m.weight.data.mul_(10), progress=lambda done, of: told.append((done, of)),
    )  # fmt: skip
    assert curve.values.tolist() == [0, 5, 10] and told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 1}, "an interpolation needs at least 2 steps, got 1"),
        ({"evaluate": lambda m: float("nan") if float(m.weight) == 0 else 1.0}, "evaluate returned NaN for 'loss' at lambda = 0.5"),
        ({"evaluate": lambda m: {"b" if float(m.weight) else "a": 1.0}}, "evaluate returned 'a' at lambda = 0.5 but 'b' before"),
        ({"higher_is_better": "acc"}, "higher_is_better names 'acc', but evaluate returned 'loss'"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"evaluate": double_well, "steps": 3, **change}
    with pytest.raises(AutopermError, match=message):
        autoperm.interpolate(point(-1), point(1), **arguments)


def test_other_architectures_are_refused() -> None:
    with pytest.raises(StateError, match=r"the two models differ:\n  - weight: shape \(1, 1\) in the first, \(1, 2\) in the second"):
        autoperm.interpolate(point(1), point(1, 2), double_well)


def test_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    curve = autoperm.interpolate(point(-1), point(1), metrics, steps=3)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib.pyplot", None)
        with pytest.raises(AutopermError, match=r"plotting needs matplotlib: pip install 'autoperm\[plot\]'"):
            curve.plot()
    pytest.importorskip("matplotlib").use("Agg")
    axes = curve.plot(label="naive")
    assert curve.plot(axes, metric="accuracy", color="k") is axes
    assert [line.get_ydata().tolist() for line in axes.lines] == [[0, 1, 0], [1, 0.5, 1]]
    assert axes.get_ylabel() == "accuracy" and not axes.spines["top"].get_visible()
