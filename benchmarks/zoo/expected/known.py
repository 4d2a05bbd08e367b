"""Why what is expected is not met, where people have looked: kind, model and reason (patterns), and the explanation.

These change no verdict: they are shown beside it. *Gap* is said of what autoperm could find and does not.
"""

from __future__ import annotations

import re

_HEADS = "values|queries"

EXPLAINED: tuple[tuple[str, str, str, str], ...] = (
    # of all zoos
    ("residual|norm", "edgenext.*", ".", "convolutions run on pieces of the channels, one after another"),
    ("residual", "shufflenet.*", ".", "channels are shuffled and halved in each block: the stream is in parts"),
    ("residual", "gcvit.*", ".", "global queries are the stream's channels viewed as heads: it is heads x dims"),
    ("residual", "pit_.*", ".", "a grouped convolution makes two channels of each: the stream is blocks of two"),
    ("residual", "shvit.*", ".", "attention is on a part of the channels"),
    ("hidden", "mambaout.*", ".", "a part of the units is convolved, the rest passes"),
    ("groups", "resnest.*", ".", "the convolution's two halves are added: blocks move alike"),
    (_HEADS, "coat_.*", ".", "heads are told apart by the windows of their convolutions: 2, 3 and 3"),
    # diffusers
    (_HEADS, "ltx-video", ".", "rotations differ from head to head"),
    ("norm", "unet-1d", "written to", "resampling writes its kernel along a dense weight's diagonal, a constant"),
    ("groups", "vae-dc", ".", "groups are queries, keys and values of each head in turn: three kinds of blocks"),
    ("residual", "ddpm-unet", ".", "group norms take the stream beside that of the way down: groups straddle both"),
    # transformers
    ("norm", "fnet.*", ".", "a Fourier transform mixes the channels"),
    ("residual", "canine.*|layoutlmv3.*", "parts", "embeddings are concatenated: the stream is in parts"),
    ("experts", "deepseek_v4.*", ".", "a table of integers says which experts a token has: numbers in a buffer"),
    (_HEADS + "|norm", "aria", ".", "the layers go before those of an `nn.MultiheadAttention`, which has the heads"),
    ("experts", "zaya.*", ".", "the choice of none of the experts has a number too, which is masked"),
    (_HEADS, "wavlm.*", ".", "the stream, which is the output, is viewed as heads for gates"),
    ("residual", "sew.*|xcodec.*|.*-ctc", " x ", "positions come from a convolution in groups: the stream is blocks"),
    ("residual", "mgp-str.*|clvp.*", " x ", "a convolution or norm in groups reads the stream: it is blocks"),
    ("residual", "fast_vlm.*", " x ", "grouped convolutions make two channels of each: the stream is blocks of two"),
    ("residual", "fun_asr_nano.*", " x ", "the values of the heads are added to the stream: it is heads x dims"),
    ("residual", "musicflamingo.*", "parts", "times rotate some of the stream's channels"),
    ("residual", "lightglue.*", "otherwise", "what a layer adds is concatenated with the stream and read by an MLP, not added"),
    ("residual", "timesformer.*", "otherwise", "a dense layer takes what attention over time gives, before it is added"),
    ("queries", "lightglue.*", " x ", "positions rotate pairs of dims, and come from a layer: pairs move"),
    ("queries", "roformer.*", " x ", "positions rotate pairs of dims, and are a weight: pairs move"),
    ("values", "nemo.*", " x ", "keys have half as many heads as values: heads move in pairs"),
    ("values|queries", "hunyuan_vl.*", "4 x 8", "the tower has a number of heads of its own"),
    ("values", "mimo_v2_flash.*", "4 x 8", "windowed layers have a number of heads of their own"),
    ("values", "clvp.*", "pinned", "values are rotated by positions too"),
    (_HEADS, "(neucodec|xcodec2|efficientloftr).*", "constant", "rotations go by head, not by place: heads differ"),
    ("values", "edgetam_video.*", "constant", "positions rotate by place, with one head for all"),
    ("residual|norm", "(mm-)?grounding-dino.*|edgetam.*", "parts", "positions are sines and cosines: the stream is in parts"),
    ("norm", "moonshine.*", "pinned", "the layer after the norm was taken for the one before"),
    ("groups", "zaya.*", ".", "blocks are those of queries and of keys, of which each is normed by itself"),
    (_HEADS, "diffllama.*", ".", "heads are taken in two halves, one subtracted from the other: they trade places as pairs"),
    ("queries", "speecht5.*|bros.*", "one order", "positions have one entry per dim for all heads"),
    ("residual", "zamba.*", "otherwise", "the shared transformer adds to a stream of its own, which a linear layer takes"),
    (_HEADS, "informer.*", "constant", "keys are drawn at random when it is traced"),
    (_HEADS, "autoformer.*", ".", "delays are repeated over batch and heads in an order that mixes these"),
    ("residual", "sam.*", "parts", "positions are sines and cosines of the same numbers: pairs move"),
    (_HEADS, "oneformer.*", "written to", "rows of masks are reset by the numbers of those that mask everything"),
    # what is left of constants
    ("residual|norm|groups", ".*", "a constant of the model differs", "fixed (sinusoidal) positions are added to the stream"),
)  # fmt: skip


def explanation(kind: str, model: str, why: str) -> str:
    """What is known of an unmet expectation; empty if nothing."""
    for kinds, models, reasons, text in EXPLAINED:
        if re.fullmatch(kinds, kind) and re.fullmatch(models, model) and re.search(reasons, why):
            return text
    return ""
