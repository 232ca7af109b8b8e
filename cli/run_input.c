// SPDX-License-Identifier: Apache-2.0
// The arrays that `moeblock run` reads, checked before any weight is loaded.
#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "cli/exit.h"
#include "cli/out.h"
#include "cli/run.h"

static int read_array(struct cli_run *run, const char *path, struct mb_npy *out)
{
    if (mb_npy_read(&mb_default_allocator, path, out, &run->session.error) == MOEBLOCK_OK) return CLI_OK;
    return cli_fail_status(CLI_ABOUT_DATA, &run->session.error);
}

static bool is_float(moeblock_dtype dtype)
{
    return dtype == MOEBLOCK_F32 || dtype == MOEBLOCK_F16 || dtype == MOEBLOCK_BF16 || dtype == MOEBLOCK_F64;
}

static bool is_integer(moeblock_dtype dtype) { return dtype >= MOEBLOCK_U8 && dtype <= MOEBLOCK_I64; }

// The block takes float32, float16 and bfloat16; numpy's default of float64 is rounded to float32.
static int narrow(struct mb_npy *array)
{
    if (array->dtype != MOEBLOCK_F64) return CLI_OK;
    float *const values = mb_alloc(&mb_default_allocator, sizeof(float) * (size_t)array->count);
    if (!values) return cli_fail(CLI_SYSTEM_REFUSED, "no memory for %" PRId64 " floats", array->count);
    for (int64_t i = 0; i < array->count; i++) values[i] = (float)mb_npy_value(array, i);
    mb_free(&mb_default_allocator, array->data);
    array->data = values;
    array->dtype = MOEBLOCK_F32;
    return CLI_OK;
}

// A float array whose last dimension is the hidden size.
static int read_rows(struct cli_run *run, const char *path, struct mb_npy *out)
{
    char dims[200];
    const int code = read_array(run, path, out);
    if (code) return code;
    const int64_t hidden = run->shape.hidden_size;
    if (!is_float(out->dtype))
        return cli_fail(CLI_BAD_DATA, "'%s' holds %s, expected float32, float16, bfloat16 or float64", path,
                        moeblock_dtype_name(out->dtype));
    if (out->rank < 1 || out->dims[out->rank - 1] != hidden)
        return cli_fail(CLI_BAD_DATA, "'%s' has shape %s, expected [..., %" PRId64 "], the hidden size of '%s'", path,
                        cli_dims_text(out->rank, out->dims, dims), hidden, run->session.config_path);
    return narrow(out);
}

// Integers as int64; `count` of them unless it is -1.
static int read_integers(struct cli_run *run, const char *path, int64_t count, int64_t **out, int64_t *n)
{
    struct mb_npy array = {0};
    int code = read_array(run, path, &array);
    if (code) return code;
    *n = array.count;
    if (!is_integer(array.dtype))
        code = cli_fail(CLI_BAD_DATA, "'%s' holds %s, expected integers", path, moeblock_dtype_name(array.dtype));
    else if (count >= 0 && array.count != count)
        code = cli_fail(CLI_BAD_DATA, "'%s' holds %" PRId64 " values, expected one for each of %" PRId64 " tokens",
                        path, array.count, count);
    else if (!(*out = mb_alloc(&mb_default_allocator, sizeof(int64_t) * (size_t)array.count)))
        code = cli_fail(CLI_SYSTEM_REFUSED, "no memory for %" PRId64 " integers", array.count);
    for (int64_t i = 0; !code && i < array.count; i++) (*out)[i] = (int64_t)mb_npy_value(&array, i);
    mb_npy_free(&mb_default_allocator, &array);
    return code;
}

static int read_token_types(struct cli_run *run, const char *path)
{
    int64_t *wide = NULL, n = 0;
    int code = read_integers(run, path, run->tokens, &wide, &n);
    if (!code && !(run->token_types = mb_alloc(&mb_default_allocator, sizeof(int32_t) * (size_t)n)))
        code = cli_fail(CLI_SYSTEM_REFUSED, "no memory for %" PRId64 " integers", n);
    for (int64_t i = 0; !code && i < n; i++) {
        run->token_types[i] = (int32_t)wide[i];
        if (run->token_types[i] != wide[i])
            code = cli_fail(CLI_BAD_DATA, "'%s': value %" PRId64 " of token %" PRId64 " does not fit 32 bits", path,
                            wide[i], i);
    }
    mb_free(&mb_default_allocator, wide);
    return code;
}

static int read_seq_lens(struct cli_run *run, const char *path)
{
    const int code = read_integers(run, path, -1, &run->seq_lens, &run->n_seq);
    if (code) return code;
    int64_t sum = 0;
    for (int64_t i = 0; i < run->n_seq; i++) {
        if (run->seq_lens[i] < 0 || __builtin_add_overflow(sum, run->seq_lens[i], &sum))
            return cli_fail(CLI_BAD_DATA, "'%s': length %" PRId64 " of sequence %" PRId64 " is out of range", path,
                            run->seq_lens[i], i);
    }
    if (sum == run->tokens) return CLI_OK;
    return cli_fail(CLI_BAD_DATA, "'%s': the lengths sum to %" PRId64 ", expected %" PRId64 ", the number of tokens",
                    path, sum, run->tokens);
}

static int read_reference(struct cli_run *run, const char *path)
{
    char found[200], expected[200];
    const struct mb_npy *const x = &run->x;
    struct mb_npy *const reference = &run->reference;
    const int code = read_array(run, path, reference);
    if (code) return code;
    const size_t bytes = sizeof *x->dims * (size_t)x->rank;
    if (is_float(reference->dtype) && reference->rank == x->rank && memcmp(reference->dims, x->dims, bytes) == 0)
        return CLI_OK;
    return cli_fail(CLI_BAD_DATA, "'%s' is %s %s, expected floats of the input's shape %s", path,
                    moeblock_dtype_name(reference->dtype), cli_dims_text(reference->rank, reference->dims, found),
                    cli_dims_text(x->rank, x->dims, expected));
}

// A float array [T, state_size], which the block takes as float32.
static int read_state(struct cli_run *run, const char *path)
{
    char dims[200];
    struct mb_npy *const state = &run->state;
    const int64_t width = run->session.config->router.state_size;
    int code = read_array(run, path, state);
    if (code) return code;
    if (!is_float(state->dtype))
        return cli_fail(CLI_BAD_DATA, "'%s' holds %s, expected floats", path, moeblock_dtype_name(state->dtype));
    if (state->count != run->tokens * width || state->rank < 1 || state->dims[state->rank - 1] != width)
        return cli_fail(CLI_BAD_DATA, "'%s' has shape %s, expected [%" PRId64 ", %" PRId64 "], the router's state_size",
                        path, cli_dims_text(state->rank, state->dims, dims), run->tokens, width);
    if (state->dtype == MOEBLOCK_F32) return CLI_OK;
    float *const values = mb_alloc(&mb_default_allocator, sizeof(float) * (size_t)state->count);
    if (!values) return cli_fail(CLI_SYSTEM_REFUSED, "no memory for %" PRId64 " floats", state->count);
    for (int64_t i = 0; i < state->count; i++) values[i] = (float)mb_npy_value(state, i);
    mb_free(&mb_default_allocator, state->data);
    state->data = values;
    state->dtype = MOEBLOCK_F32;
    return CLI_OK;
}

int cli_run_read(struct cli_run *run)
{
    const struct cli_args *const args = run->args;
    int code = read_rows(run, args->input, &run->x);
    if (code) return code;
    run->tokens = run->x.count / run->shape.hidden_size;
    if (args->aux && (code = read_rows(run, args->aux, &run->aux))) return code;
    if (args->aux && run->aux.count != run->x.count)
        return cli_fail(CLI_BAD_DATA, "'%s' has %" PRId64 " rows, expected %" PRId64 " like '%s'", args->aux,
                        run->aux.count / run->shape.hidden_size, run->tokens, args->input);
    int64_t n;
    if (args->token_ids && (code = read_integers(run, args->token_ids, run->tokens, &run->token_ids, &n))) return code;
    if (args->token_types && (code = read_token_types(run, args->token_types))) return code;
    if (args->seq_lens && (code = read_seq_lens(run, args->seq_lens))) return code;
    if ((args->router_state || args->router_state_out) && !run->session.config->router.state_size)
        return cli_fail(CLI_BAD_DATA, "option %s: the router of '%s' carries no state",
                        args->router_state ? "--router-state" : "--router-state-out", run->session.config_path);
    if (args->router_state && (code = read_state(run, args->router_state))) return code;
    return args->compare ? read_reference(run, args->compare) : CLI_OK;
}

moeblock_array cli_run_array(const struct mb_npy *shape, moeblock_dtype dtype, void *data)
{
    moeblock_array array = {.dtype = dtype, .rank = shape->rank, .data = data};
    memcpy(array.dims, shape->dims, sizeof array.dims);
    return array;
}

moeblock_forward_input cli_run_input(const struct cli_run *run)
{
    const char *const mode = run->args->mode;
    return (moeblock_forward_input){
        .struct_size = sizeof(moeblock_forward_input),
        .mode = mode && strcmp(mode, "decode") == 0 ? MOEBLOCK_DECODE : MOEBLOCK_PREFILL,
        .x = cli_run_array(&run->x, run->x.dtype, run->x.data),
        .aux = run->args->aux ? cli_run_array(&run->aux, run->aux.dtype, run->aux.data) : (moeblock_array){0},
        .token_ids = run->token_ids,
        .token_types = run->token_types,
        .seq_lens = run->seq_lens,
        .n_seq = run->n_seq,
        .router_state = run->state.data,
    };
}

void cli_run_free(struct cli_run *run)
{
    const moeblock_allocator *const allocator = &mb_default_allocator;
    cli_mesh_free(&run->counts);
    mb_npy_free(allocator, &run->x);
    mb_npy_free(allocator, &run->reference);
    mb_npy_free(allocator, &run->aux);
    mb_npy_free(allocator, &run->state);
    void *const plain[] = {run->state_out, run->token_ids, run->seq_lens, run->token_types,
                           run->y,         run->weights,   run->ids,      run->load};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) mb_free(allocator, plain[i]);
}
