"""Architectures of transformers that most people know: they are run first."""

from __future__ import annotations

_NAMES = """
llama mistral mixtral qwen2 qwen2_moe qwen3 qwen3_moe gemma gemma2 gemma3_text phi phi3 gpt2 gpt_neo gpt_neox gptj opt
bloom falcon mpt codegen stablelm starcoder2 olmo olmo2 olmoe cohere deepseek_v2 deepseek_v3 gpt_oss dbrx granite
nemotron glm4 llama4_text t5 mt5 umt5 switch_transformers longt5 bart mbart pegasus blenderbot marian m2m_100 led
bigbird_pegasus prophetnet bert roberta deberta deberta-v2 electra albert distilbert xlnet longformer big_bird
reformer funnel xlm xlm-roberta camembert mpnet mobilebert squeezebert convbert fnet nystromformer canine luke ernie
esm modernbert openai-gpt ctrl layoutlm layoutlmv3 tapas lxmert visual_bert vit deit beit swin swinv2 convnext
convnextv2 resnet regnet mobilenet_v1 mobilenet_v2 mobilevit efficientnet bit cvt levit poolformer pvt segformer
focalnet hiera dinov2 dinov3_vit ijepa vit_mae vit_msn vitdet videomae timesformer vivit detr conditional_detr
deformable_detr dab-detr rt_detr yolos owlvit grounding-dino mask2former maskformer oneformer sam dpt glpn clipseg
clip siglip siglip2 altclip align chinese_clip blip blip-2 git llava llava_next idefics2 idefics3 flava vilt
bridgetower kosmos-2 paligemma instructblip qwen2_vl qwen2_5_vl mllama whisper wav2vec2 wav2vec2-conformer
wav2vec2-bert hubert wavlm unispeech sew sew-d data2vec-audio speech_to_text speecht5 audio-spectrogram-transformer
clap musicgen encodec dac mimi vits seamless_m4t mamba mamba2 falcon_mamba jamba bamba zamba zamba2 rwkv
recurrent_gemma xlstm nemotron_h time_series_transformer autoformer informer patchtst patchtsmixer timesfm
decision_transformer perceiver imagegpt donut-swin
"""
#: Model types, as ``AutoConfig`` knows them.
WELL_KNOWN = tuple(_NAMES.split())
