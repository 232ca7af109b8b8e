// SPDX-License-Identifier: Apache-2.0
// Which tensors a made-up checkpoint holds and in which shard each lies.
#include <inttypes.h>

#include "base/memory.h"
#include "cli/exit.h"
#include "cli/synth.h"
#include "cli/values.h"

// Formats whose groups have factors in the weight are published with whole groups only.
static int check_format(const moeblock_config *config, enum mb_format format)
{
    const struct mb_format_info *const info = &mb_format_table[format];
    if (!mb_packed_info_of(info->packed).factors || info->any_group) return CLI_OK;
    const struct {
        const char *key;
        int64_t value;
    } inputs[] = {
        {config->latent_size ? "experts.latent.size" : "model.hidden_size",
         config->latent_size ? config->latent_size : config->hidden_size},
        {"experts.distributed.intermediate_size", config->routed_enabled ? config->routed.intermediate_size : 0},
        {"experts.shared.intermediate_size", config->shared_enabled ? config->shared.intermediate_size : 0},
    };
    const int64_t group = mb_format_table[format].column_tile;
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++)
        if (inputs[i].value % group)
            return cli_fail(CLI_BAD_CONFIG,
                            "%s has no published form for this layer: %s is %" PRId64
                            ", expected a multiple of %" PRId64,
                            info->name, inputs[i].key, inputs[i].value, group);
    return CLI_OK;
}

static int list_tensors(struct synth_plan *plan)
{
    moeblock_tensor_need need;
    while (mb_tensor_needed(plan->config, plan->format, plan->layer, (int64_t)plan->count, &need)) plan->count++;
    plan->tensors = mb_alloc_zero(&mb_default_allocator, sizeof *plan->tensors * (plan->count + 1));
    if (!plan->tensors) return cli_fail(CLI_SYSTEM_REFUSED, "no memory for a list of %zu tensors", plan->count);
    for (size_t i = 0; i < plan->count; i++) {
        struct synth_tensor *const tensor = &plan->tensors[i];
        mb_tensor_needed(plan->config, plan->format, plan->layer, (int64_t)i, &tensor->need);
        tensor->need.dtype = cli_need_dtype(&tensor->need, plan->format);
        tensor->bytes = cli_need_bytes(&tensor->need, plan->format);
        plan->bytes += tensor->bytes;
    }
    return CLI_OK;
}

// Tensors stay whole and in order; a shard ends before the tensor that would make it too large.
static int lay_out(struct synth_plan *plan, uint64_t most)
{
    uint64_t filled = 0;
    plan->shards = 1;
    for (size_t i = 0; i < plan->count; i++) {
        struct synth_tensor *const tensor = &plan->tensors[i];
        if (filled && filled + tensor->bytes > most) {
            plan->shards++;
            filled = 0;
        }
        filled += tensor->bytes;
        tensor->shard = plan->shards - 1;
    }
    if (plan->shards <= SYNTH_FILES_MAX) return CLI_OK;
    return cli_fail(CLI_USAGE, "option --shard-bytes: %" PRIu64 " makes %zu files, at most %d are written", most,
                    plan->shards, SYNTH_FILES_MAX);
}

int synth_plan_make(const moeblock_config *config, enum mb_format format, int64_t layer, uint64_t seed,
                    int64_t shard_bytes, struct synth_plan *out)
{
    *out = (struct synth_plan){.config = config, .format = format, .layer = layer, .seed = seed};
    int code = check_format(config, format);
    if (!code) code = list_tensors(out);
    if (!code) code = lay_out(out, shard_bytes ? (uint64_t)shard_bytes : UINT64_MAX);
    return code;
}

void synth_plan_free(struct synth_plan *plan)
{
    mb_free(&mb_default_allocator, plan->tensors);
    plan->tensors = NULL;
}
