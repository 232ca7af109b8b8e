// SPDX-License-Identifier: Apache-2.0
// What the operating system tells about the machine.
#ifndef MB_CLI_MACHINE_H
#define MB_CLI_MACHINE_H

#include <stdint.h>

struct cli_machine {
    char cpu[128];      // model name; "unknown" where the system does not tell
    char features[512]; // instruction sets that matter for kernels, separated by blanks
    char huge_pages[64];
    uint64_t memory_bytes, available_bytes;
    uint64_t cache_bytes; // of the largest cache of CPU 0
};

void cli_machine_read(struct cli_machine *out);

// How much of this process's memory lies in huge pages at this moment; 0 where the system does not tell.
uint64_t cli_huge_page_bytes(void);

#endif
