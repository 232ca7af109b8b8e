// SPDX-License-Identifier: Apache-2.0
// How a compute type holds what is stored (docs/numerics.md).
#include "base/status.h"
#include "experts/expert.h"

void mb_compute_packing(moeblock_compute compute, enum mb_format stored, int64_t group, struct mb_packing *out)
{
    const struct mb_format_info *format = &mb_format_table[stored];
    out->format = format->f32_compute && mb_has_bf16_rows(compute) ? MB_PACKED_BF16 : format->packed;
    out->group = !format->scale_suffix ? 0 : group < out->k ? group : out->k; // one group of all inputs may be cut
    out->int16 = compute == MOEBLOCK_COMPUTE_INT16;
    out->even_odd = compute == MOEBLOCK_COMPUTE_BF16X2;
}

moeblock_status mb_compute_check(moeblock_compute compute, const struct mb_matrix *matrix, moeblock_error *error)
{
    const struct mb_format_info *format = &mb_format_table[matrix->format];
    if (compute != MOEBLOCK_COMPUTE_INT16 || mb_packed_has_integers(format->packed)) return MOEBLOCK_OK;
    return mb_fail(error, MOEBLOCK_UNSUPPORTED,
                   "loading for int16 compute: tensor '%s' is stored as %s, which has no exact integers as mxfp4 has; "
                   "choose compute auto or %s",
                   matrix->codes.name, format->name, format->f32_compute ? "f32" : "bf16");
}
