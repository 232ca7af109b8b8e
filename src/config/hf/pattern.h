// SPDX-License-Identifier: Apache-2.0
// Module name patterns of quantisation configurations.
#ifndef MB_CONFIG_HF_PATTERN_H
#define MB_CONFIG_HF_PATTERN_H

#include <stdbool.h>

// Whether a regular expression matches the beginning of `name`, as Python's re.match: characters, `.`, `\d`, `\w`,
// escapes, sets, groups, `|`, `*`, `+`, `?`, `^`, `$`. False with *valid false for anything else. Takes time linear in
// the name, whatever the pattern.
bool mb_pattern_matches(const char *pattern, const char *name, bool *valid);

// Whether `name` fits a pattern in which `*` stands for any characters.
bool mb_wildcard_matches(const char *pattern, const char *name);

#endif
