"""Tiny models that between them use most ATen ops, each with its order, derived by hand.

Layers are `read` (from the input), `write` (to the output) and what lies between. Unless a comment says more, the
order is the factorial of each hidden width.
"""

from __future__ import annotations

from collections.abc import Callable
from math import factorial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Case = tuple[nn.Module, tuple[Tensor, ...], int]
MODELS: dict[str, Callable[[], Case]] = {}


class Apply(nn.Module):
    """A model from named parts (modules or parameters) and a function of itself and the inputs."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part if isinstance(part, nn.Module) else nn.Parameter(part))

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def add(name: str, build: Callable[[], Case]) -> None:
    if name in MODELS:
        raise ValueError(f"two models are called {name}")
    MODELS[name] = build


def dense(name: str, between: Callable[[Any, Tensor], Tensor], order: int = 24, wide: int = 4) -> None:
    """A function of (2, 4) hidden units between two linear layers; it leaves `wide` of them."""

    def build() -> Case:
        model = Apply(
            lambda m, x: m.write(between(m, m.read(x))), read=nn.Linear(2, 4), write=nn.Linear(wide, 1)
        )
        return model, (torch.randn(2, 2),), order

    add(name, build)


def image(name: str, between: Callable[[], nn.Module], order: int = 24, rank: int = 2) -> None:
    """A layer on 4 channels of a 4x4 image between two convolutions, or a convolution and a linear layer."""

    def build() -> Case:
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
        read, layer, x = conv(1, 4, 1), between(), torch.randn(1, 1, *[4] * rank)
        shape = layer(read(x)).shape
        write = conv(shape[1], 1, 1) if len(shape) == rank + 2 else nn.Linear(shape[-1], 1)
        return nn.Sequential(read, nn.Tanh(), layer, write), (x,), order

    add(name, build)


def model(
    name: str, order: int, function: Callable[..., Any], *inputs: Tensor, **parts: Callable[[], Any]
) -> None:
    """Anything else; parts are built when they are asked for."""
    add(name, lambda: (Apply(function, **{k: part() for k, part in parts.items()}), inputs, order))


def lin(n: int, m: int, **kwargs: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(n, m, **kwargs)


def values(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(*shape)


ACTIVATIONS = """
    CELU ELU GELU Hardshrink Hardsigmoid Hardswish Hardtanh LeakyReLU LogSigmoid Mish ReLU ReLU6 SELU SiLU Sigmoid
    Softplus Softshrink Softsign Tanh Tanhshrink
"""
for kind in ACTIVATIONS.split():
    dense(kind, lambda m, h, kind=kind: getattr(nn, kind)()(h))

dense("PReLU", lambda m, h: F.prelu(h, m.write.weight[0]))

# Pointwise, reductions, softmax, sorting
dense("softmax", lambda m, h: h.softmax(-1) + h.log_softmax(-1))
dense("normalize", lambda m, h: F.normalize(h, dim=-1))
dense(
    "statistics",
    lambda m, h: h / (h.std(-1, keepdim=True) + h.logsumexp(-1, keepdim=True) + h.amin(-1, True)),
)
dense("max", lambda m, h: h - h.max(-1, keepdim=True)[0] * h.prod(-1, keepdim=True))
dense("where", lambda m, h: torch.where(h > 0, h.sin(), h.exp()).clamp(-1, 1))
dense("glu", lambda m, h: F.glu(h), 2, wide=2)
dense("sort", lambda m, h: h.sort(-1)[0])
dense("topk", lambda m, h: h.topk(2, -1)[0], wide=2)
dense("argmax", lambda m, h: h * h.argmax(-1, keepdim=True), 1)
dense("position of the largest", lambda m, h: h * h.max(-1, keepdim=True)[1], 1)
dense("what the largest chooses", lambda m, h: h * h.tanh().gather(-1, h.max(-1, keepdim=True)[1]))
dense("all but the least", lambda m, h: h.scatter(-1, h.min(-1, keepdim=True)[1], -1.0).tanh())


def ends(h: Tensor) -> Tensor:
    return torch.cat([h.max(-1, keepdim=True)[1], h.min(-1, keepdim=True)[1]], -1)


dense("what both ends choose", lambda m, h: h.tanh().gather(-1, ends(h)), wide=2)
dense("positions of both ends", lambda m, h: h * ends(h).sum(-1, keepdim=True), 1)
dense("cumsum", lambda m, h: h.cumsum(-1), 1)
dense("cumsum of the batch", lambda m, h: h.cumsum(0))

# Moves
dense(
    "rotate half", lambda m, h: h * 0.5 + torch.cat([-h[..., 2:], h[..., :2]], -1), 2
)  # -h_2, -h_3, h_0, h_1
dense("shuffle", lambda m, h: (h.view(2, 2, 2).mT.reshape(2, 4)).tanh())
dense("flip of a flip", lambda m, h: h.flip(-1).tanh().flip(-1))
dense("slice", lambda m, h: h[..., 1:3].relu(), 2, wide=2)
dense("cat", lambda m, h: torch.cat([h.relu(), h.tanh()], -1), wide=8)
dense("stack", lambda m, h: torch.stack([h.relu(), h.tanh()], -1).flatten(-2), wide=8)
dense(
    "scatter_add",
    lambda m, h: h.new_zeros(2, 2).scatter_add(1, torch.tensor([[0, 1, 1, 1]] * 2), h),
    6,
    wide=2,
)
# What was there counts or not, and the fourth unit has a place of its own.
for kind, start in {"and what was there": True, "alone": False}.items():
    dense(f"scatter_reduce of what is written {kind}", lambda m, h, start=start: h.sin().scatter_reduce(
          1, torch.tensor([[0, 0, 0, 3]] * 2), h, "amax", include_self=start)[:, ::3], 2 if start else 6, wide=2)  # fmt: skip
dense("index_add", lambda m, h: h.new_zeros(3, 4).index_add(0, torch.tensor([2, 2]), h))
dense("constant index", lambda m, h: h[:, [2, 0, 1]].relu(), 6, wide=3)
dense("fft over the batch", lambda m, h: torch.fft.rfft(h, dim=0).abs())
dense("write to one unit", lambda m, h: torch.cat([h[:, :1] + 1, h[:, 1:]], -1).relu(), 6)
# h_i h_{i+1}: rotations of the 4-cycle, and its reflections because products commute
dense("roll", lambda m, h: h * h.roll(1, -1), 8)

# Convolutions, norms, pooling, resampling
image("batch norm", lambda: nn.BatchNorm2d(4))
image("batch norm of the batch", lambda: nn.BatchNorm2d(4, track_running_stats=False))
image("instance norm", lambda: nn.InstanceNorm2d(4, affine=True))
image("group norm", lambda: nn.GroupNorm(2, 4), 8)  # Sym(2) wr Sym(2)
image("layer norm of images", lambda: nn.LayerNorm((4, 4)))
image("local response norm", lambda: nn.LocalResponseNorm(3), 2)  # reflection
image("same padding", lambda: nn.Conv2d(4, 3, 3, padding="same"), 24 * 6)
image("stride and dilation", lambda: nn.Conv2d(4, 3, 2, stride=2, dilation=2, padding=1), 24 * 6)
image("circular padding", lambda: nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular"), 24 * 6)
image("reflected padding", lambda: nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"), 24 * 6)
image("grouped convolution", lambda: nn.Conv2d(4, 6, 2, groups=2), 2 * (2 * 6) ** 2)
image("depthwise convolution", lambda: nn.Conv2d(4, 4, 3, groups=4))
image("transposed", lambda: nn.ConvTranspose2d(4, 3, (2, 3), stride=(2, 1), padding=(0, 1)), 24 * 6)
image(
    "transposed and grouped",
    lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2, dilation=2),
    2 * (2 * 6) ** 2,
)
image("one dimension", lambda: nn.Conv1d(4, 3, 2), 24 * 6, rank=1)
image("three dimensions", lambda: nn.Conv3d(4, 3, 2), 24 * 6, rank=3)
for kind, layer in {
    "max pool": lambda: nn.MaxPool2d(3, 1, 1, dilation=2),
    "average pool": lambda: nn.AvgPool2d(3, 2, padding=1, count_include_pad=False, ceil_mode=True),
    "adaptive average pool": lambda: nn.AdaptiveAvgPool2d((2, 3)),
    "global pool": lambda: nn.AdaptiveAvgPool2d(1),
    "adaptive max pool": lambda: nn.AdaptiveMaxPool2d(3),
    "power pool": lambda: nn.LPPool2d(2, 2),
    "nearest": lambda: nn.Upsample(scale_factor=2),
    "bilinear": lambda: nn.Upsample(size=(3, 7), mode="bilinear", align_corners=True),
    "bicubic": lambda: nn.Upsample(scale_factor=1.5, mode="bicubic"),
    "padding": lambda: nn.Sequential(
        nn.ConstantPad2d(1, 3.0), nn.ReplicationPad2d(1), nn.ZeroPad2d((1, 0, -1, 0))
    ),
    "channel shuffle": lambda: nn.ChannelShuffle(2),
    "pixel unshuffle": lambda: nn.PixelUnshuffle(2),
    "unfold and fold": lambda: nn.Sequential(nn.Unfold(2), nn.Tanh(), nn.Fold(4, 2)),
}.items():
    image(kind, layer)
image("pixel shuffle", lambda: nn.PixelShuffle(2), 1)  # channels become pixels

# Contractions and parametrizations
model("tied", 6, lambda m, x: m.write(m.mid(m.mid(m.read(x)).tanh()).tanh()), torch.randn(1, 2), read=lin(2, 3),
      mid=lin(3, 3), write=lin(3, 1))  # fmt: skip
model("bilinear layer", 6 * 2 * 24, lambda m, x: m.write(m.mix(m.a(x), m.b(x))), torch.randn(1, 2), a=lin(2, 3),
      b=lin(2, 2), mix=lambda: nn.Bilinear(3, 2, 4), write=lin(4, 1))  # fmt: skip
model("einsum", 6, lambda m, x: torch.einsum("bi,ij,bj->b", m.read(x), m.form, m.read(x)), torch.randn(2, 2),
      read=lin(2, 3), form=values(3, 3))  # fmt: skip
model("experts", 6, lambda m, x: torch.einsum("be,bi,eij->bj", m.gate(x).softmax(-1), x, m.experts),
      torch.randn(2, 2), gate=lin(2, 3), experts=values(3, 2, 2))  # fmt: skip
model("triangular", 1, lambda m, x: m.write(F.linear(m.read(x), m.mid.tril())), torch.randn(2, 2), read=lin(2, 3),
      mid=values(3, 3), write=lin(3, 1))  # fmt: skip
# Columns of the right-hand side are solved for alike, rows one after the other, and the other triangle is not read.
for kind, solved, freedom in (
    ("columns", lambda m, h: torch.linalg.solve_triangular(m.lower, h, upper=False), 6),
    ("columns, from the last row", lambda m, h: torch.linalg.solve_triangular(m.lower, h, upper=True), 6),
    ("columns, ones on the diagonal",
     lambda m, h: torch.linalg.solve_triangular(m.lower, h, upper=False, unitriangular=True), 6),
    ("rows", lambda m, h: torch.linalg.solve_triangular(m.lower, h.mT, upper=False).mT, 1),
    ("rows, from the right", lambda m, h: torch.linalg.solve_triangular(m.lower, h, upper=True, left=False), 1),
    ("columns, from the right", lambda m, h: torch.linalg.solve_triangular(m.lower, h.mT, upper=False, left=False).mT, 6),
    # The keys' width is summed over.
    ("keys", lambda m, h: torch.linalg.solve_triangular(h @ h.mT, h @ m.lower, upper=False), 6 * 6),
):  # fmt: skip
    model(f"triangular solve of {kind}", freedom, lambda m, x, solved=solved: m.write(solved(m, m.read(x)).relu()),
          torch.randn(2, 3, 2), read=lin(2, 3), lower=values(3, 3), write=lin(3, 1))  # fmt: skip
model("diagonal", 6, lambda m, x: m.write(m.read(x) @ torch.diag_embed(m.scale)), torch.randn(2, 2), read=lin(2, 3),
      scale=values(3), write=lin(3, 1))  # fmt: skip
model("distances", 6, lambda m, x: torch.cdist(m.read(x), m.centres), torch.randn(2, 2), read=lin(2, 3),
      centres=values(4, 3))  # fmt: skip
model("layer norm of zeros", 6, lambda m, x: m.write(F.layer_norm(torch.zeros_like(x), (3,), m.scale) + x.sum()),
      torch.randn(1, 3), scale=values(3), write=lin(3, 1))  # fmt: skip
model("rms norm of ones", 6, lambda m, x: m.write(F.rms_norm(torch.ones_like(x), (3,), m.scale) + x.sum()),
      torch.randn(1, 3), scale=values(3), write=lin(3, 1))  # fmt: skip
model("weight norm", 6, lambda m, x: m.write(m.read(x).relu()), torch.randn(1, 2), write=lin(3, 1),
      read=lambda: nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)))  # fmt: skip
model("spectral norm", 6, lambda m, x: m.write(m.read(x).relu()), torch.randn(1, 2), write=lin(3, 1),
      read=lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(2, 3)))  # fmt: skip
# Each output's weights meet equal scalars: (3!)^2.
model("constant input", 6**2, lambda m, x: x * m.write(x.new_ones(1, 3)), torch.randn(1, 2), write=lin(3, 2))

# Lookups
model("learned positions", 6, lambda m, i: m.write((m.token(i) + m.place(torch.arange(3))).relu()),
      torch.tensor([[0, 3, 1]]), token=lambda: nn.Embedding(4, 3), place=lambda: nn.Embedding(5, 3),
      write=lin(3, 2))  # fmt: skip
# In each of 3 units the two entries of either bag may trade places, unless their weights or the data tell them apart.
for kind, freedom, indices, options in (
    ("sum", 6 * 2**6, [[1, 2], [0, 3]], {}), ("mean", 6 * 2**6, [[1, 2], [0, 3]], {}), ("max", 6 * 2**6, [[1, 2], [0, 3]], {}),
    ("sum", 6 * 2**3, [1, 2, 3], {"offsets": torch.tensor([0, 2])}),
    ("mean", 6 * 2**3, [1, 2, 3], {"offsets": torch.tensor([0, 2, 3]), "include_last_offset": True}),
):  # fmt: skip
    model(f"bags of rows: {kind} of {indices}, {', '.join(options)}", freedom,
          lambda m, x, kind=kind, indices=indices, options=options: x * m.write(
              F.embedding_bag(torch.tensor(indices), m.table, mode=kind, **options).relu()),
          torch.randn(2, 1), table=values(4, 3), write=lin(3, 1))  # fmt: skip
model("bags of rows by data", 6, lambda m, i, w: m.write(F.embedding_bag(i, m.table, mode="sum", per_sample_weights=w).relu()),
      torch.tensor([[1, 2], [0, 3]]), torch.rand(2, 2), table=values(4, 3), write=lin(3, 1))  # fmt: skip
model("weighted bags of rows", 6 * 2**3, lambda m, x: x * m.write(F.embedding_bag(torch.tensor([[1, 2], [0, 3]]), m.table, mode="sum",
      per_sample_weights=m.table.new_tensor([[1.0, 2.0], [3.0, 3.0]])).relu()), torch.randn(2, 1), table=values(4, 3),
      write=lin(3, 1))  # fmt: skip
model("bags of rows whose weights are learned", 6 * 2, lambda m, x: m.write(x * F.embedding_bag(
      torch.tensor([[1, 2]]), m.table, mode="sum", per_sample_weights=m.share).relu()), torch.randn(2, 1),
      table=values(3, 3), share=values(1, 2), write=lin(3, 1))  # fmt: skip
# A place among boundaries, as a number; the boundaries are in order.
model("places among boundaries", 24, lambda m, x, i: m.write((torch.searchsorted(i.cumsum(0), i, right=True).sum() * m.read(x)
      * m.table[torch.bucketize(x[0], x.new_tensor([-1.0, 0.0, 1.0]))].sum(0)).tanh()), torch.randn(2, 2), torch.tensor([1, 4]),
      table=values(4, 4), read=lin(2, 4), write=lin(4, 1))  # fmt: skip
dense("units among boundaries", lambda m, h: h * torch.searchsorted(h.new_tensor([-1.0, 0.0, 1.0]), h))
dense("units as boundaries", lambda m, h: h * torch.searchsorted(h, h.sum(-1, keepdim=True)), 1)
model("index by data", 24, lambda m, x, i: m.write(m.table[:, i, i].T * m.read(x)), torch.randn(2, 2),
      torch.tensor([1, 0]), table=values(4, 2, 2), read=lin(2, 4), write=lin(4, 1))  # fmt: skip
# Rows go where the data say, whole; units that go where the data say stay what they are.
model("scatter_reduce by data", 24, lambda m, x, i: m.write(x.new_zeros(2, 4).scatter_reduce(
      0, i[:, None].expand(3, 4), m.read(x), "amax", include_self=False)), torch.randn(3, 2), torch.tensor([1, 0, 1]),
      read=lin(2, 4), write=lin(4, 1))  # fmt: skip
model("units scattered by data", 1, lambda m, x, i: m.write(x.new_zeros(2, 4).scatter_reduce(1, i, m.read(x), "mean")),
      torch.randn(2, 2), torch.tensor([[1, 0, 1, 1]] * 2), read=lin(2, 4), write=lin(4, 1))  # fmt: skip
for kind, mask in {"rows": [True, False, True], "all rows": [True, True, True], "tokens": [[True, False], [False, True]]}.items():
    model(f"{kind} that a mask takes", 24, lambda m, x, i: m.write((m.read(x)[i].sum(0) * m.scale).tanh()),
          torch.randn(*torch.tensor(mask).shape, 2), torch.tensor(mask), read=lin(2, 4), scale=values(4), write=lin(4, 1))
def detour(m: Any, x: Tensor, mask: Tensor) -> Tensor:
    """Rows that a mask takes go through layers of their own, as tokens of another kind, and back to where they were."""
    h = m.read(x)
    h[mask] = m.mid(m.norm(h[mask]))
    return m.write(h)


for kind, row in {"no row": [False, False, False], "one row": [False, True, False]}.items():
    model(f"{kind} that a mask takes", 6, detour, torch.randn(1, 3, 2), torch.tensor([row]), read=lin(2, 3),
          norm=lambda: nn.LayerNorm(3), mid=lin(3, 3), write=lin(3, 1))  # fmt: skip
dense("units that a mask takes", lambda m, h: h[h.tanh() < 2].view(2, 4), 1)
model("nothing is looked up", 6, lambda m, x, i: m.write(m.read(x)).relu() + m.table[i[:0]].sum(), torch.randn(2, 2),
      torch.tensor([1, 0]), table=values(4, 2), read=lin(2, 3), write=lin(3, 1))  # fmt: skip
dense("values that differ", lambda m, h: h * h.unique()[:3].sum())
dense("ranks of values that differ", lambda m, h: h * h.unique(return_inverse=True)[1])
dense("values that differ, as they are ordered", lambda m, h: h * h.unique()[:4], 1)
model("gather by data", 1, lambda m, x, i: m.read(x).gather(1, i), torch.randn(2, 2), torch.tensor([[1], [0]]),
      read=lin(2, 4))  # fmt: skip
model("grid", 2, lambda m, x: m.write(F.grid_sample(
    m.read(x), x.new_tensor([[[[0.1, -0.7], [0.4, 0.2]]]]), align_corners=False)),
      torch.randn(1, 1, 3, 3), read=lambda: nn.Conv2d(1, 2, 1), write=lambda: nn.Conv2d(2, 1, 1))  # fmt: skip
model("grid from data", 2, lambda m, x: m.write(F.grid_sample(
    m.read(x), m.grid(x.flatten()).view(1, 2, 2, 2), align_corners=True)),
      torch.randn(1, 1, 3, 3), read=lambda: nn.Conv2d(1, 2, 1), grid=lin(9, 8),
      write=lambda: nn.Conv2d(2, 1, 1))  # fmt: skip
model("points chosen by data", 2 * 2 * 6**2, lambda m, x: m.write((F.grid_sample(
    m.read(x), m.grid(x.flatten()).view(1, 2, 3, 2), align_corners=False)
    * m.share(x.flatten()).view(2, 3).softmax(-1)).sum(-1).flatten()), torch.randn(1, 1, 2, 2),
      read=lambda: nn.Conv2d(1, 2, 1), grid=lin(4, 12), share=lin(4, 6), write=lin(4, 1))  # fmt: skip

# Attention: 2 heads of 2
def fused_attention(m: Any, x: Tensor, **options: Any) -> Tensor:
    q, k, v = m.qkv(x).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
    return m.write(F.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2).flatten(2))


for kind, options in {
    "fused qkv": {}, "causal": {"is_causal": True, "scale": 0.3},
    "boolean mask": {"attn_mask": torch.ones(3, 3).tril().bool()},
    "additive mask": {"attn_mask": torch.full((3, 3), float("-inf")).triu(1)},
}.items():  # fmt: skip
    model(kind, 2 * (2 * 2) ** 2, lambda m, x, options=options: fused_attention(m, x, **options),
          torch.randn(1, 3, 3), qkv=lin(3, 12), write=lin(4, 2))  # fmt: skip
# A learned bias per head and pair of tokens moves with the heads.
model("relative bias", 2 * (2 * 2) ** 2, lambda m, x: fused_attention(m, x, attn_mask=m.bias), torch.randn(1, 3, 3),
      qkv=lin(3, 12), write=lin(4, 2), bias=values(2, 3, 3))  # fmt: skip
model("filled mask", 6 * 6, lambda m, x: m.write((m.q(x) @ m.k(x).mT).masked_fill(
      torch.ones(3, 3).triu(1).bool(), float("-inf")).softmax(-1) @ m.v(x)), torch.randn(1, 3, 2), q=lin(2, 3),
      k=lin(2, 3), v=lin(2, 3), write=lin(3, 1))  # fmt: skip
# Two weights of the second row and three of the third may trade places, with their decays; what the mask hides does not count.
model("masked decays", 2 * 6, lambda m, x: x * (m.mix * m.decay.masked_fill(
      torch.ones(3, 3).triu(1).bool(), float("-inf")).exp()).sum(-1), torch.randn(1, 3), mix=values(3, 3),
      decay=values(3, 3))  # fmt: skip
# Two learned keys and values before the others are exchangeable; keys and values share one projection.
model("learned keys", 2 * 6, lambda m, x: m.write(F.scaled_dot_product_attention(
      m.q(x), torch.cat([m.keys, m.k(x)], 1), torch.cat([m.values, m.k(x)], 1))), torch.randn(1, 3, 2), q=lin(2, 3),
      k=lin(2, 3), keys=values(1, 2, 3), values=values(1, 2, 3), write=lin(3, 1))  # fmt: skip
for kind, options in {"encoder": {}, "prenorm encoder": {"norm_first": True, "activation": "gelu"}}.items():
    # Stream 4!, attention 32, feed-forward 3!.
    model(kind, 24 * 32 * 6, lambda m, x: m.write(m.mid(m.read(x))), torch.randn(1, 3, 2), read=lin(2, 4),
          mid=lambda options=options: nn.TransformerEncoderLayer(4, 2, 3, batch_first=True, **options),
          write=lin(4, 1))  # fmt: skip
model("decoder", 24 * 32**2 * 6, lambda m, x: m.write(m.mid(m.read(x), m.read(x))), torch.randn(1, 3, 2),
      read=lin(2, 4), write=lin(4, 1),
      mid=lambda: nn.TransformerDecoderLayer(4, 2, 3, batch_first=True))  # fmt: skip

# Recurrent layers
for kind in ("LSTM", "GRU", "RNN"):
    cell: Any = getattr(nn, kind)
    model(f"{kind} of two layers", 2 * 2, lambda m, x: m.write(m.rnn(x)[0]), torch.randn(3, 2, 2), write=lin(2, 1),
          rnn=lambda cell=cell: cell(2, 2, num_layers=2))  # fmt: skip
    model(f"{kind}, both ways, no biases", 2**4, lambda m, x: m.write(m.rnn(x)[0]), torch.randn(2, 3, 2),
          write=lin(4, 1), rnn=lambda cell=cell: cell(2, 2, num_layers=2, bias=False, bidirectional=True))  # fmt: skip
model(
    "LSTM whose state is the output",
    1,
    lambda m, x: m.rnn(x),
    torch.randn(3, 1, 2),
    rnn=lambda: nn.LSTM(2, 3),
)
model("LSTM read by its last cell", 6, lambda m, x: m.write(m.rnn(x)[1][1]), torch.randn(3, 1, 2), write=lin(3, 1),
      rnn=lambda: nn.LSTM(2, 3))  # fmt: skip
# The initial state is 0: every row of the recurrent weight (4 gates of 3) meets equal scalars, so (3!)^12 on top of 3!.
model("LSTM cell from nothing", factorial(3) ** 13, lambda m, x: m.write(m.cell(x)[0]), torch.randn(2, 2),
      cell=lambda: nn.LSTMCell(2, 3), write=lin(3, 1))  # fmt: skip
