"""Example inputs that an architecture of transformers needs beside tokens and one image, by model type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LENGTH = 8


def tokens(length: int = LENGTH, batch: int = 2) -> Tensor:
    return torch.randint(5, 60, (batch, length), generator=torch.Generator().manual_seed(3))


def r(*shape: int) -> Tensor:
    return torch.randn(shape)


def ones(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.long)


def boxes(batch: int = 2, length: int = LENGTH, scale: int = 50) -> Tensor:
    """Corners of boxes, the lower ones first."""
    low = torch.randint(0, scale // 2, (batch, length, 2), generator=torch.Generator().manual_seed(4))
    return torch.cat([low, low + scale // 3], -1)


def with_images(config: Any, n: int, name: str = "image_token_id") -> Tensor:
    """Tokens of which n in the middle stand for an image."""
    found = tokens(n + 6, 1)
    found[:, 3 : 3 + n] = getattr(config, name)
    return found


def with_places(config: Any, n: int, kind: str, inputs: dict[str, Any]) -> dict[str, Any] | None:
    """Inputs with a text of which n tokens stand for an image, a video or a sound; None if there is no such token."""
    names = (f"{kind}_token_id", f"{kind}_token_index")
    name = next((x for x in names if isinstance(getattr(config, x, None), int)), None)
    if name is None or not 0 < n < 1000:
        return None
    ids = with_images(config, n, name)
    of = {"attention_mask": torch.ones_like(ids), "mm_token_type_ids": (ids == getattr(config, name)).long()}
    return inputs | {"input_ids": ids} | {k: v for k, v in of.items() if k in inputs}


def _series(config: Any) -> dict[str, Any]:
    past, future = config.context_length + max(config.lags_sequence), config.prediction_length
    return {"past_values": r(2, past).abs() + 0.5, "past_time_features": r(2, past, 2), "past_observed_mask": torch.ones(2, past),
            "future_values": r(2, future).abs(), "future_time_features": r(2, future, 2)}  # fmt: skip


def patches(config: Any, grid: tuple[int, int, int] = (1, 4, 4)) -> tuple[Tensor, Tensor]:
    """Rows of pixels, one per patch, and the numbers of patches in time, rows and columns."""
    vision = getattr(config, "vision_config", config)
    channels = next((getattr(vision, n) for n in ("in_channels", "num_channels", "in_chans") if hasattr(vision, n)), 3)
    n = grid[0] * grid[1] * grid[2]
    frames = next((getattr(vision, x) for x in ("temporal_patch_size", "patch_temporal") if hasattr(vision, x)), 1)
    return r(n, channels * frames * vision.patch_size**2), torch.tensor([grid])


def with_grid(config: Any) -> dict[str, Any]:
    """Text with an image of patches."""
    pixels, grid = patches(config)
    n = len(pixels) // getattr(config.vision_config, "spatial_merge_size", 2) ** 2
    ids = with_images(config, n)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels, "image_grid_thw": grid,
            "mm_token_type_ids": (ids == config.image_token_id).long()}  # fmt: skip


def gridded(config: Any, name: str) -> dict[str, Any]:
    """Patches for a tower of images alone."""
    pixels, grid = patches(config)
    return {name: pixels, "grid_thw": grid}


def _queries(config: Any, token: str = "image_token_index", **more: Tensor) -> dict[str, Any]:
    """Text with a place for each query of the bridge between images and text."""
    return {"pixel_values": r(1, 3, 32, 32), "input_ids": with_images(config, config.num_query_tokens, token), **more}


def _detected(config: Any) -> dict[str, Any]:
    return {"pixel_values": r(1, 3, 128, 128), "input_ids": tokens(batch=1)}


def naflex(config: Any) -> dict[str, Any]:
    vision = getattr(config, "vision_config", config)
    pixels = r(1, 16, 3 * vision.patch_size**2)
    return {"pixel_values": pixels, "pixel_attention_mask": ones(1, 16), "spatial_shapes": ones(1, 2) * 4}


def _decisions(config: Any) -> dict[str, Any]:
    steps = torch.arange(4)[None]
    return {"states": r(1, 4, config.state_dim), "actions": r(1, 4, config.act_dim), "rewards": r(1, 4, 1),
            "returns_to_go": r(1, 4, 1), "timesteps": steps, "attention_mask": ones(1, 4)}  # fmt: skip


def _sam(config: Any) -> dict[str, Any]:
    size = config.vision_config.image_size
    return {"pixel_values": r(1, 3, size, size), "input_points": torch.tensor([[[[5.0, 9.0]]]]), "input_labels": ones(1, 1, 1)}


#: Model type -> inputs from the configuration. Those that a model's forward lacks are left out.
INPUTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    **dict.fromkeys(["autoformer", "informer", "time_series_transformer"], _series),
    **dict.fromkeys(["patchtst", "patchtsmixer"], lambda c: {"past_values": r(2, c.context_length, c.num_input_channels)}),
    "timesfm": lambda c: {"past_values": r(2, 16), "past_values_padding": torch.zeros(2, 16).long(), "freq": ones(2, 1)},
    "decision_transformer": _decisions,
    **dict.fromkeys(["bros", "lilt", "layoutlm"], lambda c: {"input_ids": tokens(), "bbox": boxes()}),
    "udop": lambda c: {"input_ids": tokens(), "bbox": boxes() / 100, "decoder_input_ids": tokens(5)},
    "lxmert": lambda c: {"input_ids": tokens(), "visual_feats": r(2, 3, c.visual_feat_dim), "visual_pos": boxes(2, 3) / 100},
    "visual_bert": lambda c: {"input_ids": tokens(), "visual_embeds": r(2, 3, c.visual_embedding_dim)},
    "vilt": lambda c: {"input_ids": tokens(batch=1), "pixel_values": r(1, 3, 32, 32), "pixel_mask": ones(1, 32, 32)},
    "kosmos-2": lambda c: {"pixel_values": r(1, 3, 32, 32), "input_ids": tokens(12, 1),
                           "image_embeds_position_mask": (torch.arange(12) % 12 < c.latent_query_num)[None].long()},
    "idefics": lambda c: {"input_ids": tokens(batch=1), "attention_mask": ones(1, LENGTH), "pixel_values": r(1, 1, 3, 32, 32),
                          "image_attention_mask": ones(1, LENGTH, 1)},
    "blip-2": _queries,
    "instructblip": lambda c: _queries(c, qformer_input_ids=tokens(5, 1)),
    "instructblipvideo": lambda c: {**_queries(c, "video_token_index", qformer_input_ids=tokens(5, 1)),
                                    "pixel_values": r(1, 1, 3, 32, 32)},
    "oneformer": lambda c: {"pixel_values": r(1, 3, 64, 64), "task_inputs": tokens(c.task_seq_len, 1)},
    "seggpt": lambda c: {n: r(1, 3, 32, 32) for n in ("pixel_values", "prompt_pixel_values", "prompt_masks")},
    **dict.fromkeys(["grounding-dino", "mm-grounding-dino"], _detected),
    **dict.fromkeys(["sam", "sam_hq"], _sam),
    **dict.fromkeys(["siglip2", "siglip2_vision_model"], lambda c: {**naflex(c), "input_ids": tokens(batch=1)}),
    "blip_2_qformer": lambda c: {"query_embeds": r(1, 4, c.hidden_size), "encoder_hidden_states": r(1, 5, c.encoder_hidden_size)},
    "speecht5": lambda c: {"input_values": r(1, LENGTH, c.hidden_size), "decoder_input_values": r(1, 5, c.hidden_size)},
    **dict.fromkeys(["encodec", "mimi"], lambda c: {"input_values": r(1, 1, 640)}),
    "clap": lambda c: {"input_ids": tokens(batch=1), "input_features": r(1, 1, 128, 8), "is_longer": torch.tensor([[False]])},
    "musicgen": lambda c: {"input_ids": tokens(batch=1), "decoder_input_ids": tokens(4, 2) % 50},
}  # fmt: skip
