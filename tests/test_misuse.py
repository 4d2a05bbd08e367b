"""Wrong input to several functions at once, and uses that went wrong without a word."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

import autoperm
from autoperm.cli.app import app
from autoperm.errors import AutopermError, SpecError, StateError
from autoperm.evaluation import calibration, ensemble, plane
from autoperm.merging import repair, zip_models


def mlp(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


X = torch.linspace(-1, 1, 20).reshape(5, 4)


class Words(nn.Module):
    """A language model, its two tables tied or not."""

    def __init__(self, tied: bool, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.table, self.inner, self.head = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.inner(self.table(tokens)).relu())  # type: ignore[no-any-return]


TOKENS = torch.tensor([[1, 4, 10]])


def test_a_model_that_ties_less_is_refused_wherever_it_would_lose_weights() -> None:
    tied, free = Words(True, 0), Words(False, 1)
    spec = autoperm.infer(tied, TOKENS)
    for method in ("average", "many", "universe"):
        with pytest.raises(StateError, match=r"models\[1\] does not fit the spec:\n  - head.weight and table.weight: one tensor|table.weight and head.weight: one"):
            autoperm.merge([tied, free], spec, method=method)
    with pytest.raises(StateError, match="model_b does not fit the spec"):
        autoperm.match(tied, free, spec)
    with pytest.raises(StateError, match="model_b: table.weight and head.weight are one tensor in the module that is evaluated"):
        autoperm.interpolate(tied, free, lambda m: 1.0, steps=2)


def test_lines_take_state_dicts_without_the_second_name_of_a_tied_tensor() -> None:
    model = Words(True, 0)
    cut = {name: value for name, value in model.state_dict().items() if name != "head.weight"}
    value = float(model(TOKENS).detach().square().mean())
    found = autoperm.interpolate(cut, cut, lambda m: float(m(TOKENS).square().mean()), steps=2, template=model)
    assert found.values.tolist() == pytest.approx([value, value])
    with pytest.raises(StateError, match="the module that is evaluated, and model_a: the two models differ"):
        autoperm.interpolate(model, model, lambda m: 1.0, template=mlp())


def test_matching_takes_a_state_dict_without_the_second_name_of_a_tied_tensor() -> None:
    model = Words(True, 0)
    cut = {name: value for name, value in model.state_dict().items() if name != "head.weight"}
    spec = autoperm.infer(model, TOKENS)
    assert autoperm.match(model, spec.random(1).apply(cut), spec).distance == 0


def test_gradients_do_not_leak_from_point_to_point() -> None:
    def norm(model: nn.Module) -> float:
        with torch.enable_grad():
            model(X).square().mean().backward()
        return float(model[0].weight.grad.norm())  # type: ignore[index]

    coarse, fine = (autoperm.interpolate(mlp(0), mlp(1), norm, steps=steps).values for steps in (3, 5))
    assert coarse.tolist() == fine[::2].tolist()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.ones(2), r"evaluate returned a Tensor of shape \(2,\) at lambda = 0; it should return a number"),
        ("1.5", "evaluate returned a str at lambda = 0"),
        (None, "evaluate returned a NoneType"),
        ({"accuracy": None}, "evaluate returned 'accuracy': a NoneType"),
        ((1.0, 2.0), "evaluate returned a tuple"),
    ],
)
def test_what_evaluate_returns_is_a_number(value: Any, text: str) -> None:
    with pytest.raises(AutopermError, match=text):
        autoperm.interpolate(mlp(), mlp(1), lambda m: value, steps=2)


def test_curves_say_what_they_do_not_have() -> None:
    line = autoperm.interpolate(mlp(), mlp(1), lambda m: {"loss": 1.0, "size": float("inf")}, steps=2)
    with pytest.raises(AutopermError, match="there is no metric 'accuracy'; evaluate returned 'loss', 'size'"):
        line.barrier_of("accuracy")
    with pytest.raises(AutopermError, match="'size' is inf and inf at the ends of the line: there is no barrier"):
        line.barrier_of("size")


@pytest.mark.parametrize("scale", [1e-5, 1e12])
def test_sinkhorn_does_not_depend_on_the_scale_of_the_weights(scale: float) -> None:
    model = mlp()
    spec = autoperm.infer(model, X)
    a = {name: scale * value for name, value in model.state_dict().items()}
    found = autoperm.match(a, spec.random(1).apply(a), spec, method="sinkhorn")
    assert found.distance == 0


def test_infinities_of_both_signs_have_no_mean() -> None:
    models = [mlp(), mlp(1)]
    spec = autoperm.infer(models[0], X)
    for model, value in zip(models, (torch.inf, -torch.inf), strict=True):
        model.register_buffer("limit", torch.tensor([0.0, value]))
    with pytest.raises(StateError, match=r"models\[0\] and models\[1\]: limit holds infinities of both signs"):
        autoperm.merge(models, spec)


class State(nn.Module):
    """A forward that makes its first state itself."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.RNNCell(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cell(x, torch.zeros(len(x), 6)) @ torch.eye(6))  # type: ignore[no-any-return]


def test_verify_runs_what_makes_tensors_of_the_default_dtype() -> None:
    model = State()
    assert autoperm.verify(model, autoperm.infer(model, X), X).relative < 1e-12
    assert torch.get_default_dtype() == torch.float32


def test_verify_passes_at_exactly_the_tolerance() -> None:
    model = mlp()
    spec = autoperm.infer(model, X)
    assert autoperm.verify(model, spec.identity(), X, tolerance=0).ok


def test_specs_and_what_holds_them_can_be_pickled() -> None:
    model = mlp()
    spec = autoperm.infer(model, X)
    again = pickle.loads(pickle.dumps(spec))
    assert again.fingerprint == spec.fingerprint and str(again.explain("0.weight", 0)) == str(spec.explain("0.weight", 0))
    assert pickle.loads(pickle.dumps(spec.random(0))).arrays[0].tolist() == spec.random(0).arrays[0].tolist()


def test_models_of_inference_mode_are_traced() -> None:
    with torch.inference_mode():
        model = mlp()
    assert autoperm.infer(model, X).order == 40320


def test_another_default_device_changes_nothing() -> None:
    a, b = mlp(), mlp(1)
    spec = autoperm.infer(a, X)
    wanted = spec.random(0)
    with torch.device("meta"):
        assert spec.random(0) == wanted
        assert autoperm.match(a, b, spec).distance > 0 and autoperm.verify(a, spec, X).ok
        assert autoperm.merge([a, b], spec, method="universe").history


def test_branched_models_go_to_other_dtypes() -> None:
    a, b = (nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2)).eval() for _ in "ab")
    x = torch.randn(64, 3, 6, 6)
    model = zip_models([a, b], autoperm.infer(a, x[:2]), data=[x], until=1).model
    single = model(x)[0]
    assert torch.allclose(model.double()(x.double())[0], single.double(), atol=1e-5)


SPOILED: dict[str, Callable[[Any], Any]] = {
    "aliases": lambda d: {}, "groups": lambda d: [], "tensors": lambda d: [], "parameters": lambda d: [], "leaves": lambda d: None,
}  # fmt: skip


@pytest.mark.parametrize("key", SPOILED)
def test_spoiled_specs_are_refused(key: str, tmp_path: Path) -> None:
    spec = autoperm.infer(mlp(), X)
    spec.save(tmp_path / "spec.json")
    document = json.loads((tmp_path / "spec.json").read_text())
    (tmp_path / "spec.json").write_text(json.dumps(document | {key: SPOILED[key](document)}))
    with pytest.raises(SpecError, match="is corrupt"):
        autoperm.PermutationSpec.load(tmp_path / "spec.json")


def test_spoiled_permutations_are_refused(tmp_path: Path) -> None:
    from safetensors import safe_open

    spec, path = autoperm.infer(mlp(), X), tmp_path / "p.safetensors"
    spec.random(0).save(path)
    with safe_open(path, "np") as file:
        meta = file.metadata()
    arrays = load_file(path)
    for wrong in ({}, arrays | {"other": next(iter(arrays.values()))}):
        save_file(wrong, path, metadata=meta)
        with pytest.raises(SpecError, match="is corrupt: .* is not in it and in the spec"):
            autoperm.Permutation.load(path, spec)


def test_one_file_for_two_things_is_refused(tmp_path: Path) -> None:
    torch.save(mlp().state_dict(), tmp_path / "a.pt")
    (tmp_path / "nets.py").write_text("import torch\ndef net():\n    return torch.nn.Linear(4, 2)\n")
    arguments = ["align", *[str(tmp_path / "a.pt")] * 2, "-m", f"{tmp_path / 'nets.py'}:net", "-i", "1x4"]
    both = ["-o", str(tmp_path / "out.safetensors"), "-p", str(tmp_path / "out.safetensors"), "--force"]
    result = CliRunner().invoke(app, [*arguments, *both])
    assert isinstance(result.exception, AutopermError) and "is named for two different files" in str(result.exception)
    result = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "out.safetensors"), "-p", str(tmp_path), "--force"])
    assert isinstance(result.exception, AutopermError) and "it is a folder; name a file" in str(result.exception)
    assert not (tmp_path / "out.safetensors").exists()


def loss(output: Tensor, batch: Any) -> Tensor:
    return output.square().mean()


#: Calls on (a, b, spec), and what the error says.
WRONG: dict[str, tuple[Callable[[Any, Any, Any], Any], str]] = {
    "verify seed": (lambda a, b, s: autoperm.verify(a, s, X, seed="a"), "seed must be a whole number of at most 64 bits, not 'a'"),
    "verify samples": (lambda a, b, s: autoperm.verify(a, s, X, samples=1.5), "samples must be a whole number, not 1.5"),
    "verify dtype": (lambda a, b, s: autoperm.verify(a, s, X, dtype="float64"), "dtype must be a floating-point torch.dtype or None"),
    "verify tolerance": (lambda a, b, s: autoperm.verify(a, s, X, tolerance=float("nan")), "tolerance must be a number, not nan"),
    "verify spec": (lambda a, b, s: autoperm.verify(a, None, X), "spec is a NoneType; pass what autoperm.infer returns"),
    "distance spec": (lambda a, b, s: autoperm.distance(a, b, None), "spec is a NoneType"),
    "canonicalize spec": (lambda a, b, s: autoperm.canonicalize(a, "spec.json"), "spec is a str"),
    "random seed": (lambda a, b, s: s.random("a"), "generator must be a whole number"),
    "random large": (lambda a, b, s: s.random(2**70), "generator must be a whole number of at most 64 bits"),
    "tolerance": (lambda a, b, s: autoperm.is_permutation_of(a, b, s, tolerance="a"), "tolerance must be a number, not 'a'"),
    "scale": (lambda a, b, s: autoperm.transfer(a, b, a, s, scale=None), "scale must be a number, not None"),
    "groups": (lambda a, b, s: autoperm.match(a, b, s, groups=3), "groups= is a int; give names of groups"),
    "merge none": (lambda a, b, s: autoperm.merge(None, s), "merging needs a list of at least 2 models, got one NoneType"),
    "merge generator": (lambda a, b, s: autoperm.merge((m for m in (a, b)), s), "got one generator; pass a list"),
    "merge dict": (lambda a, b, s: autoperm.merge({"a": a, "b": b}, s), "got one dict; pass a list"),
    "merge weights": (lambda a, b, s: autoperm.merge([a, b], s, weights=["a", "b"]), "weights= must be a list of numbers"),
    "merge large": (lambda a, b, s: autoperm.merge([a, b], s, weights=[1e308] * 2), "weights= must be finite"),
    "max_batches": (lambda a, b, s: repair(a, [a, b], [X], max_batches=1.5), "max_batches must be a whole number, not 1.5"),
    "zip budget": (lambda a, b, s: zip_models([a, b], s, data=[X], budget="a"), "budget must be a number, not 'a'"),
    "steps": (lambda a, b, s: autoperm.interpolate(a, b, loss, steps="5"), "steps must be a whole number, not '5'"),
    "evaluate": (lambda a, b, s: autoperm.interpolate(a, b, 3), "evaluate must be a function of a module, not a int"),
    "better": (lambda a, b, s: autoperm.interpolate(a, b, lambda m: 1.0, higher_is_better=3), "higher_is_better must be True, False"),
    "plane steps": (lambda a, b, s: plane(a, b, mlp(2), lambda m: 1.0, steps=2.5), "steps must be a whole number, not 2.5"),
    "plane margin": (lambda a, b, s: plane(a, b, mlp(2), lambda m: 1.0, margin="a"), "margin must be a number, not 'a'"),
    "calibration": (lambda a, b, s: calibration(X.numpy(), X), "outputs must be a tensor of real numbers, not a ndarray"),
    "bins": (lambda a, b, s: calibration(X, torch.zeros(5).long(), "15"), "bins must be a whole number, not '15'"),
    "ensemble": (lambda a, b, s: ensemble(a), "an ensemble needs a list of models, got one Sequential"),
    "learning rate": (
        lambda a, b, s: autoperm.match(a, b, s, method="ste", data=[X], loss=loss, inputs=lambda x: x, lr=float("inf")),
        "lr= above 0, not 50 and inf|lr= above 0",
    ),
    "complex loss": (
        lambda a, b, s: autoperm.match(a, b, s, method="sinkhorn", data=[X], loss=lambda y, x: y.sum() * 1j),
        "loss= must return a real number, not a complex one",
    ),
    "an empty batch": (
        lambda a, b, s: autoperm.match(a, b, s, method="activation", data=[X, X[:0]]),
        r"batch 2 of the data is empty: its shape is \(0, 4\)",
    ),
    "sparse": (
        lambda a, b, s: autoperm.match(*[{k: v.to_sparse() for k, v in a.state_dict().items()}] * 2, s),
        "which cannot be matched; convert it to a dense one",
    ),
    "float8": (
        lambda a, b, s: autoperm.match(*[{k: v.to(torch.float8_e4m3fn) for k, v in a.state_dict().items()}] * 2, s),
        "which cannot be matched; convert it to a dense one of 16 bits or more",
    ),
    "too large": (
        lambda a, b, s: autoperm.match(*[{k: v * 1e20 for k, v in a.state_dict().items()}] * 2, s),
        "products of the weights are not finite in float32: they are too large",
    ),
    "lazy": (
        lambda a, b, s: autoperm.match(nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 2)), b, s),
        "model_a: 0.weight has no shape yet; run the model once on data",
    ),
    "repair on meta": (lambda a, b, s: repair(mlp().to("meta"), [a, b], [X]), "the model is on the meta device and has no values"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_options_are_named(name: str) -> None:
    a, b = mlp(), mlp(1)
    call, text = WRONG[name]
    spec = autoperm.infer(a, X)
    with pytest.raises(AutopermError, match=text):
        call(a, b, spec)
