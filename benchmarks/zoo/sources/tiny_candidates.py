"""Example inputs for an architecture of transformers: from the names that its forward takes, the first that run."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.sources.inputs_parts import PARTS
from benchmarks.zoo.sources.tiny_inputs import INPUTS, LENGTH, gridded, naflex, r, tokens, with_grid, with_places

#: Where a configuration says how many features a step of its input has.
_BINS = ("num_mel_bins", "feature_projection_input_dim", "feat_in", "input_feat_per_channel", "feature_size", "hidden_size")
#: What a forward takes among its further keywords.
_KEYWORDS = ("t_cond",)
#: What models say where text lacks places for an image or a sound.
_PLACES = re.compile(r"(image|video|audio|multimodal).*?tokens?\D*(\d+)\D+features?\D*(\d+)", re.IGNORECASE | re.DOTALL)


def inputs_of(model: nn.Module) -> dict[str, Any]:
    """The first inputs on which the model runs; the first of all if it runs on none."""
    first = None
    for found in _candidates(model):
        first = found if first is None else first
        fitted = _fitted(model, found)
        if fitted is not None:
            return fitted
    return first or {}


def _fitted(model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any] | None:
    """Inputs on which the model runs, with as many places in the text as it asks for; None if it does not run."""
    error = _error(model, inputs)
    if error is None:
        return inputs
    asked = _PLACES.search(str(error)) if "input_ids" in inputs else None
    if asked:
        kind, n = asked[1].lower().replace("multimodal", "image"), int(asked[3])
        text: Any = getattr(model.config, "text_config", None) or model.config
        for places in (n, n // getattr(text, "hidden_size", n)):  # some count features, some their numbers
            found = with_places(model.config, places, kind, inputs)
            if found and _error(model, found) is None:
                return found
    return None


@torch.no_grad()
def _error(model: nn.Module, inputs: dict[str, Any]) -> Exception | None:
    try:
        model(**inputs)
    except Exception as error:
        return error
    return None


def _candidates(model: nn.Module) -> Iterator[dict[str, Any]]:
    names = list(inspect.signature(model.forward).parameters)
    config: Any = model.config
    main: Any = getattr(model, "main_input_name", "input_ids")
    main = main if isinstance(main, str) else main[0]
    special = INPUTS.get(config.model_type) or PARTS.get(config.model_type)
    if special:
        yield {name: value for name, value in special(config).items() if name in names or name in _KEYWORDS}
    if "grid_thw" in names:
        yield gridded(config, names[0])
    if {"image_grid_thw", "pixel_values", "input_ids"} <= set(names) and getattr(config, "image_token_id", None):
        yield {name: value for name, value in with_grid(config).items() if name in names}
    yield from _general(config, names, main)
    yield {main: tokens()}


def _general(config: Any, names: Sequence[str], main: str) -> Iterator[dict[str, Any]]:
    """Tokens, images, sounds, and tokens with images or sounds."""

    def answers(batch: int) -> dict[str, Tensor]:
        return {"decoder_input_ids": tokens(5, batch)} if "decoder_input_ids" in names else {}

    if "pixel_values" in names and "input_ids" in names:
        for pixels in _images(config):
            yield {"input_ids": tokens(batch=1), "pixel_values": pixels, **answers(1)}
        if "image_sizes" in names:  # an image alone, and one that is cut to tiles
            for shape in ((1, 3, 32, 32), (1, 2, 3, 32, 32), (1, 3, 3, 32, 32)):
                sizes = torch.tensor([[32, 32 if shape[1] < 3 else 64]]) if len(shape) > 4 else torch.tensor([[32, 32]])
                yield {"input_ids": tokens(batch=1), "pixel_values": r(*shape), "image_sizes": sizes}
        if "spatial_shapes" in names:
            yield {"input_ids": tokens(batch=1), **naflex(config)}
    if "input_features" in names and "input_ids" in names:
        for value in _sequences(getattr(config, "audio_config", None) or config):
            for masks in (*_masks(names, value), {}):
                yield {"input_ids": tokens(batch=1), "input_features": value, **answers(1), **masks}
    if "input_ids" in names:
        yield {"input_ids": tokens(), **answers(2)}
        yield {"input_ids": tokens()}
    for name in ("pixel_values", "pixel_values_videos"):
        if name in names or main == name:
            for pixels in _images(config):
                yield {name: pixels, **answers(len(pixels))}
    for name in ("input_values", "input_features", "inputs_embeds", "hidden_states", main):
        if name in names:
            for value in sorted(_sequences(config), key=lambda v: name == "input_values" and v.shape[-1] < 1000):
                for masks in ({}, *_masks(names, value)):
                    yield {name: value, **answers(len(value)), **masks}


def _masks(names: Sequence[str], value: Tensor) -> Iterator[dict[str, Tensor]]:
    """Masks of nothing for a sound, with its time last or before."""
    masks = [n for n in names if n.endswith(("features_mask", "feature_attention_mask"))]
    for length in dict.fromkeys((value.shape[-1], value.shape[1])) if masks else ():
        yield {name: torch.ones(1, length, dtype=torch.long) for name in masks}


def _images(config: Any) -> Iterator[Tensor]:
    """Images, square, of the size that the configuration says and larger; videos."""
    vision = getattr(config, "vision_config", None) or getattr(config, "backbone_config", None) or config
    size, channels = getattr(vision, "image_size", 32), getattr(vision, "num_channels", 3)
    sizes = [size if isinstance(size, int) else size[0] if isinstance(size, list | tuple) else 32, 64, 128]
    for n in dict.fromkeys(sizes):
        yield torch.randn(1, channels if isinstance(channels, int) else 3, n, n)
    frames = getattr(vision, "num_frames", 4)
    yield torch.randn(1, frames if isinstance(frames, int) else 4, 3, sizes[0], sizes[0])


def _sequences(config: Any) -> Iterator[Tensor]:
    """Spectrograms both ways round, waves, vectors."""
    parts = [config, *(getattr(config, name, None) for name in ("audio_config", "encoder_config", "asr_config"))]
    bins = next((n for n in (getattr(part, name, None) for name in _BINS for part in parts) if isinstance(n, int)), 16)
    yield torch.randn(1, 40, bins)
    yield torch.randn(1, bins, 40)
    yield torch.randn(1, bins, 128)
    yield torch.randn(1, 1600)
    yield torch.randn(1, 1, 1600)
    length = getattr(config, "max_length", 64)
    yield torch.randn(1, length if isinstance(length, int) else 64, bins)
    yield torch.randn(2, LENGTH, getattr(config, "hidden_size", 32))
