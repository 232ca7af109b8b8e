// SPDX-License-Identifier: Apache-2.0
// Random numbers by counter: the 64-bit word at position w of a tensor is the splitmix64 finaliser (Steele, Lea and
// Flood, 2014) of key + w * golden ratio; the key is made of seed and tensor name.
#include "cli/values.h"

#include <math.h>
#include <string.h>

#include "base/context.h"
#include "base/float.h"

static const uint64_t golden = UINT64_C(0x9e3779b97f4a7c15);
static const float bias_spread = 0.1f, norm_spread = 0.1f;
static const double e4m3_largest = 448, uniform_deviation = 0.57735026918962576; // of a uniform number in [-1, 1)
static const double e2m1_deviation = 2.9261749776799064;                         // of the 16 codes: sqrt(68.5 / 8)

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

// One-byte power-of-two scales of MXFP4: one in four is halved, so that neighbours differ.
static void choose_exponents(int64_t inputs, struct cli_values *out)
{
    const double exponent = 127 - log2(e2m1_deviation * sqrt(inputs > 0 ? (double)inputs : 1));
    for (int b = 0; b < 256; b++) out->code[b] = (uint8_t)((int)lrint(exponent) - (b % 4 == 0));
}

void cli_values_choose(const moeblock_config *config, enum mb_format format, int64_t layer,
                       const moeblock_tensor_need *tensor, uint64_t seed, struct cli_values *out)
{
    const struct mb_format_info *const info = &mb_format_table[format];
    const bool scale = info->scale_suffix && ends_with(tensor->name, info->scale_suffix);
    const int64_t last = tensor->rank ? tensor->dims[tensor->rank - 1] : 1;
    *out = (struct cli_values){.key = key_of(seed, tensor->name), .dtype = cli_need_dtype(tensor, format)};
    if (scale && moeblock_dtype_bytes(out->dtype) == 1) {
        choose_exponents(last * info->column_tile, out);
    } else if (scale) {
        const double inputs = (double)last * (double)info->column_tile;
        out->centre = (float)(1 / (e4m3_largest * uniform_deviation * sqrt(inputs > 0 ? inputs : 1)));
        out->spread = out->centre / 4;
    } else if (out->dtype == MOEBLOCK_F8_E4M3) {
        for (int b = 0; b < 256; b++) out->code[b] = mb_to_e4m3((float)(((double)b - 127.5) / 128 * e4m3_largest));
    } else if (moeblock_dtype_bytes(out->dtype) == 1) {
        for (int b = 0; b < 256; b++) out->code[b] = (uint8_t)b;
    } else {
        choose_floats(config, layer, tensor, out);
    }
}

static void fill_bytes(const struct cli_values *values, uint64_t word, uint8_t to[8])
{
    for (int i = 0; i < 8; i++) to[i] = values->code[(word >> (8 * i)) & 0xff];
}

static void fill_halves(const struct cli_values *values, uint64_t word, uint8_t to[8])
{
    uint16_t out[4];
    for (int i = 0; i < 4; i++) {
        const float unit = (float)((int)((word >> (16 * i)) & 0xffff) - 32768) * (1.0f / 32768);
        const float value = values->centre + values->spread * unit;
        out[i] = values->dtype == MOEBLOCK_BF16 ? mb_to_bf16(value) : mb_to_f16(value);
    }
    memcpy(to, out, 8);
}

static void fill_floats(const struct cli_values *values, uint64_t word, uint8_t to[8])
{
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

static void fill_task(void *argument, int64_t index, int worker)
{
    (void)worker;
    const struct filling *const filling = argument;
    const size_t element = moeblock_dtype_bytes(filling->values->dtype);
    void (*const fill)(const struct cli_values *, uint64_t, uint8_t *) = element == 1   ? fill_bytes
                                                                         : element == 2 ? fill_halves
                                                                                        : fill_floats;
    const size_t begin = (size_t)index * TASK_BYTES;
    const size_t end = filling->bytes - begin < TASK_BYTES ? filling->bytes : begin + TASK_BYTES;
    for (size_t at = begin; at < end; at += 8) {
        const uint64_t word = mix(filling->values->key + (filling->first_word + at / 8) * golden);
        if (end - at >= 8) {
            fill(filling->values, word, filling->to + at);
            continue;
        }
        uint8_t last[8];
        fill(filling->values, word, last);
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
    static const moeblock_dtype floats[MB_FORMATS] = {[MB_FORMAT_F32] = MOEBLOCK_F32,
                                                      [MB_FORMAT_F16] = MOEBLOCK_F16,
                                                      [MB_FORMAT_BF16] = MOEBLOCK_BF16,
                                                      [MB_FORMAT_FP8] = MOEBLOCK_BF16,
                                                      [MB_FORMAT_MXFP4] = MOEBLOCK_BF16};
    return tensor->dtype == MOEBLOCK_DTYPE_NONE ? floats[format] : tensor->dtype;
}

uint64_t cli_need_bytes(const moeblock_tensor_need *tensor, enum mb_format format)
{
    uint64_t bytes = moeblock_dtype_bytes(cli_need_dtype(tensor, format));
    for (int i = 0; i < tensor->rank; i++) bytes *= (uint64_t)tensor->dims[i];
    return bytes;
}
