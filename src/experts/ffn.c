// SPDX-License-Identifier: Apache-2.0
// The built-in expert kind, gated or plain: down(activation(gate x) * up x). Serves as routed experts and as the shared
// expert. Keeps a rank's rows of every owned expert packed in one allocation and hands rows to the kernels.
#include "experts/ffn.h"

#include <inttypes.h>
#include <string.h>

#include "base/arith.h"
#include "base/context.h"
#include "base/status.h"
#include "experts/expert.h"

// A piece is read in one go, about so many stored bytes: small enough that its staging stays in a core's own cache. An
// item is consecutive pieces of about as many bytes as a huge page, which a thread so fills soon after its first touch
// had the system clear it; were neighbouring pieces packed by two threads at once, both would have the page cleared.
enum { PIECE_BYTES = 512 << 10, ITEM_BYTES = 4 << 20 };

// Numbers the experts that this rank owns.
static moeblock_status list_owned(struct ffn *self, moeblock_error *error)
{
    const moeblock_expert_build *b = &self->build;
    const size_t range = (size_t)mb_max(b->e1 - b->e0, 0);
    self->place = mb_alloc(&b->context->allocator, range * sizeof *self->place);
    self->id = mb_alloc(&b->context->allocator, range * sizeof *self->id);
    if (!self->place || !self->id) return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "creating experts: no memory");
    for (int64_t e = b->e0; e < b->e1; e++) {
        const bool owned = !b->owns || b->owns[e - b->e0];
        self->place[e - b->e0] = owned ? (int32_t)self->owned : -1;
        if (owned) self->id[self->owned++] = (int32_t)e;
    }
    return MOEBLOCK_OK;
}

static void free_spares(struct ffn *self)
{
    for (int i = 0; i < SPARES; i++) mb_free(&self->build.context->allocator, atomic_exchange(&self->spare[i], NULL));
}

static void destroy(void *object)
{
    struct ffn *self = object;
    if (!self) return;
    const moeblock_allocator *allocator = &self->build.context->allocator;
    free_spares(self);
    mb_ffn_free_orders(self);
    mb_free(allocator, self->packed);
    mb_free(allocator, self->biases);
    mb_free(allocator, self->place);
    mb_free(allocator, self->id);
    mb_free(allocator, self);
}

static moeblock_status create(void *user, const moeblock_expert_build *build, void **out, moeblock_error *error)
{
    (void)user;
    const moeblock_config *config = build->config;
    struct ffn *self = mb_alloc_zero(&build->context->allocator, sizeof *self);
    if (!self) return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "creating experts: no memory");
    self->build = *build;
    self->config = build->shared ? &config->shared : &config->routed;
    const struct mb_kernels *const level = build->context->kernels;
    self->kernels = build->rounds_apart ? mb_kernels_apart(level) : level;
    const moeblock_status status = list_owned(self, error);
    if (status == MOEBLOCK_OK)
        *out = self;
    else
        destroy(self);
    return status;
}

// The linear maps in packing order. Rows of gate and up are columns of the intermediate, rows of down those of the
// output.
static void list_projections(struct ffn *self)
{
    const moeblock_expert_build *b = &self->build;
    const int64_t own_i = b->i1 - b->i0;
    const struct projection inward = {
        .rows = b->intermediate, .columns = b->hidden, .k1 = b->hidden, .first = b->i0, .end = b->i1};
    struct projection *next = self->projections;
    if (self->config->gated) {
        *next = inward;
        next++->kind = b->shared ? MB_PROJ_SHARED_GATE : MB_PROJ_GATE;
    }
    *next = inward;
    next->kind = b->shared ? MB_PROJ_SHARED_UP : MB_PROJ_UP;
    next->part = self->config->gated;
    next++->bias = self->config->gated ? own_i : 0;
    *next++ = (struct projection){.kind = b->shared ? MB_PROJ_SHARED_DOWN : MB_PROJ_DOWN,
                                  .outer = true,
                                  .bias = self->config->gated ? 2 * own_i : own_i,
                                  .rows = b->hidden,
                                  .columns = b->intermediate,
                                  .k0 = b->partial ? b->i0 : 0,
                                  .k1 = b->partial ? b->i1 : b->intermediate,
                                  .first = b->h0,
                                  .end = b->h1};
    self->projection_count = (int)(next - self->projections);
    self->bias_stride = next[-1].bias + (b->h1 - b->h0);
}

moeblock_status mb_ffn_find(const struct ffn *self, const struct projection *projection, int64_t expert,
                            struct mb_matrix *out, moeblock_error *error)
{
    MB_TRY(mb_projection_find(self->build.config, self->weights, projection->kind, self->layer, expert, out, error));
    if (out->rows == projection->rows && out->columns == projection->columns) return MOEBLOCK_OK;
    return mb_fail(error, MOEBLOCK_INVALID_FILE,
                   "opening experts: tensor '%s' gives %" PRId64 " x %" PRId64 " weights, expected %" PRId64
                   " x %" PRId64,
                   out->codes.name, out->rows, out->columns, projection->rows, projection->columns);
}

// Every owned expert must look like the first: one packing serves them all.
static moeblock_status check_alike(const struct ffn *self, const struct projection *projection,
                                   const struct mb_matrix *first, moeblock_error *error)
{
    for (int64_t i = 0; i < self->owned; i++) {
        struct mb_matrix matrix;
        MB_TRY(mb_ffn_find(self, projection, self->id[i], &matrix, error));
        if (matrix.format != first->format || matrix.row_stride != first->row_stride ||
            matrix.column_stride != first->column_stride || mb_matrix_group(&matrix) != mb_matrix_group(first)) {
            return mb_fail(
                error, MOEBLOCK_UNSUPPORTED,
                "opening experts: tensor '%s' is stored as %s, but '%s' as %s; all experts of a layer must have one "
                "format, layout and group size",
                matrix.codes.name, mb_format_table[matrix.format].name, first->codes.name,
                mb_format_table[first->format].name);
        }
    }
    return MOEBLOCK_OK;
}

static struct mb_packing packing_of(const struct ffn *self, const struct projection *projection, enum mb_format format,
                                    int64_t group)
{
    struct mb_packing packing = {.parts = self->apart ? 1 : projection->part + 1,
                                 .n = projection->end - projection->first,
                                 .k = projection->k1 - projection->k0};
    mb_compute_packing(self->build.compute, format, group, &packing);
    return packing;
}

struct piece {
    int64_t n0, n1, k0, k1;
};

// Gate rows of a pair bring the up rows.
static bool packs_both(const struct ffn *self, const struct projection *projection)
{
    return self->paired && !projection->outer;
}

// Stored bytes that mb_matrix_pieces goes by: it counts one part.
static size_t piece_bytes(const struct ffn *self, const struct projection *projection)
{
    return packs_both(self, projection) ? PIECE_BYTES / 2 : PIECE_BYTES;
}

// Bounds of a projection's piece, in rows of the stored matrix.
static struct piece piece_of(const struct ffn *self, const struct projection *projection,
                             const struct mb_matrix *matrix, int64_t index)
{
    struct piece p;
    mb_matrix_piece(matrix, projection->outer ? &self->outer : &self->inner, self->kernels->granule,
                    piece_bytes(self, projection), index, &p.n0, &p.n1, &p.k0, &p.k1);
    p.n0 += projection->first;
    p.n1 += projection->first;
    p.k0 += projection->k0;
    p.k1 += projection->k0;
    return p;
}

static size_t staging_of(const struct ffn *self, const struct projection *projection, const struct mb_matrix *matrix,
                         const struct mb_pair *pair)
{
    struct piece p = piece_of(self, projection, matrix, 0); // the first is the largest
    if (!packs_both(self, projection)) return mb_stage_bytes(matrix, p.n0, p.n1, p.k0, p.k1);
    mb_pair_rows(pair, p.n0, p.n1, &p.n0, &p.n1);
    return mb_stage_bytes(&pair->joint, p.n0, p.n1, p.k0, p.k1);
}

// Whether gate and up are a pair and nothing that belongs to other ranks lies between the own rows.
static bool is_paired(const struct ffn *self, const struct mb_matrix *firsts, struct mb_pair *pair)
{
    const struct projection *gate = self->projections;
    int64_t first, end;
    if (!self->config->gated || self->apart || gate->first == gate->end) return false;
    if (!mb_matrix_pair(&firsts[0], &firsts[1], pair)) return false;
    mb_pair_rows(pair, gate->first, gate->end, &first, &end);
    return end - first == 2 * (gate->end - gate->first);
}

// Finds all tensors and fixes both packings.
static moeblock_status plan(struct ffn *self, moeblock_error *error)
{
    struct mb_matrix firsts[PROJECTIONS];
    MB_TRY(mb_ffn_load_orders(self, error));
    for (int i = 0; i < self->projection_count; i++) {
        struct projection *p = &self->projections[i];
        MB_TRY(mb_ffn_find(self, p, self->id[0], &firsts[i], error));
        MB_TRY(check_alike(self, p, &firsts[i], error));
        firsts[i].permutation = mb_ffn_order(self, p, self->id[0]);
        struct mb_packing *packing = p->outer ? &self->outer : &self->inner;
        MB_TRY(mb_compute_check(self->build.compute, &firsts[i], error));
        const struct mb_packing wanted = packing_of(self, p, firsts[i].format, mb_matrix_group(&firsts[i]));
        if (p->part && (packing->format != wanted.format || packing->group != wanted.group)) {
            return mb_fail(
                error, MOEBLOCK_UNSUPPORTED,
                "opening experts: '%s' is stored as %s, but '%s' as %s; gate and up must have one format and "
                "group size",
                firsts[i].codes.name, mb_format_table[firsts[i].format].name, firsts[0].codes.name,
                mb_format_table[firsts[0].format].name);
        }
        *packing = wanted;
    }
    struct mb_pair pair;
    self->paired = is_paired(self, firsts, &pair);
    self->items_per_expert = 0;
    for (int i = 0; i < self->projection_count; i++) {
        struct projection *p = &self->projections[i];
        p->pieces = self->paired && p->part ? 0
                                            : mb_matrix_pieces(&firsts[i], p->outer ? &self->outer : &self->inner,
                                                               self->kernels->granule, piece_bytes(self, p));
        const size_t staging = p->pieces ? staging_of(self, p, &firsts[i], &pair) : 0;
        const int64_t most = staging ? mb_max(1, (int64_t)(ITEM_BYTES / staging)) : 1; // pieces of an item
        p->items = mb_max(1, mb_ceil_div(p->pieces, most));                            // the first also reads the bias
        self->stage_bytes = staging > self->stage_bytes ? staging : self->stage_bytes;
        self->items_per_expert += p->items;
    }
    return MOEBLOCK_OK;
}

static void fix_bytes(struct ffn *self)
{
    self->inner_bytes = mb_round_up(self->kernels->packed_bytes(&self->inner), 64) * (self->apart ? 2 : 1);
    const size_t outer_bytes = self->outer.k ? self->kernels->packed_bytes(&self->outer) : 0;
    self->expert_bytes = self->inner_bytes + mb_round_up(outer_bytes, 64);
}

void mb_ffn_size(void *object, enum mb_format format)
{
    struct ffn *self = object;
    if (!self->owned) return;
    list_projections(self);
    for (int i = 0; i < self->projection_count; i++) {
        const struct projection *p = &self->projections[i];
        const int64_t said = mb_format_table[format].any_group ? self->build.config->group_size : 0;
        const int64_t group = said ? said : mb_format_group(format, p->columns);
        *(p->outer ? &self->outer : &self->inner) = packing_of(self, p, format, group);
    }
    fix_bytes(self);
}

// One allocation for all codes. Checked, since experts and sizes come from a file.
static moeblock_status allocate(struct ffn *self, moeblock_error *error)
{
    const moeblock_allocator *allocator = &self->build.context->allocator;
    const uint64_t owned = (uint64_t)self->owned;
    fix_bytes(self);
    uint64_t bytes, bias_bytes = 0;
    bool fits = mb_mul_u64(owned, self->expert_bytes, &bytes);
    if (self->config->bias) fits = fits && mb_mul_u64(owned, (uint64_t)self->bias_stride * sizeof(float), &bias_bytes);
    if (fits) self->packed = mb_alloc(allocator, bytes);
    if (self->packed && self->config->bias) self->biases = mb_alloc(allocator, bias_bytes);
    if (self->packed && (self->biases || !self->config->bias)) return MOEBLOCK_OK;
    return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY,
                   "loading %" PRIu64 " experts: no memory for %zu bytes each; use a machine with more, or a mesh",
                   owned, self->expert_bytes);
}

static moeblock_status open(void *object, moeblock_weights *weights, int64_t layer, int64_t *items,
                            moeblock_error *error)
{
    struct ffn *self = object;
    self->weights = weights;
    self->layer = layer;
    *items = 0;
    if (!self->owned) return MOEBLOCK_OK;
    list_projections(self);
    MB_TRY(plan(self, error));
    MB_TRY(allocate(self, error));
    *items = self->owned * self->items_per_expert;
    atomic_store(&self->unpacked, *items);
    return MOEBLOCK_OK;
}

static char *packed_of(const struct ffn *self, int64_t expert, bool outer)
{
    const size_t place = (size_t)self->place[expert - self->build.e0];
    return self->packed + place * self->expert_bytes + (outer ? self->inner_bytes : 0);
}

static float *bias_of(const struct ffn *self, int64_t expert, int64_t at)
{
    return self->biases ? self->biases + self->place[expert - self->build.e0] * self->bias_stride + at : NULL;
}

// Reads a whole bias and keeps the rank's own part.
static moeblock_status load_bias(const struct ffn *self, const struct projection *projection, int64_t expert,
                                 moeblock_error *error)
{
    const moeblock_allocator *allocator = &self->build.context->allocator;
    float *whole = mb_alloc(allocator, (size_t)projection->rows * sizeof *whole);
    if (!whole)
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "loading the biases of expert %" PRId64 ": no memory", expert);
    const moeblock_status status = mb_projection_bias(self->build.config, self->weights, projection->kind, self->layer,
                                                      expert, projection->rows, whole, error);
    if (status == MOEBLOCK_OK) {
        memcpy(bias_of(self, expert, projection->bias), whole + projection->first,
               (size_t)(projection->end - projection->first) * sizeof *whole);
    }
    mb_free(allocator, whole);
    return status;
}

static void *take_staging(struct ffn *self)
{
    for (int i = 0; i < SPARES; i++) {
        void *staging = atomic_exchange(&self->spare[i], NULL);
        if (staging) return staging;
    }
    return mb_alloc(&self->build.context->allocator, self->stage_bytes);
}

static void give_staging(struct ffn *self, void *staging)
{
    for (int i = 0; i < SPARES; i++) {
        void *none = NULL;
        if (atomic_compare_exchange_strong(&self->spare[i], &none, staging)) return;
    }
    mb_free(&self->build.context->allocator, staging);
}

// The pieces of one item of an expert's projection.
static moeblock_status pack_pieces(struct ffn *self, const struct projection *projection, int64_t expert, int64_t index,
                                   moeblock_error *error)
{
    const bool both = packs_both(self, projection);
    struct mb_matrix matrix, up;
    struct mb_pair pair;
    MB_TRY(mb_ffn_find(self, projection, expert, &matrix, error));
    matrix.permutation = mb_ffn_order(self, projection, expert);
    if (both) {
        MB_TRY(mb_ffn_find(self, projection + 1, expert, &up, error));
        (void)mb_matrix_pair(&matrix, &up, &pair); // as the first expert's
    }
    const bool second = self->apart && projection->part; // its packed weights follow the gate's
    const struct mb_target target = {
        .kernels = self->kernels,
        .packing = projection->outer ? &self->outer : &self->inner,
        .packed = packed_of(self, expert, projection->outer) + (second ? self->inner_bytes / 2 : 0),
        .part = self->apart ? 0 : projection->part,
        .row0 = projection->first,
        .column0 = projection->k0,
        .turn = matrix.column_stride == 1 ? 0 : index, // pieces of whole rows share no outputs
    };
    void *staging = take_staging(self);
    if (!staging) {
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "packing '%s': no memory for %zu bytes", matrix.codes.name,
                       self->stage_bytes);
    }
    moeblock_status status = MOEBLOCK_OK;
    const int64_t pieces = projection->pieces, items = projection->items;
    for (int64_t i = index * pieces / items; i < (index + 1) * pieces / items && status == MOEBLOCK_OK; i++) {
        const struct piece p = piece_of(self, projection, &matrix, i); // empty where a rank owns no rows
        status = both ? mb_matrix_pack_pair(self->weights, &pair, &target, p.n0, p.n1, p.k0, p.k1, staging, error)
                      : mb_matrix_pack(self->weights, &matrix, &target, p.n0, p.n1, p.k0, p.k1, staging, error);
    }
    give_staging(self, staging);
    return status;
}

// One rank adds the bias of a projection whose sums are partial.
static bool has_bias(const struct ffn *self, const struct projection *projection)
{
    return self->config->bias && !(projection->outer && self->build.partial && self->build.i0 > 0);
}

// Items go expert by expert, projection by projection, piece by piece: the order of the file.
static moeblock_status pack_item(struct ffn *self, int64_t item, moeblock_error *error)
{
    const int64_t expert = self->id[item / self->items_per_expert];
    int64_t index = item % self->items_per_expert;
    const struct projection *projection = self->projections;
    while (index >= projection->items) index -= projection++->items;
    if (index == 0 && has_bias(self, projection)) MB_TRY(load_bias(self, projection, expert, error));
    if (projection->pieces == 0) return MOEBLOCK_OK; // only the bias
    return pack_pieces(self, projection, expert, index, error);
}

static moeblock_status pack(void *object, int64_t item, moeblock_error *error)
{
    struct ffn *self = object;
    const moeblock_status status = pack_item(self, item, error);
    if (atomic_fetch_sub(&self->unpacked, 1) == 1) free_spares(self);
    return status;
}

static size_t packed_bytes(const void *object)
{
    const struct ffn *self = object;
    const size_t biases = self->config->bias ? (size_t)self->bias_stride * sizeof(float) : 0;
    return (size_t)self->owned * (self->expert_bytes + biases) + mb_ffn_order_bytes(self);
}

static size_t scratch_bytes(const void *object, int64_t m)
{
    const struct ffn *self = object;
    if (!self->owned) return 0;
    const size_t inner = mb_ffn_order_scratch(self, false, m) + self->kernels->scratch_bytes(&self->inner, m);
    const size_t outer_kernel = self->outer.k ? self->kernels->scratch_bytes(&self->outer, m) : 0;
    const size_t outer = mb_ffn_order_scratch(self, true, m) + outer_kernel;
    return inner > outer ? inner : outer;
}

static int64_t granule(const void *object) { return ((const struct ffn *)object)->kernels->granule; }

static struct mb_rows rows_of(const struct ffn *self, const void *const *rows, int64_t m)
{
    return (struct mb_rows){.row = rows,
                            .m = m,
                            .bf16 = mb_has_bf16_rows(self->build.compute),
                            .int16 = self->build.compute == MOEBLOCK_COMPUTE_INT16};
}

static moeblock_status inner(const void *object, const moeblock_expert_call *call, moeblock_error *error)
{
    (void)error;
    const struct ffn *self = object;
    const int64_t own = self->build.i1 - self->build.i0;
    const struct projection *up = &self->projections[self->projection_count - 2];
    const float *gate_bias = self->config->gated ? bias_of(self, call->expert, 0) : NULL;
    const float *up_bias = bias_of(self, call->expert, self->config->gated ? own : 0);
    if (self->apart) {
        mb_ffn_inner_apart(self, call, packed_of(self, call->expert, false), gate_bias, up_bias);
        return MOEBLOCK_OK;
    }
    const void *const *rows = mb_ffn_order_rows(self, up, call->expert, call->rows, call->m, call->scratch);
    const struct mb_gate_up_call kernel_call = {
        .packing = &self->inner,
        .packed = packed_of(self, call->expert, false),
        .rows = rows_of(self, rows, call->m),
        .n0 = call->c0 - self->build.i0,
        .n1 = call->c1 - self->build.i0,
        .gate_bias = gate_bias,
        .up_bias = up_bias,
        .activation = &self->config->activation,
        .out = call->out,
        .out_stride = call->out_stride,
        .scratch = (char *)call->scratch + mb_ffn_order_scratch(self, false, call->m),
    };
    self->kernels->gate_up(&kernel_call);
    return MOEBLOCK_OK;
}

static moeblock_status outer(const void *object, const moeblock_expert_call *call, moeblock_error *error)
{
    (void)error;
    const struct ffn *self = object;
    const struct projection *down = &self->projections[self->projection_count - 1];
    if (down->k0 == down->k1) { // no part of a sum
        for (int64_t r = 0; r < call->m; r++)
            memset((float *)call->out + r * call->out_stride, 0, (size_t)(call->c1 - call->c0) * sizeof(float));
        return MOEBLOCK_OK;
    }
    const void *const *rows = mb_ffn_order_rows(self, down, call->expert, call->rows, call->m, call->scratch);
    const struct mb_project_call kernel_call = {
        .packing = &self->outer,
        .packed = packed_of(self, call->expert, true),
        .rows = rows_of(self, rows, call->m),
        .n0 = call->c0 - self->build.h0,
        .n1 = call->c1 - self->build.h0,
        .bias = has_bias(self, down) ? bias_of(self, call->expert, down->bias) : NULL,
        .round = self->build.compute != MOEBLOCK_COMPUTE_F32 && !self->unrounded && !self->build.partial,
        .out = call->out,
        .out_stride = call->out_stride,
        .scratch = (char *)call->scratch + mb_ffn_order_scratch(self, true, call->m),
    };
    self->kernels->project(&kernel_call);
    return MOEBLOCK_OK;
}

const moeblock_expert_class mb_expert_ffn = {
    .struct_size = sizeof mb_expert_ffn,
    .splits = 2,
    .create = create,
    .destroy = destroy,
    .need = mb_ffn_need,
    .open = open,
    .pack = pack,
    .packed_bytes = packed_bytes,
    .scratch_bytes = scratch_bytes,
    .granule = granule,
    .inner = inner,
    .outer = outer,
};
