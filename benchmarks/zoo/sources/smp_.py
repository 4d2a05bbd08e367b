"""segmentation_models_pytorch: every decoder on small encoders, without weights.

    pip install --no-deps --target /tmp/zoo-packages segmentation_models_pytorch
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.zoo.entry import Entry
from tests.zoo import import_torchvision

DECODERS = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "PAN", "UPerNet",
            "Segformer", "DPT")  # fmt: skip
#: Encoders that are tried below a U-Net too.
ENCODERS = ("mobilenet_v2", "efficientnet-b0", "timm-mobilenetv3_small_minimal_100", "densenet121", "vgg11_bn", "mit_b0",
            "mobileone_s0", "resnext50_32x4d", "se_resnet50", "dpn68",
            "xception", "tu-convnext_atto", "tu-regnety_002")  # fmt: skip
#: Options of a decoder.
OPTIONS: dict[str, dict[str, Any]] = {
    "Unet": {"decoder_attention_type": "scse"}, "DPT": {"encoder_name": "tu-vit_tiny_patch16_224"},
}  # fmt: skip


def entries(full: bool) -> Sequence[Entry]:
    """Every decoder on resnet18, and a U-Net on every encoder; ``full`` adds an FPN on each."""
    import_torchvision()
    import segmentation_models_pytorch as smp

    return [Entry(*names, _builder(getattr(smp, names[1]), encoder, options), _inputs)
            for names, encoder, options in _specs(full)]  # fmt: skip


def _specs(full: bool) -> Iterator[tuple[tuple[str, str], str, dict[str, Any]]]:
    """Name and decoder, encoder, options."""
    for decoder in DECODERS:
        options = dict(OPTIONS.get(decoder, {}))
        encoder = options.pop("encoder_name", "resnet18")
        yield (f"{decoder}-{encoder}", decoder), encoder, options
    for decoder in ("Unet", "FPN")[: 1 + full]:
        for encoder in ENCODERS:
            yield (f"{decoder}-{encoder}", decoder), encoder, {}


def _builder(kind: Callable[..., nn.Module], encoder: str, options: dict[str, Any]) -> Callable[[], nn.Module]:
    return lambda: kind(encoder_name=encoder, encoder_weights=None, classes=3, **options)


def _inputs(model: nn.Module) -> torch.Tensor:
    size = {"DPT": 224, "PAN": 128}.get(type(model).__name__, 64)
    return torch.randn(1, 3, size, size)
