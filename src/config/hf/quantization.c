// SPDX-License-Identifier: Apache-2.0
// quantization_config: which stored format a checkpoint announces. What is not read yet is refused by name here, before
// any tensor is looked for.
#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "config/hf/source.h"

static moeblock_status refuse(const struct mb_hf_source *source, const char *method, const char *detail)
{
    return mb_fail(source->error, MOEBLOCK_UNSUPPORTED,
                   "%s: quantization_config of this %s: quant_method is \"%.40s\"%s, expected no quantization_config, "
                   "\"fp8\" with weight_block_size [128, 128], or \"mxfp4\" of gpt_oss",
                   source->name, source->model_type, method, detail);
}

static moeblock_status fp8(const struct mb_hf_source *source, const json_t *quantization, const char **format)
{
    const json_t *block = mb_hf_at(quantization, "weight_block_size");
    const json_int_t rows = json_integer_value(json_array_get(block, 0));
    const json_int_t columns = json_integer_value(json_array_get(block, 1));
    const json_t *number = mb_hf_at(quantization, "fmt");
    char detail[96];
    if (json_array_size(block) != 2) return refuse(source, "fp8", " without a weight_block_size of two numbers");
    snprintf(detail, sizeof detail, " with weight_block_size [%lld, %lld]", (long long)rows, (long long)columns);
    if (rows != 128 || columns != 128) return refuse(source, "fp8", detail);
    if (number && (!json_is_string(number) || !strstr(json_string_value(number), "e4m3")))
        return refuse(source, "fp8", " with a fmt that is not e4m3");
    if (source->family->flags & MB_HF_PLAIN_ONLY)
        return refuse(source, "fp8", ", whose tensors this family stores under names that are not read yet");
    *format = "fp8";
    return MOEBLOCK_OK;
}

moeblock_status mb_hf_format(const struct mb_hf_source *source, const char **format)
{
    const json_t *quantization = mb_hf_at(source->root, mb_hf_spellings[MB_HF_QUANTIZATION].keys[0]);
    if (!quantization) quantization = mb_hf_at(source->scope, mb_hf_spellings[MB_HF_QUANTIZATION].keys[0]);
    *format = "auto";
    if (!quantization) return MOEBLOCK_OK;
    if (!json_is_object(quantization)) return mb_hf_wrong(source, "quantization_config", quantization, "an object");
    const char *method = json_string_value(mb_hf_at(quantization, "quant_method"));
    if (!method) return refuse(source, "", " (it has none)");
    if (!strcmp(method, "fp8")) return fp8(source, quantization, format);
    if (strcmp(method, "mxfp4") || !(source->family->flags & MB_HF_STORES_MXFP4)) return refuse(source, method, "");
    *format = "mxfp4";
    return MOEBLOCK_OK;
}
