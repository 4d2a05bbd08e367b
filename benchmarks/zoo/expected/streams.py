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
#: Layers of a block that add to a second stream (of text, beside that of images), and norms of what is attended to.
CONTEXT = re.compile(r"context|to_add_out|add_out_proj|txt_")
OTHERS = re.compile(r"context|kv|txt|added")


@dataclass(frozen=True)
class Stream:
    """What adds to the stream of one stage, and the norms that blocks take it through.

    Attributes:
        path: of the container, and the class of its blocks.
        width: of the stream.
        adding: the outputs of layers that add to it, and the norms.
        grouped: group norms take it, so that it is blocks of channels.
    """

    path: str
    width: int
    adding: tuple[Axis, ...]
    grouped: bool


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
        inside = [(block, layer) for (block, outs), _ in run for layer in outs]
        for context in (False, True):
            axes = [layer.out for _, layer in inside if bool(CONTEXT.search(layer.path)) is context]
            those = {id(block): block for block, _ in inside}
            if not width or len(axes) < 2:
                continue
            if not context:
                axes += [n for at, block in blocks if id(block) in those for n in _norms(at, block, width)]
            name = joined(path, kind.__name__) + (", context" if context else "")
            yield Stream(name, width, tuple(axes), any(map(_grouped, those.values())))


def _grouped(block: nn.Module) -> bool:
    return any(isinstance(m, nn.GroupNorm) and m.num_groups > 1 for m in block.modules())


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
    if any(_whole(joined(at, name), inner, found, mlps) for name, inner in block.named_modules() if name):
        return []  # it has blocks of its own, with a stream of their own
    named = [layer for name, layer in below.items() if name in outs and not EXPERTS.search(name.removeprefix(at))]
    if attends:
        return named
    if BLOCKS.fullmatch(kind.__name__):
        dense = [layer for layer in below.values() if not BESIDE.search(layer.path.removeprefix(at))]
        return dense[-1:]
    return []


def _whole(at: str, blocks: nn.Module, found: Sequence[Attention], mlps: Sequence[Mlp]) -> bool:
    """Whether a module lists blocks that have attention and an MLP."""
    if not isinstance(blocks, nn.ModuleList | nn.Sequential):
        return False
    inside = [joined(at, name) + "." for name, _ in blocks.named_children()]
    return any(any(a.path.startswith(i) for a in found) and any(m.second.path.startswith(i) for m in mlps) for i in inside)


def _norms(at: str, block: nn.Module, width: int) -> Iterator[Axis]:
    """Norms that a transformer's block has of its own: of the stream, before or after a layer."""
    for name, norm in block.named_children():
        own = isinstance(norm, nn.LayerNorm) and not OTHERS.search(name)
        if own and norm.weight is not None and tuple(norm.weight.shape) == (width,):
            yield Axis(joined(at, name, "weight"), 0)


def expectations(found: Sequence[Stream]) -> Iterator[Expectation]:
    for stream in found:
        yield Expectation("residual", stream.path, lambda acting, s=stream: _wrong(acting, s))  # type: ignore[misc]


def _wrong(acting: Acting, stream: Stream) -> str | None:
    used = [axis for axis in stream.adding if acting.used(axis.name)]
    of = used or stream.adding
    first = _leaves(acting, of[0], stream)
    if isinstance(first, str):
        return first
    for axis in of[1:]:
        found = _leaves(acting, axis, stream)
        if found != first:
            return found if isinstance(found, str) else f"{axis} moves otherwise than {of[0]}"
    return None


def _leaves(acting: Acting, axis: Axis, stream: Stream) -> tuple[int, ...] | str:
    """The leaves of the one group that a stream is, or of its blocks and their channels."""
    if not stream.grouped:
        return acting.whole(axis, stream.width)
    parts = acting.parts(axis)
    if len(parts) > 1 or not parts[0].leaves or None in map(acting.group, parts[0].leaves):
        return f"{axis} is {acting.shown(parts)}: {acting.why(axis, parts[0].leaves)}"
    return parts[0].leaves
