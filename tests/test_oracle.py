"""The completeness oracle, on models whose order is derived by hand and on models small enough for brute
force.
"""

from __future__ import annotations

import copy
import itertools
from math import factorial, prod

import pytest
import torch
import torch.nn.functional as F
from oracle import generators, true_order
from oracle.models import MODELS, Apply
from torch import nn

from autoperm.capture import Capture, capture


def order(model: nn.Module, *inputs: torch.Tensor, swaps: bool = True) -> int:
    return true_order(capture(model, inputs), swaps=swaps)


def residual_heads(width: int = 4, heads: int = 2, tokens: int = 3) -> tuple[nn.Module, torch.Tensor]:
    """x + attention(x) between two linear maps, so that the residual stream is free."""

    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = self.read(x)
        q, k, v = (part(x).unflatten(-1, (heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.write(x + self.out(mixed))

    square = {name: nn.Linear(width, width) for name in ("q", "k", "v", "out")}
    model = Apply(forward, read=nn.Linear(2, width), write=nn.Linear(width, 2), **square)
    return model, torch.randn(1, tokens, 2)


def test_mlp() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    assert order(model, torch.randn(2, 3)) == factorial(4) * factorial(5)


def test_large_orders_are_exact() -> None:
    model = nn.Sequential(nn.Linear(1, 30), nn.ReLU(), nn.Linear(30, 1))
    assert order(model, torch.randn(1, 1)) == factorial(30)


def test_residual_block() -> None:
    # The stream (4) is one permutation for read, block and write; the block's hidden units (3) have their
    # own.
    block = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 4))

    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        h = self.read(x)
        return self.write(h + self.block(h))

    model = Apply(forward, read=nn.Linear(2, 4), block=block, write=nn.Linear(4, 2))
    assert order(model, torch.randn(2, 2)) == factorial(4) * factorial(3)


def test_attention_block() -> None:
    # Stream 4!, heads 2!, and in each head 2! for q with k and 2! for v with the output projection.
    model, x = residual_heads()
    assert order(model, x) == 24 * 2 * (2 * 2) ** 2 == 768


def test_attention_decomposed() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.write = nn.Linear(2, 4), nn.Linear(4, 2)
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.read(x)
            return self.write(x + self.attention(x, x, x)[0])

    assert order(Block(), torch.randn(1, 3, 2)) == 768


def test_causal_attention_with_grouped_queries() -> None:
    # 4 query heads in 2 groups that share key and value heads: 2! groups, (2!)^2 heads in them, then q with k
    # (2!) and v (2!) per group. The output projection follows the heads.
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part(x).unflatten(-1, (-1, 2)).transpose(1, 2) for part in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.out(mixed.transpose(1, 2).flatten(2))

    parts = {"q": nn.Linear(3, 8), "k": nn.Linear(3, 4), "v": nn.Linear(3, 4), "out": nn.Linear(8, 2)}
    assert order(Apply(forward, **parts), torch.randn(1, 3, 3)) == 2 * 2**2 * 2**2 * 2**2


def test_tied_weights() -> None:
    # One 4x4 weight twice between free layers: a ReLU network in which both hidden layers and rows and
    # columns of the shared weight move together, since the weight's columns follow layer 1 and layer 2, its
    # rows 2 and 3.
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        h = self.read(x).relu()
        return self.write(self.shared(self.shared(h).relu()).relu())

    model = Apply(forward, read=nn.Linear(2, 4), shared=nn.Linear(4, 4), write=nn.Linear(4, 2))
    assert order(model, torch.randn(1, 2)) == factorial(4)


def test_tied_embedding() -> None:
    # The vocabulary is pinned by the lookup and by the logits; the width moves.
    def forward(self: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
        return F.linear(self.norm(self.embedding(tokens)), self.embedding.weight)

    model = Apply(forward, embedding=nn.Embedding(5, 4), norm=nn.LayerNorm(4))
    assert order(model, torch.tensor([[1, 2, 0]])) == factorial(4)


def test_conv_bn_conv() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    assert order(model, torch.randn(1, 2, 4, 4)) == factorial(4)


def test_grouped_convolution() -> None:
    # Between two dense convolutions a convolution with 2 groups of 3 in and 2 out: groups 2!, inside each 3!
    # and 2!.
    model = nn.Sequential(
        nn.Conv1d(2, 6, 1), nn.ReLU(), nn.Conv1d(6, 4, 2, groups=2), nn.ReLU(), nn.Conv1d(4, 2, 1)
    )
    assert order(model, torch.randn(1, 2, 3)) == 2 * (6 * 2) ** 2


@pytest.mark.parametrize("padding", ["same", "valid", 1])
def test_convolutions_of_a_real_trace(padding: int | str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 2, padding=padding), nn.ReLU(), nn.Conv2d(3, 2, 2, stride=2), nn.Flatten())
    x = torch.randn(1, 1, 4, 4)
    orders = [true_order(capture(model, x, tracers=(tracer,))) for tracer in ("make_fx-fake", "make_fx-real")]
    assert orders == [6, 6]


@pytest.mark.parametrize("name", ["grid", "grid from data"])
def test_grids_of_any_rank_by_one_name(name: str) -> None:
    """Exports of some models leave the op as it is that stands for those of two and three dimensions."""
    model, inputs, expected = MODELS[name]()
    captured = capture(model, inputs)
    (node,) = captured.graph_module.graph.find_nodes(op="call_function", target=torch.ops.aten.grid_sampler_2d.default)
    node.target = torch.ops.aten.grid_sampler.default
    assert true_order(captured) == expected


def test_everything_of_a_single_number() -> None:
    model = Apply(lambda m, x: m.a(x).relu() * (m.a.weight.sum() > 0).all(), a=nn.Linear(2, 2))
    assert order(model, torch.randn(1, 2)) == 1


def test_depthwise_convolution() -> None:
    model = nn.Sequential(nn.Conv1d(2, 4, 1), nn.Conv1d(4, 4, 3, padding=1, groups=4), nn.Conv1d(4, 2, 1))
    assert order(model, torch.randn(1, 2, 3)) == factorial(4)


def test_transposed_convolution() -> None:
    model = nn.Sequential(
        nn.ConvTranspose1d(2, 3, 3, stride=2, padding=1, output_padding=1), nn.Conv1d(3, 2, 2)
    )
    assert order(model, torch.randn(1, 2, 3)) == factorial(3)


def test_group_norm() -> None:
    # Sym(3) wr Sym(2): the groups, and the channels within each.
    model = nn.Sequential(nn.Conv1d(2, 6, 1), nn.GroupNorm(2, 6), nn.Conv1d(6, 2, 1))
    assert order(model, torch.randn(1, 2, 3)) == 2 * factorial(3) ** 2


def test_conv_flatten_linear() -> None:
    # Channels move as blocks of 4 pixels; pixels are pinned by the input.
    model = nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2)
    )
    assert order(model, torch.randn(1, 1, 3, 3)) == factorial(3) * factorial(4)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent(kind: type[nn.Module], bidirectional: bool) -> None:
    # Gates follow the hidden units; each direction has its own. Only the sequence is an output.
    directions = 2 if bidirectional else 1
    rnn = kind(2, 3, batch_first=True, bidirectional=bidirectional)
    model = Apply(lambda self, x: self.head(self.rnn(x)[0]), rnn=rnn, head=nn.Linear(3 * directions, 2))
    assert order(model, torch.randn(1, 3, 2)) == factorial(3) ** directions


def test_projected_lstm() -> None:
    # Cells (4) and projected hidden units (2).
    model = Apply(lambda s, x: s.head(s.rnn(x)[0]), rnn=nn.LSTM(2, 4, proj_size=2), head=nn.Linear(2, 2))
    assert order(model, torch.randn(3, 1, 2)) == factorial(4) * factorial(2)


def test_lstm_cell() -> None:
    model = Apply(lambda s, x, h, c: s.head(s.cell(x, (s.h(h), s.h(c)))[0]), cell=nn.LSTMCell(2, 3),
                  h=nn.Linear(1, 3), head=nn.Linear(3, 1))  # fmt: skip
    assert order(model, torch.randn(1, 2), torch.randn(1, 1), torch.randn(1, 1)) == factorial(3)


def test_flip() -> None:
    # s = h + flip(h): units i and 5-i form 3 pairs with one sum each. Pairs are exchangeable (3!), the two
    # rows of the first layer in a pair too (2^3). For each of the 2 outputs, the second layer multiplies both
    # entries of a pair by the same scalar, so these may trade places (2^3 per output).
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        return self.second((h + h.flip(-1)).relu())

    model = Apply(forward, first=nn.Linear(2, 6), second=nn.Linear(6, 2))
    assert order(model, torch.randn(1, 2)) == factorial(3) * 2**3 * (2**3) ** 2
    # Without swaps of operands h_i + h_j and h_j + h_i are two scalars, and both layers move together: what
    # commutes with the flip is the hyperoctahedral group Sym(2) wr Sym(3).
    assert order(model, torch.randn(1, 2), swaps=False) == factorial(3) * 2**3


def test_gate_swaps() -> None:
    # a * b with a and b from one weight: units are exchangeable (3!), and each unit's a and b are (2^3).
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        a, b = self.first(x).chunk(2, -1)
        return self.second(a * b)

    model = Apply(forward, first=nn.Linear(2, 6), second=nn.Linear(3, 2))
    assert order(model, torch.randn(1, 2)) == factorial(3) * 2**3
    assert order(model, torch.randn(1, 2), swaps=False) == factorial(3)


def test_cumsum_orders_the_units() -> None:
    model = Apply(lambda self, x: self.second(self.first(x).relu().cumsum(-1)),
                  first=nn.Linear(2, 4), second=nn.Linear(4, 2))  # fmt: skip
    assert order(model, torch.randn(1, 2)) == 1


def test_sort_forgets_the_order_of_its_input() -> None:
    # The rows of the first layer move; the columns of the second are ranks.
    model = Apply(lambda self, x: self.second(self.first(x).sort(-1)[0]),
                  first=nn.Linear(2, 4), second=nn.Linear(4, 2))  # fmt: skip
    assert order(model, torch.randn(1, 2)) == factorial(4)


def test_exchangeable_registers() -> None:
    # 3 learned tokens without positions, read by attention and dropped: exchangeable. Width 4 with one head
    # of 4.
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.registers, self.read(x)])
        mixed = torch.softmax(self.q(x) @ self.k(x).mT, -1) @ self.v(x)
        return self.write(mixed[3:])

    bias = {name: nn.Linear(4, 4, bias=False) for name in ("q", "k", "v")}
    model = Apply(forward, registers=torch.randn(3, 4), read=nn.Linear(2, 4), write=nn.Linear(4, 1), **bias)
    assert order(model, torch.randn(2, 2)) == factorial(3) * factorial(4) ** 3


def test_positions_as_numbers() -> None:
    """Which rows are read depends on the data: the rows stay, the units move."""
    def forward(self: nn.Module, x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
        chosen = i.nonzero()[:, 0]
        seen = torch.isin(i, torch.tensor([1, 2])) & torch._is_all_true(i > 0)
        rows = self.table[chosen.repeat_interleave(i)] + self.table[torch.ones_like(i).cumsum(0) - 1].sum(0)
        return self.last((rows.sum(0) * seen.sum() * self.first(x)).tanh())

    model = Apply(forward, table=torch.randn(3, 4), first=nn.Linear(2, 4), last=nn.Linear(4, 2))
    assert order(model, torch.randn(1, 2), torch.tensor([1, 2, 3])) == factorial(4)


def test_what_no_output_depends_on_does_not_count() -> None:
    model = Apply(lambda self, x: self.second(self.first(x).relu()[..., :3]), first=nn.Linear(2, 6),
                  second=nn.Linear(3, 2), spare=torch.randn(5))  # fmt: skip
    assert order(model, torch.randn(1, 2)) == factorial(3)


def test_pools_and_upsampling_pin_space_only() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.MaxPool2d(3, 2, 1), nn.Conv2d(3, 2, 1),
                          nn.AvgPool2d(2, ceil_mode=True), nn.Upsample(scale_factor=2, mode="bilinear"),
                          nn.Conv2d(2, 1, 1))  # fmt: skip
    assert order(model, torch.randn(1, 1, 5, 5)) == factorial(3) * factorial(2)


def test_global_pool_lets_space_go() -> None:
    # A learned table times the channels, then averaged over space: the 6 positions of `table` are
    # exchangeable as rows, independently of the channels (2).
    model = Apply(lambda self, x: self.write((self.read(x)[:, None] * self.table.relu()).mean(1)),
                  read=nn.Linear(1, 2), table=torch.randn(6, 2), write=nn.Linear(2, 1))  # fmt: skip
    # For each channel its own permutation of the 6 positions: nothing ties one channel's to another's.
    assert order(model, torch.randn(1, 1)) == factorial(2) * factorial(6) ** 2


def test_weight_norm_and_bilinear() -> None:
    first = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))
    assert order(nn.Sequential(first, nn.ReLU(), nn.Linear(3, 1)), torch.randn(1, 2)) == factorial(3)
    model = Apply(lambda s, x: s.out(s.mix(s.a(x), s.b(x))), a=nn.Linear(2, 3), b=nn.Linear(2, 2),
                  mix=nn.Bilinear(3, 2, 4), out=nn.Linear(4, 1))  # fmt: skip
    assert order(model, torch.randn(1, 2)) == factorial(3) * factorial(2) * factorial(4)


def check_generators(model: nn.Module, *inputs: torch.Tensor, dtype: torch.dtype = torch.float64) -> int:
    """Every symmetry the oracle counts keeps the function, on random weights; returns how many generate
    them.
    """
    model = copy.deepcopy(model).to(dtype)
    inputs = tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)
    captured = capture(model, inputs)
    state = {
        n: torch.rand_like(v) + 0.1 if v.is_floating_point() else v for n, v in model.state_dict().items()
    }
    reference = captured.run(state, *inputs)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    found = generators(captured)
    for generator in found:
        for out, expected in zip(
            captured.run(moved(captured, generator, state), *inputs), reference, strict=True
        ):
            torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
    return len(found)


def moved(
    captured: Capture, generator: dict[str, list[int]], state: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """A state dict whose entries were permuted within each tensor."""
    names = {name: sources for p, sources in generator.items() for name in captured.states[p]}
    return {n: v.reshape(-1)[names[n]].reshape(v.shape) if n in names else v for n, v in state.items()}


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str) -> None:
    torch.manual_seed(0)
    model, inputs, expected = MODELS[name]()
    assert order(model, *inputs) == expected
    check_generators(model, *inputs)


@pytest.mark.parametrize(
    "name", [name for name in MODELS if "LSTM" in name or name in ("causal", "fused qkv")]
)
def test_fused_kernels_of_single_precision(name: str) -> None:
    model, inputs, _ = MODELS[name]()
    check_generators(model, *inputs, dtype=torch.float32)


def test_unknown_op_is_named() -> None:
    model = Apply(lambda self, x: torch.linalg.inv(self.w) @ x, w=torch.eye(2))
    with pytest.raises(NotImplementedError, match="linalg_inv"):
        order(model, torch.randn(2, 2))


def brute_force(model: nn.Module, *inputs: torch.Tensor) -> int:
    """Count the permutations of the entries of each parameter that keep the function, by trying them all."""
    model.double().eval()
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -1, 1)
    inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    original = {name: p.detach().clone() for name, p in model.named_parameters()}
    choices = [list(itertools.permutations(range(p.numel()))) for p in original.values()]
    assert prod(len(c) for c in choices) <= 20_000, "too many to try"
    with torch.no_grad():
        reference = model(*inputs)
        count = 0
        for choice in itertools.product(*choices):
            for (name, p), permutation in zip(original.items(), choice):
                model.get_parameter(name).copy_(p.reshape(-1)[list(permutation)].reshape(p.shape))
            count += torch.allclose(model(*inputs), reference, rtol=1e-9, atol=1e-11)
    return count


def linear(n: int, m: int, bias: bool = False) -> nn.Linear:
    return nn.Linear(n, m, bias=bias)


TINY = {
    "mlp": (nn.Sequential(linear(1, 3), nn.GELU(), linear(3, 2)), torch.randn(4, 1)),
    "mlp with biases": (nn.Sequential(nn.Linear(1, 3), nn.GELU(), nn.Linear(3, 1)), torch.randn(4, 1)),
    "gate": (
        Apply(lambda s, x: s.b(torch.mul(*s.a(x).chunk(2, -1))), a=linear(1, 6), b=linear(3, 1)),
        torch.randn(4, 1),
    ),
    "flip": (
        Apply(lambda s, x: s.b((s.a(x) + s.a(x).flip(-1)).tanh()), a=linear(1, 4), b=linear(4, 1)),
        torch.randn(4, 1),
    ),
    "layer norm": (
        nn.Sequential(nn.Linear(1, 3), nn.LayerNorm(3, bias=False), linear(3, 1)), torch.randn(4, 1),
    ),
    "registers": (
        Apply(lambda s, x: torch.softmax(s.keys * x, 0).T @ s.values, keys=torch.randn(4, 1),
              values=torch.randn(4)),
        torch.randn(1, 5),
    ),
    "grouped convolution": (
        nn.Sequential(nn.Conv1d(1, 4, 1, bias=False), nn.Conv1d(4, 2, 1, groups=2, bias=False), nn.GELU(),
                      nn.Conv1d(2, 1, 1, bias=False)),
        torch.randn(2, 1, 3),
    ),
    "cumsum": (
        Apply(lambda s, x: s.b(s.a(x).tanh().cumsum(-1)), a=linear(1, 4), b=linear(4, 1)), torch.randn(4, 1),
    ),
    "lookup": (
        Apply(lambda s, i: s.b(s.a(i).tanh()), a=nn.Embedding(3, 2), b=linear(2, 1)), torch.tensor([0, 1, 2]),
    ),
    "triangular solve": (
        Apply(lambda s, x: s.b(torch.linalg.solve_triangular(s.a, s.c(x), upper=False)), a=torch.rand(2, 2),
              b=linear(3, 1), c=linear(1, 3)),
        torch.randn(4, 2, 1),
    ),
    "triangular solve of units": (
        Apply(lambda s, x: s.b(torch.linalg.solve_triangular(s.a, s.c(x).mT, upper=True).mT), a=torch.rand(2, 2),
              b=linear(2, 1), c=linear(1, 2)),
        torch.randn(4, 1, 1),
    ),
    "recurrent": (
        Apply(lambda s, x: s.rnn(x)[0].sum(-1), rnn=nn.RNN(1, 2, bias=False)), torch.randn(3, 4, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TINY)
def test_generators_of_tiny_models(name: str) -> None:
    check_generators(*TINY[name])


@pytest.mark.parametrize("name", TINY)
def test_brute_force(name: str) -> None:
    torch.manual_seed(0)
    model, x = TINY[name]
    assert order(model, x) == brute_force(model, x)
