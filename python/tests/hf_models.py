# SPDX-License-Identifier: Apache-2.0
"""Tiny random models of many families, made by transformers itself."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

# What nearly every configuration calls its sizes. A key that a family does not have is ignored by it.
SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 80,
    "moe_intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "sliding_window": 64,
}
MLA: dict[str, Any] = {
    "q_lora_rank": None,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "head_dim": 8,
    "num_key_value_heads": 4,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
}

# Model types with what they need beyond SIZES.
FAMILIES: dict[str, dict[str, Any]] = {
    "afmoe": {},
    "aria_text": {"moe_num_experts": 8, "moe_topk": 2, "moe_num_shared_experts": 1},
    "axk1": {**MLA, "q_lora_rank": 16},
    "cohere2_moe": {},
    "dbrx": {
        "d_model": 64,
        "n_heads": 4,
        "n_layers": 2,
        "moe_intermediate_size": 64,
        "max_seq_len": 128,
        "ffn_config": {"hidden_size": 64, "ffn_hidden_size": 64, "moe_num_experts": 8, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
    },
    "deepseek_v2": MLA,
    "deepseek_v3": MLA,
    "dots1": {"n_shared_experts": 1, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
    "ernie4_5_moe": {"moe_num_experts": 8, "moe_k": 2},
    "exaone_moe": {"first_last_k_dense_replace": 1, "is_moe_layer": None},
    "flex_olmo": {},
    "glm4_moe": {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
    "glm4_moe_lite": MLA,
    "gpt_oss": {},
    "granitemoe": {},
    "granitemoeshared": {"shared_intermediate_size": 32},
    "hunyuan_v1_moe": {"moe_topk": 2},
    "hy_v3": {},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 8,
        "mamba_dt_rank": 8,
        "use_mamba_kernels": False,
    },
    "jetmoe": {"kv_channels": 16},
    "laguna": {},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "full_attention"], "num_dense_layers": 1},
    "llama4_text": {"intermediate_size_mlp": 80, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1},
    "longcat_flash": {
        **MLA,
        "q_lora_rank": 16,
        "num_layers": 2,
        "expert_ffn_hidden_size": 48,
        "ffn_hidden_size": 80,
        "moe_topk": 2,
        "zero_expert_num": 4,
    },
    "mimo_v2_flash": {},
    "minimax": {},
    "minimax_m2": {},
    "mixtral": {},
    "nemotron_h": {"mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 2},
    "olmoe": {},
    "phimoe": {},
    "qwen2_moe": {"shared_expert_intermediate_size": 32},
    "qwen3_moe": {},
    "qwen3_next": {
        "shared_expert_intermediate_size": 32,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "layer_types": ["linear_attention", "full_attention", "full_attention"],
    },
    "solar_open": {"n_group": 1, "topk_group": 1},
    "step3p7": {
        "text_config": {
            **SIZES,
            "n_routed_experts": 8,
            "share_expert_dim": 32,
            "mlp_layer_types": ["dense"] + 2 * ["sparse"],
            "layer_types": 3 * ["full_attention"],
            "swiglu_limits": [None, 0.5, None],
        },
        "vision_config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    },
    "switch_transformers": {
        "d_model": 64,
        "d_kv": 16,
        "d_ff": 80,
        "num_layers": 2,
        "num_hidden_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "num_sparse_encoder_layers": 1,
        "num_sparse_decoder_layers": 1,
        "expert_capacity": 4,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
    },
}

# Served by moeblock.hf.patch; aria only by releases without the decorator on it.
PATCHED = {"aria_text", "dbrx", "jetmoe", "llama4_text", "longcat_flash", "step3p7", "switch_transformers"}
# Model types, and decorators on their experts, that the oldest release which is tested (5.7) does not have yet.
NEWER = {"axk1", "cohere2_moe", "granitemoe", "granitemoeshared", "mimo_v2_flash", "step3p7"}
# Its experts multiply by weights the wrong way round in the oldest release, and only run where both widths are equal.
MENDED_SINCE = {"dbrx"}


def release() -> tuple[int, ...]:
    return tuple(int(part) for part in transformers.__version__.split(".")[:2])


def families() -> list[str]:
    """The families that this release of transformers can serve."""
    oldest = release() < (5, 8)
    return [family for family in FAMILIES if not (oldest and family in NEWER | MENDED_SINCE)]


def config_of(family: str, **more: Any) -> Any:
    own = FAMILIES[family]
    if "text_config" in own:  # sizes belong to the part that has the experts
        return AutoConfig.for_model(family, **own, **more)
    return AutoConfig.for_model(family, **{**SIZES, **own, **more})


def tiny(family: str, dtype: torch.dtype = torch.float32, seed: int = 0, **more: Any) -> Any:
    """A model with weights large enough that its logits depend on every expert."""
    torch.manual_seed(seed)
    config = config_of(family, **more)
    make = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    if type(config) not in make._model_mapping:
        make = transformers.AutoModelForImageTextToText
    model = make.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                torch.nn.init.normal_(parameter, std=0.12)
    return model.to(dtype)
