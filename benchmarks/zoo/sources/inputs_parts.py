"""Example inputs of architectures of transformers with several parts, or with inputs of their own kind, by model type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.zoo.sources.tiny_inputs import ones, patches, r, tokens, with_grid, with_images


def _positions(side: int) -> Tensor:
    """Column and row of each patch of a square image."""
    at = torch.arange(side * side)
    return torch.stack([at % side, at // side], -1)[None]


def _prefixed(config: Any) -> dict[str, Any]:
    """Actions, after text with an image."""
    vlm = config.vlm_config
    return {"action_embeds": r(1, 5, config.dit_config.hidden_size), "pixel_values": r(1, 1, 3, 32, 32),
            "input_ids": with_images(vlm, 16, "image_token_id"), "pixel_attention_mask": ones(1, 1).bool()}  # fmt: skip


def _tasks(config: Any) -> dict[str, Any]:
    """An image, words for two classes, and a task."""
    return {"pixel_values": r(1, 3, 64, 64), "classes_input_ids": tokens(5, 2), "classes_attention_mask": ones(2, 5),
            "tasks_input_ids": tokens(6, 1), "tasks_attention_mask": ones(1, 6),
            "classes_structure": torch.tensor([2])}  # fmt: skip


def _stripe(config: Any) -> dict[str, Any]:
    """The 16 patches of an image side by side, and how many rows and columns they were."""
    n = config.patch_size
    return {"pixel_values": r(1, 3, n, 16 * n), "target_sizes": torch.tensor([[4, 4]], dtype=torch.int32)}


def _with_stripe(config: Any) -> dict[str, Any]:
    ids = with_images(config, 1, "image_token_id")
    return {**_stripe(config.vision_config), "input_ids": ids, "mm_token_type_ids": (ids == config.image_token_id).long()}


def _squares(config: Any) -> dict[str, Any]:
    """A square of pixels per token."""
    n = config.patch_size * config.spatial_merge_size
    return {"pixel_values": r(4, n, n, 3), "image_grid_thw": torch.tensor([[1, 2, 2]])}


def _tubes(config: Any) -> dict[str, Any]:
    return {"pixel_values": r(16, 3, config.patch_size, config.patch_size), "grid_thw": torch.tensor([[1, 4, 4]])}


def _stacked(config: Any) -> dict[str, Any]:
    """Frames of a spectrogram, several to a step."""
    n = config.num_stacked_frames * config.num_mel_bins
    return {"input_features": r(1, 20, n), "input_features_mask": ones(1, 20)}


def _with_tubes(config: Any) -> dict[str, Any]:
    """Text with an image of patches, each a square."""
    n = config.vision_config.patch_size
    ids = with_images(config, 16 // config.vision_config.spatial_merge_size**2, "image_token_id")
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": r(16, 3, n, n),
            "image_grid_thw": torch.tensor([[1, 4, 4]]),
            "mm_token_type_ids": (ids == config.image_token_id).long()}  # fmt: skip


def _pointed(size: int) -> dict[str, Any]:
    """An image with a point in it."""
    return {"pixel_values": r(1, 3, size, size), "input_points": torch.tensor([[[[5.0, 9.0]]]]), "input_labels": ones(1, 1, 1)}


def _followed(size: int) -> dict[str, Any]:
    """Two frames, and a point in the first."""
    return {"pixel_values_videos": r(2, 3, size, size), "input_points": torch.tensor([[[[5.0, 9.0]]]])}


#: Model type -> inputs from the configuration. Those that a model's forward lacks are left out.
PARTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "dia": lambda c: {"input_ids": tokens(), "decoder_input_ids": tokens(5 * c.decoder_config.num_channels).view(2, 5, -1)},
    "gemma3n_audio": lambda c: {"audio_mel": r(1, 40, c.input_feat_size), "audio_mel_mask": torch.zeros(1, 40).bool()},
    "gemma3n": lambda c: {"input_ids": tokens(batch=1), "input_features": r(1, 40, c.audio_config.input_feat_size),
                          "input_features_mask": ones(1, 40).bool()},
    "muse_glimmer_assistant": lambda c: {"noise_embeds": r(1, 8, c.hidden_size),
                                         "context_hidden_states": r(1, 5, c.hidden_size * len(c.target_layer_ids))},
    "pi0": _prefixed, "omdet-turbo": _tasks, "fun_asr_nano_encoder": _stacked, "inkling2_vision": _squares,
    **dict.fromkeys(["minicpm_ocr_vision", "minicpmv4_7_vision"], _stripe), "kimi_k25_vision": _tubes,
    "gemma4_vision": lambda c: {"pixel_values": r(1, 36, 3 * c.patch_size**2), "pixel_position_ids": _positions(6)},
    **dict.fromkeys(["lightglue", "efficientloftr"], lambda c: {"pixel_values": r(1, 2, 3, 64, 64)}),
    "granite_speech5_encoder": lambda c: {"input_features": r(1, 32, 4 * c.num_mel_bins)},
    "granite_speech5_ctc": lambda c: {"input_features": r(1, 32, 4 * c.encoder_config.num_mel_bins)},
    "muse_spark_audio": lambda c: {"input_values": r(1, 3840)},
    "musicgen_melody": lambda c: {"input_ids": tokens(batch=1), "decoder_input_ids": tokens(4, c.decoder.num_codebooks)},
    "clvp": lambda c: {"input_ids": tokens(batch=1), "input_features": r(1, c.decoder_config.feature_size, 12)},
    "pe_audio": lambda c: {"input_ids": tokens(batch=1), "input_values": r(1, 1, 2048)},
    "pe_audio_encoder": lambda c: {"input_values": r(1, 1, 2048)},
    "pe_video": lambda c: {"input_ids": tokens(batch=1), "pixel_values_videos": r(1, 4, 3, 32, 32)},
    "pe_video_encoder": lambda c: {"pixel_values_videos": r(1, 4, 3, 32, 32)},
    "pe_audio_video": lambda c: {"input_ids": tokens(batch=1), "input_values": r(1, 1, 2048),
                                 "pixel_values_videos": r(1, 4, 3, 32, 32)},
    "pe_audio_video_encoder": lambda c: {"input_values": r(1, 1, 2048), "pixel_values_videos": r(1, 4, 3, 32, 32)},
    "neucodec": lambda c: {"input_values": r(1, 1, 1600),
                           "input_features": r(1, 5, c.semantic_model_config.feature_projection_input_dim)},
    "xcodec2": lambda c: {"input_values": r(1, 1, 1600),
                          "input_features": r(1, 5, c.semantic_model_config.feature_projection_input_dim)},
    "xcodec": lambda c: {"input_values": r(1, 1, 1600)},
    **dict.fromkeys(["vibevoice_acoustic_tokenizer", "vibevoice_acoustic_tokenizer_encoder"],
                    lambda c: {"input_values": r(1, 1, 3200), "hidden_states": r(1, 1, 3200)}),
    "video_llama_3_vision": lambda c: {**dict(zip(("pixel_values", "grid_thw"), patches(c), strict=True)),
                                       "merge_sizes": torch.tensor([2])},
    "videoprism": lambda c: {"input_ids": tokens(batch=1), "pixel_values_videos": r(1, 4, 3, 32, 32)},
    "xclip": lambda c: {"input_ids": tokens(batch=1), "pixel_values": r(1, 4, 3, 32, 32)},
    "tvp": lambda c: {"input_ids": tokens(batch=1), "pixel_values": r(1, 2, 3, 64, 64), "attention_mask": ones(1, 8)},
    "qwen3_asr_encoder": lambda c: {"input_features": r(1, c.num_mel_bins, 200), "input_features_mask": ones(1, 200)},
    "qwen3_asr": lambda c: {"input_features": r(1, c.audio_config.num_mel_bins, 200), "input_features_mask": ones(1, 200),
                            "input_ids": tokens(batch=1)},
    "voxtral_realtime": lambda c: {"input_features": r(1, c.audio_config.num_mel_bins, 64), "input_ids": tokens(batch=1)},
    **dict.fromkeys(["sam2", "edgetam"], lambda c: _pointed(64)), "sam3_tracker": lambda c: _pointed(32),
    **dict.fromkeys(["sam2_video", "edgetam_video"], lambda c: _followed(64)), "sam3_tracker_video": lambda c: _followed(32),
    "glm_image_vqmodel": lambda c: {"hidden_states": r(1, c.latent_channels, 4, 4)},
    "evolla": lambda c: {"input_ids": tokens(), "protein_input_ids": tokens(6), "protein_attention_mask": ones(2, 6)},
    "mllama": lambda c: {"input_ids": tokens(batch=1), "pixel_values": r(1, 1, 4, 3, 32, 32), "aspect_ratio_ids": ones(1, 1),
                         "aspect_ratio_mask": ones(1, 1, 4), "cross_attention_mask": ones(1, 8, 1, 4)},
    "deepseek_vl_hybrid": lambda c: {"input_ids": tokens(batch=1), "pixel_values": r(1, 3, 32, 32),
                                     "high_res_pixel_values": r(1, 3, 32, 32)},
    "fun_asr_nano": lambda c: {**_stacked(c.audio_config), "input_ids": tokens(batch=1)},
    "kimi_k25": lambda c: {"input_ids": tokens(batch=1), "pixel_values": r(16, 3, 8, 8),
                           "image_grid_thw": torch.tensor([[1, 4, 4]])},
    "granite_docling": lambda c: {"input_ids": tokens(batch=1), "pixel_values": r(1, 1, 3, 32, 32),
                                  "pixel_attention_mask": ones(1, 1).bool()},
    "qwen2_audio": lambda c: {"input_ids": with_images(c, 1, "audio_token_index"),
                              "input_features": r(1, c.audio_config.num_mel_bins, 128), "feature_attention_mask": ones(1, 128),
                              "attention_mask": ones(1, 7)},
    "video_llama_3": lambda c: {**with_grid(c), "image_merge_sizes": torch.tensor([2])},
    "luke": lambda c: {"input_ids": tokens(), "entity_ids": ones(2, 2), "entity_attention_mask": ones(2, 2),
                       "entity_position_ids": torch.tensor([[[1, 2, -1], [4, -1, -1]]] * 2)},
    "kyutai_speech_to_text": lambda c: {"input_ids": tokens(8 * (c.num_codebooks + 1), 1).view(1, 8, -1)},
    "voxtral_realtime_text": lambda c: {"input_ids": tokens(), "t_cond": r(1, 1, c.hidden_size)},
    **dict.fromkeys(["minicpm_ocr", "minicpmv4_6", "minicpmv4_7"], _with_stripe),
    "paddleocr_vl": _with_tubes,
}  # fmt: skip
