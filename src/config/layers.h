// SPDX-License-Identifier: Apache-2.0
// Lists of layers as text: "3-60", "1,3,5", "0-2,7".
#ifndef MB_CONFIG_LAYERS_H
#define MB_CONFIG_LAYERS_H

#include <stdbool.h>
#include <stdint.h>

bool mb_layers_valid(const char *list); // an empty list is valid
bool mb_layers_contain(const char *list, int64_t layer);

#endif
