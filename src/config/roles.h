// SPDX-License-Identifier: Apache-2.0
// What the stored tensors are: a row per role with its size in terms of the description. Names, shapes and the list of
// needed tensors all come from it.
#ifndef MB_CONFIG_ROLES_H
#define MB_CONFIG_ROLES_H

#include "config/tensors.h"

// Sizes in a description.
enum mb_extent {
    MB_EXTENT_NONE,
    MB_EXTENT_ONE,
    MB_EXTENT_TWO,
    MB_EXTENT_CLASSES, // experts and null experts
    MB_EXTENT_EXPERTS,
    MB_EXTENT_HIDDEN,
    MB_EXTENT_ROUTED, // what routed experts work at: the latent width, or H
    MB_EXTENT_INNER,  // I
    MB_EXTENT_INNER_TWICE,
    MB_EXTENT_SHARED,
    MB_EXTENT_SHARED_TWICE,
    MB_EXTENT_LATENT,
    MB_EXTENT_LOGITS,       // outputs of the router's last linear map
    MB_EXTENT_ROUTER_INPUT, // what that map reads: H, or the width of the router's network
    MB_EXTENT_CHOICES,      // classes that have a selection bias
    MB_EXTENT_STATE,
    MB_EXTENT_TABLE,
    MB_EXTENT_TOP_K
};

enum mb_owner { MB_OWNER_ROUTER, MB_OWNER_BLOCK, MB_OWNER_SHARED, MB_OWNER_ROUTED };

struct mb_role_info {
    const char *key; // under weights.names
    enum mb_owner owner;
    enum mb_extent rows, columns; // outputs and inputs of one expert; columns NONE: a vector
    bool (*wanted)(const moeblock_config *config);
};

extern const struct mb_role_info mb_roles[MB_ROLES];

int64_t mb_extent(const moeblock_config *config, enum mb_extent extent);

// Whether all experts of the role lie in one tensor with a leading dimension E.
bool mb_role_stacked(const moeblock_config *config, enum mb_role role);
// Whether the role's matrix is stored [in, out] in this format.
bool mb_role_input_major(const moeblock_config *config, enum mb_role role, enum mb_format format);
// How a fused gate and up lie in the role's tensor; SEPARATE for roles of one part.
enum mb_gate_up mb_role_joined(const moeblock_config *config, enum mb_role role);

// Dimensions of a part of the role's matrix as stored in a format, `group` inputs a scale. Returns the rank.
int mb_role_dims(const moeblock_config *config, enum mb_role role, enum mb_format format, enum mb_part part,
                 int64_t group, int64_t dims[MOEBLOCK_MAX_RANK]);

// INVALID_FILE with found and expected unless the tensor has these dimensions.
moeblock_status mb_check_dims(const moeblock_tensor_info *tensor, int rank, const int64_t *dims, moeblock_error *error);

// stored.c: finds the role's tensors, recognises their format and fills the rest of `out`, whose rows and columns are
// set: part `part` of what the role's tensor holds.
moeblock_status mb_stored_find(const moeblock_config *config, moeblock_weights *weights, enum mb_role role, int part,
                               int64_t layer, int64_t expert, struct mb_matrix *out, moeblock_error *error);

#endif
