// SPDX-License-Identifier: Apache-2.0
// Golden cases.
#include "support/golden.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "cmocka.h"

static int by_name(const void *a, const void *b) { return strcmp(a, b); }

int golden_list(char names[][64], int most)
{
    DIR *folder = opendir(MOEBLOCK_SOURCE_DIR "/tests/golden");
    assert_non_null(folder);
    int n = 0;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        char path[1024];
        snprintf(path, sizeof path, MOEBLOCK_SOURCE_DIR "/tests/golden/%s/case.json", entry->d_name);
        if (!mb_exists(path)) continue;
        assert_true(n < most && strlen(entry->d_name) < 64);
        strcpy(names[n++], entry->d_name);
    }
    closedir(folder);
    qsort(names, (size_t)n, sizeof names[0], by_name);
    return n;
}

static void read_array(const struct golden_case *golden, const char *name, bool needed, struct mb_npy *out)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", golden->folder, name);
    *out = (struct mb_npy){.data = NULL};
    if (!needed && !mb_exists(path)) return;
    moeblock_error error;
    if (mb_npy_read(&mb_default_allocator, path, out, &error) != MOEBLOCK_OK) fail_msg("%s", error.message);
}

// The further inputs in the types of the library.
static void take_inputs(struct golden_case *golden)
{
    struct mb_reference_input *in = &golden->inputs;
    const int64_t ids = golden->token_ids.data ? golden->token_ids.count : 0;
    *in = (struct mb_reference_input){
        .x = golden->x.data, .aux = golden->aux.data, .router_state = golden->state_in.data};
    golden->wide = calloc((size_t)(ids + golden->seq_lens.count + golden->token_types.count + 1), sizeof *golden->wide);
    for (int64_t i = 0; i < ids; i++) golden->wide[i] = (int64_t)mb_npy_value(&golden->token_ids, i);
    for (int64_t i = 0; i < golden->seq_lens.count; i++)
        golden->wide[ids + i] = (int64_t)mb_npy_value(&golden->seq_lens, i);
    int32_t *const types = (int32_t *)(golden->wide + ids + golden->seq_lens.count);
    for (int64_t i = 0; i < golden->token_types.count; i++) types[i] = (int32_t)mb_npy_value(&golden->token_types, i);
    if (ids) in->token_ids = golden->wide;
    if (golden->seq_lens.data) in->seq_lens = golden->wide + ids;
    in->n_seq = golden->seq_lens.count;
    if (golden->token_types.data) in->token_types = types;
}

float *golden_state(const struct golden_case *golden)
{
    return golden->state.data ? calloc((size_t)golden->state.count, sizeof(float)) : NULL;
}

double golden_state_error(const struct golden_case *golden, const float *state)
{
    double difference = 0, size = 0;
    for (int64_t i = 0; i < golden->state.count; i++) {
        const double expected = ((const double *)golden->state.data)[i];
        difference += ((double)state[i] - expected) * ((double)state[i] - expected);
        size += expected * expected;
    }
    return sqrt(difference / size);
}

void golden_open(const char *name, struct golden_case *out)
{
    *out = (struct golden_case){.layer = -1};
    snprintf(out->name, sizeof out->name, "%s", name);
    snprintf(out->folder, sizeof out->folder, MOEBLOCK_SOURCE_DIR "/tests/golden/%s", name);
    char path[1024];
    snprintf(path, sizeof path, "%s/case.json", out->folder);
    char *text = NULL;
    size_t bytes = 0;
    json_t *root = NULL;
    moeblock_error error;
    const struct mb_json_options options = {.invalid = MOEBLOCK_INVALID_FILE};
    if (mb_file_read_text(&mb_default_allocator, path, 1 << 20, &text, &bytes, &error) != MOEBLOCK_OK ||
        mb_json_parse(text, bytes, path, &options, &root, &error) != MOEBLOCK_OK)
        fail_msg("%s", error.message);
    snprintf(out->family, sizeof out->family, "%s", json_string_value(json_object_get(root, "family")));
    snprintf(out->weights, sizeof out->weights, "%s", json_string_value(json_object_get(root, "weights")));
    out->layer = json_integer_value(json_object_get(root, "layer"));
    out->tokens = json_integer_value(json_object_get(root, "tokens"));
    out->hidden = json_integer_value(json_object_get(root, "hidden"));
    out->k = json_integer_value(json_object_get(root, "k"));
    out->original_bf16 = json_number_value(json_object_get(root, "original_bf16_rel_rms"));
    out->bank = json_integer_value(json_object_get(json_object_get(root, "banks"), "experts"));
    json_decref(root);
    mb_free(&mb_default_allocator, text);
    read_array(out, "input.npy", true, &out->x);
    read_array(out, "expected.npy", true, &out->expected);
    read_array(out, "expected_ids.npy", true, &out->ids);
    read_array(out, "expected_weights.npy", true, &out->route_weights);
    read_array(out, "aux.npy", false, &out->aux);
    read_array(out, "token_ids.npy", false, &out->token_ids);
    read_array(out, "token_types.npy", false, &out->token_types);
    read_array(out, "seq_lens.npy", false, &out->seq_lens);
    read_array(out, "router_state_in.npy", false, &out->state_in);
    read_array(out, "expected_router_state.npy", false, &out->state);
    take_inputs(out);
}

void golden_close(struct golden_case *golden)
{
    struct mb_npy *arrays[] = {&golden->x,        &golden->expected,  &golden->ids,      &golden->route_weights,
                               &golden->aux,      &golden->token_ids, &golden->seq_lens, &golden->token_types,
                               &golden->state_in, &golden->state};
    free(golden->wide);
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        if (arrays[i]->data) mb_npy_free(&mb_default_allocator, arrays[i]);
}

static moeblock_status make_block(const struct golden_case *golden, const struct golden_settings *settings,
                                  struct golden_run *run, moeblock_error *error)
{
    const moeblock_context_options context_options = {
        .struct_size = sizeof context_options, .threads = settings->threads, .cpu_level = settings->level};
    const moeblock_config_options config_options = {
        .struct_size = sizeof config_options, .layer = golden->layer, .set = settings->set, .n_set = settings->n_set};
    const moeblock_block_options block_options = {.struct_size = sizeof block_options, .compute = settings->compute};
    moeblock_status status = moeblock_context_create(&context_options, &run->context, error);
    if (status == MOEBLOCK_OK && settings->config_text)
        status = moeblock_config_parse(run->context, settings->config_text, strlen(settings->config_text), "printed",
                                       &config_options, &run->config, error);
    else if (status == MOEBLOCK_OK)
        status = moeblock_config_open(run->context, golden->folder, &config_options, &run->config, error);
    if (status == MOEBLOCK_OK)
        status = moeblock_block_create(run->context, run->config, NULL, &block_options, &run->block, error);
    if (status == MOEBLOCK_OK) status = moeblock_block_load_files(run->block, golden->folder, NULL, error);
    if (status == MOEBLOCK_OK)
        status = moeblock_workspace_create(run->block, golden->tokens, NULL, 0, &run->workspace, error);
    return status;
}

moeblock_status golden_run(const struct golden_case *golden, const struct golden_settings *settings,
                           struct golden_run *out, moeblock_error *error)
{
    *out = (struct golden_run){.context = NULL};
    const moeblock_status status = make_block(golden, settings, out, error);
    if (status != MOEBLOCK_OK) {
        golden_run_free(golden, out);
        return status;
    }
    const size_t rows = (size_t)golden->tokens, k = (size_t)golden->k;
    out->y = calloc(rows * (size_t)golden->hidden, sizeof *out->y);
    out->ids = calloc(rows * k, sizeof *out->ids);
    out->weights = calloc(rows * k, sizeof *out->weights);
    moeblock_forward_input in = {
        .struct_size = sizeof in,
        .mode = settings->mode ? settings->mode : MOEBLOCK_PREFILL,
        .x = {.dtype = MOEBLOCK_F32, .rank = 2, .dims = {golden->tokens, golden->hidden}, .data = golden->x.data}};
    if (golden->aux.data) {
        in.aux = in.x;
        in.aux.data = golden->aux.data;
    }
    in.token_ids = golden->inputs.token_ids;
    in.token_types = golden->inputs.token_types;
    in.seq_lens = golden->inputs.seq_lens;
    in.n_seq = golden->inputs.n_seq;
    in.router_state = golden->inputs.router_state;
    out->state = golden_state(golden);
    moeblock_forward_output result = {
        .struct_size = sizeof result, .y = in.x, .ids = out->ids, .weights = out->weights, .router_state = out->state};
    result.y.data = out->y;
    const moeblock_status ran = moeblock_block_forward(out->block, out->workspace, &in, &result, error);
    if (ran != MOEBLOCK_OK) golden_run_free(golden, out);
    return ran;
}

void golden_run_free(const struct golden_case *golden, struct golden_run *run)
{
    (void)golden;
    moeblock_workspace_destroy(&run->workspace);
    moeblock_block_destroy(&run->block);
    moeblock_config_destroy(&run->config);
    moeblock_context_destroy(&run->context);
    free(run->y);
    free(run->ids);
    free(run->weights);
    free(run->state);
    *run = (struct golden_run){.context = NULL};
}

double golden_error(const struct golden_case *golden, const float *y)
{
    const double *expected = golden->expected.data;
    double difference = 0, size = 0;
    for (int64_t i = 0; i < golden->expected.count; i++) {
        difference += ((double)y[i] - expected[i]) * ((double)y[i] - expected[i]);
        size += expected[i] * expected[i];
    }
    return sqrt(difference / size);
}

double golden_allowed(const struct golden_case *golden, moeblock_compute compute)
{
    if (compute == MOEBLOCK_COMPUTE_F32) return 1e-5;
    return golden->original_bf16 > 4e-3 ? golden->original_bf16 : 4e-3;
}

int64_t golden_router_difference(const struct golden_case *golden, const int32_t *ids, const float *weights)
{
    const int32_t *want_ids = golden->ids.data;
    const double *want = golden->route_weights.data;
    for (int64_t t = 0; t < golden->tokens; t++) {
        int64_t weighted = 0; // slots that do something must be as many as expected
        for (int64_t i = t * golden->k; i < (t + 1) * golden->k; i++) weighted += (weights[i] != 0) - (want[i] != 0);
        if (weighted) return t;
        for (int64_t j = 0; j < golden->k; j++) {
            const int64_t at = t * golden->k + j;
            int64_t found = -1;
            if (want[at] == 0) continue; // skipped or dropped: the id is free
            for (int64_t i = t * golden->k; i < (t + 1) * golden->k; i++)
                if ((golden->bank && ids[i] >= 0 ? ids[i] % golden->bank : ids[i]) == want_ids[at]) found = i;
            if (found < 0 || weights[found] == 0 || !(fabs((double)weights[found] - want[at]) <= 1e-5 * fabs(want[at])))
                return t;
        }
    }
    return -1;
}
