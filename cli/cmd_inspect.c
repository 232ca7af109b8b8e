// SPDX-License-Identifier: Apache-2.0
// `moeblock inspect`: what a checkpoint holds, from its headers alone.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/out.h"
#include "cli/session.h"

enum { DTYPES = MOEBLOCK_DTYPE_OTHER + 1 };

struct sums {
    uint64_t bytes[DTYPES];
    size_t tensors[DTYPES];
};

static const char *file_name(const char *path)
{
    const char *const slash = path ? strrchr(path, '/') : NULL;
    return slash ? slash + 1 : path ? path : "";
}

static void print_tensor(const moeblock_tensor_info *tensor)
{
    char dims[200];
    printf("%-8s %-20s %12" PRIu64 "  %12" PRIu64 "  ", tensor->dtype_name,
           cli_dims_text(tensor->rank, tensor->dims, dims), tensor->bytes, tensor->file_offset);
    cli_print_safe(file_name(tensor->file));
    printf("  ");
    cli_print_safe(tensor->name);
    printf("\n");
}

static json_t *tensor_json(const moeblock_tensor_info *tensor)
{
    json_t *object = json_object();
    json_object_set_new(object, "name", json_string(tensor->name));
    json_object_set_new(object, "dtype", json_string(tensor->dtype_name));
    json_object_set_new(object, "shape", cli_json_dims(tensor->rank, tensor->dims));
    json_object_set_new(object, "bytes", json_integer((json_int_t)tensor->bytes));
    json_object_set_new(object, "file", json_string(file_name(tensor->file)));
    json_object_set_new(object, "offset", json_integer((json_int_t)tensor->file_offset));
    return object;
}

static void print_sums(const struct sums *sums, size_t count)
{
    char text[32];
    uint64_t bytes = 0;
    for (int d = 0; d < DTYPES; d++) {
        if (!sums->tensors[d]) continue;
        bytes += sums->bytes[d];
        printf("%-8s %8zu tensors  %s\n", d == MOEBLOCK_DTYPE_OTHER ? "other" : moeblock_dtype_name((moeblock_dtype)d),
               sums->tensors[d], cli_bytes_text((double)sums->bytes[d], text));
    }
    printf("%-8s %8zu tensors  %s\n", "all", count, cli_bytes_text((double)bytes, text));
}

static void add_sums(json_t *document, const struct sums *sums)
{
    json_t *types = json_object();
    for (int d = 0; d < DTYPES; d++) {
        if (!sums->tensors[d]) continue;
        json_t *one = json_object();
        json_object_set_new(one, "tensors", json_integer((json_int_t)sums->tensors[d]));
        json_object_set_new(one, "bytes", json_integer((json_int_t)sums->bytes[d]));
        const char *const name = d == MOEBLOCK_DTYPE_OTHER ? "other" : moeblock_dtype_name((moeblock_dtype)d);
        json_object_set_new(types, name, one);
    }
    json_object_set_new(document, "dtypes", types);
}

static int list(struct cli_session *session, const struct cli_args *args)
{
    moeblock_error *const error = &session->error;
    struct sums sums = {0};
    size_t count = 0;
    if (moeblock_weights_count(session->weights, &count, error) != MOEBLOCK_OK)
        return cli_fail_status(CLI_ABOUT_DATA, error);
    json_t *const document = args->json ? cli_json_begin("inspect") : NULL;
    json_t *const tensors = args->json ? json_array() : NULL;
    int code = CLI_OK;
    if (!args->json && !args->quiet) printf("%-8s %-20s %12s  %12s  file  name\n", "type", "shape", "bytes", "offset");
    for (size_t i = 0; i < count && !code; i++) {
        moeblock_tensor_info tensor;
        if (moeblock_weights_at(session->weights, i, &tensor, error) != MOEBLOCK_OK) {
            code = cli_fail_status(CLI_ABOUT_DATA, error);
            break;
        }
        const unsigned d = (unsigned)tensor.dtype < DTYPES ? (unsigned)tensor.dtype : MOEBLOCK_DTYPE_OTHER;
        sums.bytes[d] += tensor.bytes;
        sums.tensors[d]++;
        if (args->json)
            json_array_append_new(tensors, tensor_json(&tensor));
        else if (!args->quiet)
            print_tensor(&tensor);
    }
    if (!args->json) {
        if (!code) print_sums(&sums, count);
        return code;
    }
    add_sums(document, &sums);
    json_object_set_new(document, "tensors", tensors);
    if (code)
        json_decref(document);
    else
        cli_json_print(document);
    return code;
}

int cli_inspect(const struct cli_args *args)
{
    static struct cli_session session; // paths and messages inside: too large for the stack's taste
    int code = cli_open_context(&session, args, 1);
    if (!code) code = cli_open_weights(&session, args->positional[0]);
    if (!code) code = list(&session, args);
    cli_close(&session);
    return code;
}
