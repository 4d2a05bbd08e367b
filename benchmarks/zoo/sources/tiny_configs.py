"""Tiny configurations of transformers' architectures: every size that a default configuration has, made small.

What fits one architecture alone stands in ``tiny_overrides``.
"""

from __future__ import annotations

from typing import Any

from benchmarks.zoo.sources.overrides_vision import RESNET
from benchmarks.zoo.sources.tiny_overrides import OVERRIDES

_WIDTH, _INNER, _LAYERS, _HEADS, _VOCAB = 32, 48, 2, 4, 99

#: The names that sizes go by, with what to put there.
SIZES: dict[str, int] = {
    **dict.fromkeys(
        ["hidden_size", "d_model", "n_embd", "dim", "embed_dim", "embedding_size", "out_hidden_size", "encoder_hidden_size",
         "decoder_hidden_size", "projection_dim", "hidden_dim", "encoder_hidden_dim", "embedding_dim", "feature_size",
         "pooler_output_size", "output_hidden_size", "emb_dim", "attention_hidden_size", "lru_width", "d_embed",
         "hidden_size_per_layer_input", "image_text_hidden_size", "backbone_hidden_size", "audio_hidden_size", "rnn_hidden_size",
         "linear_units", "cross_attention_hidden_size", "lm_hidden_size", "rotary_value_dim", "true_hidden_size",
         "intra_bottleneck_size", "fpn_hidden_size", "fusion_hidden_size", "neck_hidden_size", "mask_feature_size",
         "feature_dim", "conv_dim_size", "text_hidden_size"], _WIDTH),
    **dict.fromkeys(
        ["intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_dim", "d_ff", "d_inner", "mlp_dim", "ffn_hidden_size",
         "moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size", "n_inner",
         "decoder_intermediate_size", "ffn_config_size", "inner_dim", "dim_feedforward", "encoder_feedforward_dim",
         "decoder_feedforward_dim", "feedforward_dim", "dff"], _INNER),
    **dict.fromkeys(
        ["num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "depth",
         "num_decoder_layers", "num_encoder_layers", "num_layer", "decoder_num_hidden_layers", "encoder_num_hidden_layers",
         "num_hidden_groups", "num_layers_vision"], _LAYERS),
    **dict.fromkeys(
        ["num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads",
         "decoder_num_attention_heads", "encoder_num_attention_heads", "num_head"], _HEADS),
    **dict.fromkeys(["num_key_value_heads", "n_head_kv", "num_kv_heads", "multi_query_group_num"], 2),
    **dict.fromkeys(["vocab_size", "decoder_vocab_size", "src_vocab_size", "tgt_vocab_size", "encoder_vocab_size"], _VOCAB),
    **dict.fromkeys(
        ["max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "max_source_positions", "max_target_positions",
         "num_position_embeddings", "model_max_length", "max_2d_position_embeddings"], 64),
    **dict.fromkeys(["head_dim", "d_kv", "kv_channels", "d_head", "attention_head_size", "v_head_dim", "qk_nope_head_dim",
                     "attention_head_dim"], 8),
    **dict.fromkeys(["num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"], 4),
    **dict.fromkeys(["num_experts_per_tok", "moe_topk", "num_experts_per_token"], 2),
    **dict.fromkeys(["n_group", "topk_group", "n_shared_experts", "first_k_dense_replace", "num_expert_group"], 1),
    "qk_rope_head_dim": 4, "qk_head_dim": 12, "kv_lora_rank": 8, "q_lora_rank": 12, "index_head_dim": 8, "index_n_heads": 2,
    "index_topk": 4, "rotary_dim": 4, "image_size": 32, "patch_size": 8, "num_mel_bins": 16, "num_queries": 5,
    "sliding_window": 16, "mamba_d_state": 8, "state_size": 8, "time_step_rank": 4, "mamba_n_heads": 8, "mamba_d_head": 8,
    "mamba_chunk_size": 8, "chunk_size": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "num_conv_pos_embedding_groups": 2, "num_conv_pos_embeddings": 4, "num_filters": 4,
    "codebook_size": 16, "codebook_dim": 8, "num_frames": 4, "query_dim": 4, "window_size": 4, "classifier_proj_size": 16,
    "num_feature_levels": 2, "block_size": 8, "expand": 2, "context_length": 16, "prediction_length": 4, "patch_length": 4,
    "num_codevectors_per_group": 8, "codevector_dim": 16, "proj_codevector_dim": 16, "depth_hidden": 16, "max_window_layers": 1,
    "num_denoising": 0, "upsample_initial_channel": 16, "num_query_tokens": 4, "query_pre_attn_scalar": 8,
    "xvector_output_dim": 16, "n_window": 4, "n_window_infer": 8,
    "mm_tokens_per_image": 4, "expert_ffn_hidden_size": 48, "zero_expert_num": 2, "max_img_size": 64, "max_ep_len": 64,
    "max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64,
    "relative_attention_num_buckets": 8, "num_kv_shared_layers": 0, "vocab_size_per_layer_input": 99,
}  # fmt: skip
#: Tokens past those of the examples, by what their name says; the last is for all others.
_TOKENS = {"image": 95, "video": 94, "audio": 93, "start": 92, "end": 91, "": 90}
#: Names of lists with an entry per stage: what entry k is.
STAGES: dict[str, Any] = {
    "depths": lambda k: 1, "hidden_sizes": lambda k: 16 * (k + 1), "embed_dims": lambda k: 16 * (k + 1),
    "num_heads": lambda k: 2, "num_attention_heads": lambda k: 2, "conv_dim": lambda k: 16, "tdnn_dim": lambda k: 16,
    "neck_hidden_sizes": lambda k: 16, "embed_dim": lambda k: 16 * (k + 1), "depth": lambda k: 1,
}  # fmt: skip


def tiny(kind: type, model_type: str = "", narrow: bool = False) -> Any:
    """A small configuration of a class, with half of the widths if ``narrow``.

    Experts are computed in plain ops: the grouped kernel has no rule and no float64.
    """
    config = kind(**_options(kind, model_type, narrow))
    for part in (config, *(getattr(config, name, None) for name in getattr(kind, "sub_configs", None) or {})):
        if part is not None:
            part._experts_implementation = "batched_mm"
    return config


def _options(kind: type, model_type: str = "", narrow: bool = False) -> dict[str, Any]:
    default = kind()
    found: dict[str, Any] = {}
    for name, value in vars(default).items():
        small = _small(name, value, narrow)
        if small is not None:
            found[name] = small
    for name, sub in (getattr(kind, "sub_configs", None) or {}).items():
        part = getattr(default, name, None)
        if part is not None and hasattr(part, "to_dict"):
            found[name] = _options(type(part), getattr(part, "model_type", ""), narrow) | (
                {"model_type": part.model_type} if sub.__name__ == "AutoConfig" else {}
            )
    if "use_cache" in vars(default):
        found["use_cache"] = False
    if "kv_lora_rank" in vars(default) and "num_key_value_heads" in found:  # latent attention has as many keys as queries
        found["num_key_value_heads"] = found["num_attention_heads"]
    if "qk_rope_head_dim" in found and "head_dim" in found:  # the part that turns
        found["head_dim"] = found["qk_rope_head_dim"]
    if "window_size" in found and "spatial_merge_size" in vars(default):  # in pixels: a patch of what is merged
        found["window_size"] = found["patch_size"] * default.spatial_merge_size
    if getattr(default, "use_timm_backbone", False) or "use_timm_backbone" in vars(default):
        found |= {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
    backbone = getattr(default, "backbone_config", None)
    if "backbone_config" in vars(default) and getattr(backbone, "model_type", "timm_backbone") == "timm_backbone":
        found["backbone_config"] = RESNET
    if getattr(default, "image_grid_pinpoints", None):  # the shapes that a large image is cut to
        found["image_grid_pinpoints"] = [[32, 32], [32, 64]]
    return found | OVERRIDES.get(model_type or getattr(kind, "model_type", ""), {})


def _small(name: str, value: Any, narrow: bool = False) -> Any:
    """A small value in place of a default, None to leave it."""
    share = 2 if narrow else 1
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        if name.endswith(("token_id", "token_index")):
            return None if value < _TOKENS[""] else next(v for k, v in _TOKENS.items() if k in name)
        small = SIZES.get(name, value) // (share if SIZES.get(name) in (_WIDTH, _INNER) else 1)
        return small if value > small else None
    if isinstance(value, list | tuple) and name in STAGES and all(isinstance(v, int) for v in value):
        return [max(STAGES[name](k) // share, min(STAGES[name](k), 2)) for k in range(len(value))]
    return None
