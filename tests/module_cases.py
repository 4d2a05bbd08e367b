"""The modules of ``torch.nn`` between free operands (see ``sandwich``)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from rule_cases import ints
from sandwich import Case
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

CASES: list[Case] = []


def add(name: str, factory: Callable[[], nn.Module], *operands: Any, **options: Any) -> None:
    shape = next((o for o in operands if isinstance(o, tuple)), ())
    trailing = next((k for k, n in enumerate(reversed(shape)) if n > 0), len(shape))
    CASES.append(Case(name, factory, operands, **{"module": True, "space": trailing, **options}))


# -- activations -----------------------------------------------------------------------------------------------------

for _name in ["ELU", "Hardshrink", "Hardsigmoid", "Hardtanh", "Hardswish", "LeakyReLU", "LogSigmoid", "PReLU", "ReLU", "ReLU6", "RReLU", "SELU", "CELU", "GELU", "Sigmoid", "SiLU", "Mish", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink", "Softmin", "Softmax", "LogSoftmax", "Dropout", "AlphaDropout", "Identity"]:
    _options = {"dim": 1} if _name in ("Softmin", "Softmax", "LogSoftmax") else {}
    _order = {"order": 720, "why": "the oracle has no expansion"} if _name == "RReLU" else {}
    add(_name, partial(getattr(nn, _name), **_options), (2, 3), **_order)
add("PReLU_channels", lambda: nn.PReLU(3), (2, 3, 2))
add("Threshold", lambda: nn.Threshold(0.1, 2.0), (2, 3))
add("GLU", lambda: nn.GLU(), (2, 6))
add("Softmax2d", lambda: nn.Softmax2d(), (2, 3, 2, 1))

# -- linear, convolutions, norms -----------------------------------------------------------------------------------------

add("Linear", lambda: nn.Linear(3, 4), (2, 3))
add("Bilinear", lambda: nn.Bilinear(3, 2, 4), (2, 3), (2, 2))
add("Conv1d", lambda: nn.Conv1d(2, 3, 2, padding="same"), (1, 2, -3))
add("Conv1d_circular", lambda: nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), (1, 2, -3))
add("Conv2d_unbatched", lambda: nn.Conv2d(2, 3, 2, padding=1, padding_mode="reflect"), (2, -2, -2))
add("Conv2d_dilated", lambda: nn.Conv2d(4, 4, 2, dilation=2, groups=2), (1, 4, -3, -3))
add("Conv3d", lambda: nn.Conv3d(2, 2, (1, 2, 1)), (1, 2, -1, -2, -2))
add("ConvTranspose1d", lambda: nn.ConvTranspose1d(2, 3, 2, stride=2, output_padding=1), (1, 2, -2))
add("ConvTranspose2d", lambda: nn.ConvTranspose2d(4, 2, 2, groups=2), (1, 4, -2, -2))
for _rank, _shape in ((1, (2, 3, -2)), (2, (2, 3, -2, -1)), (3, (1, 3, -1, -2, -1))):
    add(f"BatchNorm{_rank}d", partial(getattr(nn, f"BatchNorm{_rank}d"), 3), _shape)
    add(f"InstanceNorm{_rank}d", partial(getattr(nn, f"InstanceNorm{_rank}d"), 3), _shape)
    add(f"InstanceNorm{_rank}d_stats", partial(getattr(nn, f"InstanceNorm{_rank}d"), 3, affine=True, track_running_stats=True),
        _shape)  # fmt: skip
add("BatchNorm1d_flat", lambda: nn.BatchNorm1d(3), (2, 3))
add("BatchNorm1d_plain", lambda: nn.BatchNorm1d(3, affine=False), (2, 3))
add("BatchNorm1d_batch", lambda: nn.BatchNorm1d(3, track_running_stats=False), (2, 3))
add("LayerNorm", lambda: nn.LayerNorm(3), (2, 3))
add("LayerNorm_2", lambda: nn.LayerNorm((2, 3), bias=False), (2, 2, 3))
add("RMSNorm", lambda: nn.RMSNorm(3), (2, 3))
add("GroupNorm", lambda: nn.GroupNorm(2, 4), (2, 4, -2))
add("LocalResponseNorm", lambda: nn.LocalResponseNorm(2), (2, -3, -2))
add("CrossMapLRN2d", lambda: nn.CrossMapLRN2d(2), (2, -3, -2, -1), order=2, why="the oracle has no expansion")

# -- pooling and resampling ------------------------------------------------------------------------------------------------

for _name in ["MaxPool2d", "AvgPool2d", "LPPool2d", "ReflectionPad2d", "ReplicationPad2d", "ZeroPad2d", "CircularPad2d", "ConstantPad2d", "Upsample"]:
    _args = {"LPPool2d": (2, 2), "ConstantPad2d": (1, 0.5), "Upsample": (None, 2)}.get(_name, (1 if "Pad" in _name else 2,))
    add(_name, partial(getattr(nn, _name), *_args), (2, 3, -2, -2))
for _name in ["AdaptiveAvgPool2d", "AdaptiveMaxPool2d"]:
    add(_name, partial(getattr(nn, _name), (2, 1)), (2, 3, -3, -2))
add("ZeroPad1d", lambda: nn.ZeroPad1d(1), (2, -3))
add("UpsamplingBilinear2d", lambda: nn.UpsamplingBilinear2d(scale_factor=2), (1, 2, -2, -2))
add("PixelShuffle", lambda: nn.PixelShuffle(2), (1, 8, 2, 2))
add("PixelUnshuffle", lambda: nn.PixelUnshuffle(2), (1, 2, 2, 4))
add("ChannelShuffle", lambda: nn.ChannelShuffle(2), (1, 6, 2))
add("Unfold", lambda: nn.Unfold(2), (1, 2, -2, -3), space=1)
add("Fold", lambda: nn.Fold((2, 3), 2), (1, 8, -2), space=2)
add("Flatten", lambda: nn.Flatten(), (2, 2, 3))
add("Unflatten", lambda: nn.Unflatten(1, (2, 3)), (2, 6))

# -- lookups and distances ---------------------------------------------------------------------------------------------------

add("Embedding", lambda: nn.Embedding(5, 3, padding_idx=0), ints(2, 2, high=5), constant=True)
add("EmbeddingBag", lambda: nn.EmbeddingBag(5, 3), ints(2, 2, high=5), order=6, constant=True, why="the oracle has no expansion")
add("EmbeddingBag_offsets", lambda: nn.EmbeddingBag(5, 3, mode="sum"), ints(4, high=5), torch.tensor([0, 3]), order=6, constant=True,
    why="the oracle has no expansion")  # fmt: skip
add("CosineSimilarity", lambda: nn.CosineSimilarity(), (2, 3), (2, 3), constant=True)
add("PairwiseDistance", lambda: nn.PairwiseDistance(), (2, 3), (2, 3))

# -- attention -----------------------------------------------------------------------------------------------------------------


class SelfAttention(nn.Module):
    """Query, key and value from one operand, or memory from a second."""

    def __init__(self, width: int = 4, heads: int = 2, keys: int | None = None, **options: Any):
        super().__init__()
        self.call = {k: options.pop(k) for k in ("need_weights", "average_attn_weights", "attn_mask", "key_padding_mask") if k in options}
        if keys is not None:
            options |= {"kdim": keys, "vdim": keys}
        self.attention = nn.MultiheadAttention(width, heads, **options)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Any:
        other = x if memory is None else memory
        return self.attention(x, other, other, **self.call)


_mask = torch.tensor([[False, True], [False, False]])
for _name, _options in {
    "plain": {"need_weights": False},
    "weights": {},
    "weights_per_head": {"average_attn_weights": False},
    "batch_first": {"batch_first": True},
    "no_bias": {"bias": False, "need_weights": False},
    "bias_kv": {"add_bias_kv": True, "need_weights": False},
    "bias_kv_weights": {"add_bias_kv": True},
    "zero_attention": {"add_zero_attn": True, "need_weights": False},
    "mask": {"attn_mask": _mask, "need_weights": False},
    "mask_weights": {"attn_mask": _mask},
    "padding": {"key_padding_mask": torch.tensor([[False, True]]), "need_weights": False},
}.items():
    add(f"MultiheadAttention_{_name}", partial(SelfAttention, **_options), (1, -2, 4) if "first" in _name else (-2, 1, 4))
add("MultiheadAttention_memory", lambda: SelfAttention(keys=3), (-2, 1, 4), (-2, 1, 3))
add("MultiheadAttention_unbatched", lambda: SelfAttention(), (-2, 4))

_layer = partial(nn.TransformerEncoderLayer, 4, 2, 3, batch_first=True)
for _name, _options in {
    "plain": {}, "norm_first": {"norm_first": True}, "gelu": {"activation": "gelu"}, "no_bias": {"bias": False},
}.items():  # fmt: skip
    add(f"TransformerEncoderLayer_{_name}", partial(_layer, **_options), (1, -2, 4))
    add(f"TransformerDecoderLayer_{_name}", partial(nn.TransformerDecoderLayer, 4, 2, 3, batch_first=True, **_options),
        (1, -2, 4), (1, -2, 4))  # fmt: skip
add("TransformerEncoder", lambda: nn.TransformerEncoder(_layer(), 2, norm=nn.LayerNorm(4)), (1, -2, 4))
add("TransformerDecoder", lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2, 3), 1), (-2, 1, 4), (-2, 1, 4))
add("Transformer", lambda: nn.Transformer(4, 2, 1, 1, 3), (-2, 1, 4), (-2, 1, 4))

# -- recurrence ------------------------------------------------------------------------------------------------------------------

for _name, _options in {
    "plain": {}, "two_layers": {"num_layers": 2}, "bidirectional": {"bidirectional": True}, "no_bias": {"bias": False},
    "batch_first": {"batch_first": True}, "stacked": {"num_layers": 2, "bidirectional": True},
}.items():  # fmt: skip
    for _cell in ("LSTM", "GRU", "RNN"):
        _shape = (1, -2, 2) if "first" in _name else (-2, 1, 2)
        add(f"{_cell}_{_name}", partial(getattr(nn, _cell), 2, 3, **_options), _shape)
    add(f"LSTM_single_{_name}", partial(nn.LSTM, 2, 3, **_options), _shape, single=True)
add("RNN_relu", lambda: nn.RNN(2, 3, nonlinearity="relu"), (-2, 1, 2))
add("LSTM_projected", lambda: nn.LSTM(2, 4, proj_size=3), (-2, 1, 2))
add("LSTM_projected_stacked", lambda: nn.LSTM(2, 3, 2, proj_size=2, bidirectional=True), (-2, 1, 2))
add("LSTM_unbatched", lambda: nn.LSTM(2, 3), (-2, 2))
add("GRU_initial", lambda: nn.GRU(2, 3), (-2, 1, 2), (1, 1, 3))
for _cell in ("LSTMCell", "GRUCell", "RNNCell"):
    add(_cell, partial(getattr(nn, _cell), 2, 3), (1, 2))

# -- reparametrised and shared weights -----------------------------------------------------------------------------------------------

add("weight_norm_old", lambda: weight_norm(nn.Linear(3, 4)), (2, 3))
add("weight_norm", lambda: parametrizations.weight_norm(nn.Conv1d(2, 3, 2)), (1, 2, -2))
add("weight_norm_dim", lambda: parametrizations.weight_norm(nn.Linear(3, 4), dim=1), (2, 3))
add("spectral_norm", lambda: parametrizations.spectral_norm(nn.Linear(3, 4)), (2, 3))
add("spectral_norm_old", lambda: nn.utils.spectral_norm(nn.Linear(3, 4)), (2, 3))
add("orthogonal", lambda: parametrizations.orthogonal(nn.Linear(3, 3)), (2, 3), order=0, why="linear algebra pins its matrices")
add("orthogonal_householder", lambda: parametrizations.orthogonal(nn.Linear(3, 3), orthogonal_map="householder"), (2, 3),
    constant=True, order=0, why="linear algebra pins its matrices")  # fmt: skip


def _tied() -> nn.Module:
    first, second = nn.Linear(3, 4, bias=False), nn.Linear(4, 3, bias=False)
    second.weight = nn.Parameter(first.weight.T.contiguous())
    shared = nn.Linear(4, 4)
    return nn.Sequential(first, shared, nn.ReLU(), shared, second)


class Autoencoder(nn.Module):
    """The decoder's weight is the encoder's, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x).relu() @ self.encoder.weight


add("shared", _tied, (2, 3))
add("tied", Autoencoder, (2, 3))
