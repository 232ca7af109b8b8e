// SPDX-License-Identifier: Apache-2.0
// Work lists of the two expert phases: pieces of columns, claimed in the order of the list. Pieces are long at first
// (weights are read in long runs, rows prepared once for many columns) and shrink towards the end, so that the workers
// end together.
#include "backend/cpu/cpu.h"
#include "base/context.h"

// Only proportions of costs matter: of reading a column's weights, in rows of arithmetic on it.
enum { ROWS_OF_READING = 16 };

struct list {
    struct mb_item *items;
    int64_t count;
    int64_t left;  // cost of what is not listed yet
    int64_t parts; // a piece costs at most this part of it
};

static struct list list_of(const struct mb_run *run)
{
    return (struct list){.items = mb_buffers_of(run)->items, .parts = 2 * (int64_t)mb_workers(run->block->context)};
}

// Columns [c0, c1) in pieces of at least `step`; one costs `cost`.
static void list_columns(struct list *list, bool shared, int64_t expert, int64_t c0, int64_t c1, int64_t step,
                         int64_t cost)
{
    for (int64_t c = c0, next; c < c1; c = next) {
        const int64_t wanted = list->left / (list->parts * cost) / step * step;
        next = mb_min(c1, c + mb_max(step, wanted));
        list->items[list->count++] = (struct mb_item){shared, expert, c, next};
        list->left -= cost * (next - c);
    }
}

static int64_t inner_cost(int64_t rows) { return rows + ROWS_OF_READING; }

static int64_t routed_rows(const struct mb_run *run, int64_t expert)
{
    const int64_t *begin = mb_buffers_of(run)->expert_begin + (expert - run->block->share.e0);
    return begin[1] - begin[0];
}

int64_t mb_list_inner(struct mb_run *run, bool routed, bool shared, int64_t *routed_items)
{
    const struct mb_share *share = &run->block->share;
    const struct mb_columns *columns = &run->set->columns;
    struct list list = list_of(run);
    const int64_t shared_cost = inner_cost(run->n), own = columns->i1 - columns->i0;
    if (shared) list.left += shared_cost * (columns->s1 - columns->s0);
    for (int64_t e = share->e0; routed && e < share->e1; e++)
        if (routed_rows(run, e)) list.left += inner_cost(routed_rows(run, e)) * own;
    for (int64_t e = share->e0; routed && e < share->e1; e++) {
        if (!routed_rows(run, e)) continue;
        const moeblock_expert_class *kind = run->block->routed_kind->class_copy;
        const int64_t inner = run->block->config->routed.intermediate_size;
        run->active_experts++;
        if (kind->splits) {
            list_columns(&list, false, e, columns->i0, columns->i1, mb_task_columns(kind, run->set->routed),
                         inner_cost(routed_rows(run, e)));
        } else if (inner) {
            list.items[list.count++] = (struct mb_item){false, e, 0, inner};
        }
    }
    *routed_items = list.count;
    if (shared)
        list_columns(&list, true, 0, columns->s0, columns->s1,
                     mb_task_columns(run->block->shared_kind->class_copy, run->set->shared), shared_cost);
    return list.count;
}

// A piece for the routed experts is columns of all of them.
int64_t mb_list_outer(struct mb_run *run, bool routed, bool shared)
{
    const struct mb_columns *columns = &run->set->columns;
    const moeblock_config *config = run->block->config;
    struct list list = list_of(run);
    const int64_t shared_cost = (run->n + ROWS_OF_READING) * mb_max(config->shared.intermediate_size, 1);
    const int64_t routed_cost =
        (run->slots + ROWS_OF_READING * mb_max(run->active_experts, 1)) * mb_max(config->routed.intermediate_size, 1);
    if (routed) list.left += routed_cost * (columns->d1 - columns->d0);
    if (shared) list.left += shared_cost * (columns->h1 - columns->h0);
    if (routed) {
        const moeblock_expert_class *kind = run->block->routed_kind->class_copy;
        const int64_t step =
            kind->splits ? mb_task_columns(kind, run->set->routed) : mb_max(columns->d1 - columns->d0, 1);
        list_columns(&list, false, 0, columns->d0, columns->d1, step, routed_cost);
    }
    if (shared)
        list_columns(&list, true, 0, columns->h0, columns->h1,
                     mb_task_columns(run->block->shared_kind->class_copy, run->set->shared), shared_cost);
    return list.count;
}
