// SPDX-License-Identifier: Apache-2.0
// What the roofline counts: each weight that a call touches once, as packed, and the multiply-adds of the definition.
#include <inttypes.h>
#include <string.h>

#include "base/arith.h"
#include "cli/bench.h"
#include "cli/exit.h"
#include "cli/machine.h"
#include "cli/out.h"

static double ffn_flops(const struct mb_ffn_config *ffn, int64_t width)
{
    return 2.0 * (ffn->gated ? 3 : 2) * (double)width * (double)ffn->intermediate_size;
}

// Bytes of small tensors that are not part of the experts' packing, as stored.
static double stored_bytes(const struct cli_session *session, int64_t layer)
{
    static const enum mb_role roles[] = {MB_ROLE_ROUTER,           MB_ROLE_ROUTER_BIAS, MB_ROLE_SELECTION_BIAS,
                                         MB_ROLE_PER_EXPERT_SCALE, MB_ROLE_OUTPUT_BIAS, MB_ROLE_SHARED_SIGMOID,
                                         MB_ROLE_MIX_COEFFICIENT};
    double bytes = 0;
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        moeblock_tensor_info info;
        if (mb_role_wanted(session->config, roles[i]) &&
            mb_role_find(session->config, session->weights, roles[i], "", layer, 0, &info, NULL) == MOEBLOCK_OK)
            bytes += (double)info.bytes;
    }
    return bytes;
}

void bench_cost_make(const struct bench_variant *variant, int64_t layer, bool alone, struct bench_cost *out)
{
    const moeblock_config *const config = variant->session.config;
    const double hidden = (double)config->hidden_size;
    const int64_t width = config->latent_size ? config->latent_size : config->hidden_size;
    *out = (struct bench_cost){.expert_bytes = (double)variant->info.expert_packed_bytes};
    if (config->routed_enabled) out->slot_flops = ffn_flops(&config->routed, width);
    if (alone) return;
    const double experts = out->expert_bytes * (double)config->num_experts;
    out->fixed_bytes = (double)variant->info.packed_bytes - experts + stored_bytes(&variant->session, layer);
    if (config->routed_enabled)
        out->token_flops += 2 * hidden * (double)(config->num_experts + config->router.null_experts);
    if (config->latent_size) out->token_flops += 4 * hidden * (double)config->latent_size;
    if (config->shared_enabled) out->token_flops += ffn_flops(&config->shared, config->hidden_size);
    if (mb_role_wanted(config, MB_ROLE_SHARED_SIGMOID)) out->token_flops += 2 * hidden;
    if (mb_role_wanted(config, MB_ROLE_MIX_COEFFICIENT)) out->token_flops += 4 * hidden;
}

// The most experts that fit when `experts` of them take `bytes`: halved, so that groups stay equal; 0: not even those
// of one token.
static int64_t experts_that_fit(const moeblock_config *config, uint64_t bytes, uint64_t room)
{
    const int64_t groups = config->router.n_group > 1 ? config->router.n_group : 1;
    int64_t experts = config->num_experts;
    for (double need = (double)bytes; need > (double)room && experts; need /= 2)
        experts = experts % 2 == 0 && experts / 2 % groups == 0 ? experts / 2 : 0;
    return experts >= config->num_experts_per_tok ? experts : 0;
}

int bench_cost_fits(const struct bench *bench, const moeblock_config *config, enum mb_format format, int64_t layer)
{
    struct cli_machine machine;
    char need[32], have[32], advice[96] = "";
    uint64_t packed;
    cli_machine_read(&machine);
    const uint64_t made = bench_weights_bytes(config, format, layer, &packed);
    const uint64_t bytes = made + packed * (uint64_t)bench->variant_count;
    const uint64_t room = machine.available_bytes - machine.available_bytes / 8;
    if (!machine.available_bytes || bytes <= room) return CLI_OK;
    const int64_t fewer = experts_that_fit(config, bytes, room);
    if (fewer) snprintf(advice, sizeof advice, "; fewer experts fit: --set model.num_experts=%" PRId64, fewer);
    return cli_fail(CLI_SYSTEM_REFUSED,
                    "making up weights of '%.200s' with %" PRId64 " experts in %s needs %s of memory, and %s are "
                    "available for it%s",
                    bench->args->positional[0], config->num_experts, mb_format_table[format].name,
                    cli_bytes_text((double)bytes, need), cli_bytes_text((double)room, have), advice);
}
