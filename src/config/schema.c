// SPDX-License-Identifier: Apache-2.0
// The configuration: one row per key. The parser, the messages, the printer and docs/config.md come out of this table.
// Rows of one object stand together, because the printer opens an object once.
#include "config/schema.h"

#include <stdio.h>
#include <string.h>

#include "config/preset.h"
#include "config/tensors.h"

// How a row starts: its path, type, place and range.
#define BOOL(key, field) .path = key, .type = MB_TYPE_BOOL, .offset = offsetof(moeblock_config, field)
#define FLAG(key, field) BOOL(key, field), .fallback = "false"
#define KIND(key, field) .path = key, .type = MB_TYPE_SPECIAL, .offset = offsetof(moeblock_config, field)
#define ENUM(key, field, list)                                                                                         \
    .path = key, .type = MB_TYPE_ENUM, .offset = offsetof(moeblock_config, field), .names = list
#define RANGED(key, kind, field, low, high)                                                                            \
    .path = key, .type = kind, .offset = offsetof(moeblock_config, field), .minimum = low, .maximum = high
#define INT(key, field, low, high) RANGED(key, MB_TYPE_INT, field, low, high)
#define NUMBER(key, field, low, high) RANGED(key, MB_TYPE_NUMBER, field, low, high)
#define FLOAT(key, field, low, high) RANGED(key, MB_TYPE_FLOAT, field, low, high)
#define TEXT(key, field, low) RANGED(key, MB_TYPE_TEXT, field, low, sizeof(((moeblock_config *)0)->field) - 1)
#define IGNORED(key, why, ...)                                                                                         \
    {                                                                                                                  \
        .path = key, .type = MB_TYPE_IGNORED, .help = why, .aliases = ALSO(__VA_ARGS__)                                \
    }
#define ALSO(...) ((const char *const[]){__VA_ARGS__, NULL})

enum {
    WIDTH_MAX = 1 << 20,
    EXPERTS_MAX = 4096,
    LAYERS_MAX = 100000,
    TOKENS_MAX = 2147483647,
    TABLE_MAX = 1 << 24,
    MESH_SIDE_MAX = 65536
};

static const char *const input_names[] = {"hidden", "aux", NULL};
static const char *const score_names[] = {"softmax", "sigmoid", "sqrt_softplus", "identity", NULL};
static const char *const groups_names[] = {"none", "limited", "per_group", NULL};
static const char *const group_score_names[] = {"max", "sum_top2", NULL};
static const char *const group_fill_names[] = {"-inf", "0", NULL};
static const char *const post_names[] = {"none", "softmax_k", "sigmoid_k", NULL};
static const char *const norm_names[] = {"none", "sum", "sum_clamped", "p_norm", NULL};
static const char *const order_names[] = {"arrival", "probability", NULL};
static const char *const scale_on_names[] = {"weights", "output", NULL};
static const char *const apply_names[] = {"output", "input", NULL};
static const char *const precision_names[] = {"fp32", "model", NULL};
static const char *const null_names[] = {"identity", "zero", NULL};
static const char *const clamp_names[] = {"none", "before", "after", NULL};
static const char *const shared_gate_names[] = {"none", "sigmoid", NULL};
static const char *const mix_names[] = {"sum", "average", "sum_over_sqrt2", "softmax_coef", NULL};
static const char *const ids_names[] = {"top_k", "token_table", NULL};
static const char *const layout_names[] = {"per_expert", "stacked", "flattened", NULL};
static const char *const orientation_names[] = {"output_major", "input_major", NULL};
static const char *const gate_up_names[] = {"separate", "concatenated", "interleaved", NULL};
static const char *const placement_names[] = {"internal", "none", NULL};
static const char *const algorithm_names[] = {"alltoall", "allgather", "twolevel", "auto", NULL};
static const char *const reproducible_names[] = {"mesh", "batch", NULL};
static const char *const exchanged_names[] = {"auto", "activations", "sums", NULL};

// When the printer shows a key: only where it can change anything.
static bool is_kind(const struct mb_activation *activation, const char *name)
{
    return activation->kind == mb_activation_find(name);
}
static bool pipeline(const moeblock_config *c) { return mb_router_is_builtin(c->router.type); }
static bool input_normed(const moeblock_config *c) { return pipeline(c) && c->router.input_norm; }
static bool selection_biased(const moeblock_config *c) { return pipeline(c) && c->router.selection_bias; }
static bool grouped(const moeblock_config *c) { return pipeline(c) && c->router.groups != MB_GROUPS_NONE; }
static bool limited(const moeblock_config *c) { return pipeline(c) && c->router.groups == MB_GROUPS_LIMITED; }
static bool norm_summed(const moeblock_config *c)
{
    return pipeline(c) && (c->router.norm == MB_NORM_SUM || c->router.norm == MB_NORM_SUM_CLAMPED);
}
static bool norm_p(const moeblock_config *c) { return pipeline(c) && c->router.norm == MB_NORM_P; }
static bool null_experts(const moeblock_config *c) { return pipeline(c) && c->router.null_experts > 0; }
static bool from_table(const moeblock_config *c) { return pipeline(c) && c->router.ids == MB_IDS_TOKEN_TABLE; }
static bool is_type(const moeblock_config *c, const char *type) { return !strcmp(c->router.type, type); }
static bool sparsemixer(const moeblock_config *c) { return is_type(c, "sparsemixer"); }
static bool capacity(const moeblock_config *c) { return is_type(c, "capacity"); }
static bool by_choice(const moeblock_config *c) { return is_type(c, "capacity_by_choice"); }
static bool counts(const moeblock_config *c) { return capacity(c) || by_choice(c); }
static bool mlp_state(const moeblock_config *c) { return is_type(c, "mlp_state"); }
static bool joint(const moeblock_config *c) { return is_type(c, "joint"); }
static bool adjugate(const moeblock_config *c) { return is_type(c, "adjugate"); }
static bool routed(const moeblock_config *c) { return c->routed_enabled; }
static bool post_norm(const moeblock_config *c) { return routed(c) && c->post_norm; }
static bool second(const moeblock_config *c) { return routed(c) && c->second.count > 0; }
static bool routed_clamp(const moeblock_config *c) { return routed(c) && c->routed.activation.clamp != MB_CLAMP_NONE; }
static bool routed_oai(const moeblock_config *c) { return routed(c) && is_kind(&c->routed.activation, "swiglu_oai"); }
static bool routed_situ(const moeblock_config *c) { return routed(c) && is_kind(&c->routed.activation, "situ"); }
static bool latent(const moeblock_config *c) { return routed(c) && c->latent_size > 0; }
static bool normed(const moeblock_config *c) { return latent(c) || c->out_norm || mlp_state(c); }
static bool shared(const moeblock_config *c) { return c->shared_enabled; }
static bool shared_clamp(const moeblock_config *c) { return shared(c) && c->shared.activation.clamp != MB_CLAMP_NONE; }
static bool shared_oai(const moeblock_config *c) { return shared(c) && is_kind(&c->shared.activation, "swiglu_oai"); }
static bool shared_situ(const moeblock_config *c) { return shared(c) && is_kind(&c->shared.activation, "situ"); }
static bool layer_known(const moeblock_config *c) { return c->layer_index >= 0; }

// A tensor-name pattern; the fallback is DeepSeek's name. Shown when the description calls for the tensor.
#define NAME(role, key, pattern, what)                                                                                 \
    {                                                                                                                  \
        RANGED("weights.names." key, MB_TYPE_TEXT, tensor[role], 1, MB_TEXT - 1), .fallback = "\"" pattern "\"",       \
                                                                                  .help = what                         \
    }

// clang-format off
const struct mb_schema_row mb_schema[] = {
    {TEXT("name", name, 0), .help = "Free text for people.", .aliases = ALSO("model.name")},

    {INT("model.hidden_size", hidden_size, 1, WIDTH_MAX), .required = true,
     .help = "H, the width of x and y.",
     .aliases = ALSO("experts.distributed.hidden_size", "experts.shared.hidden_size", "router.config.hidden_size")},
    {INT("model.num_experts", num_experts, 1, EXPERTS_MAX), .required = true,
     .help = "E, the number of routed experts; null experts are not counted.",
     .aliases = ALSO("model.n_routed_experts", "router.config.num_experts", "router.config.n_routed_experts",
                     "experts.distributed.n_routed_experts", "experts.distributed.num_experts")},
    {INT("model.num_experts_per_tok", num_experts_per_tok, 1, EXPERTS_MAX), .required = true,
     .help = "k, the experts chosen for a token.", .aliases = ALSO("router.config.num_experts_per_tok")},
    {INT("model.intermediate_size", dense_intermediate_size, 1, WIDTH_MAX), .folded = true,
     .help = "Width of the experts where nothing else gives it (in a model with dense layers: of those, then unused)."},
    {INT("model.n_shared_experts", shared_count, 0, 1024), .folded = true,
     .help = "Shared experts, stored as one: experts.shared.intermediate_size becomes this many times the routed width; "
             "0 switches the shared expert off."},
    {INT("model.num_layers", num_layers, 0, LAYERS_MAX), .fallback = "0",
     .help = "Layers of the model; 0: unknown.", .aliases = ALSO("model.num_hidden_layers")},
    {TEXT("model.moe_layers", moe_layers, 0),
     .help = "Which layers hold a block, such as \"3-60\" or \"1,3,5\"; empty: unknown, or all."},
    {TEXT("model.model_type", model_type, 0), .help = "The family's name in its config.json. Free text here."},
    {NUMBER("model.rms_norm_eps", rms_norm_eps, 0, 1), .fallback = "1e-6",
     .help = "Epsilon of the norms of the latent path, of experts.out_norm and of the network of mlp_state.",
     .matters = normed},

    {INT("layer_index", layer_index, -1, LAYERS_MAX), .fallback = "-1", .matters = layer_known,
     .help = "The layer to load where the caller names none; -1 stands for none.", .aliases = ALSO("weights.layer_index")},

    {BOOL("tensor_parallel.enabled", tp_enabled), .fallback = "true",
     .help = "Whether x may come hidden-sharded over the tensor-parallel axis."},
    {INT("tensor_parallel.axis", tp_axis, 0, 1), .fallback = "1",
     .help = "Mesh axis of tensor parallelism: 1 are the columns.", .aliases = ALSO("tensor_parallel.cluster_axis")},
    {BOOL("expert_parallel.enabled", ep_enabled), .fallback = "true",
     .help = "Whether the experts are divided over the expert-parallel axis."},
    {INT("expert_parallel.axis", ep_axis, 0, 1), .fallback = "0", .help = "Mesh axis of dispatch and combine: 0 are the rows.",
     .aliases = ALSO("expert_parallel.cluster_axis", "experts.distributed.dispatch_cluster_axis")},
    {FLAG("replicated_batch_mode", replicated_batch),
     .help = "Whether every row of the mesh holds the same tokens instead of its own."},
    {INT("mesh.rows", mesh_rows, 0, MESH_SIDE_MAX), .fallback = "0",
     .help = "Rows of the mesh; 0: as many as the caller or --mesh says."},
    {INT("mesh.columns", mesh_columns, 0, MESH_SIDE_MAX), .fallback = "0",
     .help = "Columns of the mesh; 0: as many as the caller or --mesh says."},
    {ENUM("mesh.algorithm", algorithm, algorithm_names), .fallback = "\"alltoall\"",
     .help = "How rows travel to their experts: alltoall (each once to a rank that needs it), twolevel (the same in two "
             "stages of fewer messages, for a wide axis), allgather (all rows to all ranks), auto (the quicker of the "
             "first two). Never changes bits with mesh.reproducible mesh."},
    {NUMBER("mesh.deadline", deadline, 0.001, 1e9), .fallback = "60",
     .help = "Seconds that a rank waits for another before all give up with an error."},
    {ENUM("mesh.reproducible", reproducible, reproducible_names), .fallback = "\"mesh\"",
     .help = "mesh: the same bits as one process, on any mesh. batch: experts' ranks sum what a row gets there and "
             "return one row, and tensor-parallel ranks may add partial sums (mesh.exchange), which is fewer bytes; "
             "bits are the same for any batch and from run to run, but not those of another mesh."},
    {ENUM("mesh.exchange", exchanged, exchanged_names), .fallback = "\"auto\"",
     .help = "What tensor-parallel ranks exchange with mesh.reproducible batch: activations, each rank then computes "
             "whole outputs, as with mesh; sums, each rank computes partial sums over its part of the intermediate, "
             "which a reduce-scatter adds; auto: sums where the weights can be cut so and it is fewer bytes."},
    {TEXT("mesh.placement", placement, 1), .fallback = "\"contiguous\"",
     .help = "Which ranks of the expert-parallel axis hold each expert: contiguous runs, or the file of a table that "
             "`moeblock route --placement` wrote for this mesh. Never changes bits."},

    {TEXT("router.type", router.type, 1), .fallback = "\"linear\"",
     .help = "moe_gate (grouped_topk is the same), topk, linear; the operators sparsemixer, capacity, "
             "capacity_by_choice, mlp_state, joint, product_keys, token_type, adjugate; or a registered name. A type sets "
             "the defaults of router.config; see the presets below."},
    {ENUM("router.config.input", router.input, input_names), .fallback = "\"hidden\"", .matters = pipeline,
     .help = "What the router reads: x, or the second tensor that the caller gives."},
    {FLAG("router.config.input_norm", router.input_norm), .matters = pipeline,
     .help = "RMSNorm without weight on the router's input."},
    {NUMBER("router.config.input_norm_eps", router.input_norm_eps, 0, 1), .fallback = "1e-6", .matters = input_normed,
     .help = "Its epsilon."},
    {FLAG("router.config.input_scale_vector", router.input_scale_vector), .matters = pipeline,
     .help = "Whether the router's input is multiplied by a stored vector [H]."},
    {NUMBER("router.config.input_scale", router.input_scale, 0, 1e6), .fallback = "1", .matters = pipeline,
     .help = "Constant factor on the router's input; 0 stands for H^-0.5."},
    {FLAG("router.config.linear_bias", router.linear_bias), .matters = pipeline,
     .help = "Whether the router's linear map has a bias."},
    {FLAG("router.config.transposed", router.transposed), .matters = pipeline,
     .help = "Whether the router's weight is stored [H, E] instead of [E, H]."},
    {NUMBER("router.config.logit_scale", router.logit_scale, 1e-9, 1e6), .fallback = "1", .matters = pipeline,
     .help = "Factor on the logits."},
    {NUMBER("router.config.softcap", router.softcap, 0, 1e6), .fallback = "0", .matters = pipeline,
     .help = "c of c * tanh(logit / c); 0: none."},
    {ENUM("router.config.score", router.score, score_names), .fallback = "\"softmax\"", .matters = pipeline,
     .help = "What turns logits into the scores that become weights."},
    {ENUM("router.config.select_score", router.select_score, score_names), .matters = pipeline,
     .help = "The scores that choose; the same as score when omitted."},
    {FLAG("router.config.score_correction_bias", router.selection_bias), .matters = pipeline,
     .help = "Whether a stored bias [E] is added for the choice only. true needs the tensor, false leaves it unread."},
    {FLAG("router.config.selection_bias_subtract_mean", router.selection_bias_subtract_mean), .matters = selection_biased,
     .help = "Whether the mean of that bias is subtracted from it when it is loaded."},
    {ENUM("router.config.groups", router.groups, groups_names), .fallback = "\"none\"", .matters = pipeline,
     .help = "limited: choose among the best groups; per_group: k / n_group in every group. limited when omitted and "
             "n_group is above 1."},
    {INT("router.config.n_group", router.n_group, 1, EXPERTS_MAX), .fallback = "1", .matters = grouped,
     .help = "Groups of consecutive experts.", .aliases = ALSO("model.n_group")},
    {INT("router.config.topk_group", router.topk_group, 1, EXPERTS_MAX), .fallback = "1", .matters = limited,
     .help = "Groups kept.", .aliases = ALSO("model.topk_group")},
    {ENUM("router.config.group_score", router.group_score, group_score_names), .fallback = "\"max\"", .matters = limited,
     .help = "Score of a group: its largest, or the sum of its two largest."},
    {ENUM("router.config.group_fill", router.group_fill, group_fill_names), .fallback = "\"-inf\"", .matters = limited,
     .help = "What stands for the scores of dropped groups."},
    {ENUM("router.config.post", router.post, post_names), .fallback = "\"none\"", .matters = pipeline,
     .help = "Weights from the kept logits: their softmax, or their sigmoid; none: the scores."},
    {ENUM("router.config.norm", router.norm, norm_names), .fallback = "\"none\"", .matters = pipeline,
     .help = "Weights divided by: sum + norm_eps, max(sum, norm_eps), or their p-norm."},
    {BOOL("router.config.norm_topk_prob", norm_topk_prob), .folded = true,
     .help = "true: norm \"sum\" (or the type's own), false: norm \"none\"."},
    {NUMBER("router.config.norm_eps", router.norm_eps, 0, 1), .fallback = "0", .matters = norm_summed,
     .help = "Added to the sum, or its minimum."},
    {NUMBER("router.config.norm_p", router.norm_p, 0.125, 64), .fallback = "1", .matters = norm_p,
     .help = "p of the p-norm."},
    {NUMBER("router.config.routed_scaling_factor", router.scale, 0, 1e6), .fallback = "1", .matters = pipeline,
     .help = "Factor on the routed part."},
    {ENUM("router.config.scale_on", router.scale_on, scale_on_names), .fallback = "\"weights\"", .matters = pipeline,
     .help = "Where that factor is applied: to the weights, or to the routed sum."},
    {FLAG("router.config.per_expert_scale", router.per_expert_scale), .matters = pipeline,
     .help = "Whether each weight is multiplied by a stored factor of its expert [E]."},
    {INT("router.config.null_experts", router.null_experts, 0, EXPERTS_MAX), .fallback = "0", .matters = pipeline,
     .help = "Choices after the last expert that have no weights."},
    {ENUM("router.config.null_kind", router.null_kind, null_names), .fallback = "\"identity\"", .matters = null_experts,
     .help = "What a null expert returns: x, or nothing."},
    {ENUM("router.config.apply_weight", router.apply_weight, apply_names), .fallback = "\"output\"", .matters = pipeline,
     .help = "Whether a weight multiplies the expert's output or its input."},
    {ENUM("router.config.precision", router.precision, precision_names), .fallback = "\"fp32\"", .matters = pipeline,
     .help = "model: logits and final weights are rounded to the stored type of the router's weight where that is bf16 "
             "or f16, to compare with a framework that computes so; never a default."},
    {ENUM("router.config.ids", router.ids, ids_names), .fallback = "\"top_k\"", .matters = pipeline,
     .help = "token_table: the experts of a token stand in a stored table by its id, which the caller gives; their "
             "weights still come from the scores."},
    {INT("router.config.table_size", router.table_size, 1, TABLE_MAX), .required = true, .matters = from_table,
     .help = "Rows of that table: the vocabulary."},
    {NUMBER("router.config.jitter_eps", router.jitter_eps, 0, 1), .fallback = "0.01", .matters = sparsemixer,
     .help = "sparsemixer: a pick's softmax takes the logits within twice this, relatively, of its best."},
    {INT("router.config.capacity", router.capacity, 0, TOKENS_MAX), .fallback = "0", .matters = counts,
     .help = "capacity, which needs it, and capacity_by_choice: tokens of one sequence that an expert takes; it drops the "
             "others. 0: twice an even share, rounded up before doubling."},
    {NUMBER("router.config.capacity_fraction", router.capacity_fraction, 0, 1e6), .fallback = "0", .matters = by_choice,
     .help = "capacity_by_choice: above 0 an expert takes that part of a sequence, rounded up, whatever capacity says."},
    {ENUM("router.config.capacity_order", router.capacity_order, order_names), .fallback = "\"arrival\"",
     .matters = by_choice,
     .help = "capacity_by_choice: who stands first in an expert's queue among the first choices, and among the second "
             "ones behind all of these: the token that came first, or whose best score is the highest."},
    {FLAG("router.config.norm_kept", router.norm_kept), .matters = by_choice,
     .help = "capacity_by_choice: weights are normalised over the choices that were kept, not over all."},
    {INT("router.config.state_size", router.state_size, 1, WIDTH_MAX), .required = true, .matters = mlp_state,
     .help = "mlp_state: width of the router's network and of the state that it hands to the next block."},
    {FLAG("router.config.state_carried", router.state_carried), .matters = mlp_state,
     .help = "mlp_state: whether the state of the block before is added, times a stored vector; the caller gives it."},
    {FLAG("router.config.learned_scale", router.learned_scale), .matters = joint,
     .help = "joint: whether the weights are also multiplied by a stored number."},

    {TEXT("experts.type", expert_type, 1), .fallback = "\"distributed\"",
     .help = "distributed (throughput is the same); post_normed, with a norm of each expert's output; banked, with a "
             "second bank of experts; or a registered name, which then reads experts.config. Follows from the other keys "
             "when omitted."},
    {FLAG("experts.post_norm", post_norm), .matters = routed,
     .help = "Each expert's output, before its weight: times a stored weight [H] (or [L]), then RMSNorm."},
    {NUMBER("experts.post_norm_eps", post_norm_eps, 0, 1), .fallback = "1e-8", .matters = post_norm,
     .help = "Epsilon of that norm."},
    {FLAG("experts.post_norm_plus_one", post_norm_plus_one), .matters = post_norm,
     .help = "Whether its weight is 1 + the stored one."},
    {INT("experts.second.count", second.count, 0, EXPERTS_MAX), .fallback = "0", .matters = routed,
     .help = "Experts of a second bank behind the first, alike but for their width; 0: none. token_type: those of tokens "
             "whose type is not 0; joint: one for every token; adjugate: one for each group of the first bank."},
    {INT("experts.second.intermediate_size", second.intermediate_size, 1, WIDTH_MAX), .required = true,
     .matters = second, .help = "Width inside one of them."},
    {INT("experts.second.slots", second.slots, 0, EXPERTS_MAX), .matters = second,
     .help = "Slots of a token that the router fills with them, beyond the k of the first bank; follows from router.type "
             "when omitted."},
    {INT("experts.second.first", second.first, 0, EXPERTS_MAX), .fallback = "0", .matters = second,
     .help = "Number of the first of them where {expert} stands in a name."},
    {NUMBER("experts.second.scale", second.scale, 0, 1e6), .fallback = "1", .matters = adjugate,
     .help = "adjugate: factor on their weights."},
    {FLAG("experts.out_norm", out_norm),
     .help = "RMSNorm with a stored weight [H] on the block's output, routed and shared together."},
    {FLAG("experts.output_scale", output_scale),
     .help = "The block's output, after that norm, times 1 + a stored vector [H]."},
    {BOOL("experts.distributed.enabled", routed_enabled), .fallback = "true",
     .help = "Whether the routed experts run. experts.distributed may be true or false instead of an object.",
     .aliases = ALSO("experts.distributed")},
    {INT("experts.distributed.intermediate_size", routed.intermediate_size, 0, WIDTH_MAX), .required = true,
     .matters = routed, .help = "I, the width inside a routed expert. 0 only for a registered kind that has no inner phase.",
     .aliases = ALSO("model.moe_intermediate_size", "experts.intermediate_size")},
    {KIND("experts.distributed.activation", routed.activation.kind), .fallback = "\"silu\"", .matters = routed,
     .help = "swiglu (silu is the same), clamped_swiglu (swiglu_oai), gelu, gelu_tanh, relu, relu2, situ or identity. "
             "swiglu with an alpha is swiglu_oai.",
     .aliases = ALSO("experts.activation")},
    {BOOL("experts.distributed.gated", routed.gated), .fallback = "true", .matters = routed,
     .help = "Whether an expert has a gate projection beside the up projection."},
    {ENUM("experts.distributed.clamp", routed.activation.clamp, clamp_names), .fallback = "\"none\"", .matters = routed,
     .help = "before: gate at most limit, up within +-limit; after: the activated gate instead. before when omitted and "
             "a limit is given."},
    {FLOAT("experts.distributed.limit", routed.activation.limit, 0, 1e6), .fallback = "0", .matters = routed_clamp,
     .help = "Limit of the clamp; 0: none. swiglu_oai has 7 when omitted.",
     .aliases = ALSO("experts.distributed.swiglu_limit", "experts.swiglu_limit")},
    {FLOAT("experts.distributed.alpha", routed.activation.alpha, 0, 1e6), .fallback = "1.702", .matters = routed_oai,
     .help = "alpha of swiglu_oai.", .aliases = ALSO("experts.distributed.swiglu_alpha", "experts.swiglu_alpha")},
    {BOOL("experts.distributed.plus_one", routed.activation.plus_one), .fallback = "true", .matters = routed_oai,
     .help = "Whether swiglu_oai multiplies by u + 1 or by u."},
    {FLOAT("experts.distributed.beta", routed.activation.beta, 1e-6, 1e6), .fallback = "1", .matters = routed_situ,
     .help = "beta of situ."},
    {FLOAT("experts.distributed.linear_beta", routed.activation.linear_beta, 0, 1e6), .fallback = "0",
     .matters = routed_situ, .help = "Soft limit of the up half of situ; 0: none."},
    {FLAG("experts.distributed.bias", routed.bias), .matters = routed, .help = "Biases of gate, up and down."},
    {FLAG("experts.distributed.output_bias", output_bias), .matters = routed,
     .help = "One bias [H], added once to the routed sum."},
    {INT("experts.latent.size", latent_size, 0, WIDTH_MAX), .fallback = "0", .matters = routed,
     .help = "Width that the routed experts work at, between a down and an up projection; 0: H itself."},
    {FLAG("experts.latent.bias", latent_bias), .matters = latent, .help = "Biases of both latent projections."},
    {FLAG("experts.latent.in_norm", latent_in_norm), .matters = latent, .help = "RMSNorm after the down projection."},
    {FLAG("experts.latent.out_norm", latent_out_norm), .matters = latent, .help = "RMSNorm before the up projection."},
    {FLAG("experts.latent.norm_plus_one", latent_norm_plus_one), .matters = latent,
     .help = "Whether these norms multiply by 1 + weight."},
    {FLAG("experts.shared.enabled", shared_enabled),
     .help = "Whether there is a shared expert; true when omitted and its size is given. experts.shared may be true or "
             "false instead of an object.",
     .aliases = ALSO("experts.shared")},
    {INT("experts.shared.intermediate_size", shared.intermediate_size, 1, WIDTH_MAX), .required = true,
     .matters = shared, .help = "Width inside the shared expert (of all of them together).",
     .aliases = ALSO("model.shared_expert_intermediate_size")},
    {KIND("experts.shared.activation", shared.activation.kind), .matters = shared,
     .help = "As the routed experts' when omitted, with its clamp and parameters."},
    {BOOL("experts.shared.gated", shared.gated), .fallback = "true", .matters = shared,
     .help = "As experts.distributed.gated, and its value when omitted."},
    {ENUM("experts.shared.clamp", shared.activation.clamp, clamp_names), .fallback = "\"none\"", .matters = shared,
     .help = "As experts.distributed.clamp."},
    {FLOAT("experts.shared.limit", shared.activation.limit, 0, 1e6), .fallback = "0", .matters = shared_clamp,
     .help = "As experts.distributed.limit.", .aliases = ALSO("experts.shared.swiglu_limit")},
    {FLOAT("experts.shared.alpha", shared.activation.alpha, 0, 1e6), .fallback = "1.702", .matters = shared_oai,
     .help = "alpha of swiglu_oai.", .aliases = ALSO("experts.shared.swiglu_alpha")},
    {BOOL("experts.shared.plus_one", shared.activation.plus_one), .fallback = "true", .matters = shared_oai,
     .help = "As experts.distributed.plus_one."},
    {FLOAT("experts.shared.beta", shared.activation.beta, 1e-6, 1e6), .fallback = "1", .matters = shared_situ,
     .help = "beta of situ."},
    {FLOAT("experts.shared.linear_beta", shared.activation.linear_beta, 0, 1e6), .fallback = "0",
     .matters = shared_situ, .help = "As experts.distributed.linear_beta."},
    {FLAG("experts.shared.bias", shared.bias), .matters = shared, .help = "Biases of gate, up and down."},
    {ENUM("experts.shared.input", shared_input, input_names), .fallback = "\"hidden\"", .matters = shared,
     .help = "What its projections read: x, or the second tensor that the caller gives. Its gate and the mix read x."},
    {ENUM("experts.shared.gate", shared_gate, shared_gate_names), .fallback = "\"none\"", .matters = shared,
     .help = "sigmoid: times the sigmoid of a stored vector [1, H] applied to x."},
    {ENUM("experts.shared.mix", mix, mix_names), .fallback = "\"sum\"", .matters = shared,
     .help = "routed + shared, half of that, or that over the square root of 2; softmax_coef: c0 * routed + c1 * shared, "
             "c the softmax over a stored map [2, H] with bias [2] applied to x."},
    {BOOL("experts.shared.parallel_with_moe", parallel_with_moe), .fallback = "true", .matters = shared,
     .help = "Whether the shared expert runs beside the routed experts or after them. Never changes bits.",
     .aliases = ALSO("experts.shared_parallel")},
    {BOOL("experts.dense_backbone.enabled", dense_backbone), .folded = true,
     .help = "Only false: a dense branch beside the block is part of the model's layer."},
    {ENUM("shared_expert_placement", shared_placement, placement_names), .folded = true,
     .help = "none: there is no shared expert."},

    {INT("chunking.moe_chunk_size", moe_chunk, 0, TOKENS_MAX), .fallback = "0",
     .help = "Most local tokens of one dispatch in prefill; 0: the workspace alone bounds it.",
     .aliases = ALSO("moe_chunking.chunk_size")},
    {INT("chunking.prefill_chunk_size", prefill_chunk, 0, TOKENS_MAX), .fallback = "0",
     .help = "Most tokens of the whole mesh in one pass of the block in prefill; 0: none.",
     .aliases = ALSO("prefill_chunking.chunk_size")},

    {TEXT("weights.path", weight_path, 0), .aliases = ALSO("weight_path", "weights.weight_path"),
     .help = "The checkpoint to load where the caller names none. Its config.json supplies what this file omits."},
    {TEXT("weights.module_prefix", module_prefix, 0), .fallback = "\"model.layers.{layer}\"",
     .help = "What stands before every name pattern, joined by a dot.", .aliases = ALSO("module_prefix")},
    {TEXT("weights.format", format, 1), .fallback = "\"auto\"",
     .help = "Number format of the routed experts that must be found: auto, or a name of docs/formats.md."},
    {INT("weights.group_size", group_size, 0, WIDTH_MAX), .fallback = "0",
     .help = "Inputs per scale of integer formats; 0: inputs divided by the number of scales."},
    {INT("weights.banks", banks, 0, 4096), .fallback = "0",
     .help = "Number of banks of router and experts that the layers share in turn: {bank} in a name is the layer's number "
             "modulo this; 0: each layer has its own."},
    {ENUM("weights.layout", layout, layout_names), .fallback = "\"per_expert\"",
     .help = "One tensor an expert, all experts in one [E, ...], or in one with the experts' rows one below the other."},
    {ENUM("weights.orientation", orientation, orientation_names), .fallback = "\"output_major\"",
     .help = "Routed experts stored [out, in] or [in, out], of formats that may be either (docs/formats.md)."},
    {ENUM("weights.down_orientation", down_orientation, orientation_names), .matters = routed,
     .help = "The same of their down projections; as weights.orientation when omitted."},
    {ENUM("weights.gate_up", gate_up, gate_up_names), .fallback = "\"separate\"",
     .help = "Whether gate and up are two tensors, halves of one, or alternating rows of one."},
    {ENUM("weights.shared_gate_up", shared_gate_up, gate_up_names), .fallback = "\"separate\"", .matters = shared,
     .help = "The same of the shared expert."},
    NAME(MB_ROLE_ROUTER, "router_weight", "mlp.gate.weight", "Router [E, H]."),
    NAME(MB_ROLE_ROUTER_BIAS, "router_bias", "mlp.gate.bias", "Its bias [E]."),
    NAME(MB_ROLE_SELECTION_BIAS, "selection_bias", "mlp.gate.e_score_correction_bias", "Selection bias [E]."),
    NAME(MB_ROLE_INPUT_SCALE, "router_input_scale", "mlp.gate.scale", "Factor on the router's input [H]."),
    NAME(MB_ROLE_PER_EXPERT_SCALE, "per_expert_scale", "mlp.gate.per_expert_scale", "Factor on an expert's weight [E]."),
    NAME(MB_ROLE_GATE, "gate", "mlp.experts.{expert}.gate_proj.weight", "Gate projection [I, H]."),
    NAME(MB_ROLE_UP, "up", "mlp.experts.{expert}.up_proj.weight", "Up projection [I, H]."),
    NAME(MB_ROLE_GATE_UP, "gate_up", "mlp.experts.gate_up_proj", "Gate and up in one."),
    NAME(MB_ROLE_DOWN, "down", "mlp.experts.{expert}.down_proj.weight", "Down projection [H, I]."),
    NAME(MB_ROLE_GATE_BIAS, "gate_bias", "mlp.experts.{expert}.gate_proj.bias", "Bias [I]."),
    NAME(MB_ROLE_UP_BIAS, "up_bias", "mlp.experts.{expert}.up_proj.bias", "Bias [I]."),
    NAME(MB_ROLE_GATE_UP_BIAS, "gate_up_bias", "mlp.experts.gate_up_proj_bias", "Both biases in one."),
    NAME(MB_ROLE_DOWN_BIAS, "down_bias", "mlp.experts.{expert}.down_proj.bias", "Bias [H]."),
    NAME(MB_ROLE_OUTPUT_BIAS, "output_bias", "mlp.bias", "Bias of the routed sum [H]."),
    NAME(MB_ROLE_SHARED_GATE, "shared_gate", "mlp.shared_experts.gate_proj.weight", "Shared gate projection [S, H]."),
    NAME(MB_ROLE_SHARED_UP, "shared_up", "mlp.shared_experts.up_proj.weight", "Shared up projection [S, H]."),
    NAME(MB_ROLE_SHARED_GATE_UP, "shared_gate_up", "mlp.shared_experts.gate_up_proj.weight", "Both in one."),
    NAME(MB_ROLE_SHARED_DOWN, "shared_down", "mlp.shared_experts.down_proj.weight", "Shared down projection [H, S]."),
    NAME(MB_ROLE_SHARED_GATE_BIAS, "shared_gate_bias", "mlp.shared_experts.gate_proj.bias", "Bias [S]."),
    NAME(MB_ROLE_SHARED_UP_BIAS, "shared_up_bias", "mlp.shared_experts.up_proj.bias", "Bias [S]."),
    NAME(MB_ROLE_SHARED_DOWN_BIAS, "shared_down_bias", "mlp.shared_experts.down_proj.bias", "Bias [H]."),
    NAME(MB_ROLE_SHARED_SIGMOID, "shared_sigmoid_gate", "mlp.shared_expert_gate.weight", "Gate of the shared expert [1, H]."),
    NAME(MB_ROLE_LATENT_DOWN, "latent_down", "mlp.fc1_latent_proj.weight", "Latent down projection [L, H]."),
    NAME(MB_ROLE_LATENT_UP, "latent_up", "mlp.fc2_latent_proj.weight", "Latent up projection [H, L]."),
    NAME(MB_ROLE_LATENT_DOWN_BIAS, "latent_down_bias", "mlp.fc1_latent_proj.bias", "Bias [L]."),
    NAME(MB_ROLE_LATENT_UP_BIAS, "latent_up_bias", "mlp.fc2_latent_proj.bias", "Bias [H]."),
    NAME(MB_ROLE_LATENT_IN_NORM, "latent_in_norm", "mlp.latent_in_norm.weight", "Norm weight [L]."),
    NAME(MB_ROLE_LATENT_OUT_NORM, "latent_out_norm", "mlp.latent_out_norm.weight", "Norm weight [L]."),
    NAME(MB_ROLE_MIX_COEFFICIENT, "mix_coefficient", "mlp.coefficient.weight", "Coefficients of routed and shared [2, H]."),
    NAME(MB_ROLE_MIX_COEFFICIENT_BIAS, "mix_coefficient_bias", "mlp.coefficient.bias", "Bias [2]."),
    NAME(MB_ROLE_OUTPUT_SCALE, "output_scale", "ffn_layer_scale", "Factors of the output, less 1 [H]."),
    NAME(MB_ROLE_OUT_NORM, "out_norm", "post_mlp_layernorm.weight", "Norm weight of the output [H]."),
    NAME(MB_ROLE_POST_NORM, "expert_post_norm", "mlp.experts.post_expert_norm.weight", "Norm weight of each expert's output [H]."),
    NAME(MB_ROLE_TOKEN_TABLE, "token_table", "mlp.gate.tid2eid", "Experts by token id [vocabulary, k], integers."),
    NAME(MB_ROLE_ROUTER_SECOND, "router_weight_second", "mlp.gate.weight_1", "Router of token types other than 0 [E, H]."),
    NAME(MB_ROLE_LEARNED_SCALE, "learned_scale", "mlp.gate.global_scale", "Factor on all weights [1]."),
    NAME(MB_ROLE_STATE_DOWN, "state_down", "mlp.gate.down_proj.weight", "The router's network: its input [D, H]."),
    NAME(MB_ROLE_STATE_DOWN_BIAS, "state_down_bias", "mlp.gate.down_proj.bias", "Bias [D]."),
    NAME(MB_ROLE_STATE_SCALE, "state_scale", "mlp.gate.router_states_scale", "Factor on the state before [D]."),
    NAME(MB_ROLE_STATE_NORM, "state_norm", "mlp.gate.router_mlp.norm.weight", "Norm weight [D]."),
    NAME(MB_ROLE_STATE_FC1, "state_fc1", "mlp.gate.router_mlp.fc1.weight", "First layer [D, D]."),
    NAME(MB_ROLE_STATE_FC1_BIAS, "state_fc1_bias", "mlp.gate.router_mlp.fc1.bias", "Bias [D]."),
    NAME(MB_ROLE_STATE_FC2, "state_fc2", "mlp.gate.router_mlp.fc2.weight", "Second layer [D, D]."),
    NAME(MB_ROLE_STATE_FC2_BIAS, "state_fc2_bias", "mlp.gate.router_mlp.fc2.bias", "Bias [D]."),
    NAME(MB_ROLE_SECOND_GATE, "second_gate", "mlp.experts.{expert}.gate_proj.weight", "Gate projection of the second bank."),
    NAME(MB_ROLE_SECOND_UP, "second_up", "mlp.experts.{expert}.up_proj.weight", "Up projection of the second bank."),
    NAME(MB_ROLE_SECOND_GATE_UP, "second_gate_up", "mlp.shared_experts.gate_up_proj", "Both in one."),
    NAME(MB_ROLE_SECOND_DOWN, "second_down", "mlp.experts.{expert}.down_proj.weight", "Down projection of the second bank."),

    IGNORED("memory_config", "Placed tensors in the memories of the original hardware.", "memory_configs",
            "output_memory_config", "router.config.memory_config", "router.config.output_memory_config",
            "experts.memory_config", "experts.output_memory_config", "experts.distributed.memory_config",
            "experts.distributed.output_memory_config", "experts.shared.memory_config",
            "experts.shared.output_memory_config"),
    IGNORED("compute_kernel_config", "Chose the arithmetic of the original hardware; here the compute type does.",
            "router.config.compute_kernel_config", "experts.compute_kernel_config",
            "experts.distributed.compute_kernel_config", "experts.shared.compute_kernel_config"),
    IGNORED("collective", "Chose links and topologies of the original hardware, which never change a result.",
            "experts.collective"),
    IGNORED("experts.distributed.num_experts_per_device", "Derived: experts divided by the ranks of the mesh.",
            "experts.num_experts_per_device"),
    IGNORED("activations_repeat", "Derived: the copies of a token that the original made for each local expert.",
            "experts.activations_repeat", "experts.distributed.activations_repeat"),
    IGNORED("topk_weights_repeat", "Derived: the broadcast of the weights over the hidden width.",
            "experts.topk_weights_repeat", "experts.distributed.topk_weights_repeat"),
    IGNORED("model.sparsity_block_size", "Token block of a sparse product of the original; here only routed rows are "
            "computed.", "sparsity_block_size", "experts.sparsity_block_size"),
    IGNORED("router.config.use_throughput_experts", "Chose between two implementations of the same experts.",
            "experts.use_throughput_experts"),
    IGNORED("experts.matmul_type", "Chose between dense and sparse products of the same value.",
            "experts.distributed.matmul_type"),
    IGNORED("experts.quantized", "The number format is read from the checkpoint.", "experts.use_quantized_weights",
            "experts.weight_block_size", "experts.weight_dtype", "experts.distributed.use_quantized_weights",
            "experts.distributed.weight_block_size", "experts.distributed.weight_dtype",
            "experts.shared.use_quantized_weights", "experts.shared.weight_block_size", "experts.shared.weight_dtype"),
    IGNORED("use_mock_weights", "Asked the original's tests for random weights; `moeblock synth` writes them.",
            "synthetic_weight_generator", "weights.use_mock_weights", "weights.synthetic_weight_generator"),
    IGNORED("architecture_type", "A label; the keys say what the block is.", "model.architecture_type"),
};
// clang-format on

const size_t mb_schema_count = sizeof mb_schema / sizeof mb_schema[0];
_Static_assert(sizeof mb_schema / sizeof mb_schema[0] <= MB_SCHEMA_ROWS_MAX, "moeblock_config.given is too short");

static int find_exact(const char *path)
{
    for (size_t i = 0; i < mb_schema_count; i++) {
        if (!strcmp(mb_schema[i].path, path)) return (int)i;
        for (const char *const *alias = mb_schema[i].aliases; alias && *alias; alias++)
            if (!strcmp(*alias, path)) return (int)i;
    }
    return -1;
}

// The original's second family of files: a longer or a missing level means the same.
static const struct {
    const char *from, *to;
} rewritten[] = {{"model_params.", "model."}, {"router.", "router.config."}};

int mb_schema_find(const char *path)
{
    const int row = find_exact(path);
    for (size_t i = 0; row < 0 && i < sizeof rewritten / sizeof rewritten[0]; i++) {
        const size_t length = strlen(rewritten[i].from);
        char other[128];
        if (strncmp(path, rewritten[i].from, length)) continue;
        const int written = snprintf(other, sizeof other, "%s%s", rewritten[i].to, path + length);
        return written > 0 && (size_t)written < sizeof other ? find_exact(other) : -1;
    }
    return row;
}

int mb_schema_row_of(const moeblock_config *config, const void *field)
{
    const ptrdiff_t offset = (const char *)field - (const char *)config;
    for (size_t i = 0; i < mb_schema_count; i++)
        if (mb_schema[i].type != MB_TYPE_IGNORED && (ptrdiff_t)mb_schema[i].offset == offset) return (int)i;
    return -1;
}

void mb_config_mark(moeblock_config *config, const void *field, enum mb_origin origin)
{
    const int row = mb_schema_row_of(config, field);
    if (row >= 0) config->given[row] = (uint8_t)origin;
}

enum mb_origin mb_config_origin(const moeblock_config *config, const void *field)
{
    return (enum mb_origin)config->given[mb_schema_row_of(config, field)];
}
