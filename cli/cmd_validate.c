// SPDX-License-Identifier: Apache-2.0
// `moeblock validate`: every rule of the format, the configuration against the tensors, and on request the values.
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/float.h"
#include "base/memory.h"
#include "cli/commands.h"
#include "cli/out.h"
#include "cli/progress.h"
#include "cli/validate.h"

enum { PIECE_BYTES = 8 << 20 };

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

static void count_values(const moeblock_tensor_info *tensor, const void *piece, size_t count,
                         struct cli_findings *findings)
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
                       struct cli_findings *findings)
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

static int check_values(struct cli_session *session, const struct cli_args *args, struct cli_findings *findings)
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

// "3, 5, 7 and 55 more"
static void print_layers(const char *what, const json_t *layers)
{
    const size_t n = json_array_size(layers), shown = n < 8 ? n : 8;
    if (!n) return;
    printf("%s", what);
    for (size_t i = 0; i < shown; i++)
        printf("%s%" JSON_INTEGER_FORMAT, i ? ", " : " ", json_integer_value(json_array_get(layers, i)));
    if (n > shown) printf(" and %zu more", n - shown);
    printf("\n");
}

static void report_config(const struct cli_session *session, const struct cli_findings *findings)
{
    const moeblock_config *const config = session->config;
    printf("family: ");
    cli_print_safe(config->model_type[0] ? config->model_type : "(our own description)");
    printf(", router %s, experts %s\n", findings->router, findings->experts);
    printf("experts: %s%s%s; would compute in %s at level %s\n", findings->format,
           findings->shared_format[0] ? ", shared expert " : "", findings->shared_format,
           cli_compute_name(findings->compute), moeblock_context_level(session->context));
    printf("layer %" JSON_INTEGER_FORMAT ": all %zu tensors are there\n",
           json_integer_value(json_array_get(findings->layers, 0)), findings->layer_tensors);
    if (json_array_size(findings->layers) > 1) print_layers("layers checked:", findings->layers);
    print_layers("layers that the checkpoint has nothing of:", findings->absent);
    for (size_t i = 0; i < json_array_size(findings->unused); i++) {
        printf("not called for: ");
        cli_print_safe(json_string_value(json_array_get(findings->unused, i)));
        printf("\n");
    }
}

static void report_json(const struct cli_session *session, const struct cli_args *args,
                        const struct cli_findings *findings)
{
    json_t *document = cli_json_begin("validate");
    json_object_set_new(document, "tensors", json_integer((json_int_t)findings->tensors));
    if (session->config) {
        json_object_set_new(document, "model_type", json_string(session->config->model_type));
        json_object_set_new(document, "router", json_string(findings->router));
        json_object_set_new(document, "experts", json_string(findings->experts));
        json_object_set_new(document, "format", json_string(findings->format));
        json_object_set_new(document, "compute", json_string(cli_compute_name(findings->compute)));
        json_object_set_new(document, "level", json_string(moeblock_context_level(session->context)));
        json_object_set(document, "layer", json_array_get(findings->layers, 0));
        json_object_set(document, "layers", findings->layers);
        json_object_set(document, "absent_layers", findings->absent);
        json_object_set_new(document, "layer_tensors", json_integer((json_int_t)findings->layer_tensors));
        json_object_set(document, "problems", findings->problems);
        json_object_set(document, "not_called_for", findings->unused);
    }
    if (args->values) {
        json_object_set_new(document, "values", json_integer((json_int_t)findings->values));
        json_object_set_new(document, "nan", json_integer((json_int_t)findings->nans));
        json_object_set_new(document, "infinite", json_integer((json_int_t)findings->infinities));
    }
    cli_json_print(document);
}

static void report(const struct cli_session *session, const struct cli_args *args, const struct cli_findings *findings)
{
    if (args->json) {
        report_json(session, args, findings);
        return;
    }
    if (args->quiet) return;
    cli_print_safe(args->positional[0]);
    printf(": %zu tensors, every rule of the format holds\n", findings->tensors);
    if (session->config) report_config(session, findings);
    if (args->values)
        printf("values: %" PRIu64 " read, %" PRIu64 " NaN, %" PRIu64 " infinite\n", findings->values, findings->nans,
               findings->infinities);
}

// All problems, the first one as the error.
static int tell_problems(const struct cli_session *session, const struct cli_args *args,
                         const struct cli_findings *findings)
{
    if (args->json) report_json(session, args, findings);
    for (size_t i = 0; i < json_array_size(findings->problems); i++) {
        const char *problem = json_string_value(json_array_get(findings->problems, i));
        if (i)
            cli_note("also: %s", problem);
        else
            cli_fail(findings->code, "%s", problem);
    }
    for (size_t i = 0; i < json_array_size(findings->unused); i++)
        cli_note("not called for: %s", json_string_value(json_array_get(findings->unused, i)));
    return findings->code;
}

static int validate(struct cli_session *session, const struct cli_args *args, struct cli_findings *findings)
{
    const char *const config = config_of(args);
    int code;
    if ((code = cli_open_context(session, args, (int)args->threads))) return code;
    if ((code = cli_open_weights(session, args->positional[0]))) return code;
    if (moeblock_weights_validate(session->weights, &session->error) != MOEBLOCK_OK ||
        moeblock_weights_count(session->weights, &findings->tensors, &session->error) != MOEBLOCK_OK)
        return cli_fail_status(CLI_ABOUT_DATA, &session->error);
    if (config && (code = cli_open_config(session, args, config, NULL, 0))) return code;
    if (config && (code = cli_make_block(session, args))) return code; // refuses kinds that only a program knows
    if (config && (code = cli_validate_layers(session, args, config, findings))) return code;
    if (json_array_size(findings->problems)) return tell_problems(session, args, findings);
    if (args->values && (code = check_values(session, args, findings))) return code;
    report(session, args, findings);
    if (findings->nans + findings->infinities == 0) return CLI_OK;
    return cli_fail(CLI_BAD_DATA, "%" PRIu64 " NaN and %" PRIu64 " infinite values, the first in tensor '%s'",
                    findings->nans, findings->infinities, findings->first_bad);
}

int cli_validate(const struct cli_args *args)
{
    static struct cli_session session; // paths and messages inside: too large for the stack's taste
    struct cli_findings findings = {
        .layers = json_array(), .absent = json_array(), .problems = json_array(), .unused = json_array()};
    const int code = validate(&session, args, &findings);
    json_decref(findings.layers);
    json_decref(findings.absent);
    json_decref(findings.problems);
    json_decref(findings.unused);
    cli_close(&session);
    return code;
}
