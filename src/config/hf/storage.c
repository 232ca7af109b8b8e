// SPDX-License-Identifier: Apache-2.0
// The published tensor names and expert layouts (moe-families 1.3 to 1.11), after the layer's prefix.
#include "config/hf/families.h"

#define ROUTER(name) [MB_ROLE_ROUTER] = name
#define SELECTION_BIAS(name) [MB_ROLE_SELECTION_BIAS] = name
#define EXPERTS_BY_PROJ(module)                                                                                        \
    [MB_ROLE_GATE] = module "experts.{expert}.gate_proj.weight",                                                       \
    [MB_ROLE_UP] = module "experts.{expert}.up_proj.weight",                                                           \
    [MB_ROLE_DOWN] = module "experts.{expert}.down_proj.weight"
#define EXPERTS_BY_NUMBER(module)                                                                                      \
    [MB_ROLE_GATE] = module "experts.{expert}.w1.weight", [MB_ROLE_UP] = module "experts.{expert}.w3.weight",          \
    [MB_ROLE_DOWN] = module "experts.{expert}.w2.weight"
#define EXPERTS_FUSED(module)                                                                                          \
    [MB_ROLE_GATE_UP] = module "experts.gate_up_proj", [MB_ROLE_DOWN] = module "experts.down_proj"
#define SHARED_BY_PROJ(module)                                                                                         \
    [MB_ROLE_SHARED_GATE] = module ".gate_proj.weight", [MB_ROLE_SHARED_UP] = module ".up_proj.weight",                \
    [MB_ROLE_SHARED_DOWN] = module ".down_proj.weight"
#define SHARED_BY_NUMBER(module)                                                                                       \
    [MB_ROLE_SHARED_GATE] = module ".w1.weight", [MB_ROLE_SHARED_UP] = module ".w3.weight",                            \
    [MB_ROLE_SHARED_DOWN] = module ".w2.weight"
#define STACKED_FUSED .layout = MB_LAYOUT_STACKED, .gate_up = MB_GATE_UP_CONCATENATED

// One file tensor per expert and projection.

const struct mb_hf_storage mb_hf_deepseek = {
    .pattern = {ROUTER("mlp.gate.weight"), SELECTION_BIAS("mlp.gate.e_score_correction_bias"), EXPERTS_BY_PROJ("mlp."),
                SHARED_BY_PROJ("mlp.shared_experts")},
};
const struct mb_hf_storage mb_hf_axk1 = {
    .pattern = {ROUTER("mlp.gate.weight"), SELECTION_BIAS("mlp.gate.e_score_correction_bias"), EXPERTS_BY_PROJ("mlp."),
                SHARED_BY_PROJ("mlp.shared_experts"), [MB_ROLE_OUT_NORM] = "post_mlp_layernorm.weight"},
};
const struct mb_hf_storage mb_hf_deepseek_expert_bias = {
    .pattern = {ROUTER("mlp.gate.weight"), SELECTION_BIAS("mlp.gate.expert_bias"), EXPERTS_BY_PROJ("mlp."),
                SHARED_BY_PROJ("mlp.shared_experts")},
};
const struct mb_hf_storage mb_hf_deepseek_moe_bias = {
    .pattern = {ROUTER("mlp.gate.weight"), SELECTION_BIAS("mlp.e_score_correction_bias"), EXPERTS_BY_PROJ("mlp."),
                SHARED_BY_PROJ("mlp.shared_experts")},
};
const struct mb_hf_storage mb_hf_afmoe = {
    .pattern = {ROUTER("mlp.router.gate.weight"), SELECTION_BIAS("mlp.expert_bias"), EXPERTS_BY_PROJ("mlp."),
                SHARED_BY_PROJ("mlp.shared_experts")},
};
const struct mb_hf_storage mb_hf_hy_v3 = {
    .pattern = {ROUTER("mlp.router.gate.weight"), SELECTION_BIAS("mlp.expert_bias"), EXPERTS_BY_PROJ("mlp."),
                SHARED_BY_PROJ("mlp.shared_mlp")},
};
const struct mb_hf_storage mb_hf_hunyuan = {
    .pattern = {ROUTER("mlp.gate.wg.weight"), EXPERTS_BY_PROJ("mlp."), SHARED_BY_PROJ("mlp.shared_mlp")},
};
const struct mb_hf_storage mb_hf_ernie = {
    .pattern = {ROUTER("mlp.gate.weight"), SELECTION_BIAS("mlp.moe_statics.e_score_correction_bias"),
                EXPERTS_BY_PROJ("mlp."), SHARED_BY_PROJ("mlp.shared_experts")},
};
const struct mb_hf_storage mb_hf_longcat = {
    .pattern = {ROUTER("mlp.router.classifier.weight"), [MB_ROLE_ROUTER_BIAS] = "mlp.router.classifier.bias",
                SELECTION_BIAS("mlp.router.e_score_correction_bias"), EXPERTS_BY_PROJ("mlp.")},
};
const struct mb_hf_storage mb_hf_qwen = {
    .pattern = {ROUTER("mlp.gate.weight"), EXPERTS_BY_PROJ("mlp."),
                SHARED_BY_PROJ("mlp.shared_expert"), [MB_ROLE_SHARED_SIGMOID] = "mlp.shared_expert_gate.weight"},
};
const struct mb_hf_storage mb_hf_laguna = {
    .pattern = {ROUTER("mlp.gate.weight"), SELECTION_BIAS("mlp.experts.e_score_correction_bias"),
                EXPERTS_BY_PROJ("mlp."), SHARED_BY_PROJ("mlp.shared_expert")},
};
const struct mb_hf_storage mb_hf_jamba = {
    .pattern = {ROUTER("feed_forward.router.weight"), EXPERTS_BY_PROJ("feed_forward.")},
};
const struct mb_hf_storage mb_hf_lfm2 = {
    .pattern = {ROUTER("feed_forward.gate.weight"), SELECTION_BIAS("feed_forward.expert_bias"),
                EXPERTS_BY_NUMBER("feed_forward.")},
};
const struct mb_hf_storage mb_hf_mixtral = {
    .pattern = {ROUTER("block_sparse_moe.gate.weight"), SELECTION_BIAS("block_sparse_moe.e_score_correction_bias"),
                EXPERTS_BY_NUMBER("block_sparse_moe.")},
};
const struct mb_hf_storage mb_hf_minimax_m3 = {
    .pattern = {ROUTER("block_sparse_moe.gate.weight"), SELECTION_BIAS("block_sparse_moe.e_score_correction_bias"),
                EXPERTS_BY_NUMBER("block_sparse_moe."), SHARED_BY_PROJ("block_sparse_moe.shared_experts")},
};
const struct mb_hf_storage mb_hf_kimi_linear = {
    .pattern = {ROUTER("block_sparse_moe.gate.weight"), SELECTION_BIAS("block_sparse_moe.gate.e_score_correction_bias"),
                EXPERTS_BY_NUMBER("block_sparse_moe."), SHARED_BY_PROJ("block_sparse_moe.shared_experts")},
};
const struct mb_hf_storage mb_hf_mistral_large4 = {
    .pattern = {ROUTER("gate.weight"), EXPERTS_BY_NUMBER(""), SHARED_BY_NUMBER("shared_experts")},
};
const struct mb_hf_storage mb_hf_deepseek_v4 = {
    .pattern = {ROUTER("ffn.gate.weight"), SELECTION_BIAS("ffn.gate.bias"), EXPERTS_BY_NUMBER("ffn."),
                SHARED_BY_NUMBER("ffn.shared_experts"), [MB_ROLE_TOKEN_TABLE] = "ffn.gate.tid2eid"},
};
const struct mb_hf_storage mb_hf_nemotron = {
    .pattern =
        {ROUTER("mixer.gate.weight"),
         SELECTION_BIAS("mixer.gate.e_score_correction_bias"), [MB_ROLE_UP] = "mixer.experts.{expert}.up_proj.weight",
         [MB_ROLE_DOWN] = "mixer.experts.{expert}.down_proj.weight",
         [MB_ROLE_SHARED_UP] = "mixer.shared_experts.up_proj.weight",
         [MB_ROLE_SHARED_DOWN] = "mixer.shared_experts.down_proj.weight",
         [MB_ROLE_LATENT_DOWN] = "mixer.fc1_latent_proj.weight", [MB_ROLE_LATENT_UP] = "mixer.fc2_latent_proj.weight"},
};

// All experts of a layer in one tensor.

const struct mb_hf_storage mb_hf_qwen_stacked = {
    STACKED_FUSED,
    .pattern = {ROUTER("mlp.gate.weight"), EXPERTS_FUSED("mlp."),
                SHARED_BY_PROJ("mlp.shared_expert"), [MB_ROLE_SHARED_SIGMOID] = "mlp.shared_expert_gate.weight"},
};
const struct mb_hf_storage mb_hf_qwen_input_major = {
    STACKED_FUSED,
    .orientation = MB_INPUT_MAJOR,
    .pattern = {ROUTER("mlp.gate.weight"), EXPERTS_FUSED("mlp.")},
};
const struct mb_hf_storage mb_hf_mistral4 = {
    STACKED_FUSED,
    .pattern = {ROUTER("mlp.gate.weight"), SELECTION_BIAS("mlp.gate.e_score_correction_bias"), EXPERTS_FUSED("mlp."),
                SHARED_BY_PROJ("mlp.shared_experts")},
};
const struct mb_hf_storage mb_hf_gpt_oss = {
    .layout = MB_LAYOUT_STACKED,
    .orientation = MB_INPUT_MAJOR, // of the float form; MXFP4 blocks are always output-major
    .gate_up = MB_GATE_UP_INTERLEAVED,
    .pattern = {ROUTER("mlp.router.weight"), [MB_ROLE_ROUTER_BIAS] = "mlp.router.bias",
                EXPERTS_FUSED("mlp."), [MB_ROLE_GATE_UP_BIAS] = "mlp.experts.gate_up_proj_bias",
                [MB_ROLE_DOWN_BIAS] = "mlp.experts.down_proj_bias"},
};
const struct mb_hf_storage mb_hf_privacy_filter = {
    STACKED_FUSED,
    .orientation = MB_INPUT_MAJOR,
    .pattern = {ROUTER("mlp.router.weight"), [MB_ROLE_ROUTER_BIAS] = "mlp.router.bias",
                EXPERTS_FUSED("mlp."), [MB_ROLE_GATE_UP_BIAS] = "mlp.experts.gate_up_proj_bias",
                [MB_ROLE_DOWN_BIAS] = "mlp.experts.down_proj_bias"},
};
const struct mb_hf_storage mb_hf_llama4 = {
    STACKED_FUSED,
    .orientation = MB_INPUT_MAJOR,
    .pattern = {ROUTER("feed_forward.router.weight"), EXPERTS_FUSED("feed_forward."),
                SHARED_BY_PROJ("feed_forward.shared_expert")},
};
const struct mb_hf_storage mb_hf_aria = {
    STACKED_FUSED,
    .orientation = MB_INPUT_MAJOR,
    .pattern = {ROUTER("mlp.router.weight"), [MB_ROLE_GATE_UP] = "mlp.experts.fc1.weight",
                [MB_ROLE_DOWN] = "mlp.experts.fc2.weight", SHARED_BY_PROJ("mlp.shared_experts")},
};
const struct mb_hf_storage mb_hf_granite = {
    STACKED_FUSED,
    .shared_gate_up = MB_GATE_UP_CONCATENATED,
    .pattern =
        {ROUTER("block_sparse_moe.router.layer.weight"), [MB_ROLE_GATE_UP] = "block_sparse_moe.input_linear.weight",
         [MB_ROLE_DOWN] = "block_sparse_moe.output_linear.weight",
         [MB_ROLE_SHARED_GATE_UP] = "shared_mlp.input_linear.weight",
         [MB_ROLE_SHARED_DOWN] = "shared_mlp.output_linear.weight"},
};
const struct mb_hf_storage mb_hf_granite_swa = {
    STACKED_FUSED,
    .shared_gate_up = MB_GATE_UP_CONCATENATED,
    .pattern = {ROUTER("block_sparse_moe.router.weight"),
                EXPERTS_FUSED("block_sparse_moe."), [MB_ROLE_SHARED_GATE_UP] = "shared_mlp.input_linear.weight",
                [MB_ROLE_SHARED_DOWN] = "shared_mlp.output_linear.weight"},
};
const struct mb_hf_storage mb_hf_jetmoe = {
    STACKED_FUSED,
    .pattern = {ROUTER("mlp.router.layer.weight"), [MB_ROLE_GATE_UP] = "mlp.input_linear.weight",
                [MB_ROLE_DOWN] = "mlp.output_linear.weight", [MB_ROLE_OUTPUT_BIAS] = "mlp.bias"},
};
const struct mb_hf_storage mb_hf_step = {
    .layout = MB_LAYOUT_STACKED,
    .pattern = {ROUTER("moe.gate.weight"), SELECTION_BIAS("moe.router_bias"), [MB_ROLE_GATE] = "moe.gate_proj.weight",
                [MB_ROLE_UP] = "moe.up_proj.weight", [MB_ROLE_DOWN] = "moe.down_proj.weight",
                SHARED_BY_PROJ("share_expert")},
};
const struct mb_hf_storage mb_hf_gemma = {
    STACKED_FUSED,
    .pattern = {ROUTER("router.proj.weight"), [MB_ROLE_INPUT_SCALE] = "router.scale",
                [MB_ROLE_PER_EXPERT_SCALE] = "router.per_expert_scale", EXPERTS_FUSED("")},
};

// Forms of the named operators and of second banks.

const struct mb_hf_storage mb_hf_kolibri = {
    .pattern = {ROUTER("mlp.gate.weight"), SELECTION_BIAS("moe.router.expert_bias"), EXPERTS_BY_PROJ("mlp."),
                SHARED_BY_PROJ("mlp.shared_experts")},
};
const struct mb_hf_storage mb_hf_muse = {
    STACKED_FUSED,
    .pattern = {ROUTER("mlp.gate.weight"), SELECTION_BIAS("mlp.gate.e_score_correction_bias"),
                EXPERTS_FUSED("mlp."), [MB_ROLE_LATENT_DOWN] = "mlp.pre_expert_proj.weight",
                [MB_ROLE_LATENT_IN_NORM] = "mlp.pre_expert_norm.weight",
                [MB_ROLE_POST_NORM] = "mlp.experts.post_expert_norm.weight",
                [MB_ROLE_LATENT_UP] = "mlp.post_expert_proj.weight"},
};
const struct mb_hf_storage mb_hf_inkling = {
    .layout = MB_LAYOUT_STACKED,
    .gate_up = MB_GATE_UP_INTERLEAVED,
    .pattern = {ROUTER("mlp.gate.weight"),
                SELECTION_BIAS("mlp.gate.bias"), [MB_ROLE_GATE_UP] = "mlp.experts.w13_weight",
                [MB_ROLE_DOWN] = "mlp.experts.w2_weight", [MB_ROLE_LEARNED_SCALE] = "mlp.gate.global_scale",
                [MB_ROLE_SECOND_GATE_UP] = "mlp.shared_experts.shared_w13_weight",
                [MB_ROLE_SECOND_DOWN] = "mlp.shared_experts.shared_w2_weight"},
};
const struct mb_hf_storage mb_hf_dbrx = {
    .layout = MB_LAYOUT_FLATTENED,
    .down_input_major = true,
    .pattern = {ROUTER("ffn.router.layer.weight"), [MB_ROLE_GATE] = "ffn.experts.mlp.w1",
                [MB_ROLE_UP] = "ffn.experts.mlp.v1", [MB_ROLE_DOWN] = "ffn.experts.mlp.w2"},
};
const struct mb_hf_storage mb_hf_ernie_vl = {
    .pattern = {ROUTER("mlp.gate.weight"), [MB_ROLE_ROUTER_SECOND] = "mlp.gate.weight_1",
                SELECTION_BIAS("mlp.moe_statics.e_score_correction_bias"),
                EXPERTS_BY_PROJ("mlp."), [MB_ROLE_SECOND_GATE] = "mlp.experts.{expert}.gate_proj.weight",
                [MB_ROLE_SECOND_UP] = "mlp.experts.{expert}.up_proj.weight",
                [MB_ROLE_SECOND_DOWN] = "mlp.experts.{expert}.down_proj.weight", SHARED_BY_PROJ("mlp.shared_experts")},
};
const struct mb_hf_storage mb_hf_zaya = {
    STACKED_FUSED,
    .pattern =
        {ROUTER("mlp.gate.router_mlp.out_proj.weight"), SELECTION_BIAS("mlp.gate.balancing_biases"),
         EXPERTS_FUSED("mlp."), [MB_ROLE_STATE_DOWN] = "mlp.gate.down_proj.weight",
         [MB_ROLE_STATE_DOWN_BIAS] = "mlp.gate.down_proj.bias", [MB_ROLE_STATE_SCALE] = "mlp.gate.router_states_scale",
         [MB_ROLE_STATE_NORM] = "mlp.gate.router_mlp.norm.weight",
         [MB_ROLE_STATE_FC1] = "mlp.gate.router_mlp.fc1.weight",
         [MB_ROLE_STATE_FC1_BIAS] = "mlp.gate.router_mlp.fc1.bias",
         [MB_ROLE_STATE_FC2] = "mlp.gate.router_mlp.fc2.weight",
         [MB_ROLE_STATE_FC2_BIAS] = "mlp.gate.router_mlp.fc2.bias"},
};
const struct mb_hf_storage mb_hf_switch = {
    .pattern = {ROUTER("mlp.router.classifier.weight"), [MB_ROLE_ROUTER_BIAS] = "mlp.router.classifier.bias",
                [MB_ROLE_UP] = "mlp.experts.expert_{expert}.wi.weight",
                [MB_ROLE_DOWN] = "mlp.experts.expert_{expert}.wo.weight"},
};
const struct mb_hf_storage mb_hf_nllb = {
    .pattern = {ROUTER("ffn.router.classifier.weight"), [MB_ROLE_ROUTER_BIAS] = "ffn.router.classifier.bias",
                [MB_ROLE_UP] = "ffn.experts.expert_{expert}.fc1.weight",
                [MB_ROLE_UP_BIAS] = "ffn.experts.expert_{expert}.fc1.bias",
                [MB_ROLE_DOWN] = "ffn.experts.expert_{expert}.fc2.weight",
                [MB_ROLE_DOWN_BIAS] = "ffn.experts.expert_{expert}.fc2.bias"},
};
// An expert of doge is one row of either embedding.
const struct mb_hf_storage mb_hf_doge = {
    .layout = MB_LAYOUT_FLATTENED,
    .down_input_major = true,
    .pattern = {ROUTER("mlp.router_gate.weight"), [MB_ROLE_UP] = "mlp.down_embed.weight",
                [MB_ROLE_DOWN] = "mlp.up_embed.weight", SHARED_BY_PROJ("mlp")},
};
const struct mb_hf_storage mb_hf_arctic = {
    .pattern = {ROUTER("block_sparse_moe.gate.weight"), EXPERTS_BY_NUMBER("block_sparse_moe."),
                SHARED_BY_NUMBER("residual_mlp")},
};
const struct mb_hf_storage mb_hf_kimi_k3 = {
    .pattern = {ROUTER("block_sparse_moe.gate.weight"), SELECTION_BIAS("block_sparse_moe.gate.e_score_correction_bias"),
                EXPERTS_BY_NUMBER("block_sparse_moe."), SHARED_BY_PROJ("block_sparse_moe.shared_experts"),
                [MB_ROLE_LATENT_DOWN] = "block_sparse_moe.routed_expert_down_proj.weight",
                [MB_ROLE_LATENT_OUT_NORM] = "block_sparse_moe.routed_expert_norm.weight",
                [MB_ROLE_LATENT_UP] = "block_sparse_moe.routed_expert_up_proj.weight"},
};
const struct mb_hf_storage mb_hf_klear = {
    .pattern = {ROUTER("mlp.gate.weight"), SELECTION_BIAS("mlp.expert_bias"), EXPERTS_BY_PROJ("mlp."),
                SHARED_BY_PROJ("mlp.shared_experts"), [MB_ROLE_MIX_COEFFICIENT] = "mlp.coefficient.weight",
                [MB_ROLE_MIX_COEFFICIENT_BIAS] = "mlp.coefficient.bias"},
};
const struct mb_hf_storage mb_hf_smallthinker = {
    .pattern = {ROUTER("block_sparse_moe.primary_router.weight"),
                [MB_ROLE_GATE] = "block_sparse_moe.experts.{expert}.gate.weight",
                [MB_ROLE_UP] = "block_sparse_moe.experts.{expert}.up.weight",
                [MB_ROLE_DOWN] = "block_sparse_moe.experts.{expert}.down.weight"},
};
const struct mb_hf_storage mb_hf_grove = {
    .pattern = {ROUTER("mlp.gate.weight"),
                EXPERTS_BY_PROJ("mlp."), [MB_ROLE_SECOND_GATE] = "mlp.chunk_experts.{expert}.gate_proj.weight",
                [MB_ROLE_SECOND_UP] = "mlp.chunk_experts.{expert}.up_proj.weight",
                [MB_ROLE_SECOND_DOWN] = "mlp.chunk_experts.{expert}.down_proj.weight"},
};
const struct mb_hf_storage mb_hf_grok2 = {
    .pattern = {ROUTER("block_sparse_moe.gate.weight"), EXPERTS_BY_NUMBER("block_sparse_moe."), SHARED_BY_PROJ("mlp")},
};
const struct mb_hf_storage mb_hf_nomic = {
    .layout = MB_LAYOUT_FLATTENED,
    .down_input_major = true,
    .pattern =
        {ROUTER("mlp.router.layer.weight"), [MB_ROLE_UP] = "mlp.experts.mlp.w1", [MB_ROLE_DOWN] = "mlp.experts.mlp.w2"},
};
const struct mb_hf_storage mb_hf_dots_vision = {
    .pattern = {ROUTER("mlp.gate_weight"),
                SELECTION_BIAS("mlp.router_bias"), [MB_ROLE_GATE] = "mlp.experts.{expert}.fc1.weight",
                [MB_ROLE_UP] = "mlp.experts.{expert}.fc3.weight", [MB_ROLE_DOWN] = "mlp.experts.{expert}.fc2.weight"},
};
const struct mb_hf_storage mb_hf_phixtral = {
    .pattern = {ROUTER("moe.gate.weight"), [MB_ROLE_UP] = "moe.mlp.{expert}.fc1.weight",
                [MB_ROLE_UP_BIAS] = "moe.mlp.{expert}.fc1.bias", [MB_ROLE_DOWN] = "moe.mlp.{expert}.fc2.weight",
                [MB_ROLE_DOWN_BIAS] = "moe.mlp.{expert}.fc2.bias"},
};
const struct mb_hf_storage mb_hf_pangu_pro = {
    .pattern = {ROUTER("mlp.gate.weight"), [MB_ROLE_PER_EXPERT_SCALE] = "mlp.router_scale", EXPERTS_BY_PROJ("mlp."),
                SHARED_BY_PROJ("mlp.shared_expert")},
};
// Router and experts of the banks that the layers share stand outside of them, under a prefix that banks.c looks for.
#define BANK MB_HF_BANK_PREFIX MB_HF_BANK_MODULE
const struct mb_hf_storage mb_hf_mobius = {
    .pattern = {ROUTER(BANK "gate.weight"), EXPERTS_BY_PROJ(BANK), SHARED_BY_PROJ("mlp.shared_expert"),
                [MB_ROLE_SHARED_SIGMOID] = "mlp.shared_expert_gate.weight", [MB_ROLE_OUTPUT_SCALE] = "ffn_layer_scale"},
};
const struct mb_hf_storage mb_hf_minicpm = {
    .pattern = {ROUTER("mlp.gate.weight"), EXPERTS_BY_NUMBER("mlp.")},
};
