"""The traced graph gives the model's own numbers, the model stays as it was, and messages say what to do."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from autoperm.capture import TRACERS, Capture, Inputs, capture, split_inputs
from autoperm.errors import CaptureError, StateError


class Lambda(nn.Module):
    """A module from a function of itself and the inputs, with named parts."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


@dataclass
class Record:
    logits: torch.Tensor
    extra: dict
    label: str = "text"


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


def x(*shape):
    return torch.randn(*(shape or (2, 4)), generator=torch.Generator().manual_seed(0)).double()


def lin(n=4, m=4):
    return nn.Linear(n, m)


def residual(self, a):
    b = self.l(a)
    b += a
    return b.relu_()


def assign(self, a):
    b = self.l(a).clone()
    b[:, 0] = 0
    b[:, 1:3].mul_(2).add_(a[:, :2])
    b.view(-1)[3] = 5
    return b


def caching(self, a):
    if self.cache is None or self.cache.shape[0] != a.shape[1]:
        self.cache = torch.arange(a.shape[1], dtype=a.dtype, device=a.device)
        self.table["k"] = a * 2
    return self.l(a) * self.cache


def literal(self, a):
    return self.l(a) * torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64) + self.c + self.i


def count(self, a):
    self.calls += 1
    return self.l(a)


def tied():
    m = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False))
    m[1].weight = m[0].weight
    return m


def tied_by_view():
    m = nn.Sequential(lin(), lin())
    m[1].weight = nn.Parameter(m[0].weight.data)
    return m


def twice():
    part = nn.Sequential(lin(), nn.ReLU(inplace=True))
    return nn.Sequential(part, part)


def with_list():
    m = Lambda(lambda self, a: a @ self.kept[0].T + self.l.bias, l=lin())
    m.kept = [m.l.weight]
    return m


def buffers():
    m = Lambda(lambda self, a: self.l(a) * self.kept + self.dropped, l=lin())
    m.register_buffer("kept", torch.rand(4).double())
    m.register_buffer("dropped", torch.rand(4).double(), persistent=False)
    return m


def conv():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)
    )


def encoder():
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=False), 2)


def mha(self, a, mask=None):
    return self.m(a, a, a, attn_mask=mask)[0]


def nested(self, a, extra, *, scale, flag=True):
    return {"x": self.l(a) * scale, "y": [extra["p"][0] if flag else a, None, 3]}


MODELS = {
    "conv": (conv, x(2, 3, 6, 6)),
    "channels-last": (conv, x(2, 3, 6, 6).contiguous(memory_format=torch.channels_last)),
    "residual": (lambda: Lambda(residual, l=lin()), x()),
    "assign": (lambda: Lambda(assign, l=lin()), x()),
    "weight-norm": (lambda: parametrizations.weight_norm(lin()), x()),
    "old-weight-norm": (lambda: nn.utils.weight_norm(lin()), x()),
    "spectral-norm": (lambda: parametrizations.spectral_norm(lin()), x()),
    "old-spectral-norm": (lambda: nn.utils.spectral_norm(lin()), x()),
    "orthogonal": (lambda: parametrizations.orthogonal(lin()), x()),
    "tied": (tied, torch.tensor([[1, 4, 2]])),
    "tied-by-view": (tied_by_view, x()),
    "twice": (twice, x()),
    "with-list": (with_list, x()),
    "buffers": (buffers, x()),
    "mha": (lambda: Lambda(mha, m=nn.MultiheadAttention(8, 2, batch_first=True)), x(2, 3, 8)),
    "mha-mask": (
        lambda: Lambda(mha, m=nn.MultiheadAttention(8, 2, batch_first=True)),
        Inputs(x(2, 3, 8), mask=torch.ones(3, 3, dtype=torch.bool).triu(1)),
    ),
    "encoder": (encoder, x(2, 3, 8)),
    "group-norm": (
        lambda: nn.Sequential(nn.Conv1d(3, 4, 1), nn.GroupNorm(2, 4), nn.Dropout(0.5)),
        x(2, 3, 5),
    ),
    "lstm": (lambda: nn.LSTM(4, 3, 2, bidirectional=True, batch_first=True), x(2, 5, 4)),
    "gru": (lambda: nn.GRU(4, 3), x(2, 5, 4)),
    "dict": (
        lambda: Lambda(nested, l=lin()),
        Inputs(x(), {"p": (x(), None, 1)}, scale=x(4), flag=True),
    ),
    "dataclass": (lambda: Lambda(lambda self, a: Record(self.l(a), {"z": a}), l=lin()), x()),
    "dataclass-input": (
        lambda: Lambda(lambda self, r: self.l(r.logits) + r.extra["z"], l=lin()),
        (Record(x(), {"z": x()}),),
    ),
    "namedtuple": (lambda: Lambda(lambda self, a: Pair(self.l(a), a), l=lin()), [x()]),
    "arange": (lambda: Lambda(lambda self, a: self.l(a) + torch.arange(a.shape[1]), l=lin()), {"a": x()}),
    "same-input-twice": (lambda: Lambda(lambda self, a, b: self.l(a) - 2 * b, l=lin()), (x(),) * 2),
    "caching": (lambda: Lambda(caching, l=lin(), cache=None, table={}), x()),
    "literal": (lambda: Lambda(literal, l=lin(), c=torch.rand(4).double(), i=torch.tensor(3)), x()),
    "item-of-constant": (
        lambda: Lambda(lambda self, a: self.l(a)[: int(self.n)], l=lin(), n=torch.tensor(1)),
        x(),
    ),
    "counter": (lambda: Lambda(count, l=lin(), calls=torch.zeros(())), x()),
    "values": (lambda: Lambda(lambda self, a: self.l(a) if a.sum() > 0 else -self.l(a), l=lin()), x()),
    "nonzero": (lambda: Lambda(lambda self, a: self.l(a[a[:, 0] < 9]), l=lin()), x()),
    "integer-parameter": (
        lambda: Lambda(
            lambda self, a: self.l(a) * self.n,
            l=lin(),
            n=nn.Parameter(torch.tensor([3]), requires_grad=False),
        ),
        x(),
    ),
    "input-written": (lambda: Lambda(lambda self, a: self.l(a.add_(1)), l=lin()), x()),
    "no-weights": (lambda: nn.ReLU(), x()),
}
EXPECTED = {"values": "make_fx-real", "nonzero": "make_fx-real"}


def build(name):
    model, inputs = MODELS[name]
    torch.manual_seed(1)
    torch.set_default_dtype(torch.float64)  # not .double(), which would untie weights
    try:
        return model(), copy.deepcopy(inputs)
    finally:
        torch.set_default_dtype(torch.float32)


def tensors(value):
    from autoperm.capture.structure import leaves

    return [leaf for _, leaf in leaves(value, "") if isinstance(leaf, torch.Tensor)]


def check_equal(result: Capture, model: nn.Module, inputs) -> None:
    """The graph on the model's state dict gives the model's own numbers in evaluation mode."""
    inputs = copy.deepcopy(inputs)
    args, kwargs = split_inputs(inputs)
    got = result.run(model.state_dict(), *copy.deepcopy(tensors([args, kwargs])))
    with torch.no_grad():
        want = tensors(model.eval()(*args, **kwargs))
    assert len(got) == len(result.outputs)
    assert all(name.startswith("the new ") for name in result.outputs[len(want) :])  # of buffers that it changes
    for one, other in zip(got[: len(want)], want, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        assert (one - other).abs().max() <= 1e-12 * (1 + other.abs().max())


def called(result: Capture) -> list:
    return [node.target for node in result.graph.nodes if node.op == "call_function"]


def picture(model: nn.Module) -> dict:
    """All that must not change: identities of attributes and contents of containers, values and versions."""
    seen = {}
    for path, module in model.named_modules():
        for key, value in module.__dict__.items():
            seen[path, key] = value if isinstance(value, (bool, int, str)) else id(value)
            if isinstance(value, (dict, list, set)):
                seen[path, key, "in"] = [
                    id(part) for part in (value.values() if isinstance(value, dict) else value)
                ]
    values = {name: (id(t), t.requires_grad, t.grad, t.detach().tolist()) for name, t in _all(model)}
    return seen | values


def _all(model):
    plain = [
        (f"{p}/{k}", v)
        for p, m in model.named_modules()
        for k, v in m.__dict__.items()
        if isinstance(v, torch.Tensor)
    ]
    return [*model.named_parameters(), *model.named_buffers(), *plain]


@pytest.mark.parametrize("name", MODELS)
def test_numbers_and_nothing_changed(name):
    model, inputs = build(name)
    model.train()
    given = [t.clone() for t in tensors(split_inputs(inputs))]
    before, state, fast = picture(model), torch.get_rng_state(), torch.backends.mha.get_fastpath_enabled()
    result = capture(model, inputs)
    assert picture(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert all(torch.equal(a, b) for a, b in zip(given, tensors(split_inputs(inputs)), strict=True))
    assert result.tracer == EXPECTED.get(name, "make_fx-fake")
    check_equal(result, model, inputs)


@pytest.mark.parametrize("name", MODELS)
def test_graph_is_flat_and_functional(name):
    model, inputs = build(name)
    result = capture(model, inputs)
    places = {path for path, _ in model.named_modules()}
    for node in result.graph.nodes:
        assert node.op in ("placeholder", "get_attr", "call_function", "output")
        assert node.meta["module_path"] in places
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            assert not node.target._schema.is_mutable
            read = node.target in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)
            assert read or node.meta["val"] is not None
    placeholders = [node.name for node in result.graph.find_nodes(op="placeholder")]
    assert placeholders == [*result.states, *result.inputs]
    assert {name for names in result.states.values() for name in names} == set(model.state_dict())
    assert result.parameters == {name for name, _ in model.named_parameters(remove_duplicate=False)}
    assert all(value is None or type(value) is torch.Tensor for value in result.constants.values())


@pytest.mark.parametrize("tracer", TRACERS)
@pytest.mark.parametrize(
    "name", ["conv", "assign", "old-weight-norm", "tied", "buffers", "encoder", "dict", "caching"]
)
def test_every_tracer_gives_the_same_numbers(name, tracer):
    model, inputs = build(name)
    result = capture(model, inputs, tracers=[tracer])
    assert result.tracer == tracer
    assert result.states == capture(model, inputs).states
    check_equal(result, model, inputs)


@pytest.mark.parametrize("inputs_on_meta", [False, True])
@pytest.mark.parametrize(
    "name", ["conv", "old-weight-norm", "tied", "buffers", "encoder", "lstm", "caching", "arange"]
)
def test_meta(name, inputs_on_meta):
    model, inputs = build(name)
    ops = called(capture(model, inputs))
    if inputs_on_meta:
        inputs = {"a": inputs["a"].to("meta")} if name == "arange" else inputs.to("meta")
    on_meta = capture(model.to("meta"), inputs)
    assert on_meta.tracer == "make_fx-fake"
    assert called(on_meta) == ops
    if name == "buffers":
        assert on_meta.constants == {"dropped": None}
        with pytest.raises(CaptureError, match="constants dropped are on the meta device"):
            on_meta.run(model.state_dict(), x())


def test_meta_model_larger_than_memory():
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(200_000, 200_000) for _ in range(3)))
    assert len(capture(model, torch.zeros(1, 200_000)).states) == 6


def test_names():
    model, inputs = build("dict")
    result = capture(model, inputs)
    assert list(result.inputs.values()) == ["args[0]", "args[1]['p'][0]", "kwargs['scale']"]
    assert result.outputs == ["output['x']", "output['y'][0]"]
    assert capture(*build("dataclass")).outputs == ["output.logits", "output.extra['z']"]
    assert capture(*build("namedtuple")).outputs == ["output.first", "output.second"]
    assert list(capture(*build("tied")).states.values()) == [("0.weight", "1.weight")]
    assert ("0.weight", "1.weight") in capture(*build("tied-by-view")).states.values()
    assert set(capture(*build("literal")).constants) > {"c", "i"}


def test_paths_and_sources():
    def inner(self, a):
        return self.deep(a).exp()

    model = Lambda(lambda self, a: self.part(a).sin(), part=Lambda(inner, deep=nn.Sequential(lin()))).double()
    nodes = {node.name: node for node in capture(model, x()).graph.nodes}
    line = inner.__code__.co_firstlineno + 1
    assert nodes["addmm"].meta["module_path"] == "part.deep.0"
    assert nodes["exp"].meta["module_path"] == "part"
    assert nodes["sin"].meta["module_path"] == ""
    assert nodes["addmm"].meta["source"] == nodes["exp"].meta["source"] == f"test_capture.py:{line}"
    assert nodes["sin"].meta["source"] == f"test_capture.py:{line + 2}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_types(dtype):
    model, given = encoder().to(dtype), x(2, 3, 8).to(dtype)
    result = capture(model, given)
    (got,) = result.run(model.state_dict(), given)
    with torch.no_grad():
        assert (got - model.eval()(given)).abs().max() < 1e-1 and got.dtype == dtype


def test_wrappers_keep_their_prefixes():
    assert list(capture(nn.DataParallel(lin().double()), x()).states.values()) == [
        ("module.weight",),
        ("module.bias",),
    ]
    assert ("_orig_mod.weight",) in capture(torch.compile(lin().double()), x()).states.values()


MESSAGES = [
    (lambda: (3, x()), r"the model is a int, not a torch.nn.Module"),
    (
        lambda: (nn.Sequential(nn.LazyLinear(3)), x()),
        r"0\.weight of the lazy module LazyLinear has no shape.*run the model once",
    ),
    (
        lambda: (nn.Sequential(lin().double()), x(2, 5)),
        (
            r"(?s)^the model's forward does not accept the example inputs: "
            r"RuntimeError: mat1 and mat2.*\(in 0\)\nshapes given: args\[0\]: float64\[2, 5\]"
        ),
    ),
    *(
        (
            lambda dtype=dtype: (nn.Sequential(lin()), x().to(dtype)),
            r"(?s)^the model's forward does not accept the example inputs: RuntimeError: mat1 and mat2.*dtype.*\(in 0\)"
            rf"\nshapes given: args\[0\]: {str(dtype).removeprefix('torch.')}\[",
        )
        for dtype in (torch.float64, torch.int64)
    ),
    (
        lambda: (lin().to("meta"), x().float().to("meta").long()),
        r"make_fx-fake: CaptureError: aten.addmm.default.* multiplies torch.int64 and torch.float32; bring the inputs to",
    ),
    (lambda: (lin().double(), (x(), x())), r"does not accept the example inputs: TypeError: .*3 were given"),
    (
        lambda: (lin().to("meta"), (x(), x())),
        r"does not accept the example inputs: TypeError: .*3 were given",
    ),
    (lambda: (lin().double(), {"b": x()}), r"does not accept the example inputs: TypeError: .*'b'"),
    (lambda: (lin(), 3), r"example_inputs is a int; give a tensor"),
    (
        lambda: (lin(), {1: x()}),
        r"its key 1 is not a string; to pass a dict as one argument, put it in a tuple",
    ),
    (lambda: (Lambda(lambda self, a: 3), x()), r"output of Lambda holds no tensor: it is a int"),
    (
        lambda: (Lambda(lambda self, a: a if a.sum() > 0 else -a, l=lin().to("meta")), x()),
        (
            r"(?s)Lambda could not be traced on args\[0\]: float64\[2, 4\].*make_fx-fake: .*export: .*"
            r"make_fx-real: CaptureError: needs values.*meta device; with real weights"
        ),
    ),
    (lambda: (torch.jit.trace(lin().double(), x()), x()), r"the model is a TorchScript module"),
]


@pytest.mark.parametrize("case", range(len(MESSAGES)))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_messages(case):
    build_case, text = MESSAGES[case]
    with pytest.raises(CaptureError, match=text):
        capture(*build_case())


def test_a_hidden_piece_of_a_weight_is_refused():
    model = Lambda(lambda self, a: a * self.kept[0] + self.l(a), l=lin().double())
    model.kept = [model.l.weight.data[0]]
    with pytest.raises(CaptureError, match=r"uses a piece of l_weight .*test_capture.py"):
        capture(model, x())


def test_run_says_what_is_missing():
    result = capture(lin().double(), x())
    with pytest.raises(StateError, match="no entry for weight"):
        result.run({}, x())
    with pytest.raises(CaptureError, match=r"takes 1 input tensors \(args\[0\]\), got 0"):
        result.run({})
    with pytest.raises(CaptureError, match="no tracer is called 'magic'; there are make_fx-fake"):
        capture(lin(), x(), tracers=["magic"])


def test_functions_under_compile_are_traced_as_if_they_were_not():
    class Compiled(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
            self.middle = torch.compile(lambda x: x.relu() + 1)

        def forward(self, x):
            return self.last(self.middle(self.first(x)))

    targets = [str(node.target) for node in capture(Compiled(), torch.randn(2, 3)).graph.nodes]
    assert "aten.relu.default" in targets


class KeepsBiases(nn.Module):
    """Keeps what it computed from its weights in eval mode, as timm's attention biases are kept."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.kept = nn.Linear(3, 4), nn.Linear(4, 2), {}

    def forward(self, x):
        if "cpu" not in self.kept:
            self.kept["cpu"] = self.first.bias.exp()
        return self.last(self.first(x).relu() * self.kept["cpu"])


def test_what_an_earlier_call_kept_is_computed_again():
    torch.manual_seed(0)
    model, x = KeepsBiases(), torch.randn(2, 3)
    fresh = capture(model, x)
    with torch.no_grad():
        model(x)
    kept = model.kept["cpu"]
    again = capture(model, x)
    assert [n.target for n in again.graph.nodes if n.op == "call_function"] == [
        n.target for n in fresh.graph.nodes if n.op == "call_function"
    ]
    assert not again.graph.find_nodes(op="get_attr")
    assert model.kept == {"cpu": kept} and model.kept["cpu"] is kept


def test_a_dict_of_tensors_that_is_needed_is_used():
    class Tables(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.tables = nn.Linear(3, 4), {"scale": torch.arange(4.0)}

        def forward(self, x):
            return self.first(x) * self.tables["scale"]

    result = capture(Tables(), torch.randn(2, 3))
    (constant,) = result.graph.find_nodes(op="get_attr")
    assert torch.equal(result.constants[constant.name], torch.arange(4.0))
