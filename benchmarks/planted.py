"""A planted permutation: model b is a random element of model a's group, and noise, and the permutation is to be found.

Part of matching.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

import autoperm
from autoperm.demo.data import Split
from autoperm.demo.training import reset_norms
from benchmarks.paper import report
from benchmarks.torchvision_nets import fresh, spec_of

#: Of the noise, in standard deviations of each tensor.
NOISE = 0.1
#: For activation matching on a planted permutation: pixels, and batches of 8 images.
PIXELS, BATCHES = {"swin_t": 224, "vgg16_bn": 64}, {"vgg16_bn": 160}


def rows(name: str, quick: bool) -> Iterator[dict[str, object]]:
    size = PIXELS.get(name, 128)
    a = fresh(name, 0, **({"image_size": size} if name == "vit_b_16" else {}))
    spec, generator = spec_of(a, size), torch.Generator().manual_seed(2)
    data = [images(8, size, generator) for _ in range(1 if quick else BATCHES.get(name, 6))]
    settle(a, data)
    element = spec.random(1)
    b, wanted = element.apply(a), element.inverse()
    with torch.no_grad():
        for parameter in b.parameters():
            if parameter.numel() > 1:
                parameter += NOISE * parameter.std() * torch.randn(parameter.shape, generator=generator)
    settle(b, data)
    activation = {"method": "activation", "data": data}
    for method, more in {"weight": {}, "activation": activation, "activation, rounds": {**activation, "rounds": 10}}.items():
        found, seconds = report.timed(lambda more=more: autoperm.match(a, b, spec, progress=False, **more))
        right = [int((x == y).sum()) for x, y in zip(found.permutation.arrays, wanted.arrays, strict=True)]
        total = sum(array.size for array in wanted.arrays)
        yield {
            "model": name,
            "method": method,
            "recovered": "exactly" if found.permutation == wanted else f"{sum(right)} of {total} positions",
            "groups": len(spec.groups),
            "further rounds": len(found.history) - 2 if "rounds" in more else "",
            "CPU seconds": f"{seconds:.1f}",
        }


def settle(model: nn.Module, data: Sequence[torch.Tensor]) -> None:
    """Take the statistics of BatchNorm on data, as those of a trained model are."""
    if any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        reset_norms(model, Split(torch.cat(list(data)), torch.zeros(0)))


def images(count: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Noise of all scales, of a contrast and colour that differ from image to image; shape (count, 3, size, size)."""
    total, scale = torch.zeros(count, 3, size, size), size
    while scale >= 7:
        noise = torch.randn(count, 3, scale, scale, generator=generator)
        total += nn.functional.interpolate(noise, size=(size, size), mode="bilinear")
        scale //= 2
    contrast, colour = (torch.randn(count, n, 1, 1, generator=generator) for n in (1, 3))
    return total * (contrast / 2).exp() + colour
