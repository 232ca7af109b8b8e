// SPDX-License-Identifier: Apache-2.0
// One row per model type (moe-families 1.3 to 1.7 and 9). Formula numbers F1 to F19 are those of section 2 there.
#include "config/hf/families.h"

#define PIPELINE(preset, scores)                                                                                       \
    .type = preset, .score = scores, .select_score = scores, .logit_scale = 1, .input_scale = 1, .n_group = 1,         \
    .topk_group = 1, .scale = 1
#define LIMITED(how, fill) .groups = MB_GROUPS_LIMITED, .group_score = how, .group_fill = fill
#define SUMMED(eps) .norm = MB_NORM_SUM, .norm_eps = eps

static const struct mb_router_config softmax_then_top_k = {PIPELINE("linear", MB_SCORE_SOFTMAX), SUMMED(0)}; // F1
static const struct mb_router_config softmax_raw = {PIPELINE("linear", MB_SCORE_SOFTMAX)};                   // F2
static const struct mb_router_config top_k_then_softmax = {PIPELINE("topk", MB_SCORE_IDENTITY),
                                                           .post = MB_POST_SOFTMAX_K}; // F3
static const struct mb_router_config top_k_with_bias = {PIPELINE("topk", MB_SCORE_IDENTITY), .post = MB_POST_SOFTMAX_K,
                                                        .linear_bias = true}; // F3
static const struct mb_router_config softmax_best_of_group = {PIPELINE("linear", MB_SCORE_SOFTMAX),
                                                              LIMITED(MB_GROUP_MAX, MB_FILL_ZERO)}; // F4
static const struct mb_router_config softmax_groups = {PIPELINE("linear", MB_SCORE_SOFTMAX),
                                                       LIMITED(MB_GROUP_SUM_TOP2, MB_FILL_ZERO), SUMMED(1e-20)}; // F5
static const struct mb_router_config softmax_clamped_sum = {
    PIPELINE("linear", MB_SCORE_SOFTMAX), .selection_bias = true, .norm = MB_NORM_SUM_CLAMPED, .norm_eps = 1e-12}; // F6
static const struct mb_router_config softmax_biased = {PIPELINE("linear", MB_SCORE_SOFTMAX),
                                                       .selection_bias = true}; // F7
static const struct mb_router_config softmax_of_residual = {.type = "linear",
                                                            .score = MB_SCORE_SOFTMAX,
                                                            .select_score = MB_SCORE_SOFTMAX,
                                                            .logit_scale = 1,
                                                            .n_group = 1,
                                                            .topk_group = 1,
                                                            .scale = 1,
                                                            .input = MB_INPUT_AUX,
                                                            .input_norm = true,
                                                            .input_norm_eps = 1e-6,
                                                            .input_scale = 0, // H^-0.5
                                                            .norm = MB_NORM_SUM,
                                                            .input_scale_vector = true,
                                                            .per_expert_scale = true}; // F9
static const struct mb_router_config moe_gate = {PIPELINE("moe_gate", MB_SCORE_SIGMOID),
                                                 LIMITED(MB_GROUP_SUM_TOP2, MB_FILL_NEGATIVE_INFINITY),
                                                 .selection_bias = true, SUMMED(1e-20)}; // F10
static const struct mb_router_config moe_gate_filled = {PIPELINE("moe_gate", MB_SCORE_SIGMOID),
                                                        LIMITED(MB_GROUP_SUM_TOP2, MB_FILL_ZERO),
                                                        .selection_bias = true, SUMMED(1e-20)}; // F11
static const struct mb_router_config sigmoid_biased = {PIPELINE("linear", MB_SCORE_SIGMOID), .selection_bias = true,
                                                       SUMMED(0)}; // F12
static const struct mb_router_config sigmoid_biased_1e20 = {PIPELINE("linear", MB_SCORE_SIGMOID),
                                                            .selection_bias = true, SUMMED(1e-20)}; // F12
static const struct mb_router_config sigmoid_biased_1e6 = {PIPELINE("linear", MB_SCORE_SIGMOID), .selection_bias = true,
                                                           SUMMED(1e-6)}; // F12
static const struct mb_router_config sigmoid_scaled_output = {
    PIPELINE("linear", MB_SCORE_SIGMOID), .selection_bias = true, SUMMED(0), .scale_on = MB_SCALE_OUTPUT}; // F13
static const struct mb_router_config top_k_then_sigmoid = {
    PIPELINE("linear", MB_SCORE_IDENTITY), .post = MB_POST_SIGMOID_K, .apply_weight = MB_APPLY_INPUT}; // F14
static const struct mb_router_config top_k_either = {PIPELINE("linear", MB_SCORE_IDENTITY), .post = MB_POST_SOFTMAX_K,
                                                     SUMMED(0)}; // F3 or F15, as the score key says
static const struct mb_router_config softmax_p_norm = {PIPELINE("linear", MB_SCORE_SOFTMAX), .norm = MB_NORM_P,
                                                       .norm_p = 1}; // F8
static const struct mb_router_config sigmoid_plain = {PIPELINE("linear", MB_SCORE_SIGMOID),
                                                      SUMMED(0)}; // F12 without bias
static const struct mb_router_config sigmoid_of_logits = {.type = "linear",
                                                          .score = MB_SCORE_SIGMOID,
                                                          .select_score = MB_SCORE_IDENTITY,
                                                          .logit_scale = 1,
                                                          .input_scale = 1,
                                                          .n_group = 1,
                                                          .topk_group = 1,
                                                          .scale = 1,
                                                          .selection_bias = true,
                                                          SUMMED(0)}; // selects on logit + bias
static const struct mb_router_config moe_gate_scaled_output = {
    PIPELINE("moe_gate", MB_SCORE_SIGMOID), LIMITED(MB_GROUP_SUM_TOP2, MB_FILL_NEGATIVE_INFINITY),
    .selection_bias = true, SUMMED(1e-20), .scale_on = MB_SCALE_OUTPUT}; // F10, scale on the routed sum
static const struct mb_router_config moe_gate_mean = {
    PIPELINE("moe_gate", MB_SCORE_SIGMOID), LIMITED(MB_GROUP_SUM_TOP2, MB_FILL_NEGATIVE_INFINITY),
    .selection_bias = true, .selection_bias_subtract_mean = true, SUMMED(1e-20)}; // F10, bias without its mean
static const struct mb_router_config sigmoid_scaled_logits = {PIPELINE("linear", MB_SCORE_SIGMOID),
                                                              .selection_bias = true, SUMMED(1e-15)}; // logit scale
static const struct mb_router_config softmax_every_group = {PIPELINE("linear", MB_SCORE_SOFTMAX),
                                                            .groups = MB_GROUPS_PER_GROUP, SUMMED(0)}; // F19
static const struct mb_router_config softmax_voted = {PIPELINE("linear", MB_SCORE_SOFTMAX),
                                                      .groups = MB_GROUPS_PER_GROUP, SUMMED(0),
                                                      .per_expert_scale = true}; // F19, with a learned factor
static const struct mb_router_config softmax_capped = {PIPELINE("linear", MB_SCORE_SOFTMAX), .softcap = 30}; // F18
static const struct mb_router_config top_k_of_aux = {.type = "linear",
                                                     .score = MB_SCORE_IDENTITY,
                                                     .select_score = MB_SCORE_IDENTITY,
                                                     .logit_scale = 1,
                                                     .input_scale = 1,
                                                     .n_group = 1,
                                                     .topk_group = 1,
                                                     .scale = 1,
                                                     .input = MB_INPUT_AUX,
                                                     .post = MB_POST_SIGMOID_K,
                                                     SUMMED(0)}; // F15 from the layer's input
static const struct mb_router_config sparsemixer = {PIPELINE("sparsemixer", MB_SCORE_IDENTITY),
                                                    .jitter_eps = 0.01};                         // F21
static const struct mb_router_config switch_capacity = {PIPELINE("capacity", MB_SCORE_SOFTMAX)}; // F22
static const struct mb_router_config top_2_clamped = {PIPELINE("linear", MB_SCORE_SOFTMAX), .norm = MB_NORM_SUM_CLAMPED,
                                                      .norm_eps = 0x1p-23,
                                                      .scale_on = MB_SCALE_OUTPUT}; // F23, policy "all"
static const struct mb_router_config mlp_state = {PIPELINE("mlp_state", MB_SCORE_SOFTMAX), .selection_bias = true,
                                                  .null_experts = 1, .null_kind = MB_NULL_ZERO}; // F24
static const struct mb_router_config product_keys = {PIPELINE("product_keys", MB_SCORE_IDENTITY),
                                                     .post = MB_POST_SOFTMAX_K, SUMMED(0)}; // F25
static const struct mb_router_config joint = {PIPELINE("joint", MB_SCORE_SIGMOID), .selection_bias = true,
                                              .learned_scale = true}; // F20
static const struct mb_router_config adjugate = {.type = "adjugate",
                                                 .score = MB_SCORE_SOFTMAX,
                                                 .select_score = MB_SCORE_SIGMOID,
                                                 .logit_scale = 1,
                                                 .input_scale = 1,
                                                 .n_group = 1,
                                                 .topk_group = 1,
                                                 .scale = 1,
                                                 SUMMED(0)}; // F26
static const struct mb_router_config token_type = {PIPELINE("token_type", MB_SCORE_SOFTMAX), .transposed = true,
                                                   .selection_bias = true, .norm = MB_NORM_SUM_CLAMPED,
                                                   .norm_eps = 1e-12}; // F6, twice
static const struct mb_router_config sqrt_softplus = {PIPELINE("linear", MB_SCORE_SQRT_SOFTPLUS),
                                                      .selection_bias = true, SUMMED(1e-20)}; // F16

// Expert computations, moe-families 1.10.
static const struct mb_hf_expert plain = {.activation = NULL};
static const struct mb_hf_expert swiglu_oai = {
    .activation = "swiglu_oai", .clamp = MB_CLAMP_BEFORE, .alpha = 1.702f, .limit = 7.0f};
static const struct mb_hf_expert swiglu_oai_biased = {
    .activation = "swiglu_oai", .clamp = MB_CLAMP_BEFORE, .alpha = 1.702f, .limit = 7.0f, .bias = true};
static const struct mb_hf_expert clamped_before = {.activation = NULL, .clamp = MB_CLAMP_BEFORE, .limit = 10.0f};
static const struct mb_hf_expert clamped_after = {
    .activation = NULL, .clamp = MB_CLAMP_AFTER, .shared_own_limit = true};
static const struct mb_hf_expert clamped_routed = {
    .activation = NULL, .clamp = MB_CLAMP_BEFORE, .limit = 10.0f, .shared_unclamped = true};
static const struct mb_hf_expert situ = {.activation = "situ"};
static const struct mb_hf_expert relu_gated = {.activation = "relu"};
static const struct mb_hf_expert gelu_ungated = {.activation = "gelu", .ungated = true};
static const struct mb_hf_expert one_choice = {.activation = NULL, .ungated = true, .fixed_k = 1};
static const struct mb_hf_expert two_choices = {.activation = NULL, .ungated = true, .bias = true, .fixed_k = 2};
static const struct mb_hf_expert biased_pair = {.activation = NULL, .ungated = true, .bias = true};
static const struct mb_hf_expert rank_one = {
    .activation = NULL, .ungated = true, .shared_gated = true, .fixed_width = 1};
static const struct mb_hf_expert gelu_gated = {.activation = "gelu"};
static const struct mb_hf_expert gelu_beside_dense = {.activation = "gelu", .mix = MB_MIX_SUM_OVER_SQRT2};
static const struct mb_hf_expert residual_aux = {.activation = NULL, .shared_aux = true};
static const struct mb_hf_expert mixed_by_softmax = {.activation = NULL, .mix = MB_MIX_SOFTMAX_COEF};
static const struct mb_hf_expert normed_inside = {.activation = NULL, .latent_in_norm = true, .post_norm = true};
static const struct mb_hf_expert ungated = {.activation = NULL, .ungated = true};
static const struct mb_hf_expert normed_output = {.activation = NULL, .out_norm = true};
static const struct mb_hf_expert bias_on_sum = {.activation = NULL, .output_bias = true};

// Text keys whose value counts, with all the values that are known.
static const struct mb_hf_value v2_values[] = {{MB_HF_TOPK_METHOD, "greedy", MB_HF_NO_GROUPS},
                                               {MB_HF_TOPK_METHOD, "group_limited_greedy", MB_HF_AS_IS},
                                               {MB_HF_SCORE, "softmax", MB_HF_AS_IS},
                                               {0, NULL, MB_HF_AS_IS}};
static const struct mb_hf_value v3_values[] = {
    {MB_HF_TOPK_METHOD, "noaux_tc", MB_HF_AS_IS}, {MB_HF_SCORE, "sigmoid", MB_HF_AS_IS}, {0, NULL, MB_HF_AS_IS}};
static const struct mb_hf_value dots_values[] = {{MB_HF_TOPK_METHOD, "noaux_tc", MB_HF_AS_IS},
                                                 {MB_HF_SCORE, "sigmoid", MB_HF_AS_IS},
                                                 {MB_HF_SCORE, "noaux_tc", MB_HF_AS_IS},
                                                 {0, NULL, MB_HF_AS_IS}};
static const struct mb_hf_value v4_values[] = {
    {MB_HF_TOPK_METHOD, "noaux_tc", MB_HF_AS_IS}, {MB_HF_SCORE, "sqrtsoftplus", MB_HF_AS_IS}, {0, NULL, MB_HF_AS_IS}};
static const struct mb_hf_value softmax_values[] = {{MB_HF_SCORE, "softmax", MB_HF_AS_IS}, {0, NULL, MB_HF_AS_IS}};
static const struct mb_hf_value cohere_values[] = {{MB_HF_SCORE, "softmax", MB_HF_SOFTMAX_K},
                                                   {MB_HF_SCORE, "sigmoid", MB_HF_SIGMOID_K},
                                                   {MB_HF_SHARED_MIX, "sum", MB_HF_MIX_SUM},
                                                   {MB_HF_SHARED_MIX, "average", MB_HF_MIX_AVERAGE},
                                                   {0, NULL, MB_HF_AS_IS}};
static const struct mb_hf_value step3_values[] = {{MB_HF_SCORE, "softmax", MB_HF_AS_IS}, {0, NULL, MB_HF_AS_IS}};
static const struct mb_hf_value bailing_values[] = {{MB_HF_SCORE, "softmax", MB_HF_SOFTMAX_SCORE},
                                                    {MB_HF_SCORE, "sigmoid", MB_HF_AS_IS},
                                                    {MB_HF_TOPK_METHOD, "noaux_tc", MB_HF_AS_IS},
                                                    {0, NULL, MB_HF_AS_IS}};
static const struct mb_hf_value nllb_values[] = {{MB_HF_SECOND_POLICY, "all", MB_HF_AS_IS}, {0, NULL, MB_HF_AS_IS}};
static const struct mb_hf_value null_values[] = {{MB_HF_NULL_KIND, "identity", MB_HF_AS_IS}, {0, NULL, MB_HF_AS_IS}};

// Keys that a file must have: without them the model's own code would fill in a value other than the neutral one (a
// scale of 1, one group, no shared expert, silu), or one that is not known here.
static const struct mb_hf_need v2_needs[] = {{MB_HF_ALWAYS, MB_HF_SHARED_COUNT},
                                             {MB_HF_WITH_GROUPS, MB_HF_TOPK_METHOD},
                                             {MB_HF_WITH_GROUP_METHOD, MB_HF_GROUPS},
                                             {MB_HF_WITH_GROUPS | MB_HF_WITH_GROUP_METHOD, MB_HF_TOPK_GROUP},
                                             {0, 0}};
static const struct mb_hf_need v3_needs[] = {{MB_HF_ALWAYS, MB_HF_SHARED_COUNT},
                                             {MB_HF_ALWAYS, MB_HF_SCALE},
                                             {MB_HF_ALWAYS, MB_HF_GROUPS},
                                             {MB_HF_ALWAYS, MB_HF_TOPK_GROUP},
                                             {0, 0}};
static const struct mb_hf_need group_needs[] = {{MB_HF_WITH_GROUPS, MB_HF_TOPK_GROUP}, {0, 0}};
static const struct mb_hf_need count_needs[] = {
    {MB_HF_ALWAYS, MB_HF_SHARED_COUNT}, {MB_HF_WITH_GROUPS, MB_HF_TOPK_GROUP}, {0, 0}};
static const struct mb_hf_need scaled_count_needs[] = {
    {MB_HF_ALWAYS, MB_HF_SHARED_COUNT}, {MB_HF_ALWAYS, MB_HF_SCALE}, {MB_HF_WITH_GROUPS, MB_HF_TOPK_GROUP}, {0, 0}};
static const struct mb_hf_need axk1_needs[] = {{MB_HF_ALWAYS, MB_HF_SHARED_COUNT}, {MB_HF_ALWAYS, MB_HF_GROUPS},
                                               {MB_HF_ALWAYS, MB_HF_SCALE},        {MB_HF_ALWAYS, MB_HF_RMS_EPS},
                                               {MB_HF_ALWAYS, MB_HF_TOPK_GROUP},   {0, 0}};
static const struct mb_hf_need width_needs[] = {{MB_HF_ALWAYS, MB_HF_SHARED_WIDTH}, {0, 0}};
static const struct mb_hf_need scaled_width_needs[] = {
    {MB_HF_ALWAYS, MB_HF_SHARED_WIDTH}, {MB_HF_ALWAYS, MB_HF_SCALE}, {0, 0}};
static const struct mb_hf_need nemotron_needs[] = {{MB_HF_ALWAYS, MB_HF_SHARED_WIDTH},
                                                   {MB_HF_ALWAYS, MB_HF_ACTIVATION},
                                                   {MB_HF_WITH_GROUPS, MB_HF_TOPK_GROUP},
                                                   {0, 0}};
static const struct mb_hf_need longcat_needs[] = {
    {MB_HF_ALWAYS, MB_HF_SCALE}, {MB_HF_ALWAYS, MB_HF_NULL_COUNT}, {0, 0}};
static const struct mb_hf_need activation_needs[] = {{MB_HF_ALWAYS, MB_HF_ACTIVATION}, {0, 0}};
static const struct mb_hf_need cohere_needs[] = {{MB_HF_ALWAYS, MB_HF_SHARED_COUNT},
                                                 {MB_HF_ALWAYS, MB_HF_SHARED_MIX},
                                                 {MB_HF_ALWAYS, MB_HF_SCORE},
                                                 {MB_HF_ALWAYS, MB_HF_RENORMALISE},
                                                 {0, 0}};

static const struct mb_hf_need note_needs[] = {{MB_HF_ALWAYS, MB_HF_SHARED_COUNT},
                                               {MB_HF_ALWAYS, MB_HF_SHARED_PART},
                                               {MB_HF_ALWAYS, MB_HF_SCALE},
                                               {MB_HF_WITH_GROUPS, MB_HF_TOPK_GROUP},
                                               {0, 0}};
static const struct mb_hf_need beam_needs[] = {
    {MB_HF_ALWAYS, MB_HF_SCALE}, {MB_HF_ALWAYS, MB_HF_GROUPS}, {MB_HF_ALWAYS, MB_HF_TOPK_GROUP}, {0, 0}};
static const struct mb_hf_need scale_needs[] = {
    {MB_HF_ALWAYS, MB_HF_SCALE}, {MB_HF_WITH_GROUPS, MB_HF_TOPK_GROUP}, {0, 0}};
static const struct mb_hf_need muse_needs[] = {{MB_HF_ALWAYS, MB_HF_SCALE},         {MB_HF_ALWAYS, MB_HF_LOGIT_SCALE},
                                               {MB_HF_ALWAYS, MB_HF_LATENT},        {MB_HF_ALWAYS, MB_HF_RMS_EPS},
                                               {MB_HF_ALWAYS, MB_HF_POST_NORM_EPS}, {0, 0}};
static const struct mb_hf_need situ_needs[] = {
    {MB_HF_ALWAYS, MB_HF_SCALE}, {MB_HF_ALWAYS, MB_HF_BETA}, {MB_HF_ALWAYS, MB_HF_LINEAR_BETA}, {0, 0}};
static const struct mb_hf_need situ_count_needs[] = {{MB_HF_ALWAYS, MB_HF_SHARED_COUNT},
                                                     {MB_HF_ALWAYS, MB_HF_SCALE},
                                                     {MB_HF_ALWAYS, MB_HF_LATENT},
                                                     {MB_HF_ALWAYS, MB_HF_BETA},
                                                     {0, 0}};
static const struct mb_hf_need mixer_needs[] = {{MB_HF_ALWAYS, MB_HF_JITTER}, {0, 0}};
static const struct mb_hf_need capacity_needs[] = {
    {MB_HF_ALWAYS, MB_HF_CAPACITY}, {MB_HF_ALWAYS, MB_HF_ACTIVATION}, {0, 0}};
static const struct mb_hf_need nllb_needs[] = {
    {MB_HF_ALWAYS, MB_HF_DROPOUT}, {MB_HF_ALWAYS, MB_HF_ENCODER_STEP}, {MB_HF_ALWAYS, MB_HF_ACTIVATION}, {0, 0}};
static const struct mb_hf_need state_needs[] = {
    {MB_HF_ALWAYS, MB_HF_STATE_SIZE}, {MB_HF_ALWAYS, MB_HF_RMS_EPS}, {0, 0}};
static const struct mb_hf_need joint_needs[] = {
    {MB_HF_ALWAYS, MB_HF_SHARED_COUNT}, {MB_HF_ALWAYS, MB_HF_SCALE}, {0, 0}};
static const struct mb_hf_need group_count_needs[] = {{MB_HF_ALWAYS, MB_HF_GROUPS}, {0, 0}};
static const struct mb_hf_need bank_needs[] = {{MB_HF_ALWAYS, MB_HF_BANKS}, {MB_HF_ALWAYS, MB_HF_SHARED_WIDTH}, {0, 0}};
static const struct mb_hf_need frequency_needs[] = {{MB_HF_ALWAYS, MB_HF_LAYER_FREQUENCY}, {0, 0}};

#define MODEL "model.layers.{layer}"
#define VISION_TEXT "model.language_model.layers.{layer}"
#define WRAPPED "language_model.model.layers.{layer}"
#define LLM "model.llm.layers.{layer}"

// clang-format off
#define NORM MB_HF_READS_NORM
#define NORM_SAID (MB_HF_READS_NORM | MB_HF_NORM_IF_SAID)
#define SCALE MB_HF_READS_SCALE
#define WIDE MB_HF_GENERAL_IS_EXPERT
#define BIASES MB_HF_READS_MLP_BIAS
#define SIGMOID MB_HF_SIGMOID_SHARED
#define NONE MB_HF_NO_SHARED
#define COUNT MB_HF_SHARED_BY_COUNT
#define ONE MB_HF_SHARED_ONE_OR_COUNT
#define WIDTH MB_HF_SHARED_BY_WIDTH
#define ALL MB_HF_ALL_LAYERS
#define DENSE_FIRST MB_HF_AFTER_DENSE
#define STEPS MB_HF_SPARSE_STEPS

const struct mb_hf_family mb_hf_families[] = {
    // The DeepSeek line
    {"deepseek_v2", NULL, MODEL, &softmax_best_of_group, &plain, &mb_hf_deepseek, COUNT, DENSE_FIRST, v2_values, SCALE | BIASES, v2_needs},
    {"deepseek_v3", NULL, MODEL, &moe_gate, &plain, &mb_hf_deepseek, COUNT, DENSE_FIRST, v3_values, NORM | SCALE, v3_needs},
    {"kimi_k2", NULL, MODEL, &moe_gate, &plain, &mb_hf_deepseek, COUNT, DENSE_FIRST, v3_values, NORM | SCALE, v3_needs},
    {"deepseek_v32", NULL, MODEL, &moe_gate, &plain, &mb_hf_deepseek, COUNT, DENSE_FIRST, v3_values, NORM | SCALE, v3_needs},
    {"glm4_moe", NULL, MODEL, &moe_gate, &plain, &mb_hf_deepseek, COUNT, DENSE_FIRST, v3_values, NORM | SCALE, count_needs},
    {"glm4_moe_lite", NULL, MODEL, &moe_gate, &plain, &mb_hf_deepseek, COUNT, DENSE_FIRST, v3_values, NORM | SCALE, scaled_count_needs},
    {"glm4v_moe", "text_config", VISION_TEXT, &moe_gate, &plain, &mb_hf_deepseek, COUNT, DENSE_FIRST, v3_values, NORM | SCALE, count_needs},
    {"glm_moe_dsa", NULL, MODEL, &moe_gate, &plain, &mb_hf_deepseek, COUNT, DENSE_FIRST, v3_values, NORM | SCALE, scaled_count_needs},
    {"dots1", NULL, MODEL, &moe_gate, &plain, &mb_hf_deepseek, COUNT, DENSE_FIRST, dots_values, NORM_SAID | SCALE, group_needs},
    {"exaone_moe", NULL, MODEL, &moe_gate, &clamped_after, &mb_hf_deepseek_moe_bias, COUNT, DENSE_FIRST, v3_values, NORM | SCALE, scaled_count_needs},
    {"solar_open", NULL, MODEL, &moe_gate, &plain, &mb_hf_deepseek, COUNT, DENSE_FIRST, v3_values, NORM | SCALE, count_needs},
    {"mimo_v2_flash", NULL, MODEL, &moe_gate, &plain, &mb_hf_deepseek, NONE, MB_HF_FREQUENCY_LIST, v3_values, NORM | SCALE, group_needs},
    {"axk1", NULL, MODEL, &moe_gate, &normed_output, &mb_hf_axk1, COUNT, DENSE_FIRST, v3_values, NORM | SCALE, axk1_needs},
    {"axk2", NULL, MODEL, &moe_gate_filled, &plain, &mb_hf_deepseek, COUNT, ALL, v3_values, NORM | SCALE, scaled_count_needs},
    {"bailing_hybrid", NULL, MODEL, &moe_gate, &plain, &mb_hf_deepseek_expert_bias, COUNT, DENSE_FIRST, v3_values, NORM | SCALE, v3_needs},
    {"kimi_linear", NULL, MODEL, &moe_gate, &plain, &mb_hf_kimi_linear, COUNT, DENSE_FIRST, v3_values, NORM | SCALE, scaled_count_needs},
    {"nemotron_h", NULL, "backbone.layers.{layer}", &moe_gate, &ungated, &mb_hf_nemotron, WIDTH, MB_HF_BLOCK_LETTERS, v3_values, NORM | SCALE | BIASES, nemotron_needs},
    {"nemotron_h_puzzle", NULL, "backbone.layers.{layer}", &moe_gate, &ungated, &mb_hf_nemotron, WIDTH, MB_HF_BLOCK_LETTERS, v3_values, NORM | SCALE | BIASES, nemotron_needs},
    {"mistral4", NULL, MODEL, &softmax_groups, &plain, &mb_hf_mistral4, COUNT, DENSE_FIRST, softmax_values, NORM | SCALE, scaled_count_needs},
    {"mistral_large4", "text_config", "layers.{layer}", &softmax_groups, &plain, &mb_hf_mistral_large4, COUNT, DENSE_FIRST, softmax_values, SCALE, scaled_count_needs},
    {"unlimited_ocr", "text_config", MODEL, &softmax_best_of_group, &plain, &mb_hf_deepseek, COUNT, DENSE_FIRST, v2_values, SCALE | BIASES, v2_needs},
    {"deepseek_v4", NULL, "layers.{layer}", &sqrt_softplus, &clamped_before, &mb_hf_deepseek_v4, COUNT, MB_HF_AFTER_HASH, v4_values, NORM | SCALE | BIASES | MB_HF_STORES_V4, scaled_count_needs},
    // Sigmoid with a selection bias, without groups
    {"afmoe", NULL, MODEL, &sigmoid_biased_1e20, &plain, &mb_hf_afmoe, COUNT, DENSE_FIRST, v3_values, NORM | SCALE, scaled_count_needs},
    {"hy_v3", NULL, MODEL, &sigmoid_biased_1e20, &plain, &mb_hf_hy_v3, COUNT, DENSE_FIRST, v3_values, NORM | SCALE | BIASES, scaled_count_needs},
    {"minimax_m2", NULL, MODEL, &sigmoid_biased, &plain, &mb_hf_mixtral, NONE, ALL, v3_values, WIDE, NULL},
    {"minimax_m3_vl", "text_config", WRAPPED, &sigmoid_scaled_output, &swiglu_oai, &mb_hf_minimax_m3, WIDTH, ALL, v3_values, SCALE | WIDE, scaled_width_needs},
    {"step3p7", "text_config", MODEL, &sigmoid_scaled_output, &clamped_after, &mb_hf_step, WIDTH, MB_HF_LISTED_TEXT, v3_values, SCALE | BIASES, scaled_width_needs},
    {"step3p5", NULL, MODEL, &sigmoid_scaled_output, &clamped_after, &mb_hf_step, WIDTH, MB_HF_LISTED_TEXT, v3_values, SCALE | BIASES, scaled_width_needs},
    {"laguna", NULL, MODEL, &sigmoid_scaled_output, &plain, &mb_hf_laguna, WIDTH, ALL, v3_values, SCALE, scaled_width_needs},
    {"lfm2_moe", NULL, MODEL, &sigmoid_biased_1e6, &plain, &mb_hf_lfm2, NONE, DENSE_FIRST, v3_values, NORM | SCALE, NULL},
    // Softmax over all experts
    {"mixtral", NULL, MODEL, &softmax_then_top_k, &plain, &mb_hf_mixtral, NONE, ALL, NULL, WIDE, NULL},
    {"minimax", NULL, MODEL, &softmax_then_top_k, &plain, &mb_hf_mixtral, NONE, ALL, NULL, WIDE, NULL},
    {"qwen2_moe", NULL, MODEL, &softmax_then_top_k, &plain, &mb_hf_qwen, WIDTH, STEPS, NULL, NORM_SAID | SIGMOID, width_needs},
    {"qwen3_moe", NULL, MODEL, &softmax_then_top_k, &plain, &mb_hf_qwen, NONE, STEPS, NULL, NORM_SAID, NULL},
    {"qwen3_next", NULL, MODEL, &softmax_then_top_k, &plain, &mb_hf_qwen, WIDTH, STEPS, NULL, NORM | SIGMOID, width_needs},
    {"qwen3_vl_moe", "text_config", VISION_TEXT, &softmax_then_top_k, &plain, &mb_hf_qwen_input_major, NONE, STEPS, NULL, 0, NULL},
    {"qwen3_omni_moe", "thinker_config.text_config", "thinker.model.layers.{layer}", &softmax_then_top_k, &plain, &mb_hf_qwen, NONE, STEPS, NULL, NORM, NULL},
    {"qwen3_5_moe", "text_config", VISION_TEXT, &softmax_then_top_k, &plain, &mb_hf_qwen_stacked, WIDTH, ALL, NULL, SIGMOID, width_needs},
    {"qwen4_exp", "text_config", VISION_TEXT, &softmax_then_top_k, &plain, &mb_hf_qwen, WIDTH, ALL, NULL, NORM | SIGMOID, width_needs},
    {"mellum", NULL, MODEL, &softmax_then_top_k, &plain, &mb_hf_qwen, NONE, ALL, NULL, NORM, NULL},
    {"olmoe", NULL, MODEL, &softmax_then_top_k, &plain, &mb_hf_qwen, NONE, ALL, NULL, NORM_SAID | WIDE, NULL},
    {"flex_olmo", NULL, MODEL, &softmax_then_top_k, &plain, &mb_hf_qwen, NONE, ALL, NULL, NORM_SAID | WIDE, NULL},
    {"jamba", NULL, MODEL, &softmax_raw, &plain, &mb_hf_jamba, NONE, MB_HF_PERIODIC, NULL, WIDE, NULL},
    {"hunyuan_v1_moe", NULL, MODEL, &softmax_then_top_k, &plain, &mb_hf_hunyuan, ONE, DENSE_FIRST, NULL, WIDE, NULL},
    {"ernie4_5_moe", NULL, MODEL, &softmax_clamped_sum, &plain, &mb_hf_ernie, COUNT, MB_HF_BETWEEN, NULL, MB_HF_READS_SHARED_BIAS, count_needs},
    {"longcat_flash", NULL, MODEL, &softmax_biased, &plain, &mb_hf_longcat, NONE, ALL, null_values, SCALE | MB_HF_READS_ROUTER_BIAS, longcat_needs},
    {"gemma4", "text_config", VISION_TEXT, &softmax_of_residual, &plain, &mb_hf_gemma, NONE, MB_HF_WHEN_ENABLED, NULL, 0, activation_needs},
    {"diffusion_gemma", "text_config", "model.decoder.layers.{layer}", &softmax_of_residual, &plain, &mb_hf_gemma, NONE, MB_HF_WHEN_ENABLED, NULL, 0, activation_needs},
    // Top-k of the logits first
    {"gpt_oss", NULL, MODEL, &top_k_with_bias, &swiglu_oai_biased, &mb_hf_gpt_oss, NONE, ALL, NULL, WIDE | MB_HF_STORES_MXFP4, NULL},
    {"openai_privacy_filter", NULL, MODEL, &top_k_with_bias, &swiglu_oai_biased, &mb_hf_privacy_filter, NONE, ALL, NULL, WIDE, NULL},
    {"granitemoe", NULL, MODEL, &top_k_then_softmax, &plain, &mb_hf_granite, NONE, ALL, NULL, WIDE, NULL},
    {"granitemoeshared", NULL, MODEL, &top_k_then_softmax, &plain, &mb_hf_granite, WIDTH, ALL, NULL, WIDE, NULL},
    {"granitemoehybrid", NULL, MODEL, &top_k_then_softmax, &plain, &mb_hf_granite, WIDTH, ALL, NULL, WIDE | MB_HF_MAY_LACK_EXPERTS, width_needs},
    {"granitemoe_swa", NULL, MODEL, &top_k_then_softmax, &plain, &mb_hf_granite_swa, WIDTH, ALL, NULL, WIDE, width_needs},
    {"jetmoe", NULL, MODEL, &top_k_then_softmax, &bias_on_sum, &mb_hf_jetmoe, NONE, ALL, NULL, WIDE, NULL},
    {"aria", "text_config", WRAPPED, &top_k_then_softmax, &plain, &mb_hf_aria, COUNT, ALL, NULL, WIDE | BIASES, count_needs},
    {"cohere2_moe", NULL, MODEL, &top_k_either, &plain, &mb_hf_deepseek, COUNT, ALL, cohere_values, NORM | WIDE, cohere_needs},
    {"llama4", "text_config", WRAPPED, &top_k_then_sigmoid, &plain, &mb_hf_llama4, ONE, MB_HF_LISTED_OR_STEP, NULL, WIDE, NULL},
    {"llama4_text", NULL, MODEL, &top_k_then_sigmoid, &plain, &mb_hf_llama4, ONE, MB_HF_LISTED_OR_STEP, NULL, WIDE, NULL},
    // Further ones of transformers up to 5.24 (moe-families 9)
    {"beam", NULL, MODEL, &moe_gate_scaled_output, &plain, &mb_hf_deepseek, NONE, DENSE_FIRST, v3_values, NORM | SCALE, beam_needs},
    {"flint", NULL, MODEL, &sigmoid_plain, &plain, &mb_hf_qwen, WIDTH, STEPS, v3_values, NORM, width_needs},
    {"kolibri1", NULL, MODEL, &sigmoid_of_logits, &plain, &mb_hf_kolibri, WIDTH, ALL, v3_values, NORM_SAID, width_needs},
    {"muse_spark", "text_config", VISION_TEXT, &sigmoid_scaled_logits, &normed_inside, &mb_hf_muse, NONE, ALL, v3_values, SCALE | MB_HF_READS_LOGIT_SCALE, muse_needs},
    {"inkling", NULL, LLM, &joint, &plain, &mb_hf_inkling, NONE, DENSE_FIRST, v3_values, SCALE | MB_HF_DENSE_WIDTH_APART, joint_needs},
    {"inkling_mm_model", "text_config", LLM, &joint, &plain, &mb_hf_inkling, NONE, DENSE_FIRST, v3_values, SCALE | MB_HF_DENSE_WIDTH_APART, joint_needs},
    {"inkling2", NULL, LLM, &sigmoid_biased_1e20, &situ, &mb_hf_inkling, NONE, ALL, v3_values, NORM | SCALE, situ_needs},
    {"inkling2_loop", NULL, LLM, &sigmoid_biased_1e20, &situ, &mb_hf_inkling, NONE, ALL, v3_values, NORM | SCALE, situ_needs},
    {"hy_v4", NULL, MODEL, &moe_gate, &clamped_routed, &mb_hf_mistral4, COUNT, DENSE_FIRST, v3_values, NORM | SCALE, scaled_count_needs},
    {"hy_v4_vl", "text_config", VISION_TEXT, &moe_gate, &clamped_routed, &mb_hf_mistral4, COUNT, DENSE_FIRST, v3_values, NORM | SCALE, scaled_count_needs},
    {"lara_mini", NULL, MODEL, &softmax_then_top_k, &plain, &mb_hf_qwen_stacked, WIDTH, ALL, NULL, NORM, width_needs},
    {"glm5_next", "text_config", VISION_TEXT, &moe_gate, &clamped_before, &mb_hf_deepseek, COUNT, DENSE_FIRST, v3_values, NORM | SCALE, scaled_count_needs},
    {"dots3_note", "text_config", MODEL, &moe_gate, &plain, &mb_hf_deepseek, COUNT, DENSE_FIRST, dots_values, NORM | SCALE, note_needs},
    {"dots3_note_vision_encoder", NULL, "vision_encoder.blocks.{layer}", &sigmoid_biased_1e20, &plain, &mb_hf_dots_vision, NONE, ALL, NULL, SCALE, scale_needs},
    {"deepseek_ocr2", "text_config", MODEL, &softmax_best_of_group, &plain, &mb_hf_deepseek, COUNT, DENSE_FIRST, v2_values, SCALE | BIASES, v2_needs},
    {"deepseek_vl_v2", "language_config", "language.model.layers.{layer}", &softmax_best_of_group, &plain, &mb_hf_deepseek, COUNT, DENSE_FIRST, v2_values, SCALE | BIASES, v2_needs},
    {"dbrx", NULL, "transformer.blocks.{layer}", &softmax_p_norm, &plain, &mb_hf_dbrx, NONE, ALL, NULL, 0, NULL},
    {"ernie4_5_vl_moe", "text_config", MODEL, &token_type, &plain, &mb_hf_ernie_vl, COUNT, MB_HF_BETWEEN, NULL, MB_HF_READS_SHARED_BIAS, count_needs},
    {"phimoe", NULL, MODEL, &sparsemixer, &plain, &mb_hf_mixtral, NONE, ALL, NULL, WIDE, mixer_needs},
    {"grinmoe", NULL, MODEL, &sparsemixer, &plain, &mb_hf_mixtral, NONE, ALL, NULL, WIDE, mixer_needs},
    {"zaya", NULL, MODEL, &mlp_state, &plain, &mb_hf_zaya, NONE, ALL, NULL, 0, state_needs},
    {"switch_transformers", NULL, "encoder.block.{layer}.layer.1", &switch_capacity, &one_choice, &mb_hf_switch, NONE, MB_HF_SPARSE_COUNT, NULL, WIDE | MB_HF_READS_ROUTER_BIAS, capacity_needs},
    {"nllb-moe", NULL, "model.encoder.layers.{layer}", &top_2_clamped, &two_choices, &mb_hf_nllb, NONE, MB_HF_ENCODER_STEPS, nllb_values, WIDE | MB_HF_READS_ROUTER_BIAS | MB_HF_READS_DROPOUT, nllb_needs},
    {"nllb_moe", NULL, "model.encoder.layers.{layer}", &top_2_clamped, &two_choices, &mb_hf_nllb, NONE, MB_HF_ENCODER_STEPS, nllb_values, WIDE | MB_HF_READS_ROUTER_BIAS | MB_HF_READS_DROPOUT, nllb_needs},
    {"doge", NULL, MODEL, &product_keys, &rank_one, &mb_hf_doge, MB_HF_SHARED_GENERAL, MB_HF_WHEN_ENABLED, NULL, NORM_SAID | BIASES, activation_needs},
    {"qwen3_omni_moe_talker", "text_config", "talker.model.layers.{layer}", &softmax_then_top_k, &plain, &mb_hf_qwen, WIDTH, STEPS, NULL, NORM | SIGMOID, width_needs},
    // Known from other engines only (moe-families 1.3 to 1.8)
    {"arctic", NULL, MODEL, &softmax_then_top_k, &residual_aux, &mb_hf_arctic, MB_HF_SHARED_HIDDEN, MB_HF_EVERY, NULL, WIDE, frequency_needs},
    {"deepseek", NULL, MODEL, &softmax_then_top_k, &plain, &mb_hf_deepseek, COUNT, DENSE_FIRST, softmax_values, NORM_SAID, count_needs},
    {"bailing_moe", NULL, MODEL, &softmax_then_top_k, &plain, &mb_hf_deepseek, COUNT, DENSE_FIRST, softmax_values, NORM, count_needs},
    {"bailing_moe_v2", NULL, MODEL, &moe_gate, &plain, &mb_hf_deepseek_expert_bias, COUNT, DENSE_FIRST, bailing_values, NORM | SCALE, scaled_count_needs},
    {"bailing_moe_linear", NULL, MODEL, &moe_gate, &plain, &mb_hf_deepseek_expert_bias, COUNT, DENSE_FIRST, bailing_values, NORM | SCALE, scaled_count_needs},
    {"bailing_moe_v3", NULL, MODEL, &moe_gate, &clamped_after, &mb_hf_deepseek_expert_bias, COUNT, DENSE_FIRST, bailing_values, NORM | SCALE, scaled_count_needs},
    {"llada2_moe", NULL, MODEL, &moe_gate, &plain, &mb_hf_deepseek_expert_bias, COUNT, DENSE_FIRST, bailing_values, NORM | SCALE, scaled_count_needs},
    {"param2moe", NULL, MODEL, &moe_gate, &plain, &mb_hf_deepseek_expert_bias, COUNT, DENSE_FIRST, bailing_values, NORM | SCALE, scaled_count_needs},
    {"sarvam_moe", NULL, MODEL, &moe_gate_mean, &plain, &mb_hf_deepseek_expert_bias, COUNT, DENSE_FIRST, bailing_values, NORM | SCALE, scaled_count_needs},
    {"pangu_ultra_moe", NULL, MODEL, &moe_gate, &plain, &mb_hf_deepseek, COUNT, DENSE_FIRST, v3_values, NORM | SCALE, scaled_count_needs},
    {"kimi_k3", NULL, MODEL, &moe_gate, &situ, &mb_hf_kimi_k3, COUNT, DENSE_FIRST, v3_values, NORM | SCALE, situ_count_needs},
    {"klear", NULL, MODEL, &sigmoid_biased, &mixed_by_softmax, &mb_hf_klear, COUNT, DENSE_FIRST, NULL, NORM, count_needs},
    {"smallthinker", NULL, MODEL, &top_k_of_aux, &relu_gated, &mb_hf_smallthinker, NONE, MB_HF_FREQUENCY_LIST, NULL, 0, NULL},
    {"grove_moe", NULL, MODEL, &adjugate, &plain, &mb_hf_grove, NONE, STEPS, NULL, 0, NULL},
    {"intern_s1_pro", "text_config", VISION_TEXT, &softmax_every_group, &plain, &mb_hf_qwen, NONE, STEPS, NULL, NORM_SAID, group_count_needs},
    {"step3_text", NULL, MODEL, &softmax_then_top_k, &plain, &mb_hf_step, WIDTH, MB_HF_LISTED_TEXT, step3_values, NORM_SAID, width_needs},
    {"intern_s2_mobius", "text_config", VISION_TEXT, &softmax_then_top_k, &plain, &mb_hf_mobius, WIDTH, STEPS, NULL, NORM_SAID | SIGMOID | MB_HF_SHARES_BANKS, bank_needs},
    {"grok-1", NULL, MODEL, &softmax_capped, &gelu_gated, &mb_hf_mixtral, NONE, ALL, NULL, WIDE, NULL},
    {"grok-2", NULL, MODEL, &softmax_capped, &gelu_beside_dense, &mb_hf_grok2, MB_HF_SHARED_GENERAL, ALL, NULL, 0, NULL},
    {"nomic_bert", NULL, "encoder.layers.{layer}", &softmax_raw, &gelu_ungated, &mb_hf_nomic, NONE, MB_HF_EVERY, NULL, WIDE, frequency_needs},
    {"llada_moe", NULL, MODEL, &softmax_then_top_k, &plain, &mb_hf_qwen, NONE, ALL, NULL, NORM_SAID, NULL},
    {"sdar_moe", NULL, MODEL, &softmax_then_top_k, &plain, &mb_hf_qwen, NONE, STEPS, NULL, NORM_SAID, NULL},
    {"rnd1", NULL, MODEL, &softmax_then_top_k, &plain, &mb_hf_qwen, NONE, STEPS, NULL, NORM_SAID, NULL},
    {"longcat_flash_ngram", NULL, MODEL, &softmax_biased, &plain, &mb_hf_longcat, NONE, ALL, null_values, SCALE | MB_HF_READS_ROUTER_BIAS, longcat_needs},
    {"xverse", NULL, MODEL, &softmax_raw, &plain, &mb_hf_deepseek, COUNT, ALL, NULL, WIDE, count_needs},
    {"minicpm", NULL, MODEL, &softmax_then_top_k, &plain, &mb_hf_minicpm, NONE, ALL, NULL, WIDE, NULL},
    {"pangu_pro_moe", NULL, MODEL, &softmax_voted, &plain, &mb_hf_pangu_pro, WIDTH, ALL, NULL, NORM_SAID | MB_HF_GROUPS_BY_K, width_needs},
    {"PanguProMoE", NULL, MODEL, &softmax_voted, &plain, &mb_hf_pangu_pro, WIDTH, ALL, NULL, NORM_SAID | MB_HF_GROUPS_BY_K, width_needs},
    {"phixtral", NULL, "transformer.h.{layer}", &top_k_then_softmax, &biased_pair, &mb_hf_phixtral, NONE, ALL, NULL, WIDE | MB_HF_WIDTH_OF_HIDDEN, NULL},
    {"phi-msft", NULL, "transformer.h.{layer}", &top_k_then_softmax, &biased_pair, &mb_hf_phixtral, NONE, ALL, NULL, WIDE | MB_HF_WIDTH_OF_HIDDEN, NULL},
    {.model_type = NULL},
};
// clang-format on

const struct mb_hf_alternative mb_hf_alternatives[] = {
    {"qwen3_5_moe", &mb_hf_qwen},
    {"qwen4_exp", &mb_hf_qwen_stacked},
    {"granitemoe_swa", &mb_hf_granite},
    {NULL, NULL},
};

const struct mb_hf_tower mb_hf_towers[] = {
    {"qwen3_omni_moe", "talker_config.text_config", "qwen3_omni_moe_talker"},
    {"dots3_note", "vision_config", "dots3_note_vision_encoder"},
    {NULL, NULL, NULL},
};

const struct mb_hf_refused mb_hf_refused_families[] = {
    {"vitpose_backbone", "experts chosen by a data set's number, each for some output channels: there is no router"},
    {NULL, NULL},
};
