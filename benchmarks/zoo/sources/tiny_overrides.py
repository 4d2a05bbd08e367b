"""What one architecture of transformers needs beside small sizes, by model type. A part of a configuration has its own."""

from __future__ import annotations

from typing import Any

from benchmarks.zoo.sources.overrides_multimodal import MULTIMODAL, rope
from benchmarks.zoo.sources.overrides_vision import HIERA, RESNET, VISION

_SWIN = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "patch_size": 4}
_SWIN4 = {"model_type": "swin", "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [2, 2, 2, 2], "patch_size": 4,
          "window_size": 4, "out_features": ["stage1", "stage2", "stage3", "stage4"]}  # fmt: skip
_SERIES = {"prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2, 3], "num_time_features": 2, "d_model": 32}
_EFFICIENT = {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320}
_RT_DETR = {"backbone_config": {"model_type": "rt_detr_resnet", "embedding_size": 8, "hidden_sizes": [8, 16, 24, 32],
                                "depths": [1, 1, 1, 1], "layer_type": "basic", "out_features": ["stage2", "stage3", "stage4"]},
            "encoder_in_channels": [16, 24, 32], "decoder_in_channels": [32, 32, 32], "num_feature_levels": 3}  # fmt: skip
_SAM = {"output_channels": 32, "num_pos_feats": 16, "global_attn_indexes": [1]}
_STAGES = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
_DINO = {"model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 32,
         "patch_size": 8, "reshape_hidden_states": False, **_STAGES}  # fmt: skip
_DEPTH = {"backbone_config": _DINO, "patch_size": 8, "reassemble_hidden_size": 32, "neck_hidden_sizes": [8, 12, 16, 20]}
_BEIT = {"model_type": "beit", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48,
         "image_size": 32, "patch_size": 8, "use_relative_position_bias": True, "reshape_hidden_states": False,
         **_STAGES}  # fmt: skip
_CONVNEXT = {"model_type": "convnext", "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], **_STAGES}
_MIMI = {"upsample_groups": 32, "codebook_dim": 8, "vector_quantization_hidden_dimension": 8}
_EIGHT = {"head_dim": 8}


#: Model type -> fields of the configuration.
OVERRIDES: dict[str, dict[str, Any]] = {
    **VISION, **MULTIMODAL,
    "swin": _SWIN, "swinv2": _SWIN, "donut-swin": _SWIN, "maskformer-swin": _SWIN,
    "layoutlmv3": {"coordinate_size": 4, "shape_size": 8, "input_size": 32, "patch_size": 8},
    "reformer": {"axial_pos_shape": [4, 16], "axial_pos_embds_dim": [8, 24], "num_buckets": 4, "is_decoder": False},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "longformer": {"attention_window": 4}, "led": {"attention_window": 4}, "funnel": {"block_sizes": [1, 1]},
    "convbert": {"embedding_size": 32}, "albert": {"embedding_size": 16}, "xlm": {"emb_dim": 32},
    # language
    "esm": {"vocab_size": 99, "pad_token_id": 1, "mask_token_id": 32}, "esmc": {"num_key_value_heads": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 4}, "mpnet": {"relative_attention_num_buckets": 32},
    "nemotron": {"num_key_value_heads": 2}, "ministral": _EIGHT, "hunyuan_v1_dense": _EIGHT, "hunyuan_v1_moe": _EIGHT,
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2}, "lilt": {"hidden_size": 48},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10_000.0, "clip_qkv": 8.0}, "num_key_value_heads": 2},
    "ernie4_5_moe": {"moe_k": 2, "moe_num_experts": 4},
    "zamba": {"num_hidden_layers": 3, "layers_block_type": ["linear_attention", "hybrid", "hybrid"], "attention_head_dim": 16,
              "n_mamba_heads": 2, "attention_hidden_size": 64},
    "zamba2": {"num_hidden_layers": 3, "layers_block_type": ["linear_attention", "hybrid", "hybrid"], "attention_head_dim": 16,
               "n_mamba_heads": 4, "mamba_headdim": 16, "adapter_rank": 4, "attention_hidden_size": 64},
    "perceiver": {"num_latents": 6, "d_latents": 32, "num_self_attends_per_block": 2, "num_self_attention_heads": 4,
                  "num_cross_attention_heads": 4},
    "lfm2_moe": {"layer_types": ["full_attention", "conv"]},
    # images
    "bit": {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_groups": 4},
    "cvt": {"depth": [1, 2, 3]}, "efficientnet": _EFFICIENT, "align_vision_model": _EFFICIENT,
    "deformable_detr": {"num_feature_levels": 4}, "rt_detr": _RT_DETR, "rt_detr_v2": _RT_DETR,
    "maskformer": {"backbone_config": _SWIN4, "decoder_config": {"model_type": "detr", "d_model": 32, "encoder_layers": 1,
                   "decoder_layers": 1, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "encoder_attention_heads": 4,
                   "decoder_attention_heads": 4, "num_queries": 5, "backbone_config": RESNET}},
    "mask2former": {"backbone_config": _SWIN4}, "oneformer": {"backbone_config": _SWIN4},
    "sam_vision_model": _SAM, "sam_hq_vision_model": _SAM, "sam_mask_decoder": {"iou_head_hidden_dim": 16},
    "sam_hq_mask_decoder": {"iou_head_hidden_dim": 16, "vit_dim": 32},
    "seggpt": {"image_size": [64, 32], "pretrain_image_size": 32},
    "d_fine": _RT_DETR | {"decoder_n_points": [2, 2, 2]}, "dpt": {"num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3]},
    "depth_anything": _DEPTH, "prompt_depth_anything": _DEPTH,
    "zoedepth": {"backbone_config": _BEIT, "neck_hidden_sizes": [8, 12, 16, 20], "bottleneck_features": 32},
    "upernet": {"backbone_config": _CONVNEXT, "auxiliary_in_channels": 24}, "sam2_hiera_det_model": HIERA,
    "vjepa2": {"crop_size": 32, "frames_per_clip": 4},
    # text with images
    "align": {"projection_dim": 80}, "blip-2": {"image_token_index": 95}, "instructblip": {"image_token_index": 95},
    "instructblipvideo": {"video_token_index": 94}, "kosmos-2": {"latent_query_num": 4}, "bros": {"hidden_size": 64},
    "bridgetower": {"hidden_size": 64, "num_attention_heads": 2}, "bridgetower_vision_model": {"hidden_size": 64},
    "bridgetower_text_model": {"hidden_size": 64}, "qwen2_vl_text": rope(1, 1, 2), "qwen2_5_vl_text": rope(1, 1, 2),
    "glm4v_text": rope(1, 1, 2), "glm4v_moe_text": rope(1, 1, 2), "glm_ocr_text": rope(1, 1, 2),
    "glm_image_text": rope(1, 1, 2),
    "qwen2_5_vl_vision": {"window_size": 16, "fullatt_block_indexes": [1]},
    # sound and series
    "musicgen_decoder": {"num_codebooks": 2}, "seamless_m4t": {"upsample_initial_channel": 64},
    "seamless_m4t_v2": {"upsample_initial_channel": 64},
    "clap_audio_model": {"spec_size": 32, "num_mel_bins": 8, "depths": [1, 1],
        "patch_embeds_hidden_size": 16, "num_attention_heads": [2, 4], "hidden_size": 32, "patch_stride": [4, 4]},
    "vits": {"vocab_size": 99, "use_stochastic_duration_prediction": False, "noise_scale": 0.0, "flow_size": 32},
    "mimi": _MIMI, "mimi_decoder": _MIMI, "encodec": {"codebook_dim": 32},
    "timesfm": {"context_length": 16, "patch_length": 4, "horizon_length": 4},
    "autoformer": {**_SERIES, "moving_average": 3, "label_length": 4},
    "informer": _SERIES, "time_series_transformer": _SERIES,
    "wav2vec2-conformer": {"vocab_size": 32}, "wav2vec2-bert": {"vocab_size": 32, "feature_projection_input_dim": 16},
    "patchtst": {"num_input_channels": 2}, "patchtsmixer": {"num_input_channels": 2},
    "decision_transformer": {"state_dim": 5, "act_dim": 3},
}  # fmt: skip
