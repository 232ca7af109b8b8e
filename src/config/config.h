// SPDX-License-Identifier: Apache-2.0
// The checked description of a block. schema.c holds one table row per key (path, type, range, default, help) that
// points into this struct; parser, printer, messages and docs/config.md come out of that table.
#ifndef MB_CONFIG_CONFIG_H
#define MB_CONFIG_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/activation.h"
#include "moeblock/config.h"

enum { MB_TEXT = 160, MB_SCHEMA_ROWS_MAX = 256, MB_ROLES_MAX = 56 };

// Router primitives, moe-families section 3.2.
enum mb_input { MB_INPUT_HIDDEN, MB_INPUT_AUX };
enum mb_score { MB_SCORE_SOFTMAX, MB_SCORE_SIGMOID, MB_SCORE_SQRT_SOFTPLUS, MB_SCORE_IDENTITY };
enum mb_ids { MB_IDS_TOP_K, MB_IDS_TOKEN_TABLE };
enum mb_groups { MB_GROUPS_NONE, MB_GROUPS_LIMITED, MB_GROUPS_PER_GROUP };
enum mb_group_score { MB_GROUP_MAX, MB_GROUP_SUM_TOP2 };
enum mb_group_fill { MB_FILL_NEGATIVE_INFINITY, MB_FILL_ZERO };
enum mb_post { MB_POST_NONE, MB_POST_SOFTMAX_K, MB_POST_SIGMOID_K };
enum mb_norm { MB_NORM_NONE, MB_NORM_SUM, MB_NORM_SUM_CLAMPED, MB_NORM_P };
enum mb_capacity_order { MB_ORDER_ARRIVAL, MB_ORDER_PROBABILITY };
enum mb_scale_on { MB_SCALE_WEIGHTS, MB_SCALE_OUTPUT };
enum mb_apply { MB_APPLY_OUTPUT, MB_APPLY_INPUT };
enum mb_null { MB_NULL_IDENTITY, MB_NULL_ZERO };
enum mb_precision { MB_PRECISION_FP32, MB_PRECISION_MODEL };
enum mb_shared_gate { MB_SHARED_UNGATED, MB_SHARED_SIGMOID };
enum mb_mix { MB_MIX_SUM, MB_MIX_AVERAGE, MB_MIX_SUM_OVER_SQRT2, MB_MIX_SOFTMAX_COEF };
enum mb_gate_up { MB_GATE_UP_SEPARATE, MB_GATE_UP_CONCATENATED, MB_GATE_UP_INTERLEAVED };
enum mb_layout { MB_LAYOUT_PER_EXPERT, MB_LAYOUT_STACKED, MB_LAYOUT_FLATTENED };
enum mb_placement { MB_PLACED_INTERNAL, MB_PLACED_NONE };
// How rows travel over the expert-parallel axis, and what the result may depend on (mesh/algorithm.h).
enum mb_algorithm { MB_ALLTOALL, MB_ALLGATHER, MB_TWOLEVEL, MB_ALGORITHM_AUTO };
enum mb_reproducible { MB_REPRODUCIBLE_MESH, MB_REPRODUCIBLE_BATCH };
enum mb_exchanged { MB_EXCHANGE_AUTO, MB_EXCHANGE_ACTIVATIONS, MB_EXCHANGE_SUMS }; // between columns
enum mb_orientation { MB_OUTPUT_MAJOR, MB_INPUT_MAJOR };

struct mb_router_config {
    char type[64]; // a built-in name (preset.c), or a registered one
    enum mb_input input;
    bool input_norm; // RMSNorm without weight before the linear
    double input_norm_eps;
    bool input_scale_vector; // times a stored vector [H]
    double input_scale;      // times a constant; 0: H^-0.5
    bool linear_bias;
    bool transposed;    // weight stored [H, E]
    double logit_scale; // 1: none
    double softcap;     // 0: none; c * tanh(l / c)
    enum mb_score score, select_score;
    bool selection_bias;               // JSON: score_correction_bias
    bool selection_bias_subtract_mean; // when loaded
    enum mb_groups groups;
    int64_t n_group, topk_group;
    enum mb_group_score group_score;
    enum mb_group_fill group_fill;
    enum mb_post post;
    enum mb_norm norm;
    double norm_eps; // sum: added; sum_clamped: the minimum
    double norm_p;
    double scale; // JSON: routed_scaling_factor
    enum mb_scale_on scale_on;
    bool per_expert_scale;
    int64_t null_experts;
    enum mb_null null_kind;
    enum mb_apply apply_weight;
    enum mb_precision precision; // of logits and final weights
    enum mb_ids ids;             // chosen by scores, or read from a table by token id
    int64_t table_size;          // rows of that table
    // Of the named operators.
    double jitter_eps;        // sparsemixer: keeps logits within twice this of the best
    int64_t capacity;         // capacity: tokens that an expert takes of one sequence
    double capacity_fraction; // capacity_by_choice: above 0 that part of the sequence instead
    enum mb_capacity_order capacity_order;
    bool norm_kept;     // capacity_by_choice: normalises over the choices that were kept
    int64_t state_size; // mlp_state: width of its network and of the state it hands on
    bool state_carried; // mlp_state: adds the previous block's state
    bool learned_scale; // joint: weights times a stored scalar
};

// A second bank of experts behind the first: ids num_experts and up. Alike but for number and width.
struct mb_second_config {
    int64_t count;             // 0: none
    int64_t intermediate_size; // of one of them
    int64_t slots;             // that the router fills for each token beyond the k of the first bank
    int64_t first;             // number of the first of them in tensor names
    double scale;              // adjugate: factor on their weights
};

// One feed-forward: a routed expert or the shared one.
struct mb_ffn_config {
    int64_t intermediate_size;
    struct mb_activation activation;
    bool gated;
    bool bias; // gate, up and down biases
};

struct moeblock_config {
    moeblock_allocator allocator;
    char source[1024]; // file or name it came from, for messages

    char name[MB_TEXT], model_type[64];
    int64_t hidden_size, num_experts, num_experts_per_tok;
    int64_t num_layers;       // 0: unknown
    char moe_layers[MB_TEXT]; // "3-60" or "1,3,5"; empty: unknown or all
    double rms_norm_eps;      // of the latent's norms and the output norm

    bool tp_enabled;
    int64_t tp_axis;
    bool ep_enabled;
    int64_t ep_axis;

    int64_t mesh_rows, mesh_columns; // 0: the caller's
    enum mb_algorithm algorithm;
    double deadline; // seconds
    enum mb_reproducible reproducible;
    enum mb_exchanged exchanged;
    char placement[1024]; // "contiguous", or the file of a placement table (mesh/placement.h)

    struct mb_router_config router;
    char expert_type[64]; // a built-in name (preset.c), or a registered one
    struct mb_second_config second;
    int64_t expert_first; // number of the first expert in tensor names
    bool post_norm;       // of each expert's output: times weight, then RMSNorm
    double post_norm_eps;
    bool post_norm_plus_one; // weight (1 + w)
    bool out_norm;           // RMSNorm of routed + shared
    bool output_scale;       // the block's output times 1 + a stored vector [H]
    bool routed_enabled;
    struct mb_ffn_config routed;
    bool output_bias;                     // one bias [H] added once to the routed sum
    int64_t latent_size;                  // 0: none
    bool latent_bias;                     // both latent projections
    bool latent_in_norm, latent_out_norm; // RMSNorm after the down, before the up projection
    bool latent_norm_plus_one;            // weight (1 + w)

    bool shared_enabled;
    struct mb_ffn_config shared;
    enum mb_input shared_input; // of its projections; gate and mixing coefficients read x
    enum mb_shared_gate shared_gate;
    enum mb_mix mix;
    bool parallel_with_moe;

    char weight_path[1024], module_prefix[MB_TEXT];
    int64_t layer_index; // -1: not given
    char format[32];     // "auto" or a row of mb_format_table
    int64_t group_size;  // inputs per scale of formats that leave it to the model; 0: as the scales' shape says
    int64_t banks;       // {bank} in a name is the layer modulo this; 0: no name has it
    enum mb_layout layout;
    enum mb_orientation orientation, down_orientation;
    enum mb_gate_up gate_up, shared_gate_up;
    char tensor[MB_ROLES_MAX]
               [MB_TEXT]; // pattern by enum mb_role (tensors.h), after the module prefix; {expert}, {layer}, {bank}

    int64_t prefill_chunk, moe_chunk; // 0: none
    bool replicated_batch;

    // Further spellings, folded into the fields above (schema.h, `folded`).
    bool norm_topk_prob, dense_backbone;
    int64_t dense_intermediate_size, shared_count;
    enum mb_placement shared_placement;

    char *router_json, *expert_json;           // objects at router.config and experts.config, as text; owned
    uint8_t given[MB_SCHEMA_ROWS_MAX];         // per schema row: where the value comes from (schema.h)
    const char *model_key[MB_SCHEMA_ROWS_MAX]; // per schema row: the key of a config.json that gave it, or NULL
    const char *model_scope;                   // the object of that file in which the keys stand; NULL: its root
};

// As moeblock_config_print, with a comment behind each value that tells where it comes from.
size_t mb_config_print_origins(const moeblock_config *config, char *to, size_t capacity);

// Experts of both banks, and the slots that a router fills for a token: the k of the first bank, then the second's.
static inline int64_t mb_all_experts(const moeblock_config *config)
{
    return config->num_experts + config->second.count;
}
static inline int64_t mb_all_slots(const moeblock_config *config)
{
    return config->num_experts_per_tok + config->second.slots;
}
// What ids may be: experts, then null experts.
static inline int64_t mb_all_classes(const moeblock_config *config)
{
    return mb_all_experts(config) + config->router.null_experts;
}

// The second bank as a description of its own, in which it is the only one. Shares the original's strings.
void mb_second_bank(const moeblock_config *config, moeblock_config *out);

// Whether forward needs the second tensor.
static inline bool mb_reads_aux(const moeblock_config *config)
{
    return (config->routed_enabled && config->router.input == MB_INPUT_AUX) ||
           (config->shared_enabled && config->shared_input == MB_INPUT_AUX);
}

// A description with the schema's defaults, made by `allocator`; NULL when memory is short.
moeblock_config *mb_config_new(const moeblock_allocator *allocator);
// A deep copy, or NULL. Both are freed by moeblock_config_destroy.
moeblock_config *mb_config_copy(const moeblock_config *config, const moeblock_allocator *allocator);

#endif
