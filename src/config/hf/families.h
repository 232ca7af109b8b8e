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
    bool down_input_major; // the down projections alone, where `orientation` is output-major
    enum mb_gate_up gate_up, shared_gate_up;
    const char *pattern[MB_ROLES];
};

static inline enum mb_orientation mb_hf_down_orientation(const struct mb_hf_storage *storage)
{
    return storage->down_input_major ? MB_INPUT_MAJOR : storage->orientation;
}

extern const struct mb_hf_storage mb_hf_deepseek, mb_hf_deepseek_expert_bias, mb_hf_deepseek_moe_bias, mb_hf_afmoe,
    mb_hf_hunyuan, mb_hf_hy_v3, mb_hf_ernie, mb_hf_longcat, mb_hf_qwen, mb_hf_qwen_stacked, mb_hf_qwen_input_major,
    mb_hf_laguna, mb_hf_mixtral, mb_hf_minimax_m3, mb_hf_kimi_linear, mb_hf_lfm2, mb_hf_jamba, mb_hf_mistral4,
    mb_hf_mistral_large4, mb_hf_axk1, mb_hf_deepseek_v4, mb_hf_nemotron, mb_hf_gpt_oss, mb_hf_privacy_filter,
    mb_hf_llama4, mb_hf_aria, mb_hf_granite, mb_hf_granite_swa, mb_hf_jetmoe, mb_hf_step, mb_hf_gemma, mb_hf_kolibri,
    mb_hf_muse, mb_hf_inkling, mb_hf_dbrx, mb_hf_ernie_vl, mb_hf_zaya, mb_hf_switch, mb_hf_nllb, mb_hf_doge,
    mb_hf_arctic, mb_hf_kimi_k3, mb_hf_klear, mb_hf_smallthinker, mb_hf_grove, mb_hf_grok2, mb_hf_nomic,
    mb_hf_dots_vision, mb_hf_mobius, mb_hf_phixtral, mb_hf_pangu_pro, mb_hf_minicpm;

// Names of banks that layers share: where they stand if no checkpoint says so, and the module of one.
#define MB_HF_BANK_PREFIX "/model.language_model."
#define MB_HF_BANK_MODULE "meta_mlp.{bank}."

// The routed experts' computation, and how much of it the shared expert has in common.
struct mb_hf_expert {
    const char *activation; // NULL: what the activation key says, silu without one
    enum mb_clamp clamp;    // when a limit above 0 is found
    float alpha, limit;     // when the keys are absent
    bool ungated, bias, output_bias, out_norm;
    bool shared_own_limit;        // the shared expert has its own limit key
    bool shared_unclamped;        // it has no limit
    bool shared_gated;            // it has a gate though the routed ones have none
    bool shared_aux;              // it reads the second tensor
    enum mb_mix mix;              // of routed and shared
    bool latent_in_norm;          // RMSNorm (1 + w) after the latent down projection
    bool post_norm;               // of each expert's output, (1 + w)
    int64_t fixed_k, fixed_width; // of all models of the type; 0: read
};

enum mb_hf_shared_rule {
    MB_HF_NO_SHARED,
    MB_HF_SHARED_BY_COUNT,     // count x expert width; no count: none
    MB_HF_SHARED_ONE_OR_COUNT, // the same; no count: one
    MB_HF_SHARED_BY_WIDTH,     // a width of its own; 0 or absent: none
    MB_HF_SHARED_GENERAL,      // the dense layers' width: a dense branch beside the experts
    MB_HF_SHARED_HIDDEN        // the hidden size: arctic's residual branch
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
    MB_HF_AFTER_HASH,
    MB_HF_EVERY,         // the last of every `frequency` layers
    MB_HF_ENCODER_STEPS, // the last of every `step` layers of the encoder
    MB_HF_SPARSE_COUNT   // so many sparse layers, evenly spread (switch)
};

// What a known value of a text key does.
enum mb_hf_effect {
    MB_HF_AS_IS,
    MB_HF_NO_GROUPS,
    MB_HF_SOFTMAX_K,
    MB_HF_SIGMOID_K,
    MB_HF_SOFTMAX_SCORE, // softmax over all, without bias and groups
    MB_HF_SIGMOID_SCORE,
    MB_HF_MIX_SUM,
    MB_HF_MIX_AVERAGE
};

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
    MB_HF_STORES_V4 = 1 << 8,         // published in the forms of DeepSeek-V4
    MB_HF_READS_LOGIT_SCALE = 1 << 9,
    MB_HF_READS_DROPOUT = 1 << 10,     // the routed sum is multiplied by 1 - moe_token_dropout
    MB_HF_READS_MLP_BIAS = 1 << 11,    // the flag that gives the shared expert and the latent projections biases
    MB_HF_WIDTH_OF_HIDDEN = 1 << 12,   // without a width the experts have 4 x the hidden size
    MB_HF_GROUPS_BY_K = 1 << 13,       // without a number of groups there are as many as choices
    MB_HF_DENSE_WIDTH_APART = 1 << 14, // with a dense width of its own in the file the general one is the experts'
    MB_HF_SHARES_BANKS = 1 << 15,      // the layers share a number of banks of router and experts: banks.c
    MB_HF_MAY_LACK_EXPERTS = 1 << 16   // a file with 0 experts means the shared expert alone
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

// Further towers of a model type's files: the keys' object and the row that goes with it. The checkpoint tells when it
// is meant: it has layers under that row's prefix and none under the model type's own. Ended by a NULL model type.
struct mb_hf_tower {
    const char *model_type, *scope, *row;
};
extern const struct mb_hf_tower mb_hf_towers[];

// Model types that are known by name, with what they need beyond the pipeline. Ended by a NULL model type.
struct mb_hf_refused {
    const char *model_type, *needs;
};
extern const struct mb_hf_refused mb_hf_refused_families[];

#endif
