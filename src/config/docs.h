// SPDX-License-Identifier: Apache-2.0
// docs/config.md, printed from the schema table.
#ifndef MB_CONFIG_DOCS_H
#define MB_CONFIG_DOCS_H

#include <stdio.h>

void mb_config_docs(FILE *to);

#endif
