"""transformers: a tiny model of every architecture, bare; with a head for each task too with ``full``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.entry import Entry
from benchmarks.zoo.sources.known import WELL_KNOWN
from benchmarks.zoo.sources.tiny_configs import tiny
from benchmarks.zoo.sources.tiny_inputs import INPUTS, LENGTH, gridded, tokens, with_grid
from tests.zoo import import_torchvision

#: The mappings of transformers to heads, in the order of preference; one per architecture.
HEADS = ("CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "MASKED_LM", "IMAGE_CLASSIFICATION", "SEMANTIC_SEGMENTATION", "CTC",
         "AUDIO_CLASSIFICATION", "OBJECT_DETECTION", "VIDEO_CLASSIFICATION", "DEPTH_ESTIMATION", "TOKEN_CLASSIFICATION",
         "QUESTION_ANSWERING")  # fmt: skip
#: Where AutoModel cannot make the model from its configuration alone.
CLASSES = {"funnel": "FunnelModel", "musicgen": "MusicgenForConditionalGeneration",
           "musicgen_melody": "MusicgenMelodyForConditionalGeneration"}  # fmt: skip
#: Where a configuration says how many features a step of its input has.
_BINS = ("num_mel_bins", "feature_projection_input_dim", "feat_in", "input_feat_per_channel", "feature_size", "hidden_size")
_RANK = {t: k for k, t in enumerate(WELL_KNOWN)}


def entries(full: bool) -> Sequence[Entry]:
    """Bare models, well-known ones first; ``full`` adds one with the first head that an architecture has."""
    import_torchvision()  # transformers imports it
    import transformers
    from transformers.models.auto import modeling_auto

    transformers.logging.set_verbosity_error()
    types = sorted(modeling_auto.MODEL_MAPPING_NAMES, key=lambda t: _RANK.get(t, len(_RANK)))
    found = [Entry(t, t, _named(t, CLASSES[t]) if t in CLASSES else _bare(t), _inputs, counted=False) for t in types]
    return [*found, *_with_heads(modeling_auto)] if full else found


def _with_heads(modeling_auto: Any) -> Iterator[Entry]:
    seen: set[str] = set()
    for task in HEADS:
        for model_type, name in getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES").items():
            if model_type not in seen:
                seen.add(model_type)
                name = name if isinstance(name, str) else name[0]
                yield Entry(f"{model_type}-{task.lower()}", model_type, _named(model_type, name), _inputs, counted=False)


def _bare(model_type: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from transformers import AutoModel
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        return AutoModel.from_config(tiny(CONFIG_MAPPING[model_type], model_type))

    return build


def _named(model_type: str, name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        kind = getattr(transformers, name)
        return kind(_part(tiny(CONFIG_MAPPING[model_type], model_type), kind.config_class))

    return build


def _part(config: Any, kind: type) -> Any:
    """The part of a configuration that a class takes: its text, for a language model."""
    parts = [config, *(getattr(config, name, None) for name in type(config).sub_configs or {})]
    return next((part for part in parts if type(part) is kind), config)


def _inputs(model: nn.Module) -> Any:
    """The first inputs on which the model runs; the first of all if it runs on none."""
    tried = list(_candidates(model))
    return next((x for x in tried if _runs(model, x)), tried[0])


def _candidates(model: nn.Module) -> Iterator[dict[str, Any]]:
    names = list(inspect.signature(model.forward).parameters)
    config = model.config
    main = getattr(model, "main_input_name", "input_ids")
    main = main if isinstance(main, str) else main[0]
    if config.model_type in INPUTS:
        yield {name: value for name, value in INPUTS[config.model_type](config).items() if name in names}
    if "grid_thw" in names:
        yield gridded(config, names[0])
    if {"image_grid_thw", "pixel_values", "input_ids"} <= set(names) and getattr(config, "image_token_id", None):
        yield {name: value for name, value in with_grid(config).items() if name in names}
    yield from _general(config, names, main)
    yield {main: tokens()}


def _general(config: Any, names: Sequence[str], main: str) -> Iterator[dict[str, Any]]:
    """Tokens, images, sounds, and tokens with images."""
    more = {"decoder_input_ids": tokens(5)} if "decoder_input_ids" in names else {}
    if "pixel_values" in names and "input_ids" in names:
        for pixels in _images(config):
            yield {"input_ids": tokens(batch=1), "pixel_values": pixels, **({"decoder_input_ids": tokens(5, 1)} if more else {})}
    if "input_ids" in names:
        yield {"input_ids": tokens(), **more}
        yield {"input_ids": tokens()}
    for name in ("pixel_values", "pixel_values_videos"):
        if name in names or main == name:
            for pixels in _images(config):
                yield {name: pixels, **more}
    for name in ("input_values", "input_features", "inputs_embeds", "hidden_states", main):
        if name in names:
            for value in sorted(_sequences(config), key=lambda v: name == "input_values" and v.shape[-1] < 1000):
                yield {name: value, **more}
                if "input_features_mask" in names:
                    yield {name: value, "input_features_mask": torch.ones(1, value.shape[-1], dtype=torch.long), **more}


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
    bins = next((n for n in (getattr(config, name, None) for name in _BINS) if isinstance(n, int)), 16)
    yield torch.randn(1, 40, bins)
    yield torch.randn(1, bins, 40)
    yield torch.randn(1, bins, 128)
    yield torch.randn(1, 1600)
    yield torch.randn(1, 1, 1600)
    length = getattr(config, "max_length", 64)
    yield torch.randn(1, length if isinstance(length, int) else 64, bins)
    yield torch.randn(2, LENGTH, getattr(config, "hidden_size", 32))


@torch.no_grad()
def _runs(model: nn.Module, inputs: dict[str, Any]) -> bool:
    try:
        model(**inputs)
    except Exception:
        return False
    return True
