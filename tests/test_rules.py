"""Every op rule: sound, and as large as the truth, on the op between free operands."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import partial

import pytest
import torch
from direct_cases import DIRECT, ELSEWHERE, Direct
from factories import odd
from module_cases import CASES as MODULES
from oracle import true_order
from reach import keeping_ops_whole
from rule_cases import CASES as OPS
from sandwich import Case, Sandwich, trained, unsoundness
from torch import Tensor, nn

from autoperm.capture import Capture, capture
from autoperm.capture.tracers import TRACERS
from autoperm.errors import CaptureError, RuleError, UnknownOpError
from autoperm.infer import UnsupportedOpWarning, infer, infer_captured
from autoperm.rules import registered, rule
from autoperm.rules.registry import _RULES


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def model_of(case: Case) -> tuple[Sandwich, tuple[Tensor, ...]]:
    """The op between free operands, in the precision in which it is traced, and its inputs."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = trained(Sandwich(case, generator), generator)
    dtype = torch.float32 if case.single else torch.float64
    return model.to(dtype), tuple(x.to(dtype) if x.is_floating_point() else x for x in model.inputs)


def captured_case(case: Case, tracers: Sequence[str] = tuple(TRACERS)) -> Capture:
    return capture(*model_of(case), tracers=tracers)


@pytest.mark.parametrize("case", [*OPS, *MODULES], ids=lambda case: case.name)
def test_rule(case: Case) -> None:
    model, inputs = model_of(case)
    captured = capture(model, inputs)
    spec = infer_captured(captured)
    model.double()
    assert bool(spec.unsupported) == case.unsupported, spec.unsupported
    if not case.unsupported:
        error, change = unsoundness(model, spec, inputs, range(3))
        assert error < 1e-10
        assert change > 0 or case.constant, "a constant output shows nothing"
    expected = true_order(captured, across=bool(spec.stacks)) if case.order is None else case.order
    assert expected in (0, spec.order)


@pytest.mark.parametrize("tracer", TRACERS)
@pytest.mark.parametrize("case", [c for c in OPS if c.name.startswith("as_strided")], ids=lambda case: case.name)
def test_memory_beside_a_piece_stays_however_it_is_traced(case: Case, tracer: str) -> None:
    """Some tracers do not tell that a view shares memory with what it is a view of."""
    model, inputs = model_of(case)
    spec = infer_captured(capture(model, inputs, tracers=[tracer]))
    assert unsoundness(model, spec, inputs, range(3))[0] < 1e-10


@pytest.mark.parametrize("direct", DIRECT, ids=lambda direct: direct.name)
def test_an_op_by_its_own_name(direct: Direct) -> None:
    case = direct.case
    model, inputs = model_of(case)
    captured = capture(model, inputs)
    spec = infer_captured(captured)
    assert not spec.unsupported
    if not case.single:
        error, change = unsoundness(model, spec, inputs, range(3))
        assert error < 1e-10
        assert change > 0 or case.constant, "a constant output shows nothing"
    expected = case.order if direct.like is None else true_order(captured_case(direct.like))
    assert expected in (0, spec.order)


@pytest.mark.parametrize("case", [*OPS, *MODULES, *(d.case for d in DIRECT)], ids=lambda case: case.name)
def test_what_torch_composes_of_other_ops_has_the_same_group_as_a_whole(case: Case) -> None:
    model, inputs = model_of(case)
    with keeping_ops_whole() as whole:
        try:
            captured = capture(model, inputs, tracers=[whole])
        except CaptureError:
            pytest.skip("this tracer knows neither values nor in-place ops")
    spec = infer_captured(captured)
    if case.unsupported:
        return
    assert case.single or unsoundness(model, spec, inputs, range(3))[0] < 1e-10
    composed = infer_captured(capture(model, inputs)).order
    assert spec.order == composed or (spec.unsupported and spec.order < composed)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_ops_of_other_backends(name: str) -> None:
    where, op, arguments = ELSEWHERE[name]
    (case,) = (case for case in OPS if case.name == where)
    captured = captured_case(case)
    expected = infer_captured(captured).order
    packet = getattr(torch.ops.aten, name)
    replaced = [
        node for node in captured.graph.nodes if getattr(node.target, "overloadpacket", None) is getattr(torch.ops.aten, op)
    ]
    for node in replaced:
        node.args, node.kwargs, node.target = arguments(node), {}, getattr(packet, packet.overloads()[0])
    spec = infer_captured(captured)
    assert replaced and not spec.unsupported
    assert spec.order == expected > 1


def test_every_rule_is_for_an_op() -> None:
    missing = {name for name in registered() if name.startswith("aten.") and not _exists(name)}
    assert not missing


def _exists(name: str) -> bool:
    namespace, packet, *overload = name.split(".")
    found = getattr(getattr(torch.ops, namespace), packet, None)
    return found is not None and all(hasattr(found, part) for part in overload)


def test_registering_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="aten.relu has a rule already: autoperm.rules.pointwise"):
        rule("aten.relu")(lambda op: None)


class Unknown(nn.Module):
    """An op that autoperm has never heard of, between two layers, beside one that does not meet it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.odd, self.last = nn.Linear(3, 4), Odd(), nn.Linear(4, 2)
        self.beside = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.odd(self.first(x))) + self.beside(x)


class Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return odd(x)


def test_unknown_op_is_pinned_and_reported() -> None:
    with pytest.warns(UnsupportedOpWarning, match=r"autoperm_tests.odd.*in odd.*\(2, 4\)"):
        spec = infer(Unknown(), torch.randn(2, 3))
    (unsupported,) = spec.unsupported
    assert unsupported.op == "autoperm_tests.odd.default"
    assert unsupported.node and unsupported.module_path == "odd" and unsupported.shapes == ((2, 4),)
    assert spec.order == 120, "only what the op touches is pinned"
    assert "no rule" in spec.pinned["first.weight", 0] and "no rule" in spec.pinned["last.weight", 1]


def test_unknown_op_can_be_an_error() -> None:
    with pytest.raises(UnknownOpError) as error:
        infer(Unknown(), torch.randn(2, 3), on_unknown="error")
    for part in ("autoperm_tests.odd", "at node odd", "in odd", "(2, 4)", "autoperm/rules/"):
        assert part in str(error.value)


def test_a_rule_that_fails_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(op: object) -> None:
        raise ValueError("a size of 7")

    monkeypatch.setitem(_RULES, "aten.relu", broken)
    with pytest.raises(RuleError) as error:
        infer(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.randn(2, 3))
    for part in ("aten.relu", "at node relu in 1, ", "(2, 4)", "ValueError: a size of 7", "please report it"):
        assert part in str(error.value)


def test_integer_parameters_are_pinned() -> None:
    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
            self.scale = nn.Parameter(torch.arange(4, dtype=torch.int8), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x) * self.scale)

    spec = infer(Quantised(), torch.randn(2, 3))
    assert spec.order == 1
    assert spec.pinned["scale", 0] == "scale is an integer tensor (int8)"
    assert spec.pinned["first.weight", 0] == "scale is an integer tensor (int8)"


def test_linear_algebra_pins_only_its_matrices() -> None:
    layer = nn.utils.parametrizations.orthogonal(nn.Linear(4, 4))
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), layer, nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    spec = infer(model, torch.randn(1, 3))
    assert not spec.unsupported
    assert spec.order % (120 * 720) == 0, "the layers beside it are free"
    assert any("matri" in reason or "triang" in reason for reason in spec.pinned.values())


class Recurrent(nn.Module):
    """Two layers in two directions between linear ones."""

    def __init__(self, make: type[nn.RNNBase]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 3), nn.Linear(4, 2)
        self.core = make(3, 2, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.core(self.first(x))[0])


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU, nn.RNN, partial(nn.RNN, nonlinearity="relu")])
def test_recurrent_layers_kept_whole(make: type[nn.RNNBase]) -> None:
    """All layers and directions in one op."""
    model, x = Recurrent(make), torch.randn(1, 2, 2)
    unrolled = capture(model.double(), x.double())
    with keeping_ops_whole() as whole:
        captured = capture(model, x.double(), tracers=[whole])
    kept = infer_captured(captured)
    assert any("rnn" in str(n.target) or "lstm" in str(n.target) or "gru" in str(n.target) for n in captured.graph.nodes)
    assert not kept.unsupported
    assert kept.order == infer_captured(unrolled).order == true_order(unrolled)


class Deciding(nn.Module):
    """Looks at which of its hidden units is the largest, in one way or another."""

    def __init__(self, look: str):
        super().__init__()
        self.first, self.last, self.look = nn.Linear(3, 4), nn.Linear(4, 2), look

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        best = hidden.argmax(-1)
        looks = {
            "item": lambda: best[0].item(), "int": lambda: int(best[0]), "tolist": lambda: best.tolist()[0],
            "numpy": lambda: int(best.numpy()[0]), "index": lambda: best[0], "iteration": lambda: next(iter(best)).item(),
            "branch": lambda: 1 if best[0] == 2 else 0, "equal": lambda: int(torch.equal(best, best.flip(0))),
        }  # fmt: skip
        return self.last(hidden) * hidden[:, looks[self.look](), None]


@pytest.mark.parametrize("look", ["item", "int", "tolist", "numpy", "index", "iteration", "branch", "equal"])
def test_what_control_flow_looks_at_stays(look: str) -> None:
    torch.manual_seed(0)
    model, x = trained(Deciding(look), torch.Generator().manual_seed(0)).double(), torch.randn(2, 3, dtype=torch.float64)
    spec = infer(model, x)
    assert spec.order == (2 if look == "branch" else 1)  # units 1 and 2 are told apart
    assert true_order(capture(model, x)) == spec.order


def test_what_control_flow_looks_at_is_the_reason() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x)
            return self.last(hidden) if hidden[0].tolist()[1] < 9 else self.last(-hidden)

    torch.manual_seed(0)
    model = trained(Gated(), torch.Generator().manual_seed(0)).double()
    spec = infer(model, torch.randn(2, 3, dtype=torch.float64))
    assert spec.pinned["first.weight", 0] == "the model's control flow reads values from it"


def test_control_flow_on_what_does_not_move_costs_nothing() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.tanh(self.first(x))
            return self.last(hidden if x.sum() > 0 and hidden.norm() > 0 else -hidden)

    torch.manual_seed(0)
    model, x = trained(Masked(), torch.Generator().manual_seed(0)).double(), torch.rand(2, 3, dtype=torch.float64)
    assert infer(model, x).order == 24


def test_tensors_without_entries_tie_nothing() -> None:
    class Detecting(nn.Module):
        """Nothing is found, and the empty findings go through what would have been done to them."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.tanh(self.first(x))
            found = hidden[(hidden.sum(1) > 1e9)]
            boxes = torch.stack([found, found + 1], 1).view(-1, 8)[:, None].flatten(1)
            both = torch.cat([hidden, boxes.reshape(-1, 4)])
            return self.last(both.index_add(0, torch.zeros(0, dtype=torch.long), found)).sum()

    torch.manual_seed(0)
    model, x = trained(Detecting(), torch.Generator().manual_seed(0)).double(), torch.randn(2, 3, dtype=torch.float64)
    spec = infer(model, x)
    assert not spec.unsupported
    assert unsoundness(model, spec, (x,), range(3))[0] < 1e-10
