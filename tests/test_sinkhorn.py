"""The Sinkhorn operator's gradient, and matching with it: by distance and by a loss on the line."""

from __future__ import annotations

import itertools
import signal
from typing import Any

import pytest
import torch
from matching_cases import CASES, batches, mlp, pair
from test_matching import elements, inner
from test_relaxed import gated, optima, problem_of, small
from test_soft import mixture
from torch import Tensor, nn

import autoperm
from autoperm import AutopermError
from autoperm.matching.line import Line
from autoperm.matching.problem import Problem
from autoperm.matching.sinkhorn import _Distance
from autoperm.matching.sinkhorn_operator import normalised, sinkhorn
from autoperm.matching.soft import soft_apply, soften
from autoperm.trained import randomize_


def random_scores(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(4, 4), (3, 5, 5), (2, 3, 2, 2)])
def test_matrices_are_doubly_stochastic_and_those_of_the_scores(shape: tuple[int, ...]) -> None:
    scores = random_scores(*shape)
    matrices = sinkhorn(scores, iterations=1000, tolerance=1e-13)
    ones = torch.ones(shape[:-1], dtype=torch.float64)
    assert torch.allclose(matrices.sum(-1), ones, atol=1e-12) and torch.allclose(matrices.sum(-2), ones, atol=1e-12)
    ratio = matrices.log() - scores  # r_i + c_j: its mixed differences are nil
    assert float((ratio.diff(dim=-1).diff(dim=-2)).abs().max()) < 1e-10


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_the_implicit_gradient_is_that_of_all_iterations(scale: float) -> None:
    weights, values = random_scores(3, 5, 5, seed=1), []
    for function in (
        lambda x: sinkhorn(x, iterations=20000, tolerance=1e-14),
        lambda x: normalised(x, iterations=20000, tolerance=1e-14).exp(),
    ):
        scores = random_scores(3, 5, 5, scale=scale).requires_grad_()
        (function(scores) * weights).sum().backward()
        values.append(scores.grad)
    assert float(values[0].abs().max()) > 0.1
    assert torch.allclose(*values, rtol=0, atol=1e-11)


@pytest.mark.parametrize("shape", [(4, 4), (2, 3, 3), (2, 2, 2, 2)])
def test_the_gradient_by_differences(shape: tuple[int, ...]) -> None:
    scores = random_scores(*shape, scale=2.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sinkhorn(x, iterations=5000, tolerance=1e-14), scores)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_near_permutations_are_nil_and_not_nan(dtype: torch.dtype) -> None:
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    scores = (1000.0 * torch.eye(8)[order]).to(dtype).requires_grad_()
    (sinkhorn(scores) * random_scores(8, 8).to(dtype)).sum().backward()
    assert scores.grad is not None and scores.grad.dtype == dtype
    assert float(scores.grad.abs().max()) < 1e-6


@pytest.mark.parametrize("name", [*CASES, "two levels"])
def test_the_distance_and_its_gradient(name: str) -> None:
    """Summed cell by cell, they are those of the mixed tensors, up to the entries that nothing moves."""
    problem = problem_of(name)
    found, expected, other = ([m.requires_grad_() for m in mixture(problem, s)] for s in ((1, 2, 3), (1, 2, 3), (4, 5)))
    values = [_Distance(problem).descend(found), _Distance(problem).descend(other)]
    totals = [whole_distance(problem, expected), whole_distance(problem, other)]
    totals[0].backward()
    assert values[1] - values[0] == pytest.approx(float((totals[1] - totals[0]).detach()), rel=1e-9)
    for x, y in zip(found, expected):
        assert x.grad is not None and y.grad is not None and torch.allclose(x.grad, y.grad, atol=1e-10)


def whole_distance(problem: Problem, relaxed: list[Tensor]) -> Tensor:
    mixed = soft_apply(problem, problem.b, relaxed)
    return torch.stack([((problem.a[n] - mixed[n]) ** 2).sum() for n in mixed]).sum()


@pytest.mark.parametrize("start", ["identity", "barycentre", "propagate"])
@pytest.mark.parametrize("name", ["mlp", "per_head", *(pytest.param(n, marks=pytest.mark.slow) for n in CASES if n not in ("mlp", "per_head"))])
def test_every_start_finds_what_was_planted(name: str, start: str) -> None:
    a, _, spec = pair(name)
    planted = spec.random(6)
    found = autoperm.match(a, planted.apply(a), spec, method="sinkhorn", start=start, steps=100)
    assert found.distance == 0.0 and found.permutation == planted.inverse()


@pytest.mark.parametrize("name", ["mlp", "attention"])
def test_the_best_by_weights_never_falls(name: str) -> None:
    a, b, spec = pair(name)
    found = autoperm.match(a, b, spec, method="sinkhorn", steps=40)
    assert len(found.history) == 41 and not found.interrupted
    assert found.history[-1] == found.objective > found.history[0] == pytest.approx(inner(spec, a, b), rel=1e-12)
    assert all(y >= x - 1e-9 * abs(x) for x, y in itertools.pairwise(found.history))


def test_most_optima_of_small_networks_are_found() -> None:
    """Of six each; weight matching found 6 and 2 of them when this was written."""
    assert optima("sinkhorn", small(lambda: mlp(3), (1, 3), 6), steps=60) == 6
    assert optima("sinkhorn", [gated(seed) for seed in range(6)], steps=60) >= 5


def test_only_the_ratio_of_rate_and_temperature_counts() -> None:
    a, b, spec = pair("mlp")
    first = autoperm.match(a, b, spec, method="sinkhorn", steps=10)
    second = autoperm.match(a, b, spec, method="sinkhorn", steps=10, lr=1.2, tau=4.0)
    assert first.history == pytest.approx(second.history, rel=1e-3)


class Normed(nn.Module):
    """BatchNorm with statistics, a tied table, a buffer of integers: all of them on the line."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.mid = nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 8)
        self.down = nn.Linear(8, 8)
        self.down.weight = self.mid.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.up(x)).relu()
        return self.down(x + self.mid(x).relu()).sum(-1)


def squares(model: nn.Module) -> Any:
    """How far outputs are from a model's."""
    return lambda output, batch: ((output - model(batch).detach()) ** 2).mean()


def middle(a: nn.Module, b: nn.Module, data: list[Tensor]) -> float:
    """The mean loss of the middle, found by other means."""
    loss = squares(a.eval())
    curve = autoperm.interpolate(a, b, lambda m: sum(float(loss(m(x), x)) for x in data) / len(data), steps=3)
    return float(curve.values[1])


def normed() -> tuple[nn.Module, nn.Module, autoperm.PermutationSpec]:
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        models.append(Normed().eval())
        randomize_(models[-1], seed)
    return models[0], models[1], autoperm.infer(models[0], torch.zeros(2, 3))


def test_a_loss_finds_what_was_planted() -> None:
    """From the identity, where two units have traded places."""
    a, _, spec = normed()
    arrays, data = [array.copy() for array in spec.identity().arrays], batches("mlp")
    arrays[0][..., [3, 7]] = arrays[0][..., [7, 3]]
    planted = autoperm.Permutation(spec, arrays)
    b = planted.apply(a)
    found = autoperm.match(a, b, spec, method="sinkhorn", data=data, loss=squares(a), start="identity", steps=100)
    assert found.history[0] > 0.03 and found.history[-1] == middle(a, found.permutation.apply(b), data) == 0.0
    assert found.permutation == planted.inverse() and found.distance == 0.0


@pytest.mark.parametrize("name", ["mlp", "attention", "normed"])
def test_the_gradient_of_the_loss(name: str) -> None:
    """By differences, anywhere on the line; there is one loss for permutations and for their matrices."""
    a, b, spec = normed() if name == "normed" else pair(name)
    states = [{n: t.double() if t.is_floating_point() else t for n, t in m.state_dict().items()} for m in (a, b)]
    data = [x.double() for x in batches("mlp" if name == "normed" else name)]
    problem = Problem(spec, *states, network=a)
    line = Line(problem, data, lambda out, batch: (out**2).mean(), None, evaluated=1)
    for t in (0.2, 0.5):
        relaxed = [m.requires_grad_() for m in mixture(problem, (1, 2, 3))]
        value = line.loss_at(t, relaxed, data[0])
        value.backward()
        direction = [torch.randn(m.shape, generator=torch.Generator().manual_seed(3), dtype=m.dtype) for m in relaxed]
        slope = sum(float((d * m.grad).sum()) for d, m in zip(direction, relaxed))
        assert abs(slope) > 1e-6
        frozen = Frozen(line, relaxed)
        ends = [frozen(t, [m.detach() + h * d for m, d in zip(relaxed, direction)], data[0]) for h in (1e-5, -1e-5)]
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5)
    element = spec.random(1)
    hard = line.loss_at(0.5, soften(problem, element.arrays), data[0])
    assert line.loss_of(element.arrays) == pytest.approx(float(hard), rel=1e-10)


class Frozen:
    """The loss with buffers held where they are, as the gradient has it."""

    def __init__(self, line: Line, relaxed: list[Tensor]):
        self._line, self._buffers = line, line.mixed([m.detach() for m in relaxed])

    def __call__(self, t: float, relaxed: list[Tensor], batch: Tensor) -> float:
        mixed = self._line.mixed(relaxed)
        held = {n: self._buffers[n] if n not in self._line.parameters else x for n, x in mixed.items()}
        return float(self._line.loss_between(t, held, batch))


def test_the_loss_that_relaxed_models_reach() -> None:
    """Of six small networks: it is mostly below that of all 36 permutations, and rounding then finds half of the optima."""
    below, hits, data = 0, 0, [torch.cat(batches("mlp", 2))]
    for a, b, spec in small(lambda: mlp(3), (1, 3), 6):
        best = min(middle(a, g.apply(b), data) for g in elements(spec))
        costs: list[float] = []
        found = autoperm.match(
            a, b, spec, method="sinkhorn", data=data, loss=squares(a), progress=lambda done, value: costs.append(value)
        )
        assert found.history[-1] >= best * (1 - 1e-5)
        below += costs[-1] <= best
        hits += found.history[-1] <= best * (1 + 1e-5)
    assert below >= 5 and hits >= 3


@pytest.mark.parametrize("point", ["midpoint", "random"])
@pytest.mark.parametrize("name", ["mlp", "normed"])
def test_the_loss_falls_to_that_of_the_result(name: str, point: str) -> None:
    a, b, spec = normed() if name == "normed" else pair(name)
    data = batches("mlp")
    options = dict(method="sinkhorn", data=data, loss=squares(a.eval()), point=point, steps=30, seed=2)
    before = torch.random.get_rng_state()
    found = autoperm.match(a, b, spec, **options)  # type: ignore[arg-type]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert len(found.history) == 31 and found.history[0] == pytest.approx(middle(a, b, data), rel=1e-5)
    assert found.history[-1] == pytest.approx(middle(a, found.permutation.apply(b), data), rel=1e-5)
    assert found.history[-1] < 0.9 * found.history[0]
    assert all(y <= x for x, y in itertools.pairwise(found.history))
    states = autoperm.match(a.state_dict(), b.state_dict(), spec, template=b, **options)  # type: ignore[arg-type]
    assert states.permutation == found.permutation and states.history == found.history


def test_labels_beside_the_inputs() -> None:
    a, b, spec = pair("mlp")
    data = [(x, a(x).argmax(-1)) for x in batches("mlp")]
    options: dict[str, Any] = dict(method="sinkhorn", data=data, inputs=lambda batch: batch[0], steps=20, evaluated=2)
    found = autoperm.match(a, b, spec, loss=lambda out, batch: nn.functional.cross_entropy(out, batch[1]), **options)
    assert found.history[-1] < found.history[0]


def test_loss_errors() -> None:
    a, b, spec = pair("mlp")
    data, loss = batches("mlp"), squares(a)

    def match(*models: Any, **options: Any) -> None:
        autoperm.match(*(models or (a, b)), spec, method="sinkhorn", steps=3, **options)

    with pytest.raises(AutopermError, match="loss= needs data=: a loss is taken on batches; leave out both"):
        match(loss=loss)
    with pytest.raises(AutopermError, match="data= needs loss=: a loss is taken on batches; leave out both"):
        match(data=data)
    with pytest.raises(AutopermError, match="both models are state dicts: pass template=, a module"):
        match(a.state_dict(), b.state_dict(), data=data, loss=loss)
    with pytest.raises(AutopermError, match="data gave no batch: it is empty"):
        match(data=[], loss=loss)
    with pytest.raises(AutopermError, match="an iterator that was used up before; pass a list or a data loader"):
        match(data=iter(data), loss=loss)
    with pytest.raises(AutopermError, match=r"loss= must return a tensor of one number, not a tensor of shape \(8, 2\)"):
        match(data=data, loss=lambda out, batch: out)
    with pytest.raises(AutopermError, match="loss= must return a tensor of one number, not a float"):
        match(data=data, loss=lambda out, batch: 1.0)
    with pytest.raises(AutopermError, match="the loss does not depend on the weights: loss= must be differentiable"):
        match(data=data, loss=lambda out, batch: out.detach().sum())
    with pytest.raises(AutopermError, match="evaluated= must be at least 1 batch, not 0"):
        match(data=data, loss=loss, evaluated=0)
    with pytest.raises(AutopermError, match="the loss is nan in the middle between the models, before step 1"):
        match(data=data, loss=lambda out, batch: out.sum() * float("nan"))


def test_losses_and_gradients_that_are_not_finite_name_the_step() -> None:
    a, b, spec = pair("mlp")
    data = batches("mlp", 4)
    options: dict[str, Any] = dict(method="sinkhorn", data=data, evaluated=2)
    with pytest.raises(AutopermError, match="the loss is nan at step 3 of 200; check the data, or lower lr="):
        autoperm.match(a, b, spec, loss=lambda out, x: out.sum() * (float("nan") if x is data[2] else 1.0), **options)
    with pytest.raises(AutopermError, match="the gradient of the loss is not finite at step 4 of 200; check loss=, or lower lr="):
        autoperm.match(a, b, spec, loss=lambda out, x: (out * (x is not data[3])).abs().sum().sqrt(), **options)


def test_option_errors() -> None:
    a, b, spec = pair("mlp")
    for options, message in (
        ({"start": "middle"}, 'start must be "identity", "barycentre" or "propagate", not \'middle\''),
        ({"point": "end"}, 'point must be "midpoint" or "random", not \'end\''),
        ({"steps": -1}, "steps must be at least 0, not -1"),
        ({"iterations": 0}, "iterations must be at least 1, not 0"),
        ({"lr": 0.0}, "lr must be a positive number, not 0.0"),
        ({"tau": float("inf")}, "tau must be a positive number, not inf"),
    ):
        with pytest.raises(AutopermError, match=message):
            autoperm.match(a, b, spec, method="sinkhorn", **options)  # type: ignore[arg-type]


def test_interrupted_runs_return_the_best_so_far() -> None:
    a, b, spec = pair("attention")

    def stop(done: int, value: float) -> None:
        if done == 6:
            signal.raise_signal(signal.SIGINT)

    part = autoperm.match(a, b, spec, method="sinkhorn", steps=50, progress=stop)
    whole = autoperm.match(a, b, spec, method="sinkhorn", steps=50)
    assert part.interrupted and not whole.interrupted and len(part.history) == 7
    assert part.history == pytest.approx(whole.history[:7], rel=1e-12)
    assert part.objective == max(part.history) == pytest.approx(inner(spec, a, part.permutation.apply(b)), rel=1e-12)


@pytest.mark.parametrize("method", ["sinkhorn", "frank-wolfe"])
def test_part_of_the_groups(method: str) -> None:
    """Heads without their dimensions, dimensions without their heads: the others stay."""
    a, _, spec = pair("attention")
    heads = next(g.name for g in spec.groups if g.size == 3)
    inside = [g.name for g in spec.groups if g.parents]
    for chosen in ([heads], inside):
        arrays = [r if g.name in chosen else i for g, r, i in zip(spec.groups, spec.random(2).arrays, spec.identity().arrays)]
        planted = autoperm.Permutation(spec, arrays)
        found = autoperm.match(a, planted.apply(a), spec, method=method, groups=chosen)
        assert found.permutation == planted.inverse() and found.distance == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    a, _, spec = pair("mlp")
    a = a.to(dtype)
    planted = spec.random(3)
    found = autoperm.match(a, planted.apply(a), spec, method="sinkhorn", steps=60)
    assert found.permutation == planted.inverse()


def test_a_model_without_symmetry() -> None:
    a, b = nn.Linear(3, 2), nn.Linear(3, 2)
    found = autoperm.match(a, b, autoperm.infer(a, torch.zeros(1, 3)), method="sinkhorn")
    assert found.permutation.is_identity and len(found.history) == 1
