"""What models do beside computing with their parameters: other ways to the weights, hidden state, branches on being traced,
results in objects, copies and state dicts of their own making. Permuted copies compute the same, or the model is refused."""

from __future__ import annotations

import copy
import functools
import warnings
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import autoperm
from autoperm.errors import AutopermError, CaptureError, StateError

X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
RAMP = torch.arange(1.0, 5, dtype=torch.float64)


class Net(nn.Module):
    """Two layers, and a function of them."""

    def __init__(self, function: Callable[..., Any], prepare: Callable[[Any], None] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.function = nn.Linear(3, 4), nn.Linear(4, 2), function
        self.double()
        if prepare is not None:
            prepare(self)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def hidden(m: Any, x: Tensor) -> Tensor:
    return m.first(x).tanh()


def plain(m: Any, x: Tensor) -> Tensor:
    return m.last(hidden(m, x))


def worst(model: nn.Module, pick: Callable[[Any], Tensor] = lambda out: out, calls: int = 1) -> tuple[int, float]:
    """The order found, and how much outputs change in copies, in one call or several."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec = autoperm.infer(model, X)
    largest = 0.0
    with torch.no_grad():
        for seed in range(4):
            a, b = copy.deepcopy(model), spec.random(seed).apply(model)
            for _ in range(calls):
                one, other = pick(a(X)), pick(b(X))
                largest = max(largest, float((one - other).abs().max() / one.abs().max()))
    return spec.order, largest


# -- other ways to the weights -------------------------------------------------------------------------------------------


def wrapped(m: Any) -> None:
    before = m.first.forward
    m.first.forward = lambda x: before(x) * 2


def closure(m: Any) -> None:
    bias = m.first.bias
    m.function = lambda m, x: m.last(hidden(m, x) * bias)


def hooked(m: Any) -> None:
    m.last.register_forward_pre_hook(lambda module, args: (args[0] * m.first.bias,))


def read_in_closure(m: Any) -> None:
    bias = m.first.bias
    m.function = lambda m, x: plain(m, x) * bias.tolist()[0]


def number_in_closure(m: Any) -> None:
    bias = m.first.bias
    m.function = lambda m, x: plain(m, x) * bias[0].item()


class Helper:
    def __init__(self, **held: Any) -> None:
        self.__dict__.update(held)


SCALED = {
    "an attribute of the same memory": (lambda m: m.ref, lambda m: setattr(m, "ref", m.first.bias.detach()), 1),
    "a buffer of the same memory": (lambda m: m.ref, lambda m: m.register_buffer("ref", m.first.bias.data, persistent=False), 1),
    "a list of the same memory": (lambda m: m.ref[0], lambda m: setattr(m, "ref", [m.first.bias.data]), 1),
    "a stored buffer of the same memory": (lambda m: m.ref, lambda m: m.register_buffer("ref", m.first.bias.data), 24),
    "the parameter in a list": (lambda m: m.ref[0], lambda m: setattr(m, "ref", [m.first.bias]), 24),
    "the parameter in a tuple": (lambda m: m.ref[0], lambda m: setattr(m, "ref", (m.first.bias,)), 24),
    "the parameter in a helper": (lambda m: m.ref.held["b"], lambda m: setattr(m, "ref", Helper(held={"b": m.first.bias})), 24),
}  # fmt: skip


@pytest.mark.parametrize("name", SCALED)
def test_the_same_memory(name: str) -> None:
    scale, prepare, order = SCALED[name]
    found, error = worst(Net(lambda m, x: m.last(hidden(m, x) * scale(m)), prepare))
    assert found == order and error < 1e-12


@pytest.mark.parametrize("prepare", [wrapped, closure, hooked, read_in_closure, number_in_closure])
def test_what_copies_do_not_follow_stays(prepare: Callable[[Any], None]) -> None:
    model = Net(plain, prepare)
    order, error = worst(model)
    assert order in (1, 24) and error < 1e-12
    if prepare is not wrapped:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reason = autoperm.infer(model, X).pinned["first.bias", 0]
        assert "it is read by a way that copies of the model do not follow" in reason


def test_weak_references_lead_to_the_original() -> None:
    assert worst(Net(lambda m, x: plain(m.ref(), x), lambda m: setattr(m, "ref", weakref.ref(m))))[1] < 1e-12


@pytest.mark.parametrize("kept", [list, tuple])
@pytest.mark.parametrize("read", [lambda b: b.tolist()[0], lambda b: b[0].item(), lambda b: len(repr(b * 1e3)), lambda b: 1 + (b[0] > 0)])
def test_values_read_from_containers(read: Callable[[Tensor], Any], kept: type) -> None:
    order, error = worst(Net(lambda m, x: plain(m, x) * read(m.ref[0]), lambda m: setattr(m, "ref", kept([m.first.bias]))))
    assert order <= 6 and error < 1e-12


# -- values that Python sees -----------------------------------------------------------------------------------------------

SEEN = {
    "how many are not zero": lambda m, x: plain(m, x) * (1 + len(hidden(m, x)[:, 0].clamp(min=0).nonzero())),
    "how many a mask takes": lambda m, x: plain(m, x) * (1 + m.first.bias[:2][m.first.bias[:2] > 0].shape[0]),
    "how many are different": lambda m, x: plain(m, x) * (1 + (m.first.bias[:2] > 0).long().unique().shape[0]),
    "whether all are close": lambda m, x: plain(m, x) * (2.0 if torch.allclose(m.first.bias[:1], m.first.bias[:1].abs()) else 1.0),
}


@pytest.mark.parametrize("name", SEEN)
def test_sizes_and_comparisons(name: str) -> None:
    order, error = worst(Net(SEEN[name]))
    assert order <= 24 and error < 1e-12


def test_numbers_that_are_results() -> None:
    model = Net(lambda m, x: (plain(m, x), hidden(m, x).argmax(-1).tolist()))
    assert worst(model, lambda out: torch.tensor(out[1]) + 0.5) == (1, 0.0)


@pytest.mark.parametrize(
    "wrap", [lambda h: torch.distributions.Normal(h, 1.0, validate_args=False), lambda h: SimpleNamespace(mean=h), lambda h: {"a": h}.values()]
)
def test_results_in_objects(wrap: Callable[[Tensor], Any]) -> None:
    model = Net(lambda m, x: (plain(m, x), wrap(m.first(x))))
    assert worst(model, lambda out: out[1].mean if hasattr(out[1], "mean") else next(iter(out[1]))) == (1, 0.0)
    assert any("output[1]" in reason for reason in autoperm.infer(model, X).pinned.values())


def test_a_generator_is_no_result() -> None:
    with pytest.raises(CaptureError, match=r"output is a generator, whose items come later; return a list or a tuple"):
        autoperm.infer(Net(lambda m, x: (y for y in plain(m, x))), X)


class Batch:
    def __init__(self, **held: Any) -> None:
        self.held = held


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x: Tensor) -> None:
        self.x = x


@pytest.mark.parametrize(
    "given, told",
    [(Batch(shift=[torch.zeros(4)]), r"args\[1\] of the example inputs is a Batch that holds tensors \(held\['shift'\]\[0\]\)"),
     (Slotted(torch.zeros(4)), r"is a Slotted that holds tensors \(x\).*make it a dataclass"),
     (RAMP.numpy(), r"args\[1\] of the example inputs is a ndarray, whose numbers would become fixed; pass a tensor"),
     (nn.Linear(2, 2), r"is a Linear with tensors of its own \(weight, bias\); make it a submodule"),
     ({"a": {torch.zeros(4)}}, r"args\[1\]\['a'\] of the example inputs is a set that holds tensors")],
)  # fmt: skip
def test_inputs_in_objects_are_refused(given: Any, told: str) -> None:
    class Taking(Net):
        def forward(self, x: Tensor, other: Any) -> Any:
            return plain(self, x)

    with pytest.raises(CaptureError, match=told):
        autoperm.infer(Taking(plain), (X, given))


# -- branches on being traced ----------------------------------------------------------------------------------------------


def test_a_trace_that_is_another_function_is_refused() -> None:
    model = Net(lambda m, x: plain(m, x) + sum((p[1:] - p[:-1]).abs().sum() for p in m.parameters() if p.requires_grad))
    with pytest.raises(CaptureError, match="output of the trace is not what the model computes: .*Take the same branch in both"):
        autoperm.infer(model, X)
    autoperm.infer(model, X, check=False)


def test_another_tracer_may_see_the_function() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return plain(m, x)
        return m.last(hidden(m, x) * RAMP if x.sum() > -1e9 else hidden(m, x))

    assert worst(Net(forward))[1] < 1e-12


# -- state -----------------------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, keep: Callable[[Any], Any]) -> None:
        super().__init__()
        self.cell, self.out, self.keep, self.state = nn.GRUCell(3, 4), nn.Linear(4, 2), keep, None
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        state = self.cell(x, None if self.state is None else self.state[0])
        self.state = self.keep(state)
        return self.out(state)


def counting(m: Any, x: Tensor) -> Tensor:
    m.calls = 1 - getattr(m, "calls", 0)
    return plain(m, x) * (1 + m.calls)


def writing(m: Any, x: Tensor) -> Tensor:
    out = plain(m, x)
    m.first.bias.data.add_(RAMP)
    return out


def writing_by_values(m: Any, x: Tensor) -> Tensor:
    return writing(m, x) * (2 if x.sum() > -1e9 else 1)


def replacing(m: Any, x: Tensor) -> Tensor:
    out = plain(m, x)
    m.first.bias = nn.Parameter(m.first.bias.detach() * 2)
    return out


@pytest.mark.parametrize(
    "build", [lambda: Recurrent(lambda s: (s,)), lambda: Recurrent(lambda s: [s]), lambda: Recurrent(lambda s: s[None]),
              lambda: Net(counting), lambda: Net(writing), lambda: Net(writing_by_values), lambda: Net(replacing)]
)  # fmt: skip
def test_hidden_state_is_refused(build: Callable[[], nn.Module]) -> None:
    model = build()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CaptureError, match="output differs between two calls with the same inputs: .*Register state as a buffer"):
        autoperm.infer(model, X)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert getattr(model, "state", None) is None and not hasattr(model, "calls")


def actnorm(m: Any, x: Tensor) -> Tensor:
    h = m.first(x)
    if not m.ready:
        m.shift.data.copy_(-h.mean(0))
        m.ready = True
    return m.last((h + m.shift).tanh())


def test_parameters_that_the_first_call_sets() -> None:
    def prepare(m: Any) -> None:
        m.shift, m.ready = nn.Parameter(torch.zeros(4, dtype=torch.float64)), False

    model = Net(actnorm, prepare)
    with pytest.raises(CaptureError, match=r"the forward sets the parameter shift.*run the model once, model\(\*inputs\)"):
        autoperm.infer(model, X)
    model(X)
    order, error = worst(model)
    assert order == 24 and error < 1e-12


def test_a_tuple_that_is_kept_is_computed_again() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        if m.kept is None:
            m.kept = (m.first.bias.exp(),)
        return m.last(hidden(m, x) * m.kept[0])

    model = Net(forward, lambda m: setattr(m, "kept", None))
    spec = autoperm.infer(model, X)
    assert model.kept is None
    with torch.no_grad():
        expected = model(X)
        moved = spec.random(1).apply(model)
        assert moved.kept is None and spec.order == 24
        assert float((moved(X) - expected).abs().max()) < 1e-12


def test_tables_of_cached_functions_stay_real() -> None:
    model = Net(lambda m, x: m.last(hidden(m, x) * _table(4)))
    assert autoperm.infer(model, X).order == 1
    assert float(model(X).sum()) == float(model(X).sum())
    assert type(_table(4)) is Tensor


@functools.lru_cache
def _table(n: int) -> Tensor:
    return torch.arange(float(n), dtype=torch.float64)


# -- copies and state dicts ------------------------------------------------------------------------------------------------


class Transposed(nn.Module):
    """Stores a weight transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self._register_state_dict_hook(self._turn)
        self._register_load_state_dict_pre_hook(lambda state, prefix, *rest: self._turn(self, state, prefix, None))
        self.double()

    @staticmethod
    def _turn(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
        state[prefix + "a.weight"] = state[prefix + "a.weight"].t().contiguous()

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).tanh()).tanh())


def test_what_state_dicts_have_in_another_form_stays() -> None:
    model = Transposed()
    spec = autoperm.infer(model, X)
    assert spec.order == 6 and "state dicts have it in another form" in spec.pinned["a.weight", 0]
    with torch.no_grad():
        moved, loaded = spec.random(1).apply(model), Transposed()
        loaded.load_state_dict(spec.random(1).apply(model.state_dict()))
        for other in (moved, loaded):
            assert float((other(X) - model(X)).abs().max()) < 1e-12


class Frozen(nn.Linear):
    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen:
        return self


def test_a_copy_that_is_the_model_is_refused() -> None:
    model = nn.Sequential(Frozen(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    before = model(X)
    with pytest.raises(AutopermError, match="the Sequential cannot be copied .its copy shares the module 0 with it"):
        autoperm.infer(model, X).random(1).apply(model)
    assert torch.equal(model(X), before)


def layers(tie: bool) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    if tie:
        model[2].weight = model[0].weight
    return model


def test_ties_must_be_those_of_the_spec() -> None:
    tied, apart = layers(True), layers(False)
    with pytest.raises(StateError, match=r"0.weight and 2.weight: one tensor in the spec, with different entries here"):
        autoperm.infer(tied, X).random(0).apply(apart)
    with pytest.raises(StateError, match=r"0.weight and 2.weight: two tensors in the spec, one here"):
        autoperm.infer(apart, X).random(0).apply(tied)
    with pytest.raises(StateError, match="one tensor in the spec"):
        autoperm.is_permutation_of(apart, copy.deepcopy(apart), autoperm.infer(tied, X))


def test_parameters_that_the_spec_does_not_know() -> None:
    model = Net(plain)
    spec = autoperm.infer(model, X)
    model.more = nn.Linear(2, 2)
    with pytest.raises(StateError, match=r"more.weight: not in the spec"):
        spec.random(0).apply(model)
    with pytest.raises(StateError, match=r"first.bias: a NoneType, the spec has a tensor"):
        spec.random(0).apply({**Net(plain).state_dict(), "first.bias": None})


def test_expanded_buffers_are_permuted() -> None:
    model = Net(lambda m, x: m.last(hidden(m, x) * m.ones), lambda m: m.register_buffer("ones", torch.ones(1).double().expand(4)))
    order, error = worst(model)
    assert order == 24 and error < 1e-12


class Noted(nn.Module):
    """Keeps more than tensors in its state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.double()

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 1}

    def set_extra_state(self, state: Any) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).tanh())


def test_state_that_is_no_tensor_is_passed_over() -> None:
    a, b = Noted(), Noted()
    spec = autoperm.infer(a, X)
    assert autoperm.verify(a, spec, X)
    assert autoperm.distance(a, spec.random(1).apply(a), spec) == 0.0
    assert autoperm.match(a, b, spec, progress=False).distance > 0
    assert isinstance(autoperm.merge([a, b], spec).model, Noted)
    autoperm.interpolate(a, b, lambda m: {"out": float(m(X).sum())}, progress=False)


def test_complex_models_are_verified_in_complex_numbers() -> None:
    model = nn.Sequential(nn.Linear(3, 4, dtype=torch.complex64), nn.Linear(4, 2, dtype=torch.complex64))
    spec = autoperm.infer(model, (X + 0j).to(torch.complex64))
    assert autoperm.verify(model, spec, X + 0j).relative < 1e-14
