// SPDX-License-Identifier: Apache-2.0
// Writes a made-up checkpoint in pieces. Files take their names only when all of them are complete, so that an earlier
// checkpoint in the folder survives any failure, an interruption included.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "cli/exit.h"
#include "cli/out.h"
#include "cli/progress.h"
#include "cli/synth.h"
#include "cli/values.h"
#include "weights/npy.h"
#include "weights/safetensors.h"

enum { PIECE_BYTES = 16 << 20, OTHER_FILES = 2 }; // a multiple of 8; index and description
enum { INPUT_BYTES_MAX = 128 << 20 };             // the input is made in memory

struct writer {
    const struct synth_plan *plan;
    struct cli_session *session;
    const char *folder;
    struct mb_output *outputs; // shards, then index (if any), then description
    size_t open;
    uint8_t *piece;
    uint64_t written;
    struct cli_progress progress;
};

static int failed(struct writer *writer) { return cli_fail_status(CLI_ABOUT_DATA, &writer->session->error); }

static void shard_name(const struct synth_plan *plan, size_t shard, char out[64])
{
    if (plan->shards == 1)
        snprintf(out, 64, "model.safetensors");
    else
        snprintf(out, 64, "model-%05zu-of-%05zu.safetensors", shard + 1, plan->shards);
}

static int open_file(struct writer *writer, const char *name, struct mb_output **out)
{
    char path[CLI_PATH_MAX];
    moeblock_error *const error = &writer->session->error;
    *out = &writer->outputs[writer->open];
    if (mb_path_join(writer->folder, name, path, sizeof path, error) != MOEBLOCK_OK) return failed(writer);
    if (mb_output_open(path, *out, error) != MOEBLOCK_OK) return failed(writer);
    writer->open++;
    return CLI_OK;
}

static int write_tensor(struct writer *writer, const struct synth_tensor *tensor, struct mb_output *output)
{
    const struct synth_plan *const plan = writer->plan;
    struct cli_values values;
    cli_values_choose(plan->config, plan->format, plan->layer, &tensor->need, plan->seed, &values);
    for (uint64_t at = 0; at < tensor->bytes;) {
        if (cli_interrupted()) return cli_fail(CLI_IO, "interrupted while writing '%s'", writer->folder);
        const size_t bytes = tensor->bytes - at < PIECE_BYTES ? (size_t)(tensor->bytes - at) : PIECE_BYTES;
        cli_values_fill(writer->session->context, &values, at, bytes, writer->piece);
        if (mb_output_write(output, writer->piece, bytes, &writer->session->error) != MOEBLOCK_OK)
            return failed(writer);
        at += bytes;
        writer->written += bytes;
        cli_progress_update(&writer->progress, writer->written, plan->bytes);
    }
    return CLI_OK;
}

static int write_shard(struct writer *writer, size_t begin, size_t end)
{
    const struct synth_plan *const plan = writer->plan;
    char name[64];
    struct mb_output *output;
    shard_name(plan, plan->tensors[begin].shard, name);
    int code = open_file(writer, name, &output);
    if (code) return code;
    moeblock_tensor_info *const header = mb_alloc_zero(&mb_default_allocator, sizeof *header * (end - begin));
    if (!header) return cli_fail(CLI_SYSTEM_REFUSED, "no memory for a header of %zu tensors", end - begin);
    for (size_t i = begin; i < end; i++) {
        const moeblock_tensor_need *const need = &plan->tensors[i].need;
        moeblock_tensor_info *const info = &header[i - begin];
        *info = (moeblock_tensor_info){.name = need->name, .dtype = need->dtype, .rank = need->rank};
        memcpy(info->dims, need->dims, sizeof info->dims);
    }
    if (mb_safetensors_write_header(output, header, end - begin, &writer->session->error) != MOEBLOCK_OK)
        code = failed(writer);
    mb_free(&mb_default_allocator, header);
    for (size_t i = begin; !code && i < end; i++) code = write_tensor(writer, &plan->tensors[i], output);
    return code;
}

static int write_text(struct writer *writer, const char *name, const char *text)
{
    struct mb_output *output;
    const int code = open_file(writer, name, &output);
    if (code) return code;
    const moeblock_status status = mb_output_write(output, text, strlen(text), &writer->session->error);
    return status == MOEBLOCK_OK ? CLI_OK : failed(writer);
}

static int write_index(struct writer *writer)
{
    const struct synth_plan *const plan = writer->plan;
    if (plan->shards == 1) return CLI_OK;
    json_t *index = json_object(), *metadata = json_object(), *map = json_object();
    json_object_set_new(metadata, "total_size", json_integer((json_int_t)plan->bytes));
    for (size_t i = 0; i < plan->count; i++) {
        char name[64];
        shard_name(plan, plan->tensors[i].shard, name);
        json_object_set_new(map, plan->tensors[i].need.name, json_string(name));
    }
    json_object_set_new(index, "metadata", metadata);
    json_object_set_new(index, "weight_map", map);
    struct mb_output *output;
    int code = open_file(writer, "model.safetensors.index.json", &output);
    if (!code && (json_dumpf(index, output->stream, JSON_INDENT(2)) || fputc('\n', output->stream) == EOF))
        code = cli_fail(CLI_IO, "writing the index in '%s' failed", writer->folder);
    json_decref(index);
    return code;
}

static int write_all(struct writer *writer, const char *description)
{
    const struct synth_plan *const plan = writer->plan;
    for (size_t begin = 0, end; begin < plan->count; begin = end) {
        for (end = begin; end < plan->count && plan->tensors[end].shard == plan->tensors[begin].shard;) end++;
        const int code = write_shard(writer, begin, end);
        if (code) return code;
    }
    const int code = write_index(writer);
    return code ? code : write_text(writer, "moeblock.json", description);
}

// What can still fail (a full disk) fails here, before the first file takes its name.
static int settle(struct writer *writer)
{
    for (size_t i = 0; i < writer->open; i++) {
        FILE *const stream = writer->outputs[i].stream;
        if (fflush(stream) != 0 || fsync(fileno(stream)) != 0)
            return cli_fail(CLI_IO, "writing '%s' failed: the device may be full", writer->outputs[i].path);
    }
    return cli_interrupted() ? cli_fail(CLI_IO, "interrupted while writing '%s'", writer->folder) : CLI_OK;
}

static int commit_all(struct writer *writer)
{
    int code = CLI_OK;
    for (size_t i = 0; i < writer->open; i++) {
        if (code)
            mb_output_abort(&writer->outputs[i]);
        else if (mb_output_commit(&writer->outputs[i], &writer->session->error) != MOEBLOCK_OK)
            code = failed(writer);
    }
    writer->open = 0;
    return code;
}

static int check_input(const struct writer *writer, int64_t tokens)
{
    const int64_t most = INPUT_BYTES_MAX / (int64_t)sizeof(float) / writer->plan->config->hidden_size;
    if (tokens <= most) return CLI_OK;
    return cli_fail(CLI_USAGE,
                    "option --tokens: found %" PRId64 ", at most %" PRId64 " of this hidden size are written", tokens,
                    most);
}

static int write_input(const struct writer *writer, int64_t tokens)
{
    const int64_t dims[2] = {tokens, writer->plan->config->hidden_size}, count = dims[0] * dims[1];
    char path[CLI_PATH_MAX];
    if (mb_path_join(writer->folder, "input.npy", path, sizeof path, &writer->session->error) != MOEBLOCK_OK)
        return cli_fail_status(CLI_ABOUT_DATA, &writer->session->error);
    float *const x = mb_alloc(&mb_default_allocator, sizeof(float) * (size_t)count);
    if (!x) return cli_fail(CLI_SYSTEM_REFUSED, "no memory for an input of %" PRId64 " floats", count);
    cli_values_input(writer->session->context, writer->plan->seed, count, x);
    const int code = cli_write_array(path, MOEBLOCK_F32, 2, dims, x);
    mb_free(&mb_default_allocator, x);
    return code;
}

int synth_write(const struct synth_plan *plan, struct cli_session *session, const struct cli_args *args,
                const char *folder, const char *description)
{
    struct writer writer = {.plan = plan, .session = session, .folder = folder};
    writer.outputs = mb_alloc_zero(&mb_default_allocator, sizeof *writer.outputs * (plan->shards + OTHER_FILES));
    writer.piece = mb_alloc(&mb_default_allocator, PIECE_BYTES);
    int code = CLI_OK;
    if (!writer.outputs || !writer.piece)
        code = cli_fail(CLI_SYSTEM_REFUSED, "no memory to write %zu files", plan->shards + OTHER_FILES);
    cli_hold_signals();
    cli_progress_begin(&writer.progress, "writing", args->quiet || args->json);
    if (!code && args->token_count) code = check_input(&writer, args->token_count);
    if (!code) code = write_all(&writer, description);
    if (!code) code = settle(&writer);
    if (!code) code = commit_all(&writer);
    if (!code && args->token_count) code = write_input(&writer, args->token_count);
    cli_progress_end(&writer.progress);
    for (size_t i = 0; i < writer.open; i++) mb_output_abort(&writer.outputs[i]);
    mb_free(&mb_default_allocator, writer.piece);
    mb_free(&mb_default_allocator, writer.outputs);
    return code;
}
