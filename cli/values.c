// SPDX-License-Identifier: Apache-2.0
// Random numbers by counter: the 64-bit word at position w of a tensor is the splitmix64 finaliser (Steele, Lea and
// Flood, 2014) of key + w * golden ratio; the key is made of seed and tensor name.
#include "cli/values.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/context.h"
#include "base/float.h"

static const uint64_t golden = UINT64_C(0x9e3779b97f4a7c15);
static const float bias_spread = 0.1f, norm_spread = 0.1f;
static const double e4m3_largest = 448, uniform_deviation = 0.57735026918962576; // of a uniform number in [-1, 1)
static const double e2m1_deviation = 2.9261749776799064;                         // of the 16 codes: sqrt(68.5 / 8)
static const double factor_centre = 256;                                         // of e4m3 factors, 128 to 383

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint64_t key_of(uint64_t seed, const char *name)
{
    uint64_t key = mix(seed + golden);
    for (const char *c = name; *c; c++) key = mix(key + golden + (unsigned char)*c);
    return key;
}

static bool ends_with(const char *text, const char *ending)
{
    const size_t bytes = strlen(text), tail = strlen(ending);
    return bytes >= tail && strcmp(text + bytes - tail, ending) == 0;
}

static bool has_role(const moeblock_config *config, enum mb_role role, int64_t layer, const char *name)
{
    char wanted[256];
    if (!mb_role_wanted(config, role)) return false;
    mb_role_name(config, role, layer, 0, wanted);
    return strcmp(wanted, name) == 0;
}

static int64_t inputs_of(const moeblock_config *config, int64_t layer, const moeblock_tensor_need *tensor)
{
    if (tensor->rank == 3 && config->orientation == MB_INPUT_MAJOR) return tensor->dims[1];
    if (config->router.transposed && has_role(config, MB_ROLE_ROUTER, layer, tensor->name)) return tensor->dims[0];
    return tensor->rank ? tensor->dims[tensor->rank - 1] : 1;
}

static void choose_floats(const moeblock_config *config, int64_t layer, const moeblock_tensor_need *tensor,
                          struct cli_values *out)
{
    static const enum mb_role around_one[] = {MB_ROLE_INPUT_SCALE, MB_ROLE_PER_EXPERT_SCALE, MB_ROLE_LATENT_IN_NORM,
                                              MB_ROLE_LATENT_OUT_NORM, MB_ROLE_OUT_NORM};
    for (size_t i = 0; i < sizeof around_one / sizeof *around_one; i++) {
        if (!has_role(config, around_one[i], layer, tensor->name)) continue;
        const bool norm = around_one[i] == MB_ROLE_LATENT_IN_NORM || around_one[i] == MB_ROLE_LATENT_OUT_NORM;
        out->centre = norm && config->latent_norm_plus_one ? 0 : 1;
        out->spread = norm_spread;
        return;
    }
    out->spread = bias_spread;
    if (tensor->rank < 2 || ends_with(tensor->name, "bias")) return;
    const int64_t inputs = inputs_of(config, layer, tensor);
    out->spread = (float)(1 / (uniform_deviation * sqrt(inputs > 0 ? (double)inputs : 1)));
}

static bool coded_type(enum mb_format format, moeblock_dtype dtype)
{
    return dtype == mb_format_table[format].dtype || dtype == mb_format_table[format].also;
}

// The map and the part of its format that a tensor is; false for a tensor of floats.
static bool identify(const moeblock_config *config, enum mb_format format, int64_t layer,
                     const moeblock_tensor_need *tensor, enum mb_role *role, enum mb_part *part)
{
    for (const char *c = tensor->name; *c; c++) { // the expert's number is one of those in the name, if any
        const bool number = *c >= '0' && *c <= '9' && (c == tensor->name || c[-1] < '0' || c[-1] > '9');
        if (!number && c != tensor->name) continue;
        const int64_t expert = number ? strtoll(c, NULL, 10) : 0;
        for (int r = 0; r < MB_ROLES; r++) {
            char wanted[256], full[288];
            *role = (enum mb_role)r;
            if (!mb_role_wanted(config, *role)) continue;
            mb_role_name(config, *role, layer, expert, wanted);
            for (int p = 0; p < MB_PARTS; p++) {
                *part = (enum mb_part)p;
                const char *const suffix = mb_format_suffix(format, *part);
                if (!suffix || (*part == MB_PART_CODES && !mb_format_table[format].scale_suffix)) continue;
                mb_name_with(wanted, suffix, full);
                if (strcmp(full, tensor->name) == 0) return *part != MB_PART_CODES || coded_type(format, tensor->dtype);
            }
        }
    }
    return false;
}

// Standard deviation of a format's codes as they are made up, factors included.
static double code_deviation(const struct mb_format_info *info)
{
    switch (info->packed) {
    case MB_PACKED_FP4:
        return e2m1_deviation;
    case MB_PACKED_NVFP4:
        return e2m1_deviation * factor_centre;
    case MB_PACKED_INT4:
        return sqrt((16 * 16 - 1) / 12.0);
    case MB_PACKED_INT8:
        return sqrt((256 * 256 - 1) / 12.0);
    default:
        return e4m3_largest * uniform_deviation;
    }
}

static void choose_codes(const struct mb_format_info *info, struct cli_values *out)
{
    out->keep = UINT32_MAX;
    for (int b = 0; b < 256; b++)
        out->code[b] = info->dtype == MOEBLOCK_F8_E4M3 ? mb_to_e4m3((float)(((double)b - 127.5) / 128 * e4m3_largest))
                                                       : (uint8_t)b;
}

// Scales such that code times scale has the deviation of weights. Powers of two: one in four is halved, so that
// neighbours differ.
static void choose_scales(const struct mb_format_info *info, double deviation, struct cli_values *out)
{
    const double scale = 1 / (code_deviation(info) * deviation);
    const int exponent = (int)lrint(127 + log2(scale));
    for (int b = 0; b < 256; b++)
        out->code[b] = info->scales == MB_SCALE_E4M3 ? mb_to_e4m3((float)(factor_centre / 2 + b))
                                                     : (uint8_t)(exponent - (b % 4 == 0));
    out->centre = (float)scale;
    out->spread = out->centre / 4;
}

void cli_values_choose(const moeblock_config *config, enum mb_format format, int64_t layer,
                       const moeblock_tensor_need *tensor, uint64_t seed, struct cli_values *out)
{
    const struct mb_format_info *const info = &mb_format_table[format];
    enum mb_role role;
    enum mb_part part;
    *out = (struct cli_values){.key = key_of(seed, tensor->name), .dtype = cli_need_dtype(tensor, format)};
    if (!identify(config, format, layer, tensor, &role, &part)) {
        choose_floats(config, layer, tensor, out);
        return;
    }
    const int64_t rows = mb_role_outputs(config, role), columns = mb_role_inputs(config, role);
    const double deviation = sqrt(columns > 0 ? (double)columns : 1); // of weights: one over this
    const double total = 1 / (code_deviation(info) * deviation);
    switch (part) {
    case MB_PART_CODES:
        choose_codes(info, out);
        break;
    case MB_PART_SCALES:
        choose_scales(info, deviation, out);
        break;
    case MB_PART_ZEROS: // one half or just below
        out->keep = info->packed == MB_PACKED_INT4 ? 0x11111111u : 0x01010101u;
        out->plus = info->packed == MB_PACKED_INT4 ? 0x77777777u : 0x7f7f7f7fu;
        break;
    case MB_PART_TOTAL:
        out->centre = (float)(info->divides ? 1 / total : total);
        break;
    case MB_PART_ORDER:
        out->group = config->group_size ? config->group_size : info->column_tile;
        break;
    default:
        out->shape[0] = rows;
        out->shape[1] = columns;
    }
}

static void fill_bytes(const struct cli_values *values, uint64_t at, uint64_t word, uint8_t to[8])
{
    (void)at;
    for (int i = 0; i < 8; i++) to[i] = values->code[(word >> (8 * i)) & 0xff];
}

static void fill_halves(const struct cli_values *values, uint64_t at, uint64_t word, uint8_t to[8])
{
    (void)at;
    uint16_t out[4];
    for (int i = 0; i < 4; i++) {
        const float unit = (float)((int)((word >> (16 * i)) & 0xffff) - 32768) * (1.0f / 32768);
        const float value = values->centre + values->spread * unit;
        out[i] = values->dtype == MOEBLOCK_BF16 ? mb_to_bf16(value) : mb_to_f16(value);
    }
    memcpy(to, out, 8);
}

static void fill_words(const struct cli_values *values, uint64_t at, uint64_t word, uint8_t to[8])
{
    uint32_t out[2];
    for (int i = 0; i < 2; i++) {
        out[i] = ((uint32_t)(word >> (32 * i)) & values->keep) + values->plus;
        if (values->group) out[i] = (uint32_t)((2 * at + (uint64_t)i) / (uint64_t)values->group);
    }
    memcpy(to, out, 8);
}

static void fill_shape(const struct cli_values *values, uint64_t at, uint64_t word, uint8_t to[8])
{
    (void)word;
    memcpy(to, &values->shape[at & 1], 8);
}

static void fill_floats(const struct cli_values *values, uint64_t at, uint64_t word, uint8_t to[8])
{
    (void)at;
    float out[2];
    for (int i = 0; i < 2; i++) {
        const float unit = (float)((int)((word >> (32 * i + 8)) & 0xffffff) - 0x800000) * (1.0f / 0x800000);
        out[i] = values->centre + values->spread * unit;
    }
    memcpy(to, out, 8);
}

struct filling {
    const struct cli_values *values;
    uint64_t first_word;
    size_t bytes;
    uint8_t *to;
};

enum { TASK_BYTES = 1 << 18 };

// Makes the 8 bytes of word `at` of a tensor out of a random word.
typedef void (*filler)(const struct cli_values *values, uint64_t at, uint64_t word, uint8_t to[8]);

static filler filler_of(moeblock_dtype dtype)
{
    if (dtype == MOEBLOCK_I32) return fill_words;
    if (dtype == MOEBLOCK_I64) return fill_shape;
    const size_t element = moeblock_dtype_bytes(dtype);
    return element == 1 ? fill_bytes : element == 2 ? fill_halves : fill_floats;
}

static void fill_task(void *argument, int64_t index, int worker)
{
    (void)worker;
    const struct filling *const filling = argument;
    const filler fill = filler_of(filling->values->dtype);
    const size_t begin = (size_t)index * TASK_BYTES;
    const size_t end = filling->bytes - begin < TASK_BYTES ? filling->bytes : begin + TASK_BYTES;
    for (size_t at = begin; at < end; at += 8) {
        const uint64_t place = filling->first_word + at / 8;
        const uint64_t word = mix(filling->values->key + place * golden);
        if (end - at >= 8) {
            fill(filling->values, place, word, filling->to + at);
            continue;
        }
        uint8_t last[8];
        fill(filling->values, place, word, last);
        memcpy(filling->to + at, last, end - at);
    }
}

void cli_values_fill(const moeblock_context *context, const struct cli_values *values, uint64_t first, size_t bytes,
                     void *to)
{
    struct filling filling = {.values = values, .first_word = first / 8, .bytes = bytes, .to = to};
    mb_parallel(context, (int64_t)((bytes + TASK_BYTES - 1) / TASK_BYTES), fill_task, &filling);
}

void cli_values_input(const moeblock_context *context, uint64_t seed, int64_t count, float *out)
{
    const struct cli_values values = {
        .key = key_of(seed, "input"), .dtype = MOEBLOCK_F32, .spread = (float)(1 / uniform_deviation)};
    cli_values_fill(context, &values, 0, sizeof(float) * (size_t)count, out);
    for (int64_t i = 0; i < count; i++) out[i] = mb_round_bf16(out[i]);
}

moeblock_dtype cli_need_dtype(const moeblock_tensor_need *tensor, enum mb_format format)
{
    const struct mb_format_info *const info = &mb_format_table[format];
    const moeblock_dtype floats = info->scale_suffix ? MOEBLOCK_BF16 : info->dtype;
    return tensor->dtype == MOEBLOCK_DTYPE_NONE ? floats : tensor->dtype;
}

uint64_t cli_need_bytes(const moeblock_tensor_need *tensor, enum mb_format format)
{
    uint64_t bytes = moeblock_dtype_bytes(cli_need_dtype(tensor, format));
    for (int i = 0; i < tensor->rank; i++) bytes *= (uint64_t)tensor->dims[i];
    return bytes;
}
