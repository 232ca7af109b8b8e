// SPDX-License-Identifier: Apache-2.0
// Named sets of values: what a router type stands for, and how families name their tensors.
#ifndef MB_CONFIG_PRESET_H
#define MB_CONFIG_PRESET_H

#include "config/schema.h"

// Gives every key the schema's default (MB_FROM_DEFAULT).
void mb_config_defaults(moeblock_config *config);

// True for the built-in router types: their router.config keys are the schema's.
bool mb_router_is_builtin(const char *type);
// The same for experts.type.
bool mb_expert_is_builtin(const char *type);

// Applies the settings of config->router.type to keys without a stronger source: MB_FROM_PRESET, and above
// MB_FROM_MODEL when the type itself was named in a file of ours or by --set.
void mb_router_preset(moeblock_config *config);
// The i-th setting of all types: router type, key path, value as JSON. False past the end.
bool mb_router_preset_at(int i, const char **type, const char **path, const char **value);

// Applies a tensor-name preset ("deepseek", "mixtral", ...): module prefix, layout, orientation, how gate and up are
// joined, and all name patterns, marked as `origin` where no stronger source has spoken. False: no such preset.
bool mb_names_preset(moeblock_config *config, const char *name, enum mb_origin origin);
// The i-th preset's name, NULL past the end.
const char *mb_names_preset_name(int i);

#endif
