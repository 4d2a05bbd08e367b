"""transformers: a tiny model of every architecture, bare; with a head for each task too with ``full``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

from torch import nn

from benchmarks.zoo.entry import Entry
from benchmarks.zoo.sources.known import WELL_KNOWN
from benchmarks.zoo.sources.tiny_candidates import inputs_of
from benchmarks.zoo.sources.tiny_configs import tiny
from benchmarks.zoo.sources.wrapped import UNAVAILABLE, WRAPPED
from tests.zoo import import_torchvision

#: The mappings of transformers to heads, in the order of preference; one per architecture.
HEADS = ("CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "MASKED_LM", "IMAGE_CLASSIFICATION", "SEMANTIC_SEGMENTATION", "CTC",
         "AUDIO_CLASSIFICATION", "OBJECT_DETECTION", "VIDEO_CLASSIFICATION", "DEPTH_ESTIMATION", "TOKEN_CLASSIFICATION",
         "QUESTION_ANSWERING")  # fmt: skip
#: Where AutoModel cannot make the model from its configuration alone.
CLASSES = {"funnel": "FunnelModel", "musicgen": "MusicgenForConditionalGeneration",
           "musicgen_melody": "MusicgenMelodyForConditionalGeneration",
           "bark": "BarkSemanticModel",  # the whole is three of these and a codec, and has no forward
           "evolla": "EvollaModel", "voxtral_realtime_text": "VoxtralRealtimeTextModel"}  # fmt: skip
_RANK = {t: k for k, t in enumerate(WELL_KNOWN)}


def entries(full: bool) -> Sequence[Entry]:
    """Bare models, well-known ones first; ``full`` adds one with the first head that an architecture has."""
    import_torchvision()  # transformers imports it
    import transformers
    from transformers.models.auto import modeling_auto

    transformers.logging.set_verbosity_error()
    types = sorted(modeling_auto.MODEL_MAPPING_NAMES, key=lambda t: _RANK.get(t, len(_RANK)))
    found = [Entry(t, t, _of(t, False), inputs_of, counted=False, narrow=_narrow(t)) for t in types]
    return [*found, *_with_heads(modeling_auto)] if full else found


def _with_heads(modeling_auto: Any) -> Iterator[Entry]:
    seen: set[str] = set()
    for task in HEADS:
        for model_type, name in getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES").items():
            if model_type not in seen:
                seen.add(model_type)
                name = name if isinstance(name, str) else name[0]
                yield Entry(f"{model_type}-{task.lower()}", model_type, _named(model_type, name), inputs_of, counted=False)


def _narrow(model_type: str) -> Callable[[], Iterator[nn.Module]]:
    return lambda: iter([_of(model_type, True)()])


def _of(model_type: str, narrow: bool) -> Callable[[], nn.Module]:
    return _named(model_type, CLASSES[model_type], narrow) if model_type in CLASSES else _bare(model_type, narrow)


def _bare(model_type: str, narrow: bool) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from transformers import AutoModel
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        if model_type in UNAVAILABLE:
            raise NotImplementedError(UNAVAILABLE[model_type])
        model = AutoModel.from_config(tiny(CONFIG_MAPPING[model_type], model_type, narrow))
        return WRAPPED[model_type](model) if model_type in WRAPPED else model

    return build


def _named(model_type: str, name: str, narrow: bool = False) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        kind = getattr(transformers, name, None) or _unexported(name, CONFIG_MAPPING[model_type])
        return kind(_part(tiny(CONFIG_MAPPING[model_type], model_type, narrow), kind.config_class))

    return build


def _unexported(name: str, config_class: type) -> Any:
    """A class that the library has and does not export."""
    return getattr(import_module(config_class.__module__.replace(".configuration_", ".modeling_")), name)


def _part(config: Any, kind: type) -> Any:
    """The part of a configuration that a class takes: its text, for a language model."""
    parts = [config, *(getattr(config, name, None) for name in type(config).sub_configs or {})]
    return next((part for part in parts if type(part) is kind), config)
