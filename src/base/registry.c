// SPDX-License-Identifier: Apache-2.0
// The names that a context knows: router and expert kinds, built in or registered by the program.
#include <string.h>

#include "base/arith.h"
#include "base/context.h"
#include "base/status.h"

static const char *const kind_names[MB_REGISTRY_KINDS] = {"a router kind", "an expert kind"};

static moeblock_status check_name(const moeblock_context *context, enum mb_registry_kind kind, const char *name,
                                  moeblock_error *error)
{
    const char *const what = kind_names[kind];
    const size_t longest = sizeof((struct mb_registered *)0)->name - 1;
    if (!name || !*name) {
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "registering %s: its name is empty; give it one", what);
    }
    if (strlen(name) > longest) {
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "registering %s: the name \"%s\" has %zu bytes; at most %zu are allowed", what, name,
                       strlen(name), longest);
    }
    if (mb_registered_find(context, kind, name)) {
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "registering %s: the name \"%s\" is taken; choose another",
                       what, name);
    }
    return MOEBLOCK_OK;
}

moeblock_status mb_register(moeblock_context *context, enum mb_registry_kind kind, const char *name,
                            const void *class_memory, size_t class_bytes, void *user, moeblock_error *error)
{
    MB_TRY(check_name(context, kind, name, error));
    // One block: the entry, then its copy of the class.
    const size_t class_offset = mb_round_up(sizeof(struct mb_registered), _Alignof(max_align_t));
    char *memory = mb_alloc_zero(&context->allocator, class_offset + class_bytes);
    if (!memory) {
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "registering %s \"%s\": %zu bytes could not be had",
                       kind_names[kind], name, class_offset + class_bytes);
    }
    memcpy(memory + class_offset, class_memory, class_bytes);
    struct mb_registered *entry = (struct mb_registered *)(void *)memory;
    memcpy(entry->name, name, strlen(name) + 1);
    entry->class_copy = memory + class_offset;
    entry->user = user;
    struct mb_registered **end = &context->registry[kind]; // at the end: lists of names keep the order of registration
    while (*end) end = &(*end)->next;
    *end = entry;
    return MOEBLOCK_OK;
}

const struct mb_registered *mb_registered_find(const moeblock_context *context, enum mb_registry_kind kind,
                                               const char *name)
{
    const struct mb_registered *entry = context->registry[kind];
    while (entry && strcmp(entry->name, name) != 0) entry = entry->next;
    return entry;
}

void mb_registry_clear(moeblock_context *context)
{
    for (int kind = 0; kind < MB_REGISTRY_KINDS; kind++) {
        while (context->registry[kind]) {
            struct mb_registered *entry = context->registry[kind];
            context->registry[kind] = entry->next;
            mb_free(&context->allocator, entry);
        }
    }
}
