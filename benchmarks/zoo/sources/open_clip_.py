"""open_clip: its towers of images and texts, small, built without weights.

    pip install --no-deps --target /tmp/zoo-packages open_clip_torch ftfy wcwidth
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.zoo.entry import Entry
from tests.zoo import import_torchvision

VOCABULARY, LENGTH, SIZE = 60, 9, 32
_TEXT: dict[str, Any] = {"context_length": LENGTH, "vocab_size": VOCABULARY, "width": 24, "heads": 3, "layers": 2}
_VIT: dict[str, Any] = {"image_size": SIZE, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8}
_RESNET: dict[str, Any] = {"image_size": SIZE, "layers": (1, 1, 1, 1), "width": 8, "patch_size": None}

#: Name -> class, then the options of images, of texts, and others.
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "vit": ("CLIP", _VIT, _TEXT, {}),
    "vit-quickgelu": ("CLIP", _VIT, _TEXT, {"quick_gelu": True}),
    "vit-average": ("CLIP", _VIT | {"pool_type": "avg", "final_ln_after_pool": True}, _TEXT, {}),
    "vit-no-norm": ("CLIP", _VIT | {"no_ln_pre": True, "ls_init_value": 0.1}, _TEXT, {}),
    "vit-attentional": ("CLIP", _VIT | {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 4,
                        "pos_embed_type": "sin_cos_2d"}, _TEXT, {}),
    "vit-siglip": ("CLIP", _VIT, _TEXT | {"no_causal_mask": True, "pool_type": "last", "proj_bias": True},
                   {"init_logit_bias": -10.0}),
    "resnet": ("CLIP", _RESNET, _TEXT, {}),
    "resnet-quickgelu": ("CLIP", _RESNET, _TEXT, {"quick_gelu": True}),
    "timm-vit": ("CustomTextCLIP", {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "timm_proj": "linear",
                 "image_size": 224}, _TEXT, {}),
    "timm-convnext": ("CustomTextCLIP", {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear",
                      "image_size": SIZE}, _TEXT, {}),
    "custom-text": ("CustomTextCLIP", _VIT, _TEXT | {"embed_cls": True, "pad_id": 0, "no_causal_mask": True}, {}),
    "coca": ("CoCa", _VIT | {"attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 4, "output_tokens": True},
             _TEXT | {"embed_cls": True, "output_tokens": True},
             {"multimodal_cfg": {"context_length": LENGTH, "vocab_size": VOCABULARY, "width": 24, "heads": 3, "layers": 2}}),
}  # fmt: skip


def _inputs(size: int) -> dict[str, Any]:
    text = torch.randint(1, VOCABULARY - 1, (2, LENGTH), generator=torch.Generator().manual_seed(3))
    text[:, -2] = VOCABULARY - 1  # the end of a text is its largest token
    return {"image": torch.randn(2, 3, size, size), "text": text}


def entries(full: bool) -> Sequence[Entry]:
    """All of them; ``full`` makes no difference."""
    import_torchvision()
    import open_clip

    def build(kind: str, image: dict[str, Any], text: dict[str, Any], options: dict[str, Any]) -> Callable[[], nn.Module]:
        width = {"embed_dim": 24} if kind == "CoCa" else {"embed_dim": 20}
        return lambda: getattr(open_clip, kind)(**width, vision_cfg=dict(image), text_cfg=dict(text), **options)

    def entry(name: str, spec: tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]) -> Entry:
        size = spec[1]["image_size"]
        return Entry(name, name.split("-")[0], build(*spec), lambda model: _inputs(size), counted=False)

    return [entry(name, spec) for name, spec in MODELS.items()]
