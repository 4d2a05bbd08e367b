"""What an architecture for images needs beside small sizes, by model type."""

from __future__ import annotations

from typing import Any

#: A backbone for detectors.
RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1],
           "layer_type": "basic", "out_features": ["stage2", "stage3", "stage4"]}  # fmt: skip
#: A backbone for what segments videos.
HIERA = {"hidden_size": 8, "embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 2, 4, 8],
          "blocks_per_stage": [1, 1, 2, 1], "global_attention_blocks": [3], "image_size": [64, 64],
          "num_attention_heads": 1}  # fmt: skip
_SMALL_RESNET = {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32], "stem_width": 8}
#: A residual network of timm in place of the default of its wrapper.
TIMM_RESNET = {"model_type": "timm_wrapper", "architecture": "resnet18", "model_args": _SMALL_RESNET}
_FEATURES = {**_SMALL_RESNET, "features_only": True, "out_indices": [1, 2, 3, 4]}
_HGNET = {"embedding_size": 8, "hidden_sizes": [16, 24, 32, 48], "stem_channels": [3, 8, 8],
          "stage_in_channels": [8, 16, 24, 32], "stage_mid_channels": [8, 8, 8, 8], "stage_out_channels": [16, 24, 32, 48],
          "stage_num_blocks": [1, 1, 1, 1], "stage_numb_of_layers": [2, 2, 2, 2]}  # fmt: skip
#: Blocks of an LCNet by stage: kernel, channels in and out, stride, whether squeezed.
_LCNET = {"stem_channels": [3, 8, 8],
          "block_configs": [[[3, 8, 8, 1, True]], [[3, 8, 16, 2, False]], [[3, 16, 24, 2, False]], [[3, 24, 32, 2, True]]],
          "out_features": ["stage1", "stage2", "stage3", "stage4"]}  # fmt: skip
_HGNET_LEVELS = {"backbone_config": {"model_type": "hgnet_v2", **_HGNET, "out_features": ["stage2", "stage3", "stage4"]},
                 "encoder_in_channels": [24, 32, 48], "decoder_in_channels": [32, 32, 32], "num_feature_levels": 3,
                 "decoder_n_points": [2, 2, 2]}  # fmt: skip
_HGNET_DOC = {"backbone_config": {"model_type": "hgnet_v2", **_HGNET, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
              "encoder_in_channels": [24, 32, 48], "decoder_in_channels": [32, 32, 32], "num_feature_levels": 3,
              "x4_feat_dim": 16, "mask_feature_channels": [8, 8], "num_prototypes": 8, "decoder_n_points": 2}  # fmt: skip
#: Feature maps of an image of 64 pixels, and where prompts for it are.
_LEVELS = {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]], "num_feature_levels": 3}
_PROMPTS = {"image_size": 64, "patch_size": 16}
_SAM_MODELS = ("sam2", "edgetam", "sam3_tracker", "sam2_video", "edgetam_video", "sam3_tracker_video")
#: What a tracker remembers of earlier frames: 64 features of it, a number in the library's code.
_MEMORY = {"mask_downsampler_embed_dim": 128, "memory_fuser_embed_dim": 128, "memory_fuser_intermediate_dim": 48,
           "memory_attention_hidden_size": 128, "memory_encoder_hidden_size": 128, "memory_encoder_output_channels": 64,
           "memory_attention_feed_forward_hidden_size": 48, "memory_attention_num_layers": 2, "num_maskmem": 3,
           "memory_attention_rope_feat_sizes": [4, 4]}  # fmt: skip
_HIERA_128 = {"backbone_config": {"model_type": "sam2_hiera_det_model", **HIERA}, "backbone_channel_list": [64, 32, 16, 8],
             "fpn_hidden_size": 128, **_LEVELS}  # fmt: skip
_VIT_128 = {"backbone_config": {"model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 48,
           "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8, "window_size": 4,
           "global_attn_indexes": [1]},
           "backbone_feature_sizes": _LEVELS["backbone_feature_sizes"], "fpn_hidden_size": 128}  # fmt: skip
_WORDS = {"model_type": "clip_text_model", "hidden_size": 48, "intermediate_size": 48, "num_hidden_layers": 2,
          "num_attention_heads": 4, "vocab_size": 99, "projection_dim": 48, "eos_token_id": 98}  # fmt: skip
_KERNELS = {"long": 7, "mid": 5, "short": 3}
#: Kernel, stride and padding of convolutions along columns, along rows, and both.
_LINES = {
    "reduce_channel": [1, 1, 0], "return_channel": [1, 1, 0],
    **{f"vertical_long_to_small_conv_{n}ratio": [[k, 1], [1, 1], [k // 2, 0]] for n, k in _KERNELS.items()},
    **{f"horizontal_small_to_long_conv_{n}ratio": [[1, k], [1, 1], [0, k // 2]] for n, k in _KERNELS.items()},
    **{f"symmetric_conv_long_{n}ratio": [[k, k], [1, 1], [k // 2, k // 2]] for n, k in _KERNELS.items()},
}  # fmt: skip

#: Model type -> fields of the configuration.
VISION: dict[str, dict[str, Any]] = {
    "hgnet_v2": _HGNET, "pp_lcnet_v4": _LCNET, "deimv2": _HGNET_LEVELS,
    "pp_doclayout_v3": _HGNET_DOC, "pp_doclayout_v4": {**_HGNET_DOC, "backbone_config": _HGNET_LEVELS["backbone_config"]},
    "pp_ocrv6_small_det": {"backbone_config": {"model_type": "pp_lcnet_v4", **_LCNET}, "neck_out_channels": 32,
                           "layer_list_out_channels": [8, 16, 24, 32]},
    "pp_ocrv6_medium_det": {"backbone_config": {"model_type": "pp_lcnet_v4", **_LCNET}, "neck_out_channels": 32,
                            "intraclass_block_config": _LINES, "scale_factor_list": [1, 2, 4, 8], "kernel_list": [3, 2, 2]},
    "lw_detr_vit": {"image_size": 64, "window_block_indices": [0]},
    "lw_detr": {"backbone_config": {"model_type": "lw_detr_vit", "hidden_size": 32, "num_hidden_layers": 2,
                "num_attention_heads": 4, "image_size": 64, "patch_size": 8, "window_block_indices": [0], "out_indices": [1, 2]},
                "projector_scale_factors": [1.0, 0.5], "decoder_self_attention_heads": 4, "decoder_cross_attention_heads": 4,
                "group_detr": 2},
    "timm_backbone": {"backbone": "resnet18"},
    "mgp-str": {"image_size": [32, 32], "num_bpe_labels": 99, "num_wordpiece_labels": 99},
    "depth_pro": {"patch_size": 32, "intermediate_hook_ids": [1, 0], "intermediate_feature_dims": [32, 32],
                  "scaled_images_feature_dims": [32, 32, 16]},
    "edgetam_vision_model": {"backbone_config": {**TIMM_RESNET, "num_classes": 2, "model_args": _FEATURES},
                             "backbone_channel_list": [32, 24, 16, 8], **_LEVELS},
    "timm_wrapper": {k: v for k, v in TIMM_RESNET.items() if k != "model_type"},
    "efficientloftr": {"stage_num_blocks": [1, 1, 1, 1], "out_features": [16, 16, 32, 64], "num_attention_layers": 1,
                       "hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 8},
    "omdet-turbo": {"backbone_config": RESNET, "text_config": _WORDS, "timm_kwargs": {},
                    "apply_layernorm_after_vision_backbone": False, "image_size": 64, "encoder_in_channels": [16, 24, 32],
                    "vision_features_channels": [32, 32, 32], "text_projection_in_dim": 48, "text_projection_out_dim": 48,
                    "task_encoder_hidden_dim": 24, "class_embed_dim": 48, "encoder_dim_feedforward": 48, "decoder_hidden_dim": 32,
                    "decoder_num_heads": 4, "decoder_num_layers": 2, "decoder_dim_feedforward": 48, "num_feature_levels": 3},
    "sam2_vision_model": {"backbone_channel_list": [64, 32, 16, 8], **_LEVELS}, "sam2_prompt_encoder": _PROMPTS,
    "edgetam_prompt_encoder": _PROMPTS, "sam3_vision_model": {"backbone_feature_sizes": _LEVELS["backbone_feature_sizes"]},
    **{f"{name}_mask_decoder": {"iou_head_hidden_dim": 16, **({"hidden_size": 128} if "video" in name else {})}
       for name in _SAM_MODELS},
    **{f"{name}_video_prompt_encoder": {**_PROMPTS, "hidden_size": 128} for name in ("sam2", "edgetam")},
    "sam3_tracker_video_prompt_encoder": {"hidden_size": 128}, "sam3_tracker_video": {**_MEMORY, "vision_config": _VIT_128},
    "sam2_video": {**_MEMORY, "image_size": 64, "vision_config": _HIERA_128},
    "edgetam_video": {**_MEMORY, "image_size": 64, "vision_config": {"model_type": "sam2_vision_model", **_HIERA_128},
                      "memory_attention_mlp_hidden_size": 48, "memory_attention_rope_k_sizes": [2, 2],
                      "perceiver_resampler_num_latents": 4, "perceiver_resampler_num_latents_2d": 4,
                      "perceiver_resampler_mlp_intermediate_size": 48},
    "yolos": {"image_size": [32, 32], "num_detection_tokens": 5}, "textnet": {"stem_out_channels": 16, "image_size": [64, 64]},
    "uvdoc_backbone": {"out_features": [f"stage{k}" for k in range(1, 7)]},
}  # fmt: skip
