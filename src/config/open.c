// SPDX-License-Identifier: Apache-2.0
// Decides what a configuration is made from: our JSON or a Hugging Face config.json, the checkpoint's own config.json
// behind ours, and the caller's settings; runs the steps of reader.h over them.
#include <stdio.h>
#include <string.h>

#include "base/context.h"
#include "base/file.h"
#include "base/json.h"
#include "base/options.h"
#include "base/status.h"
#include "config/hf/hf.h"
#include "config/preset.h"
#include "config/reader.h"
#include "config/value.h"

enum { OURS_BYTES = 1 << 20, SETS_MAX = 1000 };

moeblock_config *mb_config_new(const moeblock_allocator *allocator)
{
    moeblock_config *config = mb_alloc_zero(allocator, sizeof *config);
    if (!config) return NULL;
    config->allocator = *allocator;
    mb_config_defaults(config);
    return config;
}

static char *copy_text(const moeblock_allocator *allocator, const char *text)
{
    const size_t bytes = strlen(text) + 1;
    char *copy = mb_alloc(allocator, bytes);
    return copy ? memcpy(copy, text, bytes) : NULL;
}

moeblock_config *mb_config_copy(const moeblock_config *config, const moeblock_allocator *allocator)
{
    moeblock_config *copy = mb_alloc(allocator, sizeof *copy);
    if (!copy) return NULL;
    *copy = *config;
    copy->allocator = *allocator;
    copy->router_json = config->router_json ? copy_text(allocator, config->router_json) : NULL;
    copy->expert_json = config->expert_json ? copy_text(allocator, config->expert_json) : NULL;
    if (!copy->router_json == !config->router_json && !copy->expert_json == !config->expert_json) return copy;
    moeblock_config_destroy(&copy);
    return NULL;
}

void moeblock_config_destroy(moeblock_config **config)
{
    if (!config || !*config) return;
    const moeblock_allocator allocator = (*config)->allocator;
    mb_free(&allocator, (*config)->router_json);
    mb_free(&allocator, (*config)->expert_json);
    mb_free(&allocator, *config);
    *config = NULL;
}

// What one description is made from. `model` is the checkpoint's config.json behind a file of ours, or NULL.
struct sources {
    moeblock_context *context;
    const char *checkpoint; // where the tensors are; NULL: not known
    json_t *root, *model;
    json_t *const *sets;
    size_t n_set;
    const char *name, *text, *model_name;
    size_t bytes;
    int64_t layer;
    bool hugging_face; // root is a config.json itself
};

static const char *type_of(const struct sources *from, const char *path, const char *fallback)
{
    const char *type = NULL;
    for (size_t i = from->n_set; !type && i-- > 0;) type = mb_reader_string(from->sets[i], path);
    if (!type && !from->hugging_face) type = mb_reader_string(from->root, path);
    return type ? type : fallback;
}

static moeblock_status keep_json(const moeblock_allocator *allocator, json_t *object, char **out, moeblock_error *error)
{
    if (!object) return MOEBLOCK_OK;
    const size_t bytes = json_dumpb(object, NULL, 0, JSON_COMPACT);
    *out = mb_alloc(allocator, bytes + 1);
    if (!*out) return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "no memory for %zu bytes of configuration", bytes);
    json_dumpb(object, *out, bytes, JSON_COMPACT);
    (*out)[bytes] = 0;
    return MOEBLOCK_OK;
}

// Reads all documents into reader->config. `final`: also the steps that need all values to be there.
static moeblock_status read_all(struct mb_reader *reader, const struct sources *from, bool final, moeblock_error *error)
{
    moeblock_config *config = reader->config;
    if (from->model || from->hugging_face) {
        const struct mb_hf_input input = {.root = from->model ? from->model : from->root,
                                          .name = from->model ? from->model_name : from->name,
                                          .layer = from->layer,
                                          .checkpoint = from->checkpoint,
                                          .context = from->context};
        MB_TRY(mb_hf_map(&input, config, error));
    }
    if (!from->hugging_face) MB_TRY(mb_reader_document(reader, from->root, true, error));
    for (size_t i = 0; i < from->n_set; i++) MB_TRY(mb_reader_document(reader, from->sets[i], false, error));
    if (from->layer >= 0) {
        // A message about the caller's layer must not point at the line of the file's.
        if (config->layer_index != from->layer) reader->spelled[mb_schema_row_of(config, &config->layer_index)][0] = 0;
        config->layer_index = from->layer;
        mb_config_mark(config, &config->layer_index, MB_FROM_FILE);
    }
    if (!final) return MOEBLOCK_OK;
    MB_TRY(mb_reader_finish(reader, error));
    MB_TRY(mb_reader_validate(reader, error));
    MB_TRY(keep_json(&config->allocator, reader->router_object, &config->router_json, error));
    return keep_json(&config->allocator, reader->expert_object, &config->expert_json, error);
}

static moeblock_status describe(const moeblock_allocator *allocator, const struct sources *from, bool final,
                                moeblock_config **out, moeblock_error *error)
{
    moeblock_status status;
    struct mb_reader *reader = mb_alloc_zero(allocator, sizeof *reader);
    *out = mb_config_new(allocator);
    if (reader && *out) {
        reader->config = *out;
        reader->name = from->name;
        reader->text = from->hugging_face ? NULL : from->text;
        reader->bytes = from->bytes;
        reader->outside_router = !mb_router_is_builtin(type_of(from, "router.type", "linear"));
        reader->outside_expert = !mb_expert_is_builtin(type_of(from, "experts.type", "distributed"));
        snprintf((*out)->source, sizeof(*out)->source, "%s", from->name);
        status = read_all(reader, from, final, error);
        json_decref(reader->router_object);
        json_decref(reader->expert_object);
    } else {
        status = mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "no memory for the configuration %s", from->name);
    }
    mb_free(allocator, reader);
    if (status != MOEBLOCK_OK) moeblock_config_destroy(out);
    return status;
}

static moeblock_status parse_json(const char *text, size_t bytes, const char *name, bool comments, json_t **out,
                                  moeblock_error *error)
{
    const struct mb_json_options options = {.comments = comments, .infinity = true, .invalid = MOEBLOCK_INVALID_CONFIG};
    return mb_json_parse(text, bytes, name, &options, out, error);
}

// The folder of a checkpoint: itself, or that of its file; false when there is none, or its name is too long.
static bool folder_of(const char *path, char out[1280])
{
    if (!path || !path[0] || !mb_exists(path) || strlen(path) >= 1280) return false;
    snprintf(out, 1280, "%s", path);
    if (mb_is_directory(path)) return true;
    char *slash = strrchr(out, '/');
    if (slash)
        slash[slash == out] = '\0';
    else
        snprintf(out, 1280, ".");
    return true;
}

// The config.json in a checkpoint's folder, when there is one and it is Hugging Face's.
static moeblock_status open_model(const moeblock_allocator *allocator, const char *checkpoint, char path[1280],
                                  json_t **out, moeblock_error *error)
{
    char folder[1280], *text;
    size_t bytes;
    *out = NULL;
    if (!folder_of(checkpoint, folder)) return MOEBLOCK_OK;
    MB_TRY(mb_path_join(folder, "config.json", path, 1280, error));
    if (!mb_exists(path)) return MOEBLOCK_OK;
    MB_TRY(mb_file_read_text(allocator, path, (size_t)32 << 20, &text, &bytes, error));
    moeblock_status status = parse_json(text, bytes, path, true, out, error);
    mb_free(allocator, text);
    if (status == MOEBLOCK_OK && !mb_hf_is_config(*out)) {
        json_decref(*out); // ours: it may be the very file that is being read
        *out = NULL;
    }
    return status;
}

// A file of ours may omit what the checkpoint's config.json says. The file is read once to learn which checkpoint and
// layer it means, and again over the mapped values. A family that is not mapped cannot help: the file must then be
// complete by itself.
static moeblock_status describe_ours(moeblock_context *context, struct sources *from, const char *weights_path,
                                     moeblock_config **out, moeblock_error *error)
{
    const moeblock_allocator *allocator = &context->allocator;
    char model_path[1280];
    MB_TRY(describe(allocator, from, false, out, error));
    if (from->layer < 0) from->layer = (*out)->layer_index;
    char own_path[sizeof(*out)->weight_path];
    snprintf(own_path, sizeof own_path, "%s", (*out)->weight_path);
    moeblock_config_destroy(out);
    MB_TRY(open_model(allocator, weights_path, model_path, &from->model, error));
    if (!from->model) MB_TRY(open_model(allocator, own_path, model_path, &from->model, error));
    from->checkpoint = weights_path ? weights_path : own_path;
    from->model_name = model_path;
    if (!from->model) return describe(allocator, from, true, out, error);

    moeblock_error reason = {MOEBLOCK_OK, ""};
    moeblock_status described = describe(allocator, from, true, out, &reason);
    json_decref(from->model);
    from->model = NULL;
    if (described == MOEBLOCK_UNSUPPORTED) {
        mb_log_line(context, "%s: not used to complete the configuration: %s", model_path, reason.message);
        described = describe(allocator, from, true, out, error);
        if (described != MOEBLOCK_OK && error && strlen(error->message) + strlen(reason.message) < 900)
            strncat(strcat(error->message, "; "), reason.message, sizeof reason.message - 1);
        return described;
    }
    if (described != MOEBLOCK_OK && error) *error = reason;
    return described;
}

// "router.config.n_group=8" as {"router": {"config": {"n_group": 8}}}. A value that is not JSON is a string.
static moeblock_status parse_set(const char *setting, json_t **out, moeblock_error *error)
{
    char text[1400];
    const char *equals = setting ? strchr(setting, '=') : NULL;
    if (!equals || equals == setting || strlen(equals) > 1200 || equals - setting > 120)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "setting \"%.100s\": expected key.path=value",
                       setting ? setting : "(null)");
    snprintf(text, sizeof text, "{\"value\": %s}", equals + 1);
    json_t *parsed = NULL, *value;
    if (parse_json(text, strlen(text), "--set", false, &parsed, NULL) == MOEBLOCK_OK && json_object_size(parsed) == 1)
        value = json_incref(json_object_get(parsed, "value"));
    else
        value = json_string(equals + 1);
    json_decref(parsed);
    const char *end = equals;
    while (value && end > setting) {
        const char *start = end;
        while (start > setting && start[-1] != '.') start--;
        char key[128];
        snprintf(key, sizeof key, "%.*s", (int)(end - start), start);
        json_t *object = json_object();
        if (!object || json_object_set_new(object, key, value)) {
            json_decref(object);
            value = NULL;
            break;
        }
        value = object;
        end = start > setting ? start - 1 : setting;
    }
    *out = value;
    if (value) return MOEBLOCK_OK;
    return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "setting \"%.100s\": no memory, or not UTF-8", setting);
}

static moeblock_status parse_sets(const moeblock_allocator *allocator, const moeblock_config_options *options,
                                  json_t ***out, moeblock_error *error)
{
    *out = NULL;
    if (!options->n_set) return MOEBLOCK_OK;
    if (!options->set || options->n_set > SETS_MAX)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "moeblock_config_options: n_set is %zu, expected up to %d with set", options->n_set, SETS_MAX);
    *out = mb_alloc_zero(allocator, options->n_set * sizeof **out);
    if (!*out) return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "no memory for %zu settings", options->n_set);
    for (size_t i = 0; i < options->n_set; i++) MB_TRY(parse_set(options->set[i], &(*out)[i], error));
    return MOEBLOCK_OK;
}

// `folder`: where the file lies, NULL for text that is not a file's.
static moeblock_status parse_text(moeblock_context *context, const char *text, size_t bytes, const char *name,
                                  const char *folder, const moeblock_config_options *options, moeblock_config **out,
                                  moeblock_error *error)
{
    const moeblock_allocator *allocator = &context->allocator;
    struct sources from = {.context = context,
                           .checkpoint = options->weights_path ? options->weights_path : folder,
                           .name = name,
                           .text = text,
                           .bytes = bytes,
                           .layer = options->layer,
                           .n_set = options->n_set};
    json_t **sets;
    moeblock_status status = parse_sets(allocator, options, &sets, error);
    from.sets = sets;
    if (status == MOEBLOCK_OK) status = parse_json(text, bytes, name, true, &from.root, error);
    if (status == MOEBLOCK_OK) {
        from.hugging_face = mb_hf_is_config(from.root);
        if (from.hugging_face) { // again, without our comments
            json_decref(from.root);
            from.root = NULL;
            status = parse_json(text, bytes, name, false, &from.root, error);
            if (status == MOEBLOCK_OK) status = describe(allocator, &from, true, out, error);
        } else if (bytes > OURS_BYTES) {
            status = mb_fail(error, MOEBLOCK_LIMIT, "%s: the file has %zu bytes, expected at most %d", name, bytes,
                             OURS_BYTES);
        } else {
            status = describe_ours(context, &from, options->weights_path, out, error);
        }
    }
    json_decref(from.root);
    for (size_t i = 0; sets && i < options->n_set; i++) json_decref(sets[i]);
    mb_free(allocator, sets);
    return status;
}

static moeblock_status read_options(const moeblock_config_options *given, moeblock_config_options *options,
                                    moeblock_error *error)
{
    MB_TRY(mb_options_read(options, sizeof *options, given, "moeblock_config_options", error));
    if (!given) options->layer = -1;
    if (options->layer < -1)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "moeblock_config_options: layer is %lld, expected -1 or a layer number",
                       (long long)options->layer);
    return MOEBLOCK_OK;
}

moeblock_status moeblock_config_parse(moeblock_context *context, const char *text, size_t bytes, const char *name,
                                      const moeblock_config_options *options, moeblock_config **out,
                                      moeblock_error *error)
{
    moeblock_config_options read;
    if (!out) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "moeblock_config_parse: out is NULL");
    *out = NULL;
    if (!context || !text)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "moeblock_config_parse: %s is NULL",
                       context ? "text" : "context");
    MB_TRY(read_options(options, &read, error));
    return parse_text(context, text, bytes, name ? name : "configuration", NULL, &read, out, error);
}

// The description in a folder: the model's config.json, or, in a folder that `synth` wrote, moeblock.json.
static moeblock_status file_of_folder(const char *folder, char *out, size_t capacity, moeblock_error *error)
{
    char ours[4096];
    MB_TRY(mb_path_join(folder, "moeblock.json", ours, sizeof ours, error));
    MB_TRY(mb_path_join(folder, "config.json", out, capacity, error));
    if (!mb_exists(out) && mb_exists(ours)) return mb_path_join(folder, "moeblock.json", out, capacity, error);
    return MOEBLOCK_OK;
}

moeblock_status moeblock_config_open(moeblock_context *context, const char *path,
                                     const moeblock_config_options *options, moeblock_config **out,
                                     moeblock_error *error)
{
    moeblock_config_options read;
    char inside[4096], folder[1280];
    char *text;
    size_t bytes;
    if (!out) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "moeblock_config_open: out is NULL");
    *out = NULL;
    if (!context || !path)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "moeblock_config_open: %s is NULL",
                       context ? "path" : "context");
    MB_TRY(read_options(options, &read, error));
    if (mb_is_directory(path)) {
        MB_TRY(file_of_folder(path, inside, sizeof inside, error));
        path = inside;
    }
    MB_TRY(mb_file_read_text(&context->allocator, path, (size_t)32 << 20, &text, &bytes, error));
    const bool known = folder_of(path, folder);
    const moeblock_status status = parse_text(context, text, bytes, path, known ? folder : NULL, &read, out, error);
    mb_free(&context->allocator, text);
    return status;
}

void moeblock_config_get_shape(const moeblock_config *config, moeblock_config_shape *out)
{
    if (!out) return;
    *out = (moeblock_config_shape){.layer = -1};
    if (!config) return;
    *out = (moeblock_config_shape){
        .hidden_size = config->hidden_size,
        .num_experts = config->num_experts,
        .num_experts_per_tok = config->num_experts_per_tok,
        .intermediate_size = config->routed.intermediate_size,
        .shared_intermediate_size = config->shared_enabled ? config->shared.intermediate_size : 0,
        .layer = config->layer_index,
    };
}
