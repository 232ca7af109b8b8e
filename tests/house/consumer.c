// SPDX-License-Identifier: Apache-2.0
// The smallest user of an installed moeblock: proves that header and library of one version were found, and that
// what the library itself needs (threads, JSON) was linked.
#include <moeblock/moeblock.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
    char expected[48];
    (void)snprintf(expected, sizeof expected, "%d.%d.%d", MOEBLOCK_VERSION_MAJOR, MOEBLOCK_VERSION_MINOR,
                   MOEBLOCK_VERSION_PATCH);
    if (strcmp(expected, moeblock_version()) != 0) {
        (void)printf("headers of %s, library of %s\n", expected, moeblock_version());
        return 1;
    }

    moeblock_context *context = NULL;
    moeblock_config *config = NULL;
    moeblock_error error = {0};
    if (moeblock_context_create(NULL, &context, &error) != MOEBLOCK_OK) {
        (void)printf("%s\n", error.message);
        return 1;
    }
    const char text[] = "{\"model\": {\"hidden_size\": -1}}";
    const moeblock_status status =
        moeblock_config_parse(context, text, sizeof text - 1, "consumer.json", NULL, &config, &error);
    (void)printf("moeblock %s: %s\n", moeblock_version(), error.message);
    moeblock_context_destroy(&context);
    return status == MOEBLOCK_INVALID_CONFIG ? 0 : 1;
}
