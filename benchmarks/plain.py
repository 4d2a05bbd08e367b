"""Plain weight matching as published (Ainsworth et al. 2023, Algorithm 1), with permutations written by hand.

The baseline of matching.py, after the authors' own code: one permutation per layer, every parameter with the permutation of
each of its axes, all Gram matrices computed anew at each visit, scipy's dense assignment, a fresh random order each sweep,
until a sweep gains nothing. It shares no code with autoperm.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

#: For each parameter the permutation of each axis; None for axes that stay.
Spec = Mapping[str, tuple[str | None, ...]]


def conv(name: str, into: str | None, out: str) -> dict[str, tuple[str | None, ...]]:
    return {f"{name}.weight": (out, into, None, None)}


def norm(name: str, p: str) -> dict[str, tuple[str | None, ...]]:
    return {f"{name}.weight": (p,), f"{name}.bias": (p,)}


def resnet(blocks: tuple[int, ...], convs: int) -> dict[str, tuple[str | None, ...]]:
    """torchvision's ResNets: ``convs`` convolutions a block, 2 (basic) or 3 (bottleneck).

    The stream of a stage has one permutation, P_bg0 to P_bg4; each inner convolution has its own.
    """
    spec = {**conv("conv1", None, "P_bg0"), **norm("bn1", "P_bg0")}
    before = "P_bg0"
    for stage, count in enumerate(blocks, start=1):
        stream = f"P_bg{stage}" if convs == 3 or stage > 1 else "P_bg0"
        for i in range(count):
            name = f"layer{stage}.{i}"
            if i == 0 and stream != before:
                spec |= conv(f"{name}.downsample.0", before, stream) | norm(f"{name}.downsample.1", stream)
            into = before if i == 0 else stream
            for k in range(1, convs + 1):
                out = stream if k == convs else f"P_{name}_inner{k}"
                spec |= conv(f"{name}.conv{k}", into, out) | norm(f"{name}.bn{k}", out)
                into = out
        before = stream
    return {**spec, "fc.weight": (None, before), "fc.bias": (None,)}


SPECS: dict[str, Spec] = {
    "resnet18": resnet((2, 2, 2, 2), 2),
    "resnet34": resnet((3, 4, 6, 3), 2),
    "resnet50": resnet((3, 4, 6, 3), 3),
}


def permuted(spec: Spec, perms: Mapping[str, Tensor], name: str, tensor: Tensor, but: int | None = None) -> Tensor:
    """A parameter with its axes permuted, all but one if so wished."""
    for axis, p in enumerate(spec[name]):
        if p is not None and axis != but:
            tensor = tensor.index_select(axis, perms[p])
    return tensor


def match(
    spec: Spec, a: Mapping[str, Tensor], b: Mapping[str, Tensor], *, seed: int = 0, max_sweeps: int = 100
) -> tuple[dict[str, Tensor], int]:
    """The permutations found, and the sweeps that it took."""
    places: dict[str, list[tuple[str, int]]] = {}
    for name, axes in spec.items():
        for axis, p in enumerate(axes):
            if p is not None:
                places.setdefault(p, []).append((name, axis))
    sizes = {p: a[found[0][0]].shape[found[0][1]] for p, found in places.items()}
    perms = {p: torch.arange(n) for p, n in sizes.items()}
    generator, names = torch.Generator().manual_seed(seed), list(places)
    sweep = 0
    while sweep < max_sweeps:
        sweep += 1
        gained = False
        for k in torch.randperm(len(names), generator=generator).tolist():
            p = names[k]
            gram = torch.zeros(sizes[p], sizes[p])
            for name, axis in places[p]:
                moved = permuted(spec, perms, name, b[name], but=axis)
                x, y = (t.movedim(axis, 0).reshape(sizes[p], -1) for t in (a[name], moved))
                gram += x @ y.T
            new = torch.from_numpy(linear_sum_assignment(gram.numpy(), maximize=True)[1])
            rows = torch.arange(sizes[p])
            old_value, new_value = gram[rows, perms[p]].double().sum(), gram[rows, new].double().sum()
            gained |= bool(new_value > old_value + 1e-12)
            perms[p] = new
        if not gained:
            break
    return perms, sweep


def objective(spec: Spec, a: Mapping[str, Tensor], b: Mapping[str, Tensor], perms: Mapping[str, Tensor]) -> float:
    """The sum over parameters of <a, permuted b>, in double precision."""
    return sum(float((a[n].double() * permuted(spec, perms, n, b[n]).double()).sum()) for n in spec)
