"""The hidden units of each MLP (and of each residual block of convolutions) are one group that acts on nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from benchmarks.zoo.expected.acting import Acting, Axis
from benchmarks.zoo.expected.expectation import Expectation
from benchmarks.zoo.expected.layers import Layer, child, joined, layer_of

#: Names, below one module, of the layers that make hidden units, and of the one that takes them. The first that fits counts.
PAIRS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("fc1_g", "fc1_x"), "fc2"), (("fc1",), "fc2"), (("c_fc",), "c_proj"), (("lin1",), "lin2"), (("linear1",), "linear2"),
    (("linear_1",), "linear_2"), (("wi_0", "wi_1"), "wo"), (("wi",), "wo"), (("Wi",), "Wo"),
    (("gate_proj", "up_proj"), "down_proj"), (("gate_up_proj",), "down_proj"), (("up_proj",), "down_proj"),
    (("w1", "w3"), "w2"), (("w1", "w2"), "w3"), (("w1", "v1"), "w2"), (("w12",), "w3"), (("w1",), "w2"),
    (("dense_h_to_4h",), "dense_4h_to_h"), (("fc_in",), "fc_out"), (("intermediate.dense",), "output.dense"),
    (("intermediate_dense",), "output_dense"), (("net.0.proj",), "net.2"), (("linear_fc1",), "linear_fc2"),
    (("layer_1",), "layer_2"), (("layer1",), "layer2"), (("input_linear",), "output_linear"), (("mlp_dense",), "mlp_out"),
    (("conv_pw",), "conv_pwl"), (("block.0.0",), "block.3.0"), (("block.0.0",), "block.2.0"), (("conv.0.0",), "conv.2"),
    (("block.3",), "block.5"), (("pwconv1",), "pwconv2"),
)  # fmt: skip
#: Classes of residual blocks whose convolutions follow one another.
BLOCK = re.compile(r"BasicBlock|Bottleneck|Bottle2neck|PreAct\w*|BasicBlock\w*|ResNetBasicLayer")
#: Modules between the two layers of a ``Sequential`` that leave units apart from one another.
POINTWISE = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh, nn.Dropout, nn.Identity, nn.LeakyReLU, nn.Mish,
             nn.Sigmoid)  # fmt: skip


@dataclass(frozen=True)
class Mlp:
    """``scope``: the module whose other parameters may move with the hidden units (norms and depthwise convolutions)."""

    scope: str
    firsts: tuple[Layer, ...]
    second: Layer


def mlps(model: nn.Module) -> list[Mlp]:
    """Every MLP once, by names and shapes."""
    return list({mlp.second.weight: mlp for mlp in _all(model)}.values())


def _all(model: nn.Module) -> Iterator[Mlp]:
    for path, module in model.named_modules():
        if "Norm" in type(module).__name__:
            continue  # its layers make scales and shifts
        if isinstance(module, nn.Sequential):
            yield from _in_sequence(path, module)
        found = _named(path, module)
        yield from _in_block(path, module) if found is None else [found]


def _named(path: str, module: nn.Module) -> Mlp | None:
    for names, last in PAIRS:
        mlp = _mlp(path, module, names, last)
        if mlp is not None:
            return mlp
    return None


def _mlp(path: str, module: nn.Module, names: Sequence[str], last: str) -> Mlp | None:
    layers = [layer_of(joined(path, n), child(module, n)) for n in (*names, last)]
    found = [layer for layer in layers if layer is not None]
    if len(found) < len(layers):
        return None
    mlp = Mlp(path, tuple(found[:-1]), found[-1])
    return mlp if _fits(mlp) else None


def _in_block(path: str, module: nn.Module) -> Iterator[Mlp]:
    """The channels between one convolution of a ResNet's block and the next."""
    if BLOCK.fullmatch(type(module).__name__):
        for one, other in (("conv1", "conv2"), ("conv2", "conv3")):
            mlp = _mlp(path, module, (one,), other)
            if mlp is not None:
                yield mlp


def _in_sequence(path: str, module: nn.Sequential) -> Iterator[Mlp]:
    before: Layer | None = None
    for name, inner in module.named_children():
        layer = layer_of(joined(path, name), inner)
        if layer is not None:
            if before is not None and before.outs == layer.ins and before.groups == layer.groups == 1:
                yield Mlp(path, (before,), layer)
            before = layer
        elif not isinstance(inner, POINTWISE):
            before = None


def _fits(mlp: Mlp) -> bool:
    """One width; layers that make twice as many units make gates as well."""
    hidden = mlp.second.ins
    wide = {layer.outs for layer in mlp.firsts}
    dense = all(layer.groups == 1 for layer in (*mlp.firsts, mlp.second))
    return dense and (wide == {hidden} or (len(mlp.firsts) == 1 and wide == {2 * hidden}))


def expectations(found: Sequence[Mlp], attentions: Sequence[str]) -> Iterator[Expectation]:
    """One per MLP.

    Arguments:
        found: the MLPs.
        attentions: paths of attention modules, on which no hidden unit acts.
    """
    for mlp in found:
        yield Expectation("hidden", mlp.second.path, lambda acting, mlp=mlp: _wrong(acting, mlp, attentions))  # type: ignore[misc]


def _wrong(acting: Acting, mlp: Mlp, attentions: Sequence[str]) -> str | None:
    n = mlp.second.ins
    leaves = acting.whole(mlp.second.inner, n)
    if isinstance(leaves, str):
        return leaves
    for first in mlp.firsts:
        for axis in _halves(first, n):
            found = acting.whole(axis, n)
            if found != leaves:
                return found if isinstance(found, str) else f"{axis} moves with other units than {mlp.second.inner}"
    group = acting.group(leaves[0])
    own = _own(acting, mlp, attentions)
    for name, dim in group.moves if group else ():
        if name not in own:
            return f"the group of {mlp.second.inner} moves {name} dim {dim} too"
    return None


def _own(acting: Acting, mlp: Mlp, attentions: Sequence[str]) -> set[str]:
    """The tensors that hidden units may act on: those of the MLP's module, less those of attention inside it."""
    inside = mlp.scope + "." if mlp.scope else ""
    apart = tuple(a + "." for a in attentions if a.startswith(inside) and not mlp.scope.startswith(a))
    layers = tuple(layer.path + "." for layer in (*mlp.firsts, mlp.second))
    tensors = acting.spec.tensors
    names = (n for n in tensors if n.startswith(inside) and (n.startswith(layers) or not n.startswith(apart or "\0")))
    return {tensors[n].home for n in names}


def _halves(first: Layer, n: int) -> list[Axis]:
    if first.outs == n:
        return [first.out]
    return [Axis(first.weight, first.out.dim, 0, n), Axis(first.weight, first.out.dim, n, 2 * n)]
