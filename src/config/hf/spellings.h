// SPDX-License-Identifier: Apache-2.0
// What a key of a Hugging Face config.json means, and under which names published files spell it.
#ifndef MB_CONFIG_HF_SPELLINGS_H
#define MB_CONFIG_HF_SPELLINGS_H

enum mb_hf_meaning {
    MB_HF_HIDDEN_SIZE,
    MB_HF_LAYERS,
    MB_HF_EXPERTS,
    MB_HF_TOP_K,
    MB_HF_EXPERT_WIDTH,
    MB_HF_GENERAL_WIDTH, // of the dense layers, or of the experts: the family says which
    MB_HF_DENSE_WIDTH,   // of the dense layers where the general one is the experts'
    MB_HF_SHARED_COUNT,
    MB_HF_SHARED_WIDTH,
    MB_HF_SHARED_BIAS,
    MB_HF_MLP_BIAS,
    MB_HF_SHARED_MIX,
    MB_HF_SCORE,
    MB_HF_SOFTMAX_OF_K, // the chosen logits through a softmax, in place of the family's function
    MB_HF_TOPK_METHOD,
    MB_HF_RENORMALISE,
    MB_HF_NORM_MINIMUM,
    MB_HF_SCALE,
    MB_HF_GROUPS,
    MB_HF_TOPK_GROUP,
    MB_HF_GROUPED,
    MB_HF_SELECTION_BIAS,
    MB_HF_ROUTER_BIAS,
    MB_HF_SOFTCAP,
    MB_HF_NULL_COUNT,
    MB_HF_NULL_KIND,
    MB_HF_ACTIVATION,
    MB_HF_LIMIT,
    MB_HF_SHARED_LIMIT,
    MB_HF_ALPHA,
    MB_HF_LATENT,
    MB_HF_RMS_EPS,
    MB_HF_LAYER_TYPES, // lists and rules that say which layers are MoE
    MB_HF_DENSE_FIRST,
    MB_HF_LAYER_FREQUENCY,
    MB_HF_SPARSE_STEP,
    MB_HF_DENSE_ONLY,
    MB_HF_MOE_FIRST,
    MB_HF_MOE_LAST,
    MB_HF_MOE_INTERVAL,
    MB_HF_PERIOD,
    MB_HF_OFFSET,
    MB_HF_MOE_LAYERS,
    MB_HF_MOE_STEP,
    MB_HF_MOE_ENUM,
    MB_HF_BLOCK_TYPES,
    MB_HF_BLOCK_PATTERN,
    MB_HF_MOE_ENABLED,
    MB_HF_HASH_LAYERS,
    MB_HF_QUANTIZATION,
    MB_HF_NORM_P,
    MB_HF_LOGIT_SCALE,
    MB_HF_JITTER,
    MB_HF_CAPACITY,
    MB_HF_CAPACITY_FRACTION,
    MB_HF_NORM_BEFORE_DROP,
    MB_HF_BEST_FIRST,
    MB_HF_DROPOUT,
    MB_HF_SECOND_POLICY,
    MB_HF_VOCABULARY,
    MB_HF_STATE_SIZE,
    MB_HF_POST_NORM_EPS,
    MB_HF_LATENT_NORM,
    MB_HF_BETA,
    MB_HF_LINEAR_BETA,
    MB_HF_SHARED_PART, // width of one of the shared experts, times their count
    MB_HF_SINK,
    MB_HF_HEAD_WIDTH,
    MB_HF_SPARSE_LAYERS,
    MB_HF_ENCODER_STEP,
    MB_HF_BANKS, // of router and experts, which the layers share in turn
    MB_HF_OUTPUT_SCALED,
    MB_HF_MEANINGS
};

enum { MB_HF_SPELLINGS_MAX = 10 };

struct mb_hf_spelling {
    double minimum, maximum;               // of integers and numbers, list entries included
    const char *keys[MB_HF_SPELLINGS_MAX]; // NULL-ended; a dot steps into an object
};

extern const struct mb_hf_spelling mb_hf_spellings[MB_HF_MEANINGS];

#endif
