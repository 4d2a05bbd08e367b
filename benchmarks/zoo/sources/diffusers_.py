"""diffusers: UNets, autoencoders and transformers of images and videos.

The UNets of Stable Diffusion 1.5 and XL are traced at full size on the meta device; the others, and small versions of
those two, are verified.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.entry import Entry
from tests.zoo import import_torchvision

_SD15 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
_XL = {
    "sample_size": 128, "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "transformer_layers_per_block": (1,
        2, 10),
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
}  # fmt: skip
_SMALL_UNET = {"sample_size": 8, "block_out_channels": (8, 16, 16, 16), "norm_num_groups": 4, "cross_attention_dim": 12,
               "attention_head_dim": 4}  # fmt: skip
_SMALL_XL = {**_XL, "sample_size": 8, "block_out_channels": (8, 16, 24), "norm_num_groups": 4,
        "cross_attention_dim": 12,
             "attention_head_dim": (2, 4, 4), "transformer_layers_per_block": (1, 1, 2), "addition_time_embed_dim": 8,
             "projection_class_embeddings_input_dim": 6 * 8 + 10}  # fmt: skip
_VAE = {"block_out_channels": (8, 16), "norm_num_groups": 4, "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2}  # fmt: skip
_HEADS = {"num_attention_heads": 4, "attention_head_dim": 12, "num_layers": 2}


def r(*shape: int) -> Tensor:
    return torch.randn(shape)


def _t() -> Tensor:
    return torch.tensor([3])


def _xl_inputs(size: int, text: int, pooled: int) -> dict[str, Any]:
    added = {"text_embeds": r(1, pooled), "time_ids": torch.ones(1, 6) * 3}
    return {"sample": r(1, 4, size, size), "timestep": _t(), "encoder_hidden_states": r(1, 7, text), "added_cond_kwargs": added}


def _unet_inputs(size: int, text: int) -> dict[str, Any]:
    return {"sample": r(1, 4, size, size), "timestep": _t(), "encoder_hidden_states": r(1, 7, text)}


#: Name -> class, options, inputs.
MODELS: dict[str, tuple[str, dict[str, Any], Callable[[], dict[str, Any]]]] = {
    "sd15-unet-full": ("UNet2DConditionModel", _SD15, lambda: _unet_inputs(64, 768)),
    "sdxl-unet-full": ("UNet2DConditionModel", _XL, lambda: _xl_inputs(128, 2048, 1280)),
    "sd15-unet": ("UNet2DConditionModel", _SMALL_UNET, lambda: _unet_inputs(8, 12)),
    "sdxl-unet": ("UNet2DConditionModel", _SMALL_XL, lambda: _xl_inputs(8, 12, 10)),
    "ddpm-unet": ("UNet2DModel", {"sample_size": 16, "block_out_channels": (8, 16), "norm_num_groups": 4,
                  "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D",
                  "UpBlock2D"),
                  "attention_head_dim": 4}, lambda: {"sample": r(1, 3, 16, 16), "timestep": _t()}),
    "unet-1d": ("UNet1DModel", {"sample_size": 16, "in_channels": 2, "out_channels": 2, "block_out_channels": (16, 32),
                "extra_in_channels": 32, "down_block_types": ("DownBlock1DNoSkip", "DownBlock1D"),
                "up_block_types": ("UpBlock1D", "UpBlock1DNoSkip")}, lambda: {"sample": r(1, 2, 16), "timestep": _t()}),
    "unet-3d": ("UNet3DConditionModel", {**_SMALL_UNET, "block_out_channels": (8, 16),
                "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"), "up_block_types": ("UpBlock3D",
                "CrossAttnUpBlock3D")},
                lambda: {"sample": r(1, 4, 3, 8, 8), "timestep": _t(), "encoder_hidden_states": r(1, 7, 12)}),
    "svd-unet": ("UNetSpatioTemporalConditionModel", {"sample_size": 8, "block_out_channels": (32, 64), "num_frames": 2,
                 "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
                 "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
                 "num_attention_heads": (4, 8),
                 "cross_attention_dim": 12, "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 24},
                 lambda: {"sample": r(1, 2, 8, 8, 8), "timestep": _t(), "encoder_hidden_states": r(1, 1, 12),
                          "added_time_ids": torch.ones(1, 3)}),
    "controlnet": ("ControlNetModel", {**{k: v for k, v in _SMALL_UNET.items() if k != "sample_size"},
                   "conditioning_embedding_out_channels": (4, 8)},
                   lambda: {**_unet_inputs(8, 12), "controlnet_cond": r(1, 3, 16, 16)}),
    "vae-kl": ("AutoencoderKL", _VAE, lambda: {"sample": r(1, 3, 16, 16)}),
    "vae-tiny": ("AutoencoderTiny", {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8),
                 "num_encoder_blocks": (1, 2), "num_decoder_blocks": (2, 1)}, lambda: {"sample": r(1, 3, 16, 16)}),
    "vae-vq": ("VQModel", {**_VAE, "num_vq_embeddings": 16}, lambda: {"sample": r(1, 3, 16, 16)}),
    "vae-temporal": ("AutoencoderKLTemporalDecoder", {"block_out_channels": (32, 64), "down_block_types":
                     ("DownEncoderBlock2D",) * 2}, lambda: {"sample": r(2, 3, 16, 16), "num_frames": 2}),
    "vae-dc": ("AutoencoderDC", {"latent_channels": 4, "attention_head_dim": 4, "encoder_block_types": ("ResBlock",
               "EfficientViTBlock"), "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
               "encoder_block_out_channels": (8, 16),
               "decoder_block_out_channels": (8, 16), "encoder_layers_per_block": (1, 1),
               "decoder_layers_per_block": (1, 1),
               "encoder_qkv_multiscales": ((), (5,)), "decoder_qkv_multiscales": ((), (5,))}, lambda: {"sample": r(1,
               3, 16, 16)}),
    "vae-wan": ("AutoencoderKLWan", {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 2], "num_res_blocks": 1,
                "temperal_downsample": [False], "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4},
                lambda: {"sample": r(1, 3, 1, 16, 16)}),
    "dit": ("DiTTransformer2DModel", {**_HEADS, "sample_size": 8, "norm_num_groups": 4, "num_embeds_ada_norm": 20},
            lambda: {"hidden_states": r(1, 4, 8, 8), "timestep": _t(), "class_labels": torch.tensor([2])}),
    "pixart": ("PixArtTransformer2DModel", {**_HEADS, "sample_size": 8, "cross_attention_dim": 48,
        "caption_channels": 10},
               lambda: {"hidden_states": r(1, 4, 8, 8), "timestep": _t(), "encoder_hidden_states": r(1, 7, 10),
                        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}),
    "sd3": ("SD3Transformer2DModel", {**_HEADS, "sample_size": 8, "in_channels": 4, "out_channels": 4,
        "joint_attention_dim": 20,
            "caption_projection_dim": 48, "pooled_projection_dim": 14, "pos_embed_max_size": 8, "qk_norm": "rms_norm",
            "dual_attention_layers": (0,)}, lambda: {"hidden_states": r(1, 4, 8, 8), "timestep": _t(),
            "encoder_hidden_states": r(1, 7, 20), "pooled_projections": r(1, 14)}),
    "flux": ("FluxTransformer2DModel", {**_HEADS, "in_channels": 8, "num_single_layers": 2, "joint_attention_dim": 20,
             "pooled_projection_dim": 14, "axes_dims_rope": (4, 4, 4), "guidance_embeds": True},
             lambda: {"hidden_states": r(1, 6, 8), "timestep": torch.tensor([0.3]), "encoder_hidden_states": r(1, 7,
             20),
                      "pooled_projections": r(1, 14), "img_ids": r(6, 3), "txt_ids": r(7, 3),
                      "guidance": torch.tensor([1.0])}),
    "auraflow": ("AuraFlowTransformer2DModel", {"sample_size": 8, "num_mmdit_layers": 1, "num_single_dit_layers": 1,
                 "attention_head_dim": 8, "num_attention_heads": 4, "joint_attention_dim": 20,
                 "caption_projection_dim": 32,
                 "pos_embed_max_size": 16}, lambda: {"hidden_states": r(1, 4, 8, 8), "timestep": torch.tensor([0.3]),
                 "encoder_hidden_states": r(1, 7, 20)}),
    "sana": ("SanaTransformer2DModel", {**_HEADS, "in_channels": 4, "out_channels": 4, "num_cross_attention_heads": 4,
             "cross_attention_head_dim": 12, "cross_attention_dim": 48, "caption_channels": 10, "sample_size": 8},
             lambda: {"hidden_states": r(1, 4, 8, 8), "timestep": _t(), "encoder_hidden_states": r(1, 7, 10)}),
    "lumina2": ("Lumina2Transformer2DModel", {"sample_size": 8, "in_channels": 4, "hidden_size": 24, "num_layers": 2,
                "num_refiner_layers": 1, "num_attention_heads": 4, "num_kv_heads": 2, "multiple_of": 16,
                "axes_dim_rope": (2, 2, 2),
                "axes_lens": (32, 16, 16), "cap_feat_dim": 10}, lambda: {"hidden_states": r(1, 4, 8, 8), "timestep":
                torch.tensor([0.3]), "encoder_hidden_states": r(1, 7, 10), "encoder_attention_mask": torch.ones(1,
                7).bool()}),
    "qwen-image": ("QwenImageTransformer2DModel", {**_HEADS, "in_channels": 8, "out_channels": 2,
        "joint_attention_dim": 20,
                   "axes_dims_rope": (4, 4, 4)}, lambda: {"hidden_states": r(1, 6, 8), "encoder_hidden_states": r(1,
                   7, 20),
                   "encoder_hidden_states_mask": torch.ones(1, 7).bool(), "timestep": torch.tensor([0.3]),
                   "img_shapes": [(1, 2, 3)]}),
    "cogvideox": ("CogVideoXTransformer3DModel", {**_HEADS, "in_channels": 4, "out_channels": 4, "time_embed_dim": 10,
                  "text_embed_dim": 20, "sample_width": 8, "sample_height": 8, "sample_frames": 5,
                  "max_text_seq_length": 7},
                  lambda: {"hidden_states": r(1, 2, 4, 8, 8), "encoder_hidden_states": r(1, 7, 20), "timestep": _t()}),
    "ltx-video": ("LTXVideoTransformer3DModel", {**_HEADS, "in_channels": 8, "out_channels": 8,
        "cross_attention_dim": 48,
                  "caption_channels": 10}, lambda: {"hidden_states": r(1, 8, 8), "encoder_hidden_states": r(1, 7,
                  10), "timestep":
                  _t(), "encoder_attention_mask": torch.ones(1, 7), "num_frames": 2, "height": 2, "width": 2}),
    "wan": ("WanTransformer3DModel", {**_HEADS, "in_channels": 4, "out_channels": 4, "text_dim": 20, "freq_dim": 16,
        "ffn_dim": 52},
            lambda: {"hidden_states": r(1, 4, 2, 8, 8), "timestep": _t(), "encoder_hidden_states": r(1, 7, 20)}),
    "hunyuan-video": ("HunyuanVideoTransformer3DModel", {**_HEADS, "in_channels": 4, "out_channels": 4,
        "num_single_layers": 1,
                      "num_refiner_layers": 1, "text_embed_dim": 20, "pooled_projection_dim": 14,
                      "rope_axes_dim": (4, 4, 4)},
                      lambda: {"hidden_states": r(1, 4, 2, 8, 8), "timestep": _t(), "encoder_hidden_states": r(1, 7,
                      20),
                               "encoder_attention_mask": torch.ones(1, 7).bool(), "pooled_projections": r(1, 14),
                               "guidance": torch.tensor([1.0])}),
    "mochi": ("MochiTransformer3DModel", {**_HEADS, "in_channels": 4, "pooled_projection_dim": 16, "text_embed_dim": 24,
              "time_embed_dim": 10, "max_sequence_length": 7}, lambda: {"hidden_states": r(1, 4, 2, 8, 8),
              "timestep": _t(),
              "encoder_hidden_states": r(1, 7, 24), "encoder_attention_mask": torch.ones(1, 7).bool()}),
    "latte": ("LatteTransformer3DModel", {**_HEADS, "in_channels": 4, "out_channels": 8, "sample_size": 8,
        "patch_size": 2,
              "cross_attention_dim": 48, "caption_channels": 10, "video_length": 2, "norm_type": "ada_norm_single",
              "num_embeds_ada_norm": 20, "activation_fn": "gelu-approximate", "norm_elementwise_affine": False}, lambda:
              {"hidden_states": r(1, 4, 2, 8, 8), "timestep": _t(), "encoder_hidden_states": r(1, 7, 10)}),
    "prior": ("PriorTransformer", {**_HEADS, "embedding_dim": 10, "num_embeddings": 7},
        lambda: {"hidden_states": r(1, 10),
              "timestep": _t(), "proj_embedding": r(1, 10), "encoder_hidden_states": r(1, 7, 10)}),
}  # fmt: skip


class Plain(nn.Module):
    """A model whose results come as a tuple."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, **inputs: Any) -> Any:
        return self.model(**inputs, return_dict=False)


def entries(full: bool) -> Sequence[Entry]:
    """All of them; ``full`` makes no difference."""
    import_torchvision()  # diffusers imports it through transformers
    import diffusers

    return [_entry(name, getattr(diffusers, kind), options, inputs)
            for name, (kind, options, inputs) in MODELS.items()]  # fmt: skip


def _entry(name: str, kind: type, options: dict[str, Any], inputs: Callable[[], Any]) -> Entry:
    full = name.endswith("-full")
    family = name.removesuffix("-full")
    return Entry(name, family, lambda: Plain(kind(**options)), lambda model: inputs(), meta=full, counted=False)
