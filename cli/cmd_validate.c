// SPDX-License-Identifier: Apache-2.0
// `moeblock validate`: every rule of the format, the completeness of a layer, and on request the values.
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/float.h"
#include "base/memory.h"
#include "block.h"
#include "cli/commands.h"
#include "cli/out.h"
#include "cli/progress.h"
#include "cli/session.h"
#include "config/tensors.h"

enum { PIECE_BYTES = 8 << 20 };

struct findings {
    size_t tensors, layer_tensors;
    uint64_t values, nans, infinities;
    int64_t layer;
    char first_bad[256]; // the first tensor with a value that is not finite
};

// The configuration to check against: the argument, or one that lies with the checkpoint. NULL: none.
static const char *config_of(const struct cli_args *args)
{
    static char path[CLI_PATH_MAX];
    static const char *const names[] = {"config.json", "moeblock.json"};
    if (args->positional[1] || !mb_is_directory(args->positional[0])) return args->positional[1];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (mb_path_join(args->positional[0], names[i], path, sizeof path, NULL) == MOEBLOCK_OK && mb_exists(path))
            return path;
    return NULL;
}

static bool same_elements(const moeblock_tensor_need *need, const moeblock_tensor_info *found)
{
    // Leading dimensions of 1 do not matter: [1, E] is [E].
    int a = 0, b = 0;
    while (a < need->rank && need->dims[a] == 1) a++;
    while (b < found->rank && found->dims[b] == 1) b++;
    const size_t bytes = sizeof need->dims[0] * (size_t)(need->rank - a);
    return need->rank - a == found->rank - b && memcmp(need->dims + a, found->dims + b, bytes) == 0;
}

// The linear maps in whatever format each is stored: names, types, shapes, scales.
static int check_projections(struct cli_session *session, int64_t layer)
{
    const moeblock_config *const config = session->config;
    for (int p = 0; p < MB_PROJECTIONS; p++) {
        const enum mb_projection projection = (enum mb_projection)p;
        const bool routed = projection == MB_PROJ_GATE || projection == MB_PROJ_UP || projection == MB_PROJ_DOWN;
        if (!mb_projection_wanted(config, projection)) continue;
        for (int64_t expert = 0; expert < (routed ? config->num_experts : 1); expert++) {
            struct mb_matrix matrix;
            if (mb_projection_find(config, session->weights, projection, layer, expert, &matrix, &session->error) !=
                MOEBLOCK_OK)
                return cli_fail_status(CLI_ABOUT_DATA, &session->error);
        }
    }
    return CLI_OK;
}

// A tensor under its plain name. One that is stored as codes, with scales beside them, has been checked as a
// projection.
static int check_tensor(struct cli_session *session, const moeblock_tensor_need *need, struct findings *findings)
{
    char name[300], expected[200], dims[200];
    moeblock_tensor_info found;
    for (int f = 0; f < MB_FORMATS; f++) {
        snprintf(name, sizeof name, "%s%s", need->name, mb_format_table[f].codes_suffix);
        if (mb_format_table[f].scale_suffix &&
            moeblock_weights_find(session->weights, name, &found, NULL) == MOEBLOCK_OK &&
            found.dtype == mb_format_table[f].dtype) {
            findings->layer_tensors += 2;
            return CLI_OK;
        }
    }
    findings->layer_tensors++;
    if (moeblock_weights_find(session->weights, need->name, &found, &session->error) != MOEBLOCK_OK)
        return cli_fail_status(CLI_ABOUT_DATA, &session->error);
    if (same_elements(need, &found)) return CLI_OK;
    return cli_fail(CLI_BAD_DATA, "tensor '%s' has shape %s, expected %s", need->name,
                    cli_dims_text(found.rank, found.dims, dims), cli_dims_text(need->rank, need->dims, expected));
}

static int check_layer(struct cli_session *session, struct findings *findings)
{
    const moeblock_config *const config = session->config;
    findings->layer = mb_block_layer(config);
    int code = check_projections(session, findings->layer);
    moeblock_tensor_need need;
    for (int64_t i = 0; !code && mb_tensor_needed(config, MB_FORMAT_BF16, findings->layer, i, &need); i++)
        code = check_tensor(session, &need, findings);
    return code;
}

// Reads value i of a piece as float32; NULL for types that cannot hold NaN or infinity.
typedef float (*value_reader)(const void *piece, size_t i);

static float read_f32(const void *piece, size_t i) { return ((const float *)piece)[i]; }
static float read_f64(const void *piece, size_t i)
{
    const double value = ((const double *)piece)[i];
    return isfinite(value) ? 0.0f : (float)value;
}
static float read_f16(const void *piece, size_t i) { return mb_from_f16(((const uint16_t *)piece)[i]); }
static float read_bf16(const void *piece, size_t i) { return mb_from_bf16(((const uint16_t *)piece)[i]); }
static float read_e4m3(const void *piece, size_t i) { return mb_from_e4m3(((const uint8_t *)piece)[i]); }
static float read_e8m0(const void *piece, size_t i) { return mb_from_e8m0(((const uint8_t *)piece)[i]); }

static const value_reader value_readers[] = {
    [MOEBLOCK_F32] = read_f32,     [MOEBLOCK_F16] = read_f16,      [MOEBLOCK_BF16] = read_bf16,
    [MOEBLOCK_F64] = read_f64,     [MOEBLOCK_F8_E4M3] = read_e4m3, [MOEBLOCK_F8_E8M0] = read_e8m0,
    [MOEBLOCK_DTYPE_OTHER] = NULL,
};

static void count_values(const moeblock_tensor_info *tensor, const void *piece, size_t count, struct findings *findings)
{
    const value_reader read = value_readers[tensor->dtype];
    const uint64_t before = findings->nans + findings->infinities;
    for (size_t i = 0; i < count; i++) {
        const float value = read(piece, i);
        findings->nans += isnan(value) != 0;
        findings->infinities += isinf(value) != 0;
    }
    findings->values += count;
    if (before == 0 && findings->nans + findings->infinities > 0)
        snprintf(findings->first_bad, sizeof findings->first_bad, "%s", tensor->name);
}

static int read_tensor(struct cli_session *session, const moeblock_tensor_info *tensor, void *piece,
                       struct findings *findings)
{
    const size_t element = moeblock_dtype_bytes(tensor->dtype);
    if ((unsigned)tensor->dtype > MOEBLOCK_DTYPE_OTHER || !value_readers[tensor->dtype]) return CLI_OK;
    for (uint64_t at = 0; at < tensor->bytes; at += PIECE_BYTES) {
        const size_t bytes = tensor->bytes - at < PIECE_BYTES ? (size_t)(tensor->bytes - at) : PIECE_BYTES;
        if (moeblock_weights_read(session->weights, tensor, at, bytes, piece, &session->error) != MOEBLOCK_OK)
            return cli_fail_status(CLI_ABOUT_DATA, &session->error);
        count_values(tensor, piece, bytes / element, findings);
    }
    return CLI_OK;
}

static int check_values(struct cli_session *session, const struct cli_args *args, struct findings *findings)
{
    struct cli_progress progress;
    void *const piece = mb_alloc(&mb_default_allocator, PIECE_BYTES);
    if (!piece) return cli_fail(CLI_SYSTEM_REFUSED, "no memory for a buffer of %d bytes", PIECE_BYTES);
    cli_progress_begin(&progress, "reading", args->quiet || args->json);
    int code = CLI_OK;
    for (size_t i = 0; i < findings->tensors && !code; i++) {
        moeblock_tensor_info tensor;
        if (moeblock_weights_at(session->weights, i, &tensor, &session->error) != MOEBLOCK_OK)
            code = cli_fail_status(CLI_ABOUT_DATA, &session->error);
        else
            code = read_tensor(session, &tensor, piece, findings);
        cli_progress_update(&progress, i + 1, findings->tensors);
    }
    cli_progress_end(&progress);
    mb_free(&mb_default_allocator, piece);
    return code;
}

static void report(const struct cli_session *session, const struct cli_args *args, const struct findings *findings)
{
    if (args->json) {
        json_t *document = cli_json_begin("validate");
        json_object_set_new(document, "tensors", json_integer((json_int_t)findings->tensors));
        if (session->config) {
            json_object_set_new(document, "layer", json_integer(findings->layer));
            json_object_set_new(document, "layer_tensors", json_integer((json_int_t)findings->layer_tensors));
        }
        if (args->values) {
            json_object_set_new(document, "values", json_integer((json_int_t)findings->values));
            json_object_set_new(document, "nan", json_integer((json_int_t)findings->nans));
            json_object_set_new(document, "infinite", json_integer((json_int_t)findings->infinities));
        }
        cli_json_print(document);
        return;
    }
    if (args->quiet) return;
    cli_print_safe(args->positional[0]);
    printf(": %zu tensors, every rule of the format holds\n", findings->tensors);
    if (session->config)
        printf("layer %" PRId64 ": all %zu tensors are there\n", findings->layer, findings->layer_tensors);
    if (args->values)
        printf("values: %" PRIu64 " read, %" PRIu64 " NaN, %" PRIu64 " infinite\n", findings->values, findings->nans,
               findings->infinities);
}

static int validate(struct cli_session *session, const struct cli_args *args)
{
    struct findings findings = {0};
    const char *const config = config_of(args);
    int code;
    if ((code = cli_open_context(session, args, (int)args->threads))) return code;
    if ((code = cli_open_weights(session, args->positional[0]))) return code;
    if (moeblock_weights_validate(session->weights, &session->error) != MOEBLOCK_OK ||
        moeblock_weights_count(session->weights, &findings.tensors, &session->error) != MOEBLOCK_OK)
        return cli_fail_status(CLI_ABOUT_DATA, &session->error);
    if (config && (code = cli_open_config(session, args, config, NULL, 0))) return code;
    if (config && (code = cli_make_block(session, args))) return code; // refuses kinds that only a program knows
    if (config && (code = check_layer(session, &findings))) return code;
    if (args->values && (code = check_values(session, args, &findings))) return code;
    report(session, args, &findings);
    if (findings.nans + findings.infinities == 0) return CLI_OK;
    return cli_fail(CLI_BAD_DATA, "%" PRIu64 " NaN and %" PRIu64 " infinite values, the first in tensor '%s'",
                    findings.nans, findings.infinities, findings.first_bad);
}

int cli_validate(const struct cli_args *args)
{
    static struct cli_session session; // paths and messages inside: too large for the stack's taste
    const int code = validate(&session, args);
    cli_close(&session);
    return code;
}
