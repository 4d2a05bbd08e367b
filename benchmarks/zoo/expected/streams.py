"""The residual stream of each stage is one group: all that its blocks add to it moves alike."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

from torch import nn

from benchmarks.zoo.expected.acting import Acting, Axis
from benchmarks.zoo.expected.attention import Attention
from benchmarks.zoo.expected.expectation import Expectation
from benchmarks.zoo.expected.hidden import Mlp
from benchmarks.zoo.expected.layers import Layer, joined, layers_below

#: Classes of residual blocks of convolutions, whose last layer adds to the stream.
BLOCKS = re.compile(
    r"BasicBlock|Bottleneck|ResBottleneckBlock|ResNetBasicLayer|ResNetBottleNeckLayer|CNBlock|ConvNeXtBlock|ConvNeXtLayer"
    r"|InvertedResidual|UniversalInvertedResidual|EdgeResidual|MBConv|FusedMBConv"
)
#: Layers of a block that are beside the way through it.
BESIDE = re.compile(r"downsample|shortcut|\.se\.|avgpool")
EXPERTS = re.compile(r"\.experts?\.|\.router|\.gate\.")
NORMS = (nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.RMSNorm)


@dataclass(frozen=True)
class Stream:
    """What adds to the stream of one stage, and the norms that blocks take it through."""

    path: str
    width: int
    adding: tuple[Axis, ...]


def streams(model: nn.Module, found: Sequence[Attention], mlps: Sequence[Mlp]) -> Iterator[Stream]:
    """A stage is a run of blocks of one class, in one container, of one width."""
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            continue
        blocks = [(joined(path, name), block, type(block)) for name, block in module.named_children()]
        for kind, run in groupby(blocks, key=lambda b: b[2]):
            yield from _stages(path, kind, [b[:2] for b in run], found, mlps)


def _stages(
    path: str, kind: type, blocks: Sequence[tuple[str, nn.Module]], found: Sequence[Attention], mlps: Sequence[Mlp]
) -> Iterator[Stream]:
    adding = [(block, _adding(at, block, kind, found, mlps)) for at, block in blocks]
    starts = list(accumulate(_starts(block) for _, block in blocks))
    for (width, _), run in groupby(zip(adding, starts, strict=True), key=lambda b: (_width(b[0][1]), b[1])):
        axes = [(layer.out, block) for (block, outs), _ in run for layer in outs]
        if width and len(axes) > 1:
            norms = (n for at, block in blocks if any(block is b for _, b in axes) for n in _norms(at, block, width))
            yield Stream(joined(path, str(kind.__name__)), width, tuple(axis for axis, _ in axes) + tuple(norms))


def _starts(block: nn.Module) -> bool:
    """Whether a block says that it adds to nothing, so that a stream starts with its output, or has a narrower one inside."""
    if hasattr(block, "bottleneck"):  # of MobileBERT: layers add to a stream that the block makes
        return True
    return not getattr(block, "use_res_connect", getattr(block, "has_skip", True))


def _width(outs: Sequence[Layer]) -> int:
    """The width that all outputs of a block have; 0 if they do not have one."""
    widths = {layer.outs for layer in outs}
    return widths.pop() if len(widths) == 1 else 0


def _adding(at: str, block: nn.Module, kind: type, found: Sequence[Attention], mlps: Sequence[Mlp]) -> list[Layer]:
    """The layers whose outputs a block adds to its stream."""
    below = {layer.weight: layer for layer in layers_below(at, block)}
    apart = [mlp.second.weight for mlp in mlps if not any(mlp.scope.startswith(a.path) for a in found)]
    outs = {a.out.name for a in found if a.out is not None} | set(apart)
    attends = any(a.path.startswith(at + ".") for a in found)
    named = [layer for name, layer in below.items() if name in outs and not EXPERTS.search(name.removeprefix(at))]
    if attends:
        return named
    if BLOCKS.fullmatch(kind.__name__):
        dense = [layer for layer in below.values() if not BESIDE.search(layer.path.removeprefix(at))]
        return dense[-1:]
    return []


def _norms(at: str, block: nn.Module, width: int) -> Iterator[Axis]:
    """Norms that a transformer's block has of its own: of the stream, before or after a layer."""
    for name, norm in block.named_children():
        if isinstance(norm, NORMS[:1]) and norm.weight is not None and tuple(norm.weight.shape) == (width,):
            yield Axis(joined(at, name, "weight"), 0)


def expectations(found: Sequence[Stream]) -> Iterator[Expectation]:
    for stream in found:
        yield Expectation("residual", stream.path, lambda acting, s=stream: _wrong(acting, s))  # type: ignore[misc]


def _wrong(acting: Acting, stream: Stream) -> str | None:
    used = [axis for axis in stream.adding if acting.used(axis.name)]
    first = acting.whole((used or stream.adding)[0], stream.width)
    if isinstance(first, str):
        return first
    for axis in used[1:]:
        found = acting.whole(axis, stream.width)
        if found != first:
            return found if isinstance(found, str) else f"{axis} moves otherwise than {used[0]}"
    return None
