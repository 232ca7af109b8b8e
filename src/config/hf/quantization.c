// SPDX-License-Identifier: Apache-2.0
// quantization_config, or ModelOpt's hf_quant_config.json: which stored format a checkpoint announces for the routed
// experts, by method, module lists and the groups of compressed-tensors. What is not read is refused by name here,
// before any tensor is looked for.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "config/hf/pattern.h"
#include "config/hf/source.h"

struct announcement {
    const struct mb_hf_source *source;
    const json_t *config; // the object
    const char *method;
    const char *module; // the routed experts' module name
    const char *format; // out
    int64_t group;      // out: inputs per scale; 0: not said, or one scale for all
};

static moeblock_status refuse(const struct announcement *a, const char *detail)
{
    return mb_fail(
        a->source->error, MOEBLOCK_UNSUPPORTED,
        "%s: quantization_config of this %s: quant_method is \"%.40s\"%s, expected no quantization_config or "
        "a method and format that docs/formats.md lists (fp8, mxfp8, mxfp4, compressed-tensors, modelopt, "
        "fbgemm_fp8, awq, gptq)",
        a->source->name, a->source->model_type, a->method, detail);
}

static moeblock_status refuse_value(const struct announcement *a, const char *key, const char *value)
{
    char detail[160];
    snprintf(detail, sizeof detail, " with %.40s %.80s", key, value);
    return refuse(a, detail);
}

static const char *text_at(const json_t *object, const char *key, const char *fallback)
{
    const char *text = json_string_value(mb_hf_at(object, key));
    return text ? text : fallback;
}

// Inputs per scale; -1 and null stand for one scale an output.
static moeblock_status read_group(struct announcement *a, const json_t *object, const char *key)
{
    const json_t *value = mb_hf_at(object, key);
    if (!value) return MOEBLOCK_OK;
    const json_int_t group = json_integer_value(value);
    if (!json_is_integer(value) || group < -1 || group == 0 || group > 1 << 20)
        return mb_hf_wrong(a->source, key, value, "-1 or a number of inputs");
    a->group = group > 0 ? group : 0;
    return MOEBLOCK_OK;
}

// --- which modules are meant ----------------------------------------------------------------------------------------

enum naming { BY_PART, BY_NAMES, BY_WILDCARD, BY_EXPRESSION };

// Whether whole names of the dotted path make up the entry.
static bool names_hold(const char *path, const char *entry)
{
    const size_t length = strlen(entry);
    for (const char *at = strstr(path, entry); length && at; at = strstr(at + 1, entry))
        if ((at == path || at[-1] == '.') && (at[length] == '.' || !at[length])) return true;
    return false;
}

// Whether one entry of a list of modules names the experts' module, or something around it.
static moeblock_status entry_matches(const struct announcement *a, enum naming naming, const char *entry, bool *out)
{
    char longer[512];
    bool valid = true;
    *out = false;
    if (naming == BY_PART) {
        *out = strstr(a->module, entry) != NULL;
    } else if (naming == BY_NAMES) {
        *out = names_hold(a->module, entry);
    } else if (naming == BY_WILDCARD) {
        snprintf(longer, sizeof longer, "%.500s.*", entry);
        *out = mb_wildcard_matches(entry, a->module) || mb_wildcard_matches(longer, a->module);
    } else {
        *out = !strncmp(entry, "re:", 3) ? mb_pattern_matches(entry + 3, a->module, &valid) : !strcmp(entry, a->module);
    }
    return valid ? MOEBLOCK_OK : refuse_value(a, "a module pattern that is not understood:", entry);
}

static moeblock_status listed(const struct announcement *a, const json_t *list, enum naming naming, bool *out)
{
    size_t i;
    const json_t *entry;
    *out = false;
    json_array_foreach(list, i, entry)
    {
        if (*out || !json_is_string(entry)) continue;
        MB_TRY(entry_matches(a, naming, json_string_value(entry), out));
    }
    return MOEBLOCK_OK;
}

// --- one function a method ------------------------------------------------------------------------------------------

static moeblock_status read_fp8(struct announcement *a)
{
    const json_t *block = mb_hf_at(a->config, "weight_block_size"), *number = mb_hf_at(a->config, "fmt");
    const json_int_t rows = json_integer_value(json_array_get(block, 0));
    const json_int_t columns = json_integer_value(json_array_get(block, 1));
    char sizes[64];
    bool ignored = false;
    if (number && (!json_is_string(number) || !strstr(json_string_value(number), "e4m3")))
        return refuse(a, " with a fmt that is not e4m3");
    MB_TRY(listed(a, mb_hf_at(a->config, "modules_to_not_convert"), BY_WILDCARD, &ignored));
    if (!ignored) MB_TRY(listed(a, mb_hf_at(a->config, "ignored_layers"), BY_WILDCARD, &ignored));
    if (ignored || !block) return MOEBLOCK_OK; // without blocks the tensors tell which of two names a scale has
    snprintf(sizes, sizeof sizes, "[%lld, %lld]", (long long)rows, (long long)columns);
    if (json_array_size(block) != 2) return refuse(a, " with a weight_block_size that is not two numbers");
    if (rows == 1 && columns == 32) {
        a->format = "mxfp8";
        return MOEBLOCK_OK;
    }
    if (rows != 128 || columns != 128) return refuse_value(a, "weight_block_size", sizes);
    const bool v4 = a->source->family->flags & MB_HF_STORES_V4;
    const char *dtype = text_at(a->source->scope, "expert_dtype", "fp8");
    if (v4 && strcmp(dtype, "fp8") && strcmp(dtype, "fp4")) return refuse_value(a, "expert_dtype", dtype);
    a->format = !v4 ? "fp8" : !strcmp(dtype, "fp4") ? "v4_fp4" : "v4_fp8";
    return MOEBLOCK_OK;
}

static moeblock_status read_mxfp8(struct announcement *a)
{
    const json_t *block = mb_hf_at(a->config, "weight_block_size");
    const bool usual =
        json_integer_value(json_array_get(block, 0)) == 1 && json_integer_value(json_array_get(block, 1)) == 32;
    if (block && !usual) return refuse(a, " with a weight_block_size that is not [1, 32]");
    a->format = "mxfp8";
    return MOEBLOCK_OK;
}

static moeblock_status read_mxfp4(struct announcement *a)
{
    if (!(a->source->family->flags & MB_HF_STORES_MXFP4)) return refuse(a, ", which is the form of gpt_oss");
    a->format = "mxfp4";
    return MOEBLOCK_OK;
}

// One scale an output; activation_scale_ub bounds the scales of activations, which are not quantised here.
static moeblock_status read_fbgemm_fp8(struct announcement *a)
{
    bool ignored;
    MB_TRY(listed(a, mb_hf_at(a->config, "modules_to_not_convert"), BY_NAMES, &ignored));
    if (!ignored) a->format = "fbgemm_fp8";
    return MOEBLOCK_OK;
}

// The weights' entry of a group of compressed-tensors, in one of its formats.
static moeblock_status read_group_weights(struct announcement *a, const json_t *weights, const char *format)
{
    const char *strategy = text_at(weights, "strategy", ""), *type = text_at(weights, "type", "");
    const json_int_t bits = json_integer_value(mb_hf_at(weights, "num_bits"));
    const bool symmetric = !json_is_false(mb_hf_at(weights, "symmetric"));
    const json_t *block = mb_hf_at(weights, "block_structure");
    static const struct {
        const char *format, *name;
    } whole[] = {
        {"mxfp4-pack-quantized", "ct_mxfp4"}, {"mxfp8-quantized", "ct_mxfp8"}, {"nvfp4-pack-quantized", "ct_nvfp4"}};
    for (size_t i = 0; i < sizeof whole / sizeof whole[0]; i++)
        if (!strcmp(format, whole[i].format)) a->format = whole[i].name;
    if (!strcmp(format, "dense")) return MOEBLOCK_OK;
    if (strcmp(a->format, "auto")) return MOEBLOCK_OK;
    if (!strcmp(format, "pack-quantized")) {
        if (strcmp(type, "int") || (bits != 4 && bits != 8))
            return refuse(a, " with weights that are not int4 or int8");
        a->format = bits == 4 ? (symmetric ? "ct_int4" : "ct_int4_asym") : symmetric ? "ct_int8" : "ct_int8_asym";
        return !strcmp(strategy, "group") ? read_group(a, weights, "group_size") : MOEBLOCK_OK;
    }
    if (!strcmp(format, "float-quantized") || !strcmp(format, "naive-quantized")) {
        const bool tiles =
            json_integer_value(json_array_get(block, 0)) == 128 && json_integer_value(json_array_get(block, 1)) == 128;
        if (strcmp(type, "float") || bits != 8) return refuse(a, " with weights that are not 8-bit floats");
        if (!strcmp(strategy, "channel")) a->format = "ct_fp8";
        if (!strcmp(strategy, "tensor")) a->format = "ct_fp8_tensor";
        if (!strcmp(strategy, "block") && tiles) a->format = "ct_fp8_block";
        return strcmp(a->format, "auto") ? MOEBLOCK_OK : refuse_value(a, "strategy", strategy);
    }
    return refuse_value(a, "format", format);
}

// The group whose targets name the experts' module goes before one for all "Linear".
static moeblock_status read_compressed_tensors(struct announcement *a)
{
    const json_t *groups = mb_hf_at(a->config, "config_groups"), *chosen = NULL, *group;
    const char *key;
    bool ignored, named = false;
    MB_TRY(listed(a, mb_hf_at(a->config, "ignore"), BY_EXPRESSION, &ignored));
    if (ignored) return MOEBLOCK_OK;
    if (!json_is_object(groups)) return refuse(a, " without config_groups");
    json_object_foreach((json_t *)(uintptr_t)groups, key, group)
    {
        const json_t *targets = mb_hf_at(group, "targets"), *target;
        size_t i;
        bool by_name;
        MB_TRY(listed(a, targets, BY_EXPRESSION, &by_name));
        if (by_name && !named) chosen = group;
        named = named || by_name;
        json_array_foreach(targets, i, target)
        {
            if (!chosen && json_is_string(target) && !strcmp(json_string_value(target), "Linear")) chosen = group;
        }
    }
    const json_t *weights = chosen ? mb_hf_at(chosen, "weights") : NULL;
    if (!weights) return MOEBLOCK_OK; // no group quantises the experts
    return read_group_weights(a, weights, text_at(chosen, "format", text_at(a->config, "format", "")));
}

static moeblock_status read_modelopt(struct announcement *a)
{
    static const struct {
        const char *algorithm, *format;
    } algorithms[] = {
        {"NVFP4", "nvfp4"}, {"FP8", "ct_fp8_tensor"}, {"FP8_PER_CHANNEL_PER_TOKEN", "ct_fp8"}, {"MXFP8", "ct_mxfp8"}};
    const json_t *inner = mb_hf_at(a->config, "quantization");
    const json_t *object = inner ? inner : a->config;
    const char *algorithm = text_at(object, "quant_algo", "(none)");
    bool ignored;
    MB_TRY(listed(a, mb_hf_at(object, "exclude_modules"), BY_WILDCARD, &ignored));
    if (!ignored) MB_TRY(listed(a, mb_hf_at(object, "ignore"), BY_WILDCARD, &ignored));
    for (size_t i = 0; i < sizeof algorithms / sizeof algorithms[0]; i++) {
        if (strcmp(algorithm, algorithms[i].algorithm)) continue;
        if (!ignored) a->format = algorithms[i].format;
        return MOEBLOCK_OK;
    }
    return refuse_value(a, "quant_algo", algorithm);
}

static moeblock_status read_awq(struct announcement *a)
{
    const char *version = text_at(a->config, "version", "gemm");
    bool ignored;
    MB_TRY(listed(a, mb_hf_at(a->config, "modules_to_not_convert"), BY_PART, &ignored));
    if (ignored) return MOEBLOCK_OK;
    if (json_integer_value(mb_hf_at(a->config, "bits")) != 4) return refuse(a, " with bits other than 4");
    if (strcmp(version, "gemm") && strcmp(version, "GEMM")) return refuse_value(a, "version", version);
    if (json_is_false(mb_hf_at(a->config, "zero_point"))) return refuse(a, " without zero points");
    a->format = "awq";
    return read_group(a, a->config, "group_size");
}

// `dynamic` of gptq: "-:PATTERN" leaves modules as they are, "+:PATTERN" or "PATTERN" gives them other bits or groups.
static moeblock_status read_dynamic(struct announcement *a, json_int_t *bits, bool *ignored)
{
    const char *key;
    const json_t *value;
    *ignored = false;
    json_object_foreach((json_t *)(uintptr_t)mb_hf_at(a->config, "dynamic"), key, value)
    {
        bool valid;
        const bool leaves = !strncmp(key, "-:", 2), prefixed = leaves || !strncmp(key, "+:", 2);
        const bool matches = mb_pattern_matches(prefixed ? key + 2 : key, a->module, &valid);
        if (!valid) return refuse_value(a, "a module pattern that is not understood:", key);
        if (!matches) continue;
        *ignored = leaves;
        if (json_is_integer(mb_hf_at(value, "bits"))) *bits = json_integer_value(mb_hf_at(value, "bits"));
        return read_group(a, value, "group_size");
    }
    return MOEBLOCK_OK;
}

static moeblock_status read_gptq(struct announcement *a)
{
    const char *form = text_at(a->config, "checkpoint_format", text_at(a->config, "format", "gptq"));
    json_int_t bits = json_integer_value(mb_hf_at(a->config, "bits"));
    bool ignored;
    MB_TRY(read_group(a, a->config, "group_size"));
    MB_TRY(read_dynamic(a, &bits, &ignored));
    if (ignored) return MOEBLOCK_OK;
    if (bits != 4 && bits != 8) return refuse(a, " with bits other than 4 or 8");
    const bool second = !strcmp(form, "gptq_v2");
    if (!second && strcmp(form, "gptq")) return refuse_value(a, "checkpoint_format", form);
    a->format = bits == 4 ? (second ? "gptq_v2" : "gptq") : second ? "gptq_v2_int8" : "gptq_int8";
    return MOEBLOCK_OK;
}

static const struct {
    const char *method;
    moeblock_status (*read)(struct announcement *a);
} methods[] = {
    {"fp8", read_fp8},           {"mxfp8", read_mxfp8},
    {"mxfp4", read_mxfp4},       {"awq", read_awq},
    {"gptq", read_gptq},         {"compressed-tensors", read_compressed_tensors},
    {"modelopt", read_modelopt}, {"fbgemm_fp8", read_fbgemm_fp8},
};

moeblock_status mb_hf_format(const struct mb_hf_source *source, const json_t *beside, const char *module,
                             const char **format, int64_t *group)
{
    const char *key = mb_hf_spellings[MB_HF_QUANTIZATION].keys[0];
    const json_t *quantization = mb_hf_at(source->root, key);
    *format = "auto";
    *group = 0;
    if (!quantization) quantization = mb_hf_at(source->scope, key);
    if (!quantization) quantization = beside;
    if (!quantization) return MOEBLOCK_OK;
    if (!json_is_object(quantization)) return mb_hf_wrong(source, key, quantization, "an object");
    struct announcement a = {.source = source, .config = quantization, .module = module, .format = "auto"};
    const bool modelopt = mb_hf_at(quantization, "quant_algo") || mb_hf_at(quantization, "quantization.quant_algo");
    a.method = text_at(quantization, "quant_method", modelopt ? "modelopt" : "");
    if (!a.method[0]) return refuse(&a, " (it has none)");
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        if (strcmp(a.method, methods[i].method)) continue;
        MB_TRY(methods[i].read(&a));
        *format = a.format;
        *group = a.group;
        return MOEBLOCK_OK;
    }
    return refuse(&a, "");
}
