// SPDX-License-Identifier: Apache-2.0
// model.safetensors.index.json: what is accepted names plain files of the folder only, and its names are in order.
#include "fuzz/fuzz.h"
#include "weights/checkpoint.h"

static const char folder[] = "folder";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    char path[32];
    const int descriptor = fuzz_file(data, bytes, bytes, path);
    struct mb_index index;
    moeblock_error error = {MOEBLOCK_OK, ""};
    const moeblock_status status = mb_index_read(&mb_default_allocator, path, folder, &index, &error);
    FUZZ_CHECK((status == MOEBLOCK_OK) == (error.message[0] == '\0'));
    if (status == MOEBLOCK_OK) {
        for (size_t i = 0; i < index.name_count; i++) {
            FUZZ_CHECK(index.names[i].shard < index.shard_count);
            FUZZ_CHECK(i == 0 || strcmp(index.names[i - 1].name, index.names[i].name) < 0);
        }
        for (size_t i = 0; i < index.shard_count; i++) {
            const char *name = index.paths[i] + sizeof folder; // behind the slash
            FUZZ_CHECK(strncmp(index.paths[i], "folder/", sizeof folder) == 0 && name[0] != '\0');
            FUZZ_CHECK(!strchr(name, '/') && strcmp(name, "..") != 0 && strcmp(name, ".") != 0);
            FUZZ_CHECK(i == 0 || strcmp(index.paths[i - 1], index.paths[i]) < 0);
        }
        mb_index_free(&mb_default_allocator, &index);
    }
    close(descriptor);
    return 0;
}
