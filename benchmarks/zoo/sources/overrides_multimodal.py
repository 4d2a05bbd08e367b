"""What an architecture of several parts, for text with images or sound, needs beside small sizes, by model type."""

from __future__ import annotations

from typing import Any


def rope(*sections: int, **more: Any) -> dict[str, Any]:
    """Rotary embeddings for time, rows and columns: how many pairs of a head's dims each has."""
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": list(sections),
                                "partial_rotary_factor": 1.0, **more}}  # fmt: skip


_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
#: The tokens that stand for the codes of an image's patches.
_CODES = {"vocabulary_map": {"<image>": 95, **{f"IMGIMG{chr(ord('A') + k)}Z": 70 + k for k in range(8)}}}
_FLOW = {"latent_dim": 8, "flow_head_config": {"hidden_size": 32, "num_hidden_layers": 2, "latent_dim": 8, "condition_dim": 32,
         "frequency_embedding_size": 16, "loss_weighting_hidden_size": 16}}  # fmt: skip

_PERCEPTION = {"model_type": "timm_wrapper", "architecture": "vit_pe_core_tiny_patch16_384",
               "model_args": {"embed_dim": 32, "depth": 2, "num_heads": 4, "img_size": 32, "patch_size": 8}}  # fmt: skip
_AUDIO = {"vocab_offset": 90, "vocab_size": 9, "input_feat_size": 16, "conf_num_attention_heads": 4,
          "conf_num_hidden_layers": 2, "sscp_conv_channel_size": [8, 4]}  # fmt: skip

#: Model type -> fields of the configuration.
MULTIMODAL: dict[str, dict[str, Any]] = {
    "chameleon": _CODES, "emu3": {"vocabulary_map": {"<image>": 95, **{f"<|visual token {k:06d}|>": 70 + k for k in range(16)}}},
    "chameleon_vqgan": {"base_channels": 32, "channel_multiplier": [1, 2], "latent_channels": 32, "num_embeddings": 8,
                        "resolution": 32, "num_res_blocks": 1},
    "emu3_vqgan": {"hidden_size": 64, "base_channels": 32, "channel_multiplier": [1, 2], "latent_channels": 4,
                   "num_res_blocks": 1, "attn_resolutions": [1]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE}},
    "cosmos3_edge_text": rope(1, 1, 2), "hunyuan_vl_text": {**rope(1, 1, 1, 1), "head_dim": 8},
    "cosmos3_edge": {"projector_hidden_size": 48, "image_token_id": 95, "video_token_id": 94, "vision_start_token_id": 92,
                     "vision_end_token_id": 91},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "diffusion_gemma_text": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 48},
    "ernie4_5_vl_moe_text": {"moe_k": 2, "moe_intermediate_size": [48, 24], **rope(1, 1, 2), "head_dim": 8},
    "fun_asr_nano": {"adaptor_config": {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 8,
                                        "num_hidden_layers": 2, "projector_hidden_size": 48}},
    "fun_asr_nano_encoder": {"num_timestamp_prediction_layers": 1, "max_position_embeddings": 64},
    "glm5_next_text": {"index_kpool": 2, "linear_head_dim": 8, "linear_num_heads": 4, "qk_rope_head_dim": 0,
                       "layer_types": ["linear_attention", "indexed_attention"], "mlp_layer_types": ["dense", "sparse"]},
    "glm5_next_vision": {"projection_intermediate_size": 48},
    "gradium_phonon_tts": {**_FLOW, "audio_prompt_dim": 16}, "pocket_tts": _FLOW,
    "granite_speech5_encoder": {"context_size": 16, "num_key_value_heads": 4},
    "molmo2_adapter": {"vision_feature_layer": [-1, -2]},
    "molmo2_vision": {"image_size": [32, 32], "num_position_embeddings": 16},
    "muse_spark_audio": {"num_hidden_layers": 4}, "mistral4": {"qk_rope_head_dim": 8, "qk_head_dim": 16, "head_dim": 16},
    "neomme": {"embedding_rank": 16, "head_dim": 16},
    "moonshine_streaming": {"num_key_value_heads": 4}, "blt_patcher": {"num_key_value_heads": 4},
    **{f"blt_local_{part}": {"hidden_size_global": 32, "num_key_value_heads": 4} for part in ("encoder", "decoder")},
    "blt_global_transformer": {"num_key_value_heads": 4}, "blt": {"encoder_hash_byte_group_vocab": 50},
    "granite4_vision": {"downsample_rate": "1/2", "deepstack_layer_map": [[-1, 0]], "spatial_target_layers": [0, 1, 0, 1],
                        "vision_config": {"model_type": "clip_vision_model", "hidden_size": 64, "num_attention_heads": 4,
                        "intermediate_size": 48, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8}},
    "qwen2_5_omni_thinker": {"vision_start_token_id": 92, "vision_end_token_id": 91},
    "deepseek_ocr2_sam_vision_model": {"output_channels": 16, "downsample_channels": [16, 32],
                                       "global_attn_indexes": [1]},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse"], "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2},
    "perception_lm": {"vision_config": _PERCEPTION}, "pe_video_encoder": {"vision_config": _PERCEPTION}, "gemma3n_audio": _AUDIO,
    "dia": {"delay_pattern": [0, 1, 2]},
    "dia_decoder": {"cross_num_attention_heads": 4, "cross_head_dim": 8, "cross_num_key_value_heads": 4, "cross_hidden_size": 32,
                    "num_channels": 3},
    "clvp_decoder": {"num_mel_attn_blocks": 2}, "fastspeech2_conformer_hifigan": {"model_in_dim": 16},
    "clvp_encoder": {"hidden_size": 64, "num_attention_heads": 2}, "neucodec": {"quantization_dim": 64, "num_key_value_heads": 4},
    "xcodec2": {"quantization_dim": 64, "num_key_value_heads": 4}, "paddleocr_vl_text": rope(1, 1, 2),
    "xcodec": {"codebook_dim": 64},
    "qwen3_asr_encoder": {"downsample_hidden_size": 8, "n_window": 50, "n_window_infer": 100, "output_dim": 32},
    "xclip": {"prompt_num_attention_heads": 4},
    "xclip_vision_model": {"mit_hidden_size": 32, "mit_intermediate_size": 48, "mit_num_attention_heads": 4},
    "tvp": {"max_img_size": 64, "visual_prompt_size": 8},
    "semantic": {"input_vocab_size": 99, "output_vocab_size": 99}, "grounding-dino": {"num_feature_levels": 4, "max_text_len": 8},
    "mm-grounding-dino": {"num_feature_levels": 4, "max_text_len": 8}, "pocket_tts_audio_tokenizer": {"upsample_groups": 32},
    "pocket_tts_audio_tokenizer_decoder": {"upsample_groups": 32}, "kimi_linear": {"linear_head_dim": 8, "linear_num_heads": 4},
    "evolla": {"aligner_num_add_layers": 1, "resampler_depth": 1, "resampler_dim_head": 8, "resampler_heads": 4,
               "resampler_num_latents": 4},
    "fast_vlm": {"vision_config": {"model_type": "timm_wrapper", "architecture": "fastvit_mci0", "hidden_size": 128,
                 "model_args": {"layers": [1, 1, 1, 1], "embed_dims": [8, 16, 32, 64]}}},
    "dots3_note_text": {"layer_types": ["indexed_attention", "sliding_attention"], "mlp_layer_types": ["dense", "sparse"],
                        "head_dim": 12, "shared_experts_intermediate_size": 48, "rope_parameters": None,
                        "per_layer_config": {1: {"num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 12,
                        "kv_lora_rank": 8, "head_dim": 12, "qk_nope_head_dim": 8, "v_head_dim": 8, "qk_rope_head_dim": 4}}},
    "dots3_note_vision_encoder": {"pyramid_num_routed": [-1, 4], "mlp_layer_types": None, "adapter_in_dim": 32,
                                  "adapter_out_dim": 32},
    "dots3_note_audio_encoder": {"adapter_input_size": 32, "adapter_out_dim": 32, "downsample_hidden_size": 8},
    "gemma3n_vision": {"model_args": {"channel_multiplier": 0.1}, "hidden_size": 2048, "vocab_offset": 80, "vocab_size": 10},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 92, "vision_end_token_id": 91}, "qwen3_omni_moe_text": rope(1, 1, 2),
    "glmasr_encoder": {"intermediate_size": 128}, "vipllava": {"vision_feature_layers": [-1, -2]},
    "muse_glimmer": {"out_hidden_size": 128, "projector_hidden_size": 48}, "granite_speech": {"window_size": 10},
    "muse_spark": {"out_hidden_size": 128, "projector_hidden_size": 48}, "granite_speech_plus": {"window_size": 10},
    "qwen2_5_omni_audio_encoder": {"output_dim": 32},
    "qwen3_omni_moe_audio_encoder": {"output_dim": 32, "downsample_hidden_size": 8},
    "llama4_vision_model": {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32,
                            "intermediate_size": 128},
    "mllama_vision_model": {"num_global_layers": 1, "intermediate_layers_indices": [0], "vision_output_dim": 64},
    "kimi_k25": {"projection_hidden_size": 32},
    "aria": {"projector_patch_to_query_dict": {16: 4}},
    "luke": {"entity_vocab_size": 50, "entity_emb_size": 16}, "step3p5": {"sliding_window": 16},
    **{name: {"image_token_id": 95} for name in ("minicpm_ocr", "minicpmv4_6", "minicpmv4_7")},
    "voxtral": {"audio_token_id": 93}, "voxtral_encoder": {"intermediate_size": 128},
    "unlimited_ocr_sam_vision_model": {"output_channels": 16, "downsample_channels": [16, 32], "global_attn_indexes": [1]},
    "mllama_text_model": {"cross_attention_layers": [1]}, "t5gemma2_text": {"dropout_rate": 0.0},
    "xmod": {"default_language": "en_XX"},
    "qwen2_5_omni_text": rope(1, 1, 2),
}  # fmt: skip
