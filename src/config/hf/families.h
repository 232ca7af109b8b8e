// SPDX-License-Identifier: Apache-2.0
// The rules of a model family as data: families.c has a row per model type, storage.c the forms in which experts are
// stored. map.c applies a row; adding a model of a known kind is adding a row.
#ifndef MB_CONFIG_HF_FAMILIES_H
#define MB_CONFIG_HF_FAMILIES_H

#include "config/config.h"
#include "config/hf/spellings.h"
#include "config/tensors.h"

// How a layer's tensors are stored: name patterns after the module prefix, and the shape of the expert tensors.
struct mb_hf_storage {
    enum mb_layout layout;
    enum mb_orientation orientation;
    enum mb_gate_up gate_up, shared_gate_up;
    const char *pattern[MB_ROLES];
};

extern const struct mb_hf_storage mb_hf_deepseek, mb_hf_deepseek_expert_bias, mb_hf_deepseek_moe_bias, mb_hf_afmoe,
    mb_hf_hunyuan, mb_hf_hy_v3, mb_hf_ernie, mb_hf_longcat, mb_hf_qwen, mb_hf_qwen_stacked, mb_hf_qwen_input_major,
    mb_hf_laguna, mb_hf_mixtral, mb_hf_minimax_m3, mb_hf_kimi_linear, mb_hf_lfm2, mb_hf_jamba, mb_hf_mistral4,
    mb_hf_mistral_large4, mb_hf_axk1, mb_hf_deepseek_v4, mb_hf_nemotron, mb_hf_gpt_oss, mb_hf_privacy_filter,
    mb_hf_llama4, mb_hf_aria, mb_hf_granite, mb_hf_granite_swa, mb_hf_jetmoe, mb_hf_step, mb_hf_gemma;

// The routed experts' computation, and how much of it the shared expert has in common.
struct mb_hf_expert {
    const char *activation; // NULL: what the activation key says, silu without one
    enum mb_clamp clamp;    // when a limit above 0 is found
    float alpha, limit;     // when the keys are absent
    bool ungated, bias, output_bias, out_norm;
    bool shared_own_limit; // the shared expert has its own limit key
};

enum mb_hf_shared_rule {
    MB_HF_NO_SHARED,
    MB_HF_SHARED_BY_COUNT,     // count x expert width; no count: none
    MB_HF_SHARED_ONE_OR_COUNT, // the same; no count: one
    MB_HF_SHARED_BY_WIDTH      // a width of its own; 0 or absent: none
};

// Which layers are MoE, moe-families 1.2. A list in `mlp_layer_types` goes before any rule.
enum mb_hf_layer_rule {
    MB_HF_ALL_LAYERS,
    MB_HF_AFTER_DENSE,
    MB_HF_SPARSE_STEPS,
    MB_HF_BETWEEN,
    MB_HF_PERIODIC,
    MB_HF_LISTED_OR_STEP,
    MB_HF_LISTED_TEXT,
    MB_HF_FREQUENCY_LIST,
    MB_HF_BLOCK_LETTERS,
    MB_HF_WHEN_ENABLED,
    MB_HF_AFTER_HASH
};

// What a known value of a text key does.
enum mb_hf_effect { MB_HF_AS_IS, MB_HF_NO_GROUPS, MB_HF_SOFTMAX_K, MB_HF_SIGMOID_K, MB_HF_MIX_SUM, MB_HF_MIX_AVERAGE };

struct mb_hf_value {
    enum mb_hf_meaning meaning;
    const char *text; // NULL ends the list
    enum mb_hf_effect effect;
};

// When a key must be there. What is absent otherwise has its family's neutral value, in the model's own code as here.
enum mb_hf_when {
    MB_HF_ALWAYS = 1 << 0,
    MB_HF_WITH_GROUPS = 1 << 1,      // the file asks for more than one group
    MB_HF_WITH_GROUP_METHOD = 1 << 2 // its topk_method works by groups
};

struct mb_hf_need {
    unsigned when; // of enum mb_hf_when; 0 ends the list
    enum mb_hf_meaning meaning;
};

enum mb_hf_flag {
    MB_HF_READS_NORM = 1 << 0,        // the renormalise key counts; absent: true
    MB_HF_NORM_IF_SAID = 1 << 1,      // absent: false
    MB_HF_READS_SCALE = 1 << 2,       // the scale key counts
    MB_HF_READS_ROUTER_BIAS = 1 << 3, // the flag that gives the router's linear a bias
    MB_HF_READS_SHARED_BIAS = 1 << 4, // the flag that gives the shared expert biases
    MB_HF_SIGMOID_SHARED = 1 << 5,    // the shared expert is multiplied by a sigmoid gate
    MB_HF_GENERAL_IS_EXPERT = 1 << 6, // intermediate_size is the routed expert's width
    MB_HF_STORES_MXFP4 = 1 << 7,      // published in MXFP4, in the gpt-oss form
    MB_HF_PLAIN_ONLY = 1 << 8         // quantised forms have tensor names that are not read yet
};

struct mb_hf_family {
    const char *model_type;
    const char *scope;  // object with the text model's keys; NULL, or absent in the file: the root
    const char *prefix; // of a layer's tensors
    const struct mb_router_config *router;
    const struct mb_hf_expert *expert;
    const struct mb_hf_storage *storage;
    enum mb_hf_shared_rule shared;
    enum mb_hf_layer_rule layers;
    const struct mb_hf_value *values; // NULL: no text key counts
    unsigned flags;                   // of enum mb_hf_flag
    const struct mb_hf_need *needs;   // beyond the sizes; NULL: nothing
};

// Rows that are mapped, ended by a NULL model type.
extern const struct mb_hf_family mb_hf_families[];

// Further forms in which the files of a model type are stored, under the same config.json; the checkpoint's tensor
// names tell which. Ended by a NULL model type.
struct mb_hf_alternative {
    const char *model_type;
    const struct mb_hf_storage *storage;
};
extern const struct mb_hf_alternative mb_hf_alternatives[];

// Model types that are known by name, with what they need beyond the pipeline. Ended by a NULL model type.
struct mb_hf_refused {
    const char *model_type, *needs;
};
extern const struct mb_hf_refused mb_hf_refused_families[];

#endif
