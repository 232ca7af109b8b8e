// SPDX-License-Identifier: Apache-2.0
// What the router's linear reads: the row itself, or the row normalised and scaled (gemma4).
#include <math.h>

#include "routers/primitives.h"

bool mb_router_input_changes(const struct mb_router_config *config)
{
    return config->input_norm || config->input_scale_vector || config->input_scale != 1.0;
}

void mb_router_input_row(const struct mb_router_config *config, const float *row, const float *vector, int64_t hidden,
                         float *out)
{
    float norm = 1.0f;
    if (config->input_norm) {
        float sum = 0.0f;
        for (int64_t i = 0; i < hidden; i++) sum = sum + row[i] * row[i];
        norm = 1.0f / sqrtf(sum / (float)hidden + (float)config->input_norm_eps);
    }
    const float constant = config->input_scale != 0.0 ? (float)config->input_scale : 1.0f / sqrtf((float)hidden);
    for (int64_t i = 0; i < hidden; i++) {
        float value = row[i] * norm;
        if (vector) value = value * vector[i];
        out[i] = value * constant;
    }
}
