// SPDX-License-Identifier: Apache-2.0
// Random contents for the tensors that a checkpoint of any number format holds.
#include "support/stored_values.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include "base/float.h"
#include "cmocka.h"

static uint32_t next_random(uint64_t *state, uint32_t below)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((*state >> 33) % below);
}

static float uniform(uint64_t *state) { return (float)next_random(state, 1u << 20) / (float)(1 << 19) - 1.0f; }

int stored_multiple(enum mb_format format)
{
    const struct mb_format_info *info = &mb_format_table[format];
    return mb_packed_info_of(info->packed).factors && !info->any_group ? 32 : 1;
}

const char *stored_keys(enum mb_format format)
{
    switch (format) {
    case MB_FORMAT_GPTQ:
        return "\"format\": \"gptq\", \"group_size\": 32, ";
    case MB_FORMAT_GPTQ_V2:
        return "\"format\": \"gptq_v2\", \"group_size\": 32, ";
    case MB_FORMAT_GPTQ_INT8:
        return "\"format\": \"gptq_int8\", \"group_size\": 32, ";
    case MB_FORMAT_GPTQ_V2_INT8:
        return "\"format\": \"gptq_v2_int8\", \"group_size\": 32, ";
    default:
        return mb_format_table[format].any_group ? "\"group_size\": 32, " : "";
    }
}

size_t stored_bytes(const moeblock_tensor_need *need)
{
    size_t bytes = moeblock_dtype_bytes(need->dtype);
    for (int d = 0; d < need->rank; d++) bytes *= (size_t)need->dims[d];
    return bytes;
}

static bool ends_with(const char *text, const char *ending)
{
    const size_t length = strlen(text), tail = ending ? strlen(ending) : 0;
    return ending && length >= tail && !strcmp(text + length - tail, ending);
}

// Groups of inputs, shuffled.
static void fill_order(int64_t columns, uint64_t *state, int32_t *groups)
{
    for (int64_t i = 0; i < columns; i++) groups[i] = (int32_t)(i / STORED_GROUP);
    for (int64_t i = columns - 1; i > 0; i--) {
        const int64_t j = next_random(state, (uint32_t)i + 1);
        const int32_t kept = groups[i];
        groups[i] = groups[j];
        groups[j] = kept;
    }
}

static void put(moeblock_dtype dtype, bool scale, uint64_t *state, void *data, size_t i)
{
    const float value = 0.5f * uniform(state), number = scale ? 0.02f + 0.02f * value : value;
    const uint32_t random = next_random(state, 1u << 31) << 1 ^ next_random(state, 1u << 31);
    switch (dtype) {
    case MOEBLOCK_F32:
        ((float *)data)[i] = number;
        return;
    case MOEBLOCK_F16:
        ((uint16_t *)data)[i] = mb_to_f16(number);
        return;
    case MOEBLOCK_BF16:
        ((uint16_t *)data)[i] = mb_to_bf16(number);
        return;
    case MOEBLOCK_F8_E4M3:
        ((uint8_t *)data)[i] = mb_to_e4m3(scale ? 4.0f + 4.0f * value : 20.0f * value);
        return;
    case MOEBLOCK_F8_E8M0:
    case MOEBLOCK_U8:
    case MOEBLOCK_I8:
        ((uint8_t *)data)[i] = (uint8_t)(scale ? 118 + random % 6 : random);
        return;
    case MOEBLOCK_I32:
        ((uint32_t *)data)[i] = random;
        return;
    case MOEBLOCK_I64:
        ((int64_t *)data)[i] = (int64_t)(i % 8); // of a table: rows of k different experts
        return;
    default:
        fail_msg("no random values of dtype %s", moeblock_dtype_name(dtype));
    }
}

void stored_fill(enum mb_format format, const moeblock_tensor_need *need, uint64_t *state, void *data)
{
    const size_t count = stored_bytes(need) / moeblock_dtype_bytes(need->dtype);
    const bool scale = ends_with(need->name, mb_format_suffix(format, MB_PART_SCALES)) ||
                       ends_with(need->name, mb_format_suffix(format, MB_PART_TOTAL));
    if (ends_with(need->name, mb_format_suffix(format, MB_PART_ORDER))) {
        const int64_t columns = need->dims[need->rank - 1];
        for (int64_t at = 0; at < (int64_t)count; at += columns) fill_order(columns, state, (int32_t *)data + at);
        return;
    }
    for (size_t i = 0; i < count; i++) put(need->dtype, scale, state, data, i);
    // A divisor of the size that makes weights of it.
    if (mb_format_table[format].divides && ends_with(need->name, mb_format_suffix(format, MB_PART_TOTAL)))
        *(float *)data = 50.0f;
}
