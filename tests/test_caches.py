"""What forwards keep on modules: computed again in copies with other weights, unless it is no function of the weights."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import autoperm
from autoperm.caches import Cache
from autoperm.errors import AutopermError
from autoperm.merging import repair
from autoperm.uses import transfer

X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Base(nn.Module):
    """Two layers, and a scale of the units between them, which forwards get in various ways."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.cache = nn.Linear(3, 4), nn.Linear(4, 2), {}
        self.double()

    def computed(self) -> torch.Tensor:
        return self.first.bias.exp()

    def scale(self) -> torch.Tensor:
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last((self.first(x) * self.scale()).tanh())


class InDict(Base):
    """As LeViT keeps its attention biases."""

    def scale(self) -> torch.Tensor:
        if "scale" not in self.cache:
            self.cache["scale"] = self.computed()
        return self.cache["scale"]


class InAttribute(Base):
    kept = None

    def __init__(self) -> None:
        super().__init__()
        self.kept = None

    def scale(self) -> torch.Tensor:
        if self.kept is None:
            self.kept = self.computed()
        return self.kept


class Absent(Base):
    def scale(self) -> torch.Tensor:
        if not hasattr(self, "kept"):
            self.kept = self.computed()
        return self.kept


class Constants(Base):
    """A dict that the forward goes through, whatever is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.cache["x"] = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)

    def scale(self) -> torch.Tensor:
        return torch.stack([*self.cache.values()]).sum(0) if self.cache else torch.ones(4, dtype=torch.float64)


class Both(InDict):
    """A constant and a cache in one dict."""

    def __init__(self) -> None:
        super().__init__()
        self.cache["two"] = torch.tensor([2.0], dtype=torch.float64)

    def scale(self) -> torch.Tensor:
        return super().scale() * self.cache.get("two", 1.0)


class Preset(InDict):
    """What the forward would compute otherwise was set by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.cache["scale"] = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)


def built(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return make().eval()


def run(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(X)


def error(spec: autoperm.PermutationSpec, model: nn.Module) -> float:
    return max(float((run(spec.random(seed).apply(model)) - run(model)).abs().max()) for seed in range(3))


@pytest.mark.parametrize("make", [InDict, InAttribute, Absent, Both])
@pytest.mark.parametrize("when", ["before the first run", "after"])
def test_what_a_forward_keeps_of_its_weights_is_computed_again_in_copies(make: type[Base], when: str) -> None:
    model = built(make)
    if when == "after":
        run(model)
    spec = autoperm.infer(model, X)
    # A plain attribute that is there counts as a constant: a forward that only reads it cannot be told from one that keeps it.
    assert spec.order == (1 if when == "after" and make in (InAttribute, Absent) else 24)
    assert error(spec, model) < 1e-12
    assert autoperm.verify(model, spec, X).relative < 1e-12


@pytest.mark.parametrize("make", [Constants, Preset])
def test_constants_in_a_dict_are_part_of_the_function(make: type[Base]) -> None:
    model = built(make)
    spec = autoperm.infer(model, X)
    assert spec.order == 1
    assert spec.caches == ()
    assert autoperm.verify(model, spec, X).ok
    assert float((run(autoperm.infer(model, X).identity().apply(model)) - run(model)).abs().max()) == 0.0


def test_a_stale_entry_is_what_the_model_computes_with() -> None:
    model = built(InDict)
    run(model)
    with torch.no_grad():
        model.first.bias += torch.arange(4)
    spec = autoperm.infer(model, X)
    assert spec.order == 1
    assert error(spec, model) == 0.0


def test_a_cached_tensor_of_a_graph_is_no_obstacle() -> None:
    model = built(InDict)
    model(X)  # with gradients: deepcopy refuses such a tensor
    spec = autoperm.infer(model, X)
    moved = spec.random(1).apply(model)
    assert moved.cache == {} and model.cache
    assert float((run(moved) - run(model)).abs().max()) < 1e-12


def test_weights_that_hooks_compute_are_no_obstacle() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    prune.random_unstructured(model[0], "weight", amount=0.3)
    model(X)
    spec = autoperm.infer(model, X)
    assert spec.order == 24
    assert error(spec, model) < 1e-12


def test_a_module_that_cannot_be_copied_is_named() -> None:
    model = built(InDict)
    spec = autoperm.infer(model, X)
    model.held = threading.Lock()
    with pytest.raises(AutopermError, match="the InDict cannot be copied .*pass its state dict"):
        spec.random(0).apply(model)


def test_specs_say_where_and_files_keep_it(tmp_path: Path) -> None:
    model = nn.DataParallel(nn.Sequential(built(Both), nn.Linear(2, 2).double()))
    spec = autoperm.infer(model, X)
    assert list(spec.caches) == [Cache("module.0.cache", ("'two'",))]
    assert list(autoperm.infer(built(Absent), X).caches) == [Cache("kept", (), absent=True)]
    spec.save(tmp_path / "spec.json")
    read = autoperm.PermutationSpec.load(tmp_path / "spec.json")
    assert list(read.caches) == list(spec.caches)
    assert read.fingerprint == spec.fingerprint


def test_models_without_values_count_what_may_be_equal() -> None:
    with torch.device("meta"):
        model = InDict().eval()
    model(X.to("meta"))
    assert autoperm.infer(model, X).order == 24


@pytest.mark.parametrize("make", [InDict, InAttribute, Both])
def test_merging_and_lines_keep_nothing_of_other_weights(make: type[Base]) -> None:
    a, b = built(make), built(make, seed=1)
    fresh = built(make)
    fresh.load_state_dict({k: (v + b.state_dict()[k]) / 2 for k, v in a.state_dict().items()})
    spec = autoperm.infer(a, X)
    expected = run(fresh)
    if make is not InAttribute:
        run(a), run(b)
    line = autoperm.interpolate(a, b, lambda model: float(run(model).square().sum()), 3)
    assert float(line.curves["loss"][1]) == pytest.approx(float(expected.square().sum()), rel=1e-12)
    run(a), run(b)
    merged = autoperm.merge([a, b], spec, align="none").model
    assert float((run(merged) - expected).abs().max()) < 1e-12
    carried = transfer(a, a, b, spec)
    assert float((run(carried) - run(b)).abs().max()) < 1e-12


class Plain(Base):
    def scale(self) -> torch.Tensor:
        return self.computed()


@pytest.mark.parametrize("method", ["ste", "sinkhorn"])
def test_training_matchers_run_networks_that_keep_tensors(method: str) -> None:
    def found(make: type[Base]) -> autoperm.Permutation:
        a, b = built(make), built(make, seed=1)
        spec = autoperm.infer(a, X)
        run(a), run(b)
        data = [(X, torch.tensor([0, 1, 0, 1, 1]))] * 4
        more = {} if method == "ste" else {"loss": lambda out, pair: nn.functional.cross_entropy(out, pair[1]), "inputs": lambda p: p[0]}
        return autoperm.match(a, b, spec, method=method, data=data, seed=0, progress=False, **more).permutation

    assert all((x == y).all() for x, y in zip(found(InDict).arrays, found(Plain).arrays, strict=True))


def test_repair_leaves_nothing_kept() -> None:
    a, b = built(InDict), built(InDict, seed=1)
    spec = autoperm.infer(a, X)
    middle = autoperm.merge([a, b], spec).model
    run(middle)
    repaired = repair(middle, [a, b], [X], progress=False)
    assert repaired.cache == {}
    fresh = built(Plain)
    fresh.load_state_dict(repaired.state_dict())
    assert float((run(repaired) - run(fresh)).abs().max()) < 1e-12
