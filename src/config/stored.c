// SPDX-License-Identifier: Apache-2.0
// Recognises the number format of a linear map by its stored tensors - their names, types and shapes - and decides at
// what offset and strides its codes and scales lie (layouts L1 to L6 of moe-families 1.11).
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/arith.h"
#include "base/status.h"
#include "config/roles.h"
#include "config/schema.h"

// "[4, 2880]" for messages.
static void dims_text(int rank, const int64_t *dims, char out[160])
{
    int used = snprintf(out, 160, "[");
    for (int i = 0; i < rank && used < 130; i++)
        used += snprintf(out + used, 160 - (size_t)used, "%s%" PRId64, i ? ", " : "", dims[i]);
    snprintf(out + used, 160 - (size_t)used, "]");
}

moeblock_status mb_check_dims(const moeblock_tensor_info *tensor, int rank, const int64_t *dims, moeblock_error *error)
{
    char found[160], expected[160];
    bool same = tensor->rank == rank;
    for (int i = 0; same && i < rank; i++) same = tensor->dims[i] == dims[i];
    if (same) return MOEBLOCK_OK;
    dims_text(tensor->rank, tensor->dims, found);
    dims_text(rank, dims, expected);
    return mb_fail(error, MOEBLOCK_INVALID_FILE, "tensor '%.300s' has shape %s, the configuration expects %s",
                   tensor->name, found, expected);
}

// A role's tensors, looked at as one format after the other.
struct search {
    const moeblock_config *config;
    moeblock_weights *weights;
    enum mb_role role;
    int64_t layer, expert;
    enum mb_format format; // at hand
    int found;             // how much of it was right: the best attempt has the message
};

static const struct mb_format_info *info_of(const struct search *s) { return &mb_format_table[s->format]; }

static moeblock_status find_part(struct search *s, enum mb_part part, moeblock_tensor_info *out, moeblock_error *error)
{
    return mb_role_find(s->config, s->weights, s->role, mb_format_suffix(s->format, part), s->layer, s->expert, out,
                        error);
}

static int64_t values_of(const moeblock_tensor_info *tensor)
{
    int64_t values = 1;
    for (int i = 0; i < tensor->rank; i++) values *= tensor->dims[i];
    return values;
}

// One scale for gate and one for up, where one tensor holds both: [2] or [2, 1], of each expert where they are stacked.
static bool scale_a_half(const struct search *s, const moeblock_tensor_info *scales)
{
    const int stacked = mb_role_stacked(s->config, s->role);
    bool halves = scales->rank > stacked && scales->dims[stacked] == 2;
    if (stacked) halves = halves && scales->dims[0] == s->config->num_experts;
    for (int i = stacked + 1; halves && i < scales->rank; i++) halves = scales->dims[i] == 1;
    return halves && mb_role_joined(s->config, s->role) != MB_GATE_UP_SEPARATE;
}

// Scales of whole matrices: one a matrix, for gate and up each, or for all experts that are stacked.
static bool scales_whole(const struct search *s, enum mb_part part)
{
    return part == MB_PART_TOTAL || (part == MB_PART_SCALES && info_of(s)->row_tile == MB_WHOLE);
}

// Where the one of a matrix lies.
static uint64_t whole_offset(const struct search *s, const moeblock_tensor_info *scales, int64_t slot, int part)
{
    if (values_of(scales) == 1) return 0;
    return (uint64_t)(scale_a_half(s, scales) ? 2 * slot + part : slot);
}

// Whether two shapes are the same but for dimensions of one.
static bool same_but_ones(int rank_a, const int64_t *a, int rank_b, const int64_t *b)
{
    int i = 0, j = 0;
    for (;; i++, j++) {
        while (i < rank_a && a[i] == 1) i++;
        while (j < rank_b && b[j] == 1) j++;
        if (i == rank_a || j == rank_b || a[i] != b[j]) return i == rank_a && j == rank_b;
    }
}

// Dimensions of one do not matter where one scale serves a row or all: published as [], [1], [out], [out, 1], and
// [1, out] beside codes that are stored [in, out].
static moeblock_status check_part(const struct search *s, enum mb_part part, int64_t group,
                                  const moeblock_tensor_info *tensor, moeblock_error *error)
{
    int64_t dims[MOEBLOCK_MAX_RANK];
    if (scales_whole(s, part) && (values_of(tensor) == 1 || scale_a_half(s, tensor))) return MOEBLOCK_OK;
    const int rank = mb_role_dims(s->config, s->role, s->format, part, group, dims);
    const bool one = info_of(s)->column_tile == MB_WHOLE || info_of(s)->any_group;
    const bool loose = part == MB_PART_TOTAL || (part == MB_PART_SCALES && one);
    if (loose && same_but_ones(rank, dims, tensor->rank, tensor->dims)) return MOEBLOCK_OK;
    return mb_check_dims(tensor, rank, dims, error);
}

// The codes and, where the format has them, the scales: there, and of the right type and shape.
static moeblock_status find_codes(struct search *s, struct mb_matrix *out, moeblock_error *error)
{
    const struct mb_format_info *info = info_of(s);
    const bool whole = mb_packed_info_of(info->packed).factors && info->scales != MB_SCALE_FLOATS;
    MB_TRY(find_part(s, MB_PART_CODES, &out->codes, error));
    s->found++;
    if (out->codes.dtype != info->dtype && (!info->also || out->codes.dtype != info->also))
        return mb_fail(error, MOEBLOCK_UNSUPPORTED,
                       "tensor '%.300s' has dtype %.32s, in which no known number format stores weights of this name",
                       out->codes.name, out->codes.dtype_name);
    s->found++;
    if (info->scale_suffix) MB_TRY(find_part(s, MB_PART_SCALES, &out->scales, error));
    s->found++;
    MB_TRY(check_part(s, MB_PART_CODES, 0, &out->codes, error));
    s->found++;
    if (whole && out->columns % info->column_tile)
        return mb_fail(error, MOEBLOCK_INVALID_FILE,
                       "tensor '%.300s' is %s, whose rows are groups of %" PRId64
                       ", but the configuration gives rows of %" PRId64,
                       out->codes.name, info->name, info->column_tile, out->columns);
    return MOEBLOCK_OK;
}

static moeblock_status check_scale_type(const struct search *s, const moeblock_tensor_info *scales,
                                        moeblock_error *error)
{
    static const char *const expected[] = {[MB_SCALE_FLOATS] = "F32, F16 or BF16",
                                           [MB_SCALE_FLOATS_OR_E8M0] = "F32, F16, BF16, F8_E8M0 or U8",
                                           [MB_SCALE_E8M0] = "F8_E8M0 or U8",
                                           [MB_SCALE_E4M3] = "F8_E4M3"};
    const enum mb_scale_kind kind = info_of(s)->scales;
    const moeblock_dtype dtype = scales->dtype;
    const bool floats = dtype == MOEBLOCK_F32 || dtype == MOEBLOCK_F16 || dtype == MOEBLOCK_BF16;
    const bool e8m0 = dtype == MOEBLOCK_U8 || dtype == MOEBLOCK_F8_E8M0;
    if (floats && (kind == MB_SCALE_FLOATS || kind == MB_SCALE_FLOATS_OR_E8M0)) return MOEBLOCK_OK;
    if (e8m0 && (kind == MB_SCALE_E8M0 || kind == MB_SCALE_FLOATS_OR_E8M0)) return MOEBLOCK_OK;
    if (dtype == MOEBLOCK_F8_E4M3 && kind == MB_SCALE_E4M3) return MOEBLOCK_OK;
    return mb_fail(error, MOEBLOCK_UNSUPPORTED, "tensor '%.300s' has dtype %.32s, expected %s scales", scales->name,
                   scales->dtype_name, expected[kind]);
}

// Inputs per scale of formats that leave it to the model: what the scales' shape says, and where the groups are not all
// full, weights.group_size.
static moeblock_status find_group(const struct search *s, struct mb_matrix *out, moeblock_error *error)
{
    const struct mb_format_info *info = info_of(s);
    const int64_t stored_rows = mb_extent(s->config, mb_roles[s->role].rows);
    const int64_t outputs = (mb_role_stacked(s->config, s->role) ? s->config->num_experts : 1) * stored_rows;
    const int64_t said = s->config->group_size, values = values_of(&out->scales);
    out->group = mb_format_group(s->format, out->columns);
    if (!info->any_group) return MOEBLOCK_OK;
    const int64_t groups = values / outputs;
    if (groups < 1 || values % outputs || groups > out->columns) return MOEBLOCK_OK; // the shape is wrong
    if (said && mb_ceil_div(out->columns, said) == groups) {
        out->group = said;
    } else if (out->columns % groups == 0) {
        out->group = out->columns / groups;
    } else {
        return mb_fail(
            error, MOEBLOCK_INVALID_FILE,
            "tensor '%.300s' has %" PRId64 " groups for %" PRId64
            " inputs, of which the last is not full; weights.group_size must say how many inputs a group has",
            out->scales.name, groups, out->columns);
    }
    return MOEBLOCK_OK;
}

static moeblock_status check_scales(struct search *s, struct mb_matrix *out, moeblock_error *error)
{
    if (!info_of(s)->scale_suffix) return MOEBLOCK_OK;
    MB_TRY(check_scale_type(s, &out->scales, error));
    s->found++;
    MB_TRY(find_group(s, out, error));
    MB_TRY(check_part(s, MB_PART_SCALES, out->group, &out->scales, error));
    s->found++;
    return MOEBLOCK_OK;
}

static moeblock_status wrong_type(const moeblock_tensor_info *tensor, const char *expected, moeblock_error *error)
{
    return mb_fail(error, MOEBLOCK_UNSUPPORTED, "tensor '%.300s' has dtype %.32s, expected %s", tensor->name,
                   tensor->dtype_name, expected);
}

static moeblock_status find_total(struct search *s, struct mb_matrix *out, moeblock_error *error)
{
    MB_TRY(find_part(s, MB_PART_TOTAL, &out->total, error));
    if (out->total.dtype != MOEBLOCK_F32) return wrong_type(&out->total, "F32", error);
    return check_part(s, MB_PART_TOTAL, 0, &out->total, error);
}

// Zero points, the scale of the whole tensor, the order of the inputs.
static moeblock_status find_rest(struct search *s, struct mb_matrix *out, moeblock_error *error)
{
    const struct mb_format_info *info = info_of(s);
    moeblock_tensor_info other;
    if (info->suffix[MB_PART_ZEROS]) {
        MB_TRY(find_part(s, MB_PART_ZEROS, &out->zeros, error));
        if (out->zeros.dtype != MOEBLOCK_I32) return wrong_type(&out->zeros, "I32", error);
        MB_TRY(check_part(s, MB_PART_ZEROS, out->group, &out->zeros, error));
    }
    if (info->absent &&
        mb_role_find(s->config, s->weights, s->role, info->absent, s->layer, s->expert, &other, NULL) == MOEBLOCK_OK)
        return mb_fail(error, MOEBLOCK_INVALID_FILE, "tensor '%.300s' is there, which %s does not have", other.name,
                       info->name);
    if (info->suffix[MB_PART_TOTAL]) MB_TRY(find_total(s, out, error));
    if (info->suffix[MB_PART_ORDER] && find_part(s, MB_PART_ORDER, &out->order, NULL) == MOEBLOCK_OK) {
        if (out->order.dtype != MOEBLOCK_I32) return wrong_type(&out->order, "I32", error);
        MB_TRY(check_part(s, MB_PART_ORDER, 0, &out->order, error));
        if (mb_role_stacked(s->config, s->role)) out->order_offset = (uint64_t)(s->expert * out->columns);
    }
    return MOEBLOCK_OK;
}

static moeblock_status try_format(struct search *s, struct mb_matrix *out, moeblock_error *error)
{
    const struct mb_matrix empty = {.format = s->format, .rows = out->rows, .columns = out->columns};
    *out = empty;
    s->found = 0;
    MB_TRY(find_codes(s, out, error));
    MB_TRY(check_scales(s, out, error));
    return find_rest(s, out, error);
}

// Tries the table from the top, for the routed experts after `weights.format`; of failures, the message of the one that
// came closest.
static moeblock_status recognise(struct search *s, struct mb_matrix *out, moeblock_error *error)
{
    const int asked = mb_format_find(s->config->format);
    const bool first = asked >= 0 && mb_roles[s->role].owner == MB_OWNER_ROUTED;
    int best = -1;
    moeblock_status failed = MOEBLOCK_NOT_FOUND;
    for (int i = first ? -1 : 0; i < MB_FORMATS; i++) {
        moeblock_error reason = {MOEBLOCK_OK, ""};
        if (first && i == asked) continue;
        s->format = (enum mb_format)(i < 0 ? asked : i);
        if (i >= 0 && info_of(s)->same_output_major && !mb_role_input_major(s->config, s->role, s->format)) continue;
        moeblock_status status = try_format(s, out, &reason);
        if (status == MOEBLOCK_OK && info_of(s)->told && (int)s->format != asked)
            status = mb_fail(&reason, MOEBLOCK_INVALID_FILE,
                             "tensor '%.300s' may be gptq or gptq_v2, which store zero points differently; say which "
                             "with weights.format (gptq, gptq_v2, gptq_int8, gptq_v2_int8)",
                             out->codes.name);
        if (status == MOEBLOCK_OK) return MOEBLOCK_OK;
        if (s->found <= best) continue;
        best = s->found;
        failed = status;
        if (error) *error = reason;
    }
    return failed;
}

// Whether two rows differ in the names of their tensors alone.
static bool alike(const struct mb_format_info *a, const struct mb_format_info *b)
{
    return a->packed == b->packed && a->row_tile == b->row_tile && a->column_tile == b->column_tile &&
           a->order == b->order && a->divides == b->divides && !a->told && !b->told &&
           !a->suffix[MB_PART_ZEROS] == !b->suffix[MB_PART_ZEROS] && !a->scale_suffix == !b->scale_suffix;
}

// `weights.format` speaks of the routed experts; the others may be stored otherwise. What a model's file announces goes
// by its method, which does not tell under which of two names a scale is stored.
static moeblock_status check_format(const moeblock_config *config, enum mb_role role, const struct mb_matrix *matrix,
                                    moeblock_error *error)
{
    const char *found = mb_format_table[matrix->format].name;
    const bool announced = config->given[mb_schema_row_of(config, config->format)] == MB_FROM_MODEL;
    if (mb_roles[role].owner != MB_OWNER_ROUTED || !strcmp(config->format, "auto") || !strcmp(config->format, found))
        return MOEBLOCK_OK;
    const int asked = mb_format_find(config->format);
    if (announced && asked >= 0 && alike(&mb_format_table[asked], &mb_format_table[matrix->format])) return MOEBLOCK_OK;
    return mb_fail(
        error, MOEBLOCK_INVALID_FILE,
        "tensor '%.300s' is stored as %s, weights.format expects %s%s; with --set weights.format=auto any one "
        "format will do that all routed experts of the layer share",
        matrix->codes.name, found, config->format, announced ? " (from quantization_config)" : "");
}

// Where the codes of a matrix of stored_rows outputs lie, logical row 0 being stored row `first`.
static void place_codes(const struct search *s, int64_t stored_rows, int64_t first, int64_t step, int64_t slot,
                        struct mb_matrix *out)
{
    const int64_t codes = mb_format_word_codes(out->format);
    int64_t columns = out->columns, words;
    switch (info_of(s)->order) {
    case MB_CODES_WORDS_DOWN:
        words = mb_ceil_div(columns, codes);
        out->row_stride = step;
        out->column_stride = stored_rows;
        out->code_offset = (uint64_t)(slot * words * stored_rows + first);
        return;
    case MB_CODES_WORDS_ACROSS:
        words = mb_ceil_div(stored_rows, codes);
        out->row_stride = 1;
        out->column_stride = words;
        out->code_offset = (uint64_t)(slot * words * columns + first / codes);
        return;
    default:
        break;
    }
    // One output alone lies as in output-major storage.
    const bool input_major = mb_role_input_major(s->config, s->role, out->format) && stored_rows > 1;
    int64_t row = columns; // codes from one stored row to the next
    if (input_major && info_of(s)->order == MB_CODES_NIBBLES) columns = mb_ceil_div(columns, 2); // bytes of two
    if (info_of(s)->order == MB_CODES_NIBBLES) row = mb_ceil_div(columns, 2) * 2;
    if (info_of(s)->order == MB_CODES_WORDS) row = mb_ceil_div(columns, codes) * codes;
    const int64_t stored_row = input_major ? 1 : row;
    out->row_stride = step * stored_row;
    out->column_stride = input_major ? stored_rows : 1;
    out->code_offset =
        (uint64_t)(slot * (input_major ? stored_rows * columns : stored_rows * row) + first * stored_row);
}

// Offsets and strides, in elements, of part `part` of the role's matrix. Sizes are bounded by the schema, so that no
// product overflows.
static moeblock_status place(const struct search *s, int part, struct mb_matrix *out, moeblock_error *error)
{
    const struct mb_format_info *info = info_of(s);
    const int64_t stored_rows = mb_extent(s->config, mb_roles[s->role].rows);
    const bool alternating = mb_role_joined(s->config, s->role) == MB_GATE_UP_INTERLEAVED;
    const bool down = info->order == MB_CODES_WORDS_DOWN || info->order == MB_CODES_WORDS_ACROSS ||
                      mb_role_input_major(s->config, s->role, out->format);
    const int64_t step = alternating ? 2 : 1;                    // stored rows from one logical row to the next
    const int64_t first = alternating ? part : part * out->rows; // stored row of logical row 0
    const int64_t slot = mb_role_stacked(s->config, s->role) ? s->expert : 0;
    if (info->order == MB_CODES_WORDS_ACROSS && (step > 1 || first))
        return mb_fail(error, MOEBLOCK_UNSUPPORTED,
                       "tensor '%.300s': %s weights with gate and up in one tensor are not read", out->codes.name,
                       info->name);
    place_codes(s, stored_rows, first, step, slot, out);
    out->scale_row_step = step;
    out->scale_row_first = first;
    if (!info->scale_suffix) return MOEBLOCK_OK;
    const int64_t groups = mb_ceil_div(out->columns, out->group);
    out->scale_row_stride = down ? 1 : groups;
    out->scale_column_stride = down ? stored_rows : 1;
    out->scale_offset = (uint64_t)(slot * mb_ceil_div(stored_rows, info->row_tile) * groups);
    if (scales_whole(s, MB_PART_SCALES)) out->scale_offset = whole_offset(s, &out->scales, slot, part);
    if (out->total.name) out->total_offset = whole_offset(s, &out->total, slot, part);
    out->zero_offset = (uint64_t)(slot * mb_ceil_div(stored_rows, mb_format_word_codes(out->format)) * groups);
    return MOEBLOCK_OK;
}

moeblock_status mb_stored_find(const moeblock_config *config, moeblock_weights *weights, enum mb_role role, int part,
                               int64_t layer, int64_t expert, struct mb_matrix *out, moeblock_error *error)
{
    struct search search = {.config = config, .weights = weights, .role = role, .layer = layer, .expert = expert};
    MB_TRY(recognise(&search, out, error));
    MB_TRY(check_format(config, role, out, error));
    return place(&search, part, out, error);
}
