"""Modules of a list trade places: their weights, separate in a state dict, are positions of one tensor in a spec."""

from __future__ import annotations

import json
import math
import random
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import autoperm
from autoperm import PermutationSpec
from autoperm.capture import capture
from autoperm.errors import SpecError, StateError
from autoperm.infer import infer_captured
from autoperm.inference.rewriting import rewritten
from autoperm.stacks import name_of
from tests.oracle import true_order
from tests.trained import soundness, trained_like

WIDTH, HIDDEN, COUNT, TOKENS = 4, 3, 3, 12


class Expert(nn.Module):
    """A gated MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.gate, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


class Mixture(nn.Module):
    """Experts in a list, a router, and what is made of them: ``mix`` gets the model, the tokens and the router's scores."""

    def __init__(self, mix: Callable[..., Tensor], expert: Callable[[], nn.Module] = Expert):
        super().__init__()
        self.mix = [mix]
        self.router, self.experts = nn.Linear(WIDTH, COUNT), nn.ModuleList(expert() for _ in range(COUNT))

    def forward(self, x: Tensor) -> Tensor:
        return self.mix[0](self, x, self.router(x).softmax(-1))


def added(m: Mixture, x: Tensor, p: Tensor) -> Tensor:
    return sum(p[:, k, None] * e(x) for k, e in enumerate(m.experts))  # type: ignore[return-value]


def side_by_side(m: Mixture, x: Tensor, p: Tensor) -> Tensor:
    return torch.einsum("te,etd->td", p, torch.stack([e(x) for e in m.experts]))


def weights_side_by_side(m: Mixture, x: Tensor, p: Tensor) -> Tensor:
    def of(*names: str) -> list[Tensor]:
        return [torch.stack([e.get_parameter(f"{n}.{kind}") for e in m.experts]) for n in names for kind in ("weight", "bias")]  # type: ignore[operator]

    up, up_bias, gate, gate_bias, down, down_bias = of("up", "gate", "down")
    hidden = nn.functional.silu(x @ gate.mT + gate_bias[:, None]) * (x @ up.mT + up_bias[:, None])
    return torch.einsum("te,etd->td", p, hidden @ down.mT + down_bias[:, None])


def largest_only(m: Mixture, x: Tensor, p: Tensor) -> Tensor:
    return torch.stack([e(x) for e in m.experts]).amax(0) * p.amax(-1, keepdim=True)


DENSE = [added, side_by_side, weights_side_by_side, largest_only]
UNITS, ALL, STREAM = math.factorial(HIDDEN) ** COUNT, math.factorial(COUNT), math.factorial(WIDTH)


def checked(model: nn.Module, x: Any, tracers: Any = None) -> PermutationSpec:
    """The spec, which leaves the function as it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", autoperm.ValueDependentWarning)
        spec = infer_captured(capture(model, x, **({"tracers": tracers} if tracers else {})))
    assert soundness(model, spec, x) < 1e-10
    return spec


def tokens(seed: int = 0, count: int = TOKENS) -> Tensor:
    return torch.randn(count, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def mixture(mix: Callable[..., Tensor] = added, expert: Callable[[], nn.Module] = Expert) -> nn.Module:
    torch.manual_seed(0)
    return trained_like(Mixture(mix, expert), seed=1)


# -- what trades places ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", DENSE, ids=lambda f: f.__name__)
def test_experts_of_a_list_move(mix: Callable[..., Tensor]) -> None:
    model, x = mixture(mix), tokens(count=2)
    spec = checked(model, x)
    scores = ALL if mix is largest_only else 1  # whose largest is taken, whoever has it
    assert spec.order == scores * ALL * UNITS == true_order(capture(model, x), across=True)
    assert spec.stacks["experts.{0-2}.up.weight"] == tuple((f"experts.{k}.up.weight",) for k in range(3))
    assert "experts.0.up.weight" not in spec.layouts and spec.tensors["experts.1.up.weight"].shape == (HIDDEN, WIDTH)


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH))


def test_buffers_move_with_them() -> None:
    model, x = mixture(side_by_side, normed), tokens(count=2)
    spec = checked(model, x)
    assert spec.order == ALL * UNITS == true_order(capture(model, x), across=True)
    assert "experts.{0-2}.1.running_mean" in spec.stacks and "experts.{0-2}.1.running_mean" not in spec.parameters


class Heads(nn.Module):
    """Attention whose heads are modules, put together by ``cat``, in one or two towers that are added up."""

    def __init__(self, towers: int = 1, heads: int = 2) -> None:
        super().__init__()
        each = {"q": (4, 2), "k": (4, 2), "v": (4, 2)}
        self.towers = nn.ModuleList(
            nn.ModuleList(nn.ModuleDict({n: nn.Linear(*s, bias=False) for n, s in each.items()}) for _ in range(heads))
            for _ in range(towers)
        )
        self.out = nn.ModuleList(nn.Linear(2 * heads, 4) for _ in range(towers))

    def forward(self, x: Tensor) -> Tensor:
        def head(m: Any) -> Tensor:
            return (m["q"](x) @ m["k"](x).mT).softmax(-1) @ m["v"](x)

        return sum(out(torch.cat([head(m) for m in tower], -1)) for tower, out in zip(self.towers, self.out))  # type: ignore[return-value]


@pytest.mark.parametrize("towers, heads, order", [(1, 2, 2 * 4**2), (1, 3, 6 * 4**3), (2, 2, 2 * (2 * 4**2) ** 2)])
def test_heads_of_a_list_move_and_lists_of_lists(towers: int, heads: int, order: int) -> None:
    torch.manual_seed(0)
    model, x = trained_like(Heads(towers, heads), seed=1), torch.randn(1, 2, 4, dtype=torch.float64)
    spec = checked(model, x)
    assert spec.order == order == true_order(capture(model, x), across=True)
    if towers > 1:
        assert spec.layouts["towers.{0,1}.{0,1}.q.weight"].shape == (2, 2, 2, 4)
        assert spec.tensors["towers.1.0.q.weight"].home == "towers.{0,1}.{0,1}.q.weight"
        with pytest.raises(SpecError, match=re.escape("the spec has no parameter 'towers.0.{0,1}.q.weight'")):
            spec.explain("towers.0.{0,1}.q.weight", 0)  # a part of the stack, and a stack itself: no name of either
        planted = spec.random(2)
        assert autoperm.is_permutation_of(planted.apply(model), model, spec) == planted


def _by_hits(m: Mixture, x: Tensor, p: Tensor) -> Tensor:
    """As transformers 5 does."""
    weights, chosen = p.topk(2, -1)
    mask, out = nn.functional.one_hot(chosen, num_classes=COUNT).permute(2, 1, 0), torch.zeros_like(x)
    for e in torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero():
        e = e[0]
        places, rows = torch.where(mask[e])
        out.index_add_(0, rows, m.experts[e](x[rows]) * weights[rows, places, None])
    return out


def _by_hits_of_four(m: Mixture, x: Tensor, p: Tensor) -> Tensor:
    """As transformers 4 did."""
    weights, chosen = p.topk(2, -1)
    mask, out = nn.functional.one_hot(chosen, num_classes=COUNT).permute(2, 1, 0), torch.zeros_like(x)
    for e in torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero():
        places, rows = torch.where(mask[e].squeeze(0))
        out.index_add_(0, rows, m.experts[e](x[None, rows].reshape(-1, WIDTH)) * weights[rows, places, None])
    return out


def _by_numbers_of_four(m: Mixture, x: Tensor, p: Tensor) -> Tensor:
    weights, chosen = p.topk(2, -1)
    mask, out = nn.functional.one_hot(chosen, num_classes=COUNT).permute(2, 1, 0), torch.zeros_like(x)
    for e in range(COUNT):
        places, rows = torch.where(mask[e])
        out.index_add_(0, rows, m.experts[e](x[None, rows].reshape(-1, WIDTH)) * weights[rows, places, None])
    return out


EAGER = [_by_hits, _by_hits_of_four, _by_numbers_of_four]


@pytest.mark.parametrize("mix", EAGER, ids=lambda f: f.__name__)
def test_experts_that_take_the_tokens_which_chose_them(mix: Callable[..., Tensor]) -> None:
    model, x = mixture(mix), tokens()
    spec = checked(model, x, ("make_fx-real",))
    assert spec.order == ALL * UNITS
    planted = spec.random(3)
    assert autoperm.match(model, planted.apply(model), spec, progress=False).permutation == planted.inverse()


@pytest.mark.parametrize("mix", [*DENSE, *EAGER], ids=lambda f: f.__name__)
def test_the_rewritten_graph_computes_the_same_on_other_tokens(mix: Callable[..., Tensor]) -> None:
    model = mixture(mix)
    graph = rewritten(capture(model, tokens(), tracers=("make_fx-real",) if mix in EAGER else ("make_fx-fake",)))
    assert len(graph.stacks) == 6
    for seed in (1, 2):
        torch.testing.assert_close(graph.run(model.state_dict(), tokens(seed))[0], model(tokens(seed)), rtol=1e-12, atol=1e-12)


def test_a_length_that_python_looks_at_keeps_experts_in_place() -> None:
    def told(m: Mixture, x: Tensor, p: Tensor) -> Tensor:
        weights, chosen = p.topk(2, -1)
        out = torch.zeros_like(x)
        for e in range(COUNT):
            rows, places = torch.where(chosen == e)
            out.index_add_(0, rows, m.experts[e](x[None, rows].reshape(len(rows), -1)) * weights[rows, places, None])
        return out

    assert checked(mixture(told), tokens(), ("make_fx-real",)).order == UNITS


# -- what stays --------------------------------------------------------------------------------------------------------


def _tied(model: nn.Module) -> nn.Module:
    model.experts[1].up.weight = model.experts[0].up.weight
    return model


STAYS: dict[str, tuple[Callable[..., Tensor], int]] = {
    "in the order of outputs": (lambda m, x, p: torch.cat([e(x) for e in m.experts], -1), UNITS),
    "a factor of its own": (lambda m, x, p: sum((k + 1) * e(x) for k, e in enumerate(m.experts)), UNITS),
    "all but two": (lambda m, x, p: added(m, x, p) + x @ m.experts[0].up.weight.T @ m.experts[0].down.weight.T, 2 * UNITS),
    "all but two by a factor": (lambda m, x, p: 3 * m.experts[0](x) + m.experts[1](x) + m.experts[2](x), 2 * UNITS),
    "a chain": (lambda m, x, p: m.experts[2](m.experts[1](m.experts[0](x))), UNITS * STREAM**2),
    "another input": (lambda m, x, p: sum(e(x * 0.5**k) for k, e in enumerate(m.experts)), UNITS),
}


@pytest.mark.parametrize("name", STAYS)
def test_modules_that_are_told_apart_stay(name: str) -> None:
    mix, order = STAYS[name]
    model, x = mixture(mix), tokens(count=2)
    spec = checked(model, x)
    assert spec.order == order == true_order(capture(model, x), across=True)


def test_a_weight_that_two_share() -> None:
    """The two share their hidden units too; the third is no copy of them."""
    model, x = _tied(mixture(side_by_side)), tokens(count=2)
    assert 0 < checked(model, x).order <= true_order(capture(model, x), across=True)


def test_a_weight_that_has_to_stay_is_not_moved() -> None:
    class Reached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(COUNT))
            own = self.experts[0].weight
            self.first = [lambda x: nn.functional.linear(x, own)]

        def forward(self, x: Tensor) -> Tensor:
            return self.first[0](x).tanh() + sum(nn.functional.linear(x, e.weight).tanh() for e in self.experts[1:])

    model = trained_like(Reached(), seed=1)
    spec = checked(model, tokens(count=2))
    assert "experts.0.weight" in spec.layouts and spec.order == 2**4  # rows of the other two, one by one


# -- what a spec with stacks does --------------------------------------------------------------------------------------


def test_names() -> None:
    def named(*names: str) -> str:
        return name_of(tuple((name,) for name in names))

    assert named("a.0.w", "a.1.w", "a.2.w") == "a.{0-2}.w"
    assert named("a.0.w", "a.2.w") == "a.{0,2}.w"
    assert named("left.w", "right.w") == "{left,right}.w"
    assert named("w_a", "w_b") == "{w_a,w_b}"
    assert named("t.0.{0-2}.w", "t.1.{0-2}.w") == "t.{0,1}.{0-2}.w"


def test_it_is_saved_and_read_back(tmp_path: Path) -> None:
    model, x = mixture(), tokens()
    spec = checked(model, x)
    spec.save(tmp_path / "spec.json")
    again = PermutationSpec.load(tmp_path / "spec.json")
    assert again.stacks == spec.stacks and again.fingerprint == spec.fingerprint
    document = json.loads((tmp_path / "spec.json").read_text())
    assert document["version"] == 2
    document["stacks"][0][1].pop()
    (tmp_path / "short.json").write_text(json.dumps(document))
    with pytest.raises(SpecError, match="corrupt: ValueError: the stacks and the tensors do not fit each other"):
        PermutationSpec.load(tmp_path / "short.json")
    plain = autoperm.infer(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)), torch.zeros(1, 2))
    plain.save(tmp_path / "plain.json")
    assert json.loads((tmp_path / "plain.json").read_text())["version"] == 1


def test_explaining_a_part_is_explaining_the_whole() -> None:
    spec = checked(mixture(), tokens())
    text = str(spec.explain("experts.1.up.weight", 0))
    assert text.startswith("experts.{0-2}.up.weight[1] is moved by experts.{0-2}.")
    assert str(spec.explain("experts.{0-2}.up.weight", 0)).startswith("experts.{0-2}.up.weight[0] is moved by router.weight[0]")
    with pytest.raises(SpecError, match="there is no dimension 2, use 0 to 1"):
        spec.explain("experts.1.up.weight", 2)
    with pytest.raises(SpecError, match="the spec has no parameter 'experts.7.up.weight'"):
        spec.explain("experts.7.up.weight", 0)


def test_what_is_applied_keeps_names_order_and_memory() -> None:
    model = mixture()
    spec, before = checked(model, tokens()), {n: t.clone() for n, t in model.state_dict().items()}
    moved = spec.random(1).apply(model.state_dict())
    assert list(moved) == list(model.state_dict())
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert len({t.untyped_storage().data_ptr() for t in moved.values()}) == len(moved)
    again = spec.random(1).apply(model)
    assert all(torch.equal(t, moved[n]) for n, t in again.state_dict().items())


def test_wrong_states_are_named() -> None:
    model = mixture()
    spec, state = checked(model, tokens()), model.state_dict()
    element = spec.random(1)
    with pytest.raises(StateError, match=r"experts.1.up.weight: missing \(the spec has shape \(3, 4\)\)"):
        element.apply({n: t for n, t in state.items() if n != "experts.1.up.weight"})
    with pytest.raises(StateError, match=r"experts.1.up.weight: shape \(2, 4\), the spec has \(3, 4\)"):
        element.apply({**state, "experts.1.up.weight": torch.zeros(2, 4)})
    with pytest.raises(StateError, match="experts.0.up.weight is torch.float64 on cpu, experts.1.up.weight torch.float32 on cpu"):
        element.apply({**state, "experts.1.up.weight": torch.zeros(3, 4)})
    with pytest.raises(StateError, match="experts.0.up.weight and experts.1.up.weight: two tensors in the spec, one here"):
        element.apply({**state, "experts.1.up.weight": state["experts.0.up.weight"]})
    with pytest.raises(StateError, match="experts.1.up.weight holds NaN"):
        autoperm.match(model, {**state, "experts.1.up.weight": state["experts.1.up.weight"] * float("nan")}, spec)


# -- random branches ---------------------------------------------------------------------------------------------------


class Branches(nn.Module):
    """Random branches, put together at random; some are told apart, some have layers of another kind."""

    def __init__(self, seed: int):
        super().__init__()
        draw = random.Random(seed)
        layers = [nn.Linear, lambda a, b: nn.Linear(a, b, bias=False), lambda a, b: nn.Sequential(nn.Linear(a, 2), nn.Tanh(), nn.Linear(2, b))]
        kind = draw.choice(layers)
        self.parts = nn.ModuleList((kind if draw.random() < 0.85 else draw.choice(layers))(2, 2) for _ in range(draw.choice([2, 3, 3])))
        self.last = nn.Linear(2 * len(self.parts), 2)
        self.how = [draw.choice(["sum", "prod", "max", "cat", "stack", "half"]), draw.random(), draw.choice([torch.tanh, nn.functional.gelu, torch.sin])]

    def forward(self, x: Tensor) -> Tensor:
        how, apart, act = self.how
        found = [act(part(x)) for part in self.parts]
        if apart < 0.2:
            found[0] = found[0] * 2
        elif apart < 0.3:
            found[-1] = found[-1] + x
        elif apart < 0.4:
            found = [f + self.parts[0](x) for f in found]
        if how == "cat":
            return self.last(torch.cat(found, -1))
        if how == "half":
            return self.last(torch.cat(found, -1))[..., :1] + found[0]
        if how == "stack":
            return torch.stack(found).logsumexp(0)
        return {"sum": torch.stack(found).sum(0), "prod": math.prod(found), "max": torch.stack(found).amax(0)}[how]  # type: ignore[return-value]


@pytest.mark.parametrize("start", range(0, 120, 30))
def test_random_branches_are_sound(start: int) -> None:
    whole = 0
    for seed in range(start, start + 30):
        torch.manual_seed(seed)
        model, x = trained_like(Branches(seed), seed=seed), torch.randn(2, 2, dtype=torch.float64)
        spec = checked(model, x)
        true = true_order(capture(model, x), across=True)
        assert true % spec.order == 0, seed
        whole += true == spec.order
    assert whole >= 26
