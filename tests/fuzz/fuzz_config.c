// SPDX-License-Identifier: Apache-2.0
// Our JSON configuration and Hugging Face's config.json (told apart by model_type): every text ends in a description or
// a message, and what is accepted prints to a text that reads back as itself.
#include "fuzz/fuzz.h"
#include "moeblock/moeblock.h"

static moeblock_context *context_of(void)
{
    static moeblock_context *context;
    const moeblock_context_options options = {.struct_size = sizeof options, .threads = 1};
    if (!context) FUZZ_CHECK(moeblock_context_create(&options, &context, NULL) == MOEBLOCK_OK);
    return context;
}

static char *print(const moeblock_config *config)
{
    const size_t bytes = moeblock_config_print(config, NULL, 0);
    char *text = malloc(bytes + 1);
    FUZZ_CHECK(text && moeblock_config_print(config, text, bytes + 1) == bytes);
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    moeblock_config *config = NULL, *again = NULL;
    moeblock_error error = {MOEBLOCK_OK, ""};
    const moeblock_status status =
        moeblock_config_parse(context_of(), (const char *)data, bytes, "fuzz.json", NULL, &config, &error);
    FUZZ_CHECK((status == MOEBLOCK_OK) == (config != NULL));
    FUZZ_CHECK(status == error.code);
    FUZZ_CHECK((status == MOEBLOCK_OK) == (error.message[0] == '\0'));
    if (!config) return 0;
    char *first = print(config);
    if (moeblock_config_parse(context_of(), first, strlen(first), "printed.json", NULL, &again, &error)) {
        fprintf(stderr, "%s\n%s\n", error.message, first);
        abort();
    }
    char *second = print(again);
    FUZZ_CHECK(strcmp(first, second) == 0);
    free(first);
    free(second);
    moeblock_config_destroy(&config);
    moeblock_config_destroy(&again);
    return 0;
}
