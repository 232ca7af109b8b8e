// SPDX-License-Identifier: Apache-2.0
// From a description to stored tensors: names by role, what must exist, and where each projection of each expert lies.
#ifndef MB_CONFIG_TENSORS_H
#define MB_CONFIG_TENSORS_H

#include "config/config.h"
#include "moeblock/router.h"
#include "weights/format.h"

// Stored tensors. The name patterns are configuration (weights.names.<name>).
enum mb_role {
    MB_ROLE_ROUTER,           // router_weight      [E, H] (or [H, E])
    MB_ROLE_ROUTER_BIAS,      // router_bias        [E]
    MB_ROLE_SELECTION_BIAS,   // selection_bias     [E] (or [1, E])
    MB_ROLE_INPUT_SCALE,      // router_input_scale [H]
    MB_ROLE_PER_EXPERT_SCALE, // per_expert_scale   [E]
    MB_ROLE_GATE,
    MB_ROLE_UP,
    MB_ROLE_GATE_UP, // when gate and up are one tensor
    MB_ROLE_DOWN,
    MB_ROLE_GATE_BIAS,
    MB_ROLE_UP_BIAS,
    MB_ROLE_GATE_UP_BIAS,
    MB_ROLE_DOWN_BIAS,
    MB_ROLE_OUTPUT_BIAS, // output_bias [H]
    MB_ROLE_SHARED_GATE,
    MB_ROLE_SHARED_UP,
    MB_ROLE_SHARED_GATE_UP,
    MB_ROLE_SHARED_DOWN,
    MB_ROLE_SHARED_GATE_BIAS,
    MB_ROLE_SHARED_UP_BIAS,
    MB_ROLE_SHARED_DOWN_BIAS,
    MB_ROLE_SHARED_SIGMOID, // shared_sigmoid_gate [1, H]
    MB_ROLE_LATENT_DOWN,    // [L, H]
    MB_ROLE_LATENT_UP,      // [H, L]
    MB_ROLE_LATENT_DOWN_BIAS,
    MB_ROLE_LATENT_UP_BIAS,
    MB_ROLE_LATENT_IN_NORM,  // [L]
    MB_ROLE_LATENT_OUT_NORM, // [L]
    MB_ROLE_MIX_COEFFICIENT, // mix_coefficient [2, H]
    MB_ROLE_MIX_COEFFICIENT_BIAS,
    MB_ROLE_OUTPUT_SCALE,  // output_scale [H]
    MB_ROLE_OUT_NORM,      // out_norm [H]
    MB_ROLE_POST_NORM,     // expert_post_norm [H] (or [L])
    MB_ROLE_TOKEN_TABLE,   // token_table [vocabulary, k], integers
    MB_ROLE_ROUTER_SECOND, // router_weight_second: of tokens whose type is not 0
    MB_ROLE_LEARNED_SCALE, // learned_scale [1]
    MB_ROLE_STATE_DOWN,    // the network of mlp_state, D wide: [D, H]
    MB_ROLE_STATE_DOWN_BIAS,
    MB_ROLE_STATE_SCALE, // [D]
    MB_ROLE_STATE_NORM,  // [D]
    MB_ROLE_STATE_FC1,   // [D, D]
    MB_ROLE_STATE_FC1_BIAS,
    MB_ROLE_STATE_FC2,
    MB_ROLE_STATE_FC2_BIAS,
    MB_ROLE_SECOND_GATE, // of the second bank; mb_second_bank puts them in the places of gate, up, ...
    MB_ROLE_SECOND_UP,
    MB_ROLE_SECOND_GATE_UP,
    MB_ROLE_SECOND_DOWN,
    MB_ROLES
};

// Key of the role under weights.names, for example "router_weight".
const char *mb_role_key(enum mb_role role);
// Whether the description calls for this tensor.
bool mb_role_wanted(const moeblock_config *config, enum mb_role role);
// Whether its name pattern counts: wanted, by either bank of experts.
bool mb_role_named(const moeblock_config *config, enum mb_role role);
// Outputs and inputs of one expert's map as stored; inputs 0: a vector.
int64_t mb_role_outputs(const moeblock_config *config, enum mb_role role);
int64_t mb_role_inputs(const moeblock_config *config, enum mb_role role);
// Full name in the checkpoint, for a layer and an expert (ignored where the pattern has no {expert}).
void mb_role_name(const moeblock_config *config, enum mb_role role, int64_t layer, int64_t expert, char out[256]);

// A tensor's name with a format's suffix (weights/format.h).
void mb_name_with(const char *name, const char *suffix, char out[288]);

// Finds a tensor under its full name, from "mlp." on, or bare. NOT_FOUND names the full name and what it is for.
moeblock_status mb_role_find(const moeblock_config *config, moeblock_weights *weights, enum mb_role role,
                             const char *suffix, int64_t layer, int64_t expert, moeblock_tensor_info *out,
                             moeblock_error *error);

// A linear map among the stored tensors. Gate and up find their half of a fused tensor.
enum mb_projection {
    MB_PROJ_ROUTER,
    MB_PROJ_GATE,
    MB_PROJ_UP,
    MB_PROJ_DOWN,
    MB_PROJ_SHARED_GATE,
    MB_PROJ_SHARED_UP,
    MB_PROJ_SHARED_DOWN,
    MB_PROJ_SHARED_SIGMOID,
    MB_PROJ_LATENT_DOWN,
    MB_PROJ_LATENT_UP,
    MB_PROJ_MIX_COEFFICIENT,
    MB_PROJ_ROUTER_SECOND,
    MB_PROJ_STATE_DOWN,
    MB_PROJ_STATE_FC1,
    MB_PROJ_STATE_FC2,
    MB_PROJECTIONS
};

// The projection of a name under weights.names ("gate", "shared_down"), or MB_PROJECTIONS.
enum mb_projection mb_projection_named(const char *name);

// Whether the description has this linear map.
bool mb_projection_wanted(const moeblock_config *config, enum mb_projection projection);

// Finds a projection, recognises its format (which must be `weights.format` unless that is auto) and checks dtype and
// shape of codes and scales: INVALID_FILE with found and expected.
moeblock_status mb_projection_find(const moeblock_config *config, moeblock_weights *weights,
                                   enum mb_projection projection, int64_t layer, int64_t expert, struct mb_matrix *out,
                                   moeblock_error *error);

// Bias of a projection as float32 (its own part of a fused or stacked tensor); `count` values expected.
moeblock_status mb_projection_bias(const moeblock_config *config, moeblock_weights *weights,
                                   enum mb_projection projection, int64_t layer, int64_t expert, int64_t count,
                                   float *out, moeblock_error *error);

// A float vector such as the selection bias, whatever its leading dimensions of 1; `count` values expected. The
// selection bias of two banks is [2, E], both rows of it.
moeblock_status mb_role_floats(const moeblock_config *config, moeblock_weights *weights, enum mb_role role,
                               int64_t layer, int64_t count, float *out, moeblock_error *error);

// Whether the role is no linear map, and whether every expert has a tensor of its own.
bool mb_role_is_vector(enum mb_role role);
bool mb_role_per_expert(const moeblock_config *config, enum mb_role role);
// Whether the role's vector is there with the shape that the description gives (the token table: with its content).
moeblock_status mb_role_check(const moeblock_config *config, moeblock_weights *weights, enum mb_role role,
                              int64_t layer, int64_t expert, moeblock_error *error);

// The table from token ids to experts, [router.table_size][k] ids in ascending order; INVALID_FILE for a row that does
// not hold k different experts. `out` NULL: only looks.
moeblock_status mb_token_table(const moeblock_config *config, moeblock_weights *weights, int64_t layer, int32_t *out,
                               moeblock_error *error);

// The i-th tensor (i from 0) that a checkpoint of this description holds in `format` (a row of mb_format_table) for one
// layer: routed experts and shared expert in the format, the rest bf16 (f32 in f32, f16 in f16; the selection bias
// f32). Returns 0 past the last. What synth writes and validate expects.
int mb_tensor_needed(const moeblock_config *config, enum mb_format format, int64_t layer, int64_t i,
                     moeblock_tensor_need *out);

#endif
