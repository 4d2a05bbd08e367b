"""Evaluation: calibration by hand, ensembles, planes whose coordinates are known, and what an interrupted line gives."""

from __future__ import annotations

import copy
import gzip
import math
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import autoperm
from autoperm import AutopermError
from autoperm.demo.data import Split
from autoperm.errors import StateError
from autoperm.evaluation import calibration, ensemble, plane, plots
from autoperm.trained import randomize_
from benchmarks import data, merging, nets, training
from benchmarks.paper import counterexample, report, split


def mlp(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    randomize_(model, seed)
    return model.eval()


def inputs(n: int = 16) -> torch.Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(5))


def vector(*values: float, dtype: torch.dtype = torch.float32) -> nn.Module:
    model = nn.Linear(len(values), 1, bias=False).to(dtype)
    model.weight.data = torch.tensor([values], dtype=dtype)
    return model


def squared(model: nn.Module) -> float:
    return float((model.weight.double() ** 2).sum())


# Calibration


def test_bins_are_counted_by_hand() -> None:
    """Two bins, (0, 0.5] and (0.5, 1]: confidences 0.5 | 0.6, 0.8, 1.0, of which right: yes | yes, no, yes."""
    rows = torch.tensor([[0.5, 0.5, 0.0], [0.6, 0.4, 0.0], [0.1, 0.8, 0.1], [0.0, 0.0, 1.0]])
    found = calibration(rows, torch.tensor([0, 0, 2, 2]), bins=2)
    assert found.edges.tolist() == [0.0, 0.5, 1.0] and found.count.tolist() == [1, 3]
    assert found.confidence == pytest.approx([0.5, 0.8]) and found.accuracy == pytest.approx([1.0, 2 / 3])
    assert found.ece == pytest.approx((1 * 0.5 + 3 * (0.8 - 2 / 3)) / 4)
    assert found.mce == pytest.approx(0.5)
    assert found.mean_confidence == pytest.approx(0.725) and found.mean_accuracy == 0.75


def test_empty_bins_are_not_numbers_and_do_not_count() -> None:
    found = calibration(torch.tensor([[0.9, 0.1]]), torch.tensor([0]), bins=10)
    assert found.count.tolist() == [0] * 8 + [1, 0]
    assert np.isnan(found.confidence[:8]).all() and np.isnan(found.accuracy[9])
    assert found.ece == pytest.approx(0.1) == found.gaps.max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_logits_log_probabilities_and_probabilities_are_the_same(dtype: torch.dtype) -> None:
    logits = 3 * torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.randint(5, (200,), generator=torch.Generator().manual_seed(1))
    expected = calibration(logits, labels)
    for form in (logits.log_softmax(1), logits.softmax(1)):
        found = calibration(form.to(dtype), labels)
        assert found.mean_accuracy == expected.mean_accuracy
        assert found.mean_confidence == pytest.approx(expected.mean_confidence, abs=4 * torch.finfo(dtype).eps)


def test_labels_drawn_from_the_predictions_are_calibrated() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = (2 * torch.randn(40_000, 4, generator=generator)).softmax(1)
    labels = torch.multinomial(rows, 1, generator=generator).flatten()
    assert calibration(rows, labels).ece < 0.01
    assert calibration((4 * rows.log()).softmax(1), labels).ece > 0.1  # four times too sure


def test_what_are_probabilities_can_be_said() -> None:
    rows, labels = torch.tensor([[0.25, 0.75], [1.0, 0.0]]), torch.tensor([1, 1])
    assert calibration(rows, labels).mean_confidence == pytest.approx(0.875)
    as_logits = calibration(rows, labels, probabilities=False)
    assert as_logits.mean_confidence == pytest.approx(float(rows.double().softmax(1).amax(1).mean()))
    with pytest.raises(AutopermError, match=r"row 1 of outputs is not a distribution \(sum 3, least entry 1\); pass probabil"):
        calibration(torch.tensor([[0.5, 0.5], [1.0, 2.0]]), labels, probabilities=True)


@pytest.mark.parametrize(
    ("outputs", "labels", "bins", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2).long(), 0, "calibration needs at least 1 bin, got 0"),
        (torch.zeros(2), torch.zeros(2).long(), 15, r"outputs of shape \(n, classes\) .* got \(2,\) and \(2,\)"),
        (torch.zeros(2, 3), torch.zeros(3).long(), 15, r"labels of shape \(n,\) are needed, got \(2, 3\) and \(3,\)"),
        (torch.zeros(0, 3), torch.zeros(0).long(), 15, "there are no predictions to calibrate: outputs has no rows"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), 15, "labels are integers from 0 to 2, got torch.int64 from 0 to 3"),
        (torch.zeros(2, 3), torch.zeros(2), 15, "labels are integers from 0 to 2, got torch.float32"),
        (torch.tensor([[0.0, math.nan], [0, 1]]), torch.zeros(2).long(), 15, "outputs holds NaN or infinity in 1 of 2 rows"),
        (torch.tensor([[0.0, math.inf], [0, 1]]), torch.zeros(2).long(), 15, "outputs holds NaN or infinity in 1 of 2 rows"),
    ],
)
def test_calibration_names_mistakes(outputs: torch.Tensor, labels: torch.Tensor, bins: int, message: str) -> None:
    with pytest.raises(AutopermError, match=message):
        calibration(outputs, labels, bins)


# Ensembles


def test_an_ensemble_averages_probabilities_or_logits() -> None:
    models, x = [mlp(s) for s in range(3)], inputs()
    outputs = torch.stack([m(x) for m in models])
    assert torch.allclose(ensemble(models)(x).exp(), outputs.softmax(-1).mean(0), atol=1e-6)
    assert torch.allclose(ensemble(models, average="logits")(x), outputs.mean(0), atol=1e-6)
    labels = torch.arange(16) % 4
    nll = -outputs.softmax(-1).mean(0)[range(16), labels].log().mean()
    assert float(nn.functional.cross_entropy(ensemble(models)(x), labels)) == pytest.approx(float(nll), rel=1e-5)


def test_an_ensemble_leaves_its_models_alone() -> None:
    model = mlp(0).train()
    both = ensemble([model, model])
    both(inputs())
    assert model.training and not both.models[0].training and int(model[1].num_batches_tracked) == 0
    assert torch.allclose(both(inputs()).softmax(-1), copy.deepcopy(model).eval()(inputs()).softmax(-1), atol=1e-6)


def test_an_ensemble_does_not_add_in_half_precision() -> None:
    """A thousand steps in float16 would stop growing long before the sum."""
    x = torch.ones(1, 1, dtype=torch.float16)
    models = [nn.Linear(1, 2, bias=False).half() for _ in range(1000)]
    for m in models:
        m.weight.data = torch.tensor([[10.5], [3.3]], dtype=torch.float16)
    assert torch.equal(ensemble(models, average="logits")(x), models[0](x))


def test_classes_along_another_dimension() -> None:
    convs = [nn.Conv2d(2, 3, 1) for _ in "ab"]
    x = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    mean = sum(c(x).softmax(1) for c in convs) / 2
    assert torch.allclose(ensemble(convs, dim=1)(x).exp(), mean, atol=1e-6)


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ensemble([]), "an ensemble needs at least one model"),
        (lambda: ensemble([mlp(0), mlp(1).state_dict()]), "model 1 of the ensemble is a OrderedDict; load state dicts into"),
        (lambda: ensemble([mlp(0)], average="votes"), "average must be 'probabilities' or 'logits', not 'votes'"),
        (lambda: ensemble([Pair()])(inputs()), "model 0 returned a tuple; an ensemble averages tensors, so wrap the models"),
        (lambda: ensemble([mlp(0), nn.Linear(3, 2)])(inputs()), r"model 1 returned shape \(16, 2\), model 0 \(16, 4\)"),
    ],
)
def test_ensembles_name_mistakes(make: Any, message: str) -> None:
    with pytest.raises(AutopermError, match=message):
        make()


# Planes


def test_coordinates_are_distances() -> None:
    a, b, c = mlp(0), mlp(1), mlp(2)
    found = plane(a, b, c, lambda m: 0.0, steps=2)
    flat = [torch.cat([p.detach().double().flatten() for p in m.parameters()]) for m in (a, b, c)]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.linalg.norm(found.models[i] - found.models[j]) == pytest.approx(float((flat[i] - flat[j]).norm()), rel=1e-9)
    assert found.models[0].tolist() == [0, 0] and found.models[1, 1] == 0 and found.models[2, 1] > 0


def test_the_grid_is_that_of_the_weights_themselves() -> None:
    """In two dimensions with a at the origin and b on the first axis, the plane is the space."""
    found = plane(vector(0, 0), vector(3, 0), vector(1, 2), squared, steps=(4, 3), margin=0)
    assert found.x.tolist() == [0, 1, 2, 3] and found.y.tolist() == [0, 1, 2]
    assert found.grids["loss"] == pytest.approx(found.x[None] ** 2 + found.y[:, None] ** 2, abs=1e-5)
    assert found.at_models["loss"].tolist() == [0, 9, 5]


def test_margins() -> None:
    found = plane(vector(0, 0), vector(4, 0), vector(1, 2), squared, steps=3, margin=0.25)
    assert found.x.tolist() == [-1, 2, 5] and found.y.tolist() == [-0.5, 1, 2.5]


def test_the_models_themselves_are_evaluated_exactly() -> None:
    models, x = [mlp(s) for s in range(3)], inputs()
    seen = plane(*models, lambda m: float(m(x).double().sum()), steps=2).at_models["loss"]
    assert seen.tolist() == [float(m(x).double().sum()) for m in models]


def test_buffers_are_mixed_inside_the_triangle_and_held_outside() -> None:
    models = [mlp(s) for s in range(3)]
    models[0][1].num_batches_tracked += 7
    before = [copy.deepcopy(m.state_dict()) for m in models]
    seen: list[nn.Module] = []
    found = plane(*models, lambda m: seen.append(copy.deepcopy(m)) or 0.0, steps=9, margin=0.5)
    variances = torch.stack([m[1].running_var for m in models])
    for module in seen:
        assert bool((module[1].running_var >= variances.amin(0) - 1e-6).all()), "a variance was extrapolated"
        assert int(module[1].num_batches_tracked) == 7
    inside = 0
    for (x, y), module in zip([(x, y) for y in found.y for x in found.x], seen[3:], strict=True):
        c = y / found.models[2, 1]
        b = (x - c * found.models[2, 0]) / found.models[1, 0]
        weights = torch.tensor([1 - b - c, b, c], dtype=torch.float32)
        mixed = (weights[:, None, None] * torch.stack([m[0].weight for m in models])).sum(0)
        assert torch.allclose(module[0].weight, mixed, atol=1e-5)
        if min(1 - b - c, b, c) >= 0:
            inside += 1
            assert torch.allclose(module[1].running_var, weights @ variances, atol=1e-6)
    assert 5 <= inside < 76
    for model, kept in zip(models, before, strict=True):
        assert all(torch.equal(v, kept[k]) for k, v in model.state_dict().items())


def test_tied_weights_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self, value: float):
            super().__init__()
            self.one, self.two = vector(value, 0), vector(0, 0)
            self.two.weight = self.one.weight
            self.three = vector(0, value if value > 1 else 0)

    found = plane(Tied(0), Tied(1), Tied(2), lambda m: 0.0, steps=2)
    assert found.models[1].tolist() == [1, 0] and np.linalg.norm(found.models[2]) == pytest.approx(8**0.5)


def test_half_precision_is_combined_in_single() -> None:
    values = [(1.0, 2049.0), (3.0, 1.0), (-1.0, 5.0)]
    models = [vector(*v, dtype=torch.float16) for v in values]
    seen: list[torch.Tensor] = []
    found = plane(*models, lambda m: seen.append(m.weight[0].clone()) or 0.0, steps=3, margin=0)
    a, b, c = (m.weight[0].detach().float() for m in models)
    for (x, y), weight in zip([(x, y) for y in found.y for x in found.x], seen[3:], strict=True):
        s = y / found.models[2, 1]
        t = (x - s * found.models[2, 0]) / found.models[1, 0]
        exact = (1 - s - t) * a.double() + t * b.double() + s * c.double()
        assert weight.dtype == torch.float16
        assert torch.allclose(weight.double(), exact, rtol=2**-11 * 1.01, atol=1e-3)


def test_state_dicts_several_metrics_and_progress() -> None:
    told: list[tuple[int, float]] = []
    models = [vector(0, 0).state_dict(), vector(2, 0), vector(0, 2).state_dict()]
    found = plane(
        *models, lambda m: {"loss": squared(m), "accuracy": 1 - squared(m)}, steps=2, margin=0, template=vector(0, 0),
        higher_is_better="accuracy", prepare=lambda m: m.weight.data.mul_(2), progress=lambda k, value: told.append((k, value)),
    )  # fmt: skip
    assert found.grids["loss"].tolist() == [[0, 16], [16, 32]] and found.grids["accuracy"][1, 1] == -31
    assert found.higher_is_better == {"accuracy"} and not found.interrupted
    assert told == [(1, 0), (2, 16), (3, 16), (4, 0), (5, 16), (6, 16), (7, 32)]


ORIGIN, RIGHT, UP = vector(0, 0), vector(2, 0), vector(0, 2)


@pytest.mark.parametrize(
    ("models", "change", "message"),
    [
        ((ORIGIN, RIGHT, UP), {"steps": 1}, "a plane needs at least 2 steps in each direction, got 1 x 1"),
        ((ORIGIN, RIGHT, UP), {"steps": (2, 0)}, "a plane needs at least 2 steps in each direction, got 2 x 0"),
        ((ORIGIN, RIGHT, UP), {"margin": -0.1}, "margin is a share of the triangle's size, 0 or more, not -0.1"),
        ((ORIGIN, RIGHT, vector(4, 0)), {}, "the three models lie on one line.*use autoperm.interpolate"),
        ((ORIGIN, ORIGIN, UP), {}, "the three models lie on one line"),
        ((ORIGIN, UP, UP), {}, "the three models lie on one line"),
        ((ORIGIN.state_dict(), RIGHT, UP), {}, "model_a is a state dict: pass template="),
        ((ORIGIN, RIGHT, UP), {"evaluate": lambda m: math.nan}, "evaluate returned NaN for 'loss' at model_a"),
        (
            (ORIGIN, RIGHT, UP),
            {"evaluate": lambda m: math.nan if squared(m) > 4.1 else 1.0, "margin": 0},
            "evaluate returned NaN for 'loss' at x = 2, y = 2",
        ),
        ((ORIGIN, RIGHT, UP), {"evaluate": lambda m: {}}, "evaluate returned an empty dict at model_a"),
        ((ORIGIN, RIGHT, UP), {"evaluate": lambda m: {str(squared(m)): 1.0}}, "returned '4.0' at model_b but '0.0' before"),
        ((ORIGIN, RIGHT, UP), {"higher_is_better": "acc"}, "higher_is_better names 'acc', but evaluate returned 'loss'"),
    ],
)
def test_planes_name_mistakes(models: Any, change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"evaluate": squared, "steps": 2, **change}
    with pytest.raises(AutopermError, match=message):
        plane(*models, **arguments)


def other_device(*values: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.zeros(1, len(values), device="meta")}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (vector(0, 1).double(), "weight: torch.float32 in the first, torch.float64 in the second"),
        (other_device(0, 1), "weight: on cpu in the first, on meta in the second"),
        (vector(0, 1, 2), r"weight: shape \(1, 2\) in the first, \(1, 3\) in the second"),
    ],
)
def test_models_of_another_kind_are_refused(other: Any, message: str) -> None:
    with pytest.raises(StateError, match=message):
        plane(ORIGIN, RIGHT, other, squared)
    with pytest.raises(StateError, match=message):
        autoperm.interpolate(ORIGIN, other, squared)


# Ctrl-C


def after(count: int) -> Any:
    """An evaluation during whose ``count``-th call Ctrl-C is pressed."""
    calls: list[float] = []

    def evaluate(model: nn.Module) -> float:
        calls.append(squared(model))
        if len(calls) == count:
            signal.raise_signal(signal.SIGINT)
        return calls[-1]

    return evaluate


def test_an_interrupted_line_still_has_both_ends() -> None:
    told: list[tuple[int, int]] = []
    found = autoperm.interpolate(vector(-1), vector(1), after(2), 5, progress=lambda done, of: told.append((done, of)))
    assert found.interrupted and found.lambdas.tolist() == [0, 0.25, 1] and found.values.tolist() == [1, 0.25, 1]
    assert found.barrier == 0.0 and told == [(1, 5), (2, 5), (3, 5)]
    assert not autoperm.interpolate(vector(-1), vector(1), after(5), 5).interrupted


def test_an_interrupted_plane_keeps_what_was_evaluated() -> None:
    found = plane(ORIGIN, RIGHT, UP, after(5), steps=2, margin=0)
    assert found.interrupted and found.grids["loss"][0].tolist() == [0, 4] and np.isnan(found.grids["loss"][1]).all()
    assert not plane(ORIGIN, RIGHT, UP, after(7), steps=2, margin=0).interrupted


# Plots


def line(*values: float, **more: tuple[float, ...]) -> autoperm.Interpolation:
    curves = {"test loss": np.array(values), **{k.replace("_", " "): np.array(v) for k, v in more.items()}}
    return autoperm.Interpolation(np.linspace(0, 1, len(values)), curves, frozenset({"test accuracy"}))


def test_plots_need_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(AutopermError, match=r"plotting needs matplotlib: pip install 'autoperm\[plot\]'"):
        plots.plot_lines({"naive": line(0, 1, 0)}, "loss")


def test_lines_are_solid_for_test_and_dashed_for_train() -> None:
    pytest.importorskip("matplotlib")
    curves = {"naive": line(0, 3, 1, train_loss=(0, 2, 0)), "permuted": line(0, 0.5, 1)}
    ax = plots.plot_lines(curves, "loss")
    drawn = {(tuple(artist.get_ydata()), artist.get_linestyle()) for artist in ax.lines}
    assert {((0, 3, 1), "-"), ((0, 2, 0), "--"), ((0, 0.5, 1), "-"), ((0.5, 0.5), ":")} == drawn
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["naive (2.500)", "permuted (0.500)", "test", "train"]
    arrow = next(t for t in ax.texts if not t.get_text())
    assert (arrow.xy, arrow.xyann) == ((0.5, 3), (0.5, 0.5)), "from the worst point to the mean of the ends"


def test_the_barrier_of_an_accuracy_points_down() -> None:
    pytest.importorskip("matplotlib")
    ax = plots.plot_lines({"naive": line(0, 0, 0, test_accuracy=(1, 0.2, 0.8))}, "accuracy")
    arrow = next(t for t in ax.texts if not t.get_text())
    assert arrow.xy == (0.5, 0.2) and arrow.xyann == (0.5, 0.9)


def test_the_reliability_diagram_has_a_bar_for_each_full_bin() -> None:
    pytest.importorskip("matplotlib")
    found = calibration(torch.tensor([[0.55, 0.45], [0.85, 0.15], [0.85, 0.15]]), torch.tensor([0, 0, 1]), bins=10)
    ax = plots.plot_reliability(found, title="merged")
    bars = next(c for c in ax.containers if c.get_label() == "accuracy")
    assert [(round(b.get_x(), 6), b.get_height()) for b in bars] == [(0.5, 1.0), (0.8, 0.5)]
    assert ax.get_title() == "merged: ECE 38.3 %"


def test_the_plane_is_drawn_with_its_models() -> None:
    pytest.importorskip("matplotlib")
    found = plane(ORIGIN, RIGHT, UP, squared, steps=5)
    ax = plots.plot_plane(found, labels=("A", "B", "C"))
    assert {t.get_text() for t in ax.texts} == {"A", "B", "C"} and ax.get_aspect() == 1.0
    drawn = next(artist for artist in ax.lines if artist.get_linestyle() == "None")
    assert np.array_equal(drawn.get_xydata(), found.models)
    with pytest.raises(AutopermError, match="the plane has no metric 'accuracy'; it has 'loss'"):
        plots.plot_plane(found, "accuracy")


def test_barriers_are_means_over_runs() -> None:
    pytest.importorskip("matplotlib")
    ax = plots.plot_barriers({"weight": {8: [1.0, 2.0], 4: [3.0]}}, logarithmic=True)
    assert ax.lines[0].get_xydata().tolist() == [[4, 3], [8, 1.5]]
    assert ax.lines[1].get_xydata().tolist() == [[4, 3], [8, 1], [8, 2]]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["4", "8"]


def test_one_legend_for_several_axes() -> None:
    pytest.importorskip("matplotlib")
    figure, panels = plots.subplots(1, 2)
    for ax, name in zip(panels[0], ("weight", "activation"), strict=True):
        plots.plot_lines({"naive": line(0, 3, 1), name: line(0, 1, 0)}, "loss", ax, legend=False)
        assert ax.get_legend() is None
    plots.share_legend(figure)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["naive", "weight", "activation"]


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_files_are_the_same_every_time(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    for k in range(2):
        figure, panels = plots.subplots()
        plots.plot_lines({"naive": line(0, 1, 0)}, "loss", panels[0, 0])
        plots.save(figure, tmp_path / f"{k}.{suffix}")
    first, second = ((tmp_path / f"{k}.{suffix}").read_bytes() for k in range(2))
    assert len(first) > 1000 and first == second


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: plots.plot_lines({}, "loss"), "there are no lines to plot: curves is empty"),
        (lambda: plots.plot_lines({"naive": line(0, 1)}, "error"), "the line 'naive' has no metric 'error'; it has 'test loss'"),
    ],
)
def test_plots_name_mistakes(make: Any, message: str) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(AutopermError, match=message):
        make()


# The benchmarks


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


@pytest.mark.parametrize("wrap", [bytes, gzip.compress])
def test_idx_files(tmp_path: Path, wrap: Any) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "images").write_bytes(wrap(idx(array)))
    assert data.read_idx(tmp_path / "images").tolist() == array.tolist()
    (tmp_path / "images").write_bytes(wrap(idx(array)[:-1]))
    with pytest.raises(
        AutopermError, match=r"images holds 23 bytes for an array of shape \(2, 3, 4\); reinstall dataset-fashion"
    ):
        data.read_idx(tmp_path / "images")
    (tmp_path / "images").write_bytes(b"PK\3\4")
    with pytest.raises(AutopermError, match="images is not an IDX file of bytes; reinstall dataset-fashion-mnist"):
        data.read_idx(tmp_path / "images")


def test_fashion_mnist_from_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for k, (images, labels) in enumerate(data._FILES.values()):
        count = 20 - 10 * k
        pixels = np.random.default_rng(k).integers(256, size=(count, 28, 28), dtype=np.uint8)
        for name, array in ((images, pixels), (labels, (np.arange(count) % 10).astype(np.uint8))):
            found[name] = tmp_path / f"{name}.gz"
            found[name].write_bytes(gzip.compress(idx(array)))
    monkeypatch.setattr(data, "files", lambda: found)
    small = data.load(size=14, subset=12)
    assert small.name == "fashion-mnist 14 x 14, 12 training images" and small.train.images.shape == (12, 1, 14, 14)
    assert len(small.test.labels) == 10 and sorted(small.test.labels.tolist()) == list(range(10))
    assert float(small.train.images.mean()) == pytest.approx(0, abs=1e-5) and float(small.train.images.std()) == pytest.approx(1)
    monkeypatch.setattr(data, "files", dict)
    assert data.load().name == "digits"
    with pytest.raises(AutopermError, match=r"Fashion-MNIST is not installed: python benchmarks/data.py --install runs apt-get"):
        data.load("fashion-mnist")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOPERM_CACHE", str(tmp_path))
    return tmp_path


TINY = nets.net("mlp", 8, 8)


def few() -> Split:
    return data.first(data.load("digits").train, 256)


def weights(epochs: int, seed: int = 0) -> torch.Tensor:
    model = training.train(TINY, few(), seed=seed, epochs=epochs, progress=False)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_an_interrupted_training_ends_where_a_whole_one_does(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.random.get_rng_state()
    whole = weights(3)
    assert torch.equal(torch.random.get_rng_state(), state)
    monkeypatch.setenv("AUTOPERM_CACHE", str(cache / "again"))
    real, calls = training._epoch, []

    def broken(*args: Any) -> float:
        calls.append(args[4])
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return real(*args)

    monkeypatch.setattr(training, "key", lambda *args, **more: "run")  # the source of _epoch is part of the name
    monkeypatch.setattr(training, "_epoch", broken)
    with pytest.raises(KeyboardInterrupt):
        weights(3)
    assert calls == [0, 1]
    assert torch.equal(weights(3), whole) and calls == [0, 1, 2]
    assert torch.equal(weights(3), whole) and calls == [0, 1, 2], "nothing was left to train"


def test_what_decides_the_weights_names_the_folder(cache: Path) -> None:
    keys = {
        training.key(net, split, seed=seed, batch=batch)
        for net in (TINY, nets.net("mlp", 9, 8), nets.net("vit", 1, 8))
        for split in (few(), data.first(few(), 255))
        for seed in (0, 1)
        for batch in (64, 128)
    }
    assert len(keys) == 24
    assert not torch.equal(weights(1, seed=0), weights(1, seed=1)) and not torch.equal(weights(0), weights(1))


@pytest.mark.parametrize("name", nets.NETS)
def test_the_nets_are_sound(name: str) -> None:
    model = nets.net(name, 16 if name == "mlp" else 1, 8).build()
    randomize_(model, 0)
    x = few().images[:4]
    spec = autoperm.infer(model.eval(), x[:2])
    assert spec.log10_order > 10 and autoperm.verify(model, spec, x).ok


def test_every_matcher_runs_as_the_benchmark_calls_it(cache: Path) -> None:
    a, b = (training.train(TINY, few(), seed=s, epochs=1, progress=False) for s in (0, 1))
    spec = autoperm.infer(a, few().images[:2])
    for method in merging.chosen([]):
        found = merging.align(method, a, b, spec, data.first(few(), 64), seed=0, quick=True)
        assert found.problem == "" and found.model is not None
        assert torch.allclose(found.model(few().images), b(few().images), atol=1e-4), method
    with pytest.raises(AutopermError, match="no matcher is called 'magic'; there are weight, "):
        merging.chosen(["magic"])


def test_split_classes_share_no_image() -> None:
    a, b = split.shares(few())
    assert len(a.labels) + len(b.labels) == 256
    for label in range(10):
        mine, yours = int((a.labels == label).sum()), int((b.labels == label).sum())
        assert mine / (mine + yours) == pytest.approx(0.2 if label < 5 else 0.8, abs=0.03)


def test_no_permutation_connects_the_counterexample() -> None:
    found = counterexample.lines(20, 21)
    assert len({tuple(np.concatenate(element.arrays)) for element, _, _ in found}) == 4
    for _, _, along in found:
        assert along.curves["accuracy"][[0, -1]].tolist() == [1.0, 1.0]
        assert along.barrier_of("accuracy") >= 0.24


def test_pages_keep_what_other_runs_found(tmp_path: Path) -> None:
    for name, value in (("mlp 32", 1), ("mlp 8", 2), ("mlp 32", 3)):
        known = report.remember(tmp_path / "found.json", name, {"value": value})
    assert list(known.items()) == [("mlp 8", {"value": 2}), ("mlp 32", {"value": 3})]
    rows = [{"net": "mlp", "barrier": "0.1"}, {"net": "vit", "seconds": "2"}]
    assert report.markdown(rows).splitlines()[2:] == ["| mlp | 0.1 |  |", "| vit |  | 2 |"]
