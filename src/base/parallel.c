// SPDX-License-Identifier: Apache-2.0
// What the library's own code asks of a context: run tasks, count workers, log a line.
#include <stdarg.h>
#include <stdio.h>

#include "base/context.h"
#include "base/status.h"
#include "base/team.h"

void mb_parallel(const moeblock_context *context, int64_t count, moeblock_task task, void *argument)
{
    if (count == 1) {
        task(argument, 0, 0); // not worth a hand-over
    } else if (count > 1 && context->parallel.run) {
        context->parallel.run(context->parallel.user, count, task, argument);
    } else if (count > 1) {
        const int before = mb_team_threads(context->team);
        mb_team_run(context->team, count, task, argument);
        const int after = mb_team_threads(context->team);
        if (after < before) mb_log_line(context, "threads: %d could be created, %d were wanted", after, before);
    }
}

int mb_workers(const moeblock_context *context)
{
    return context->parallel.run ? context->parallel.workers : mb_team_threads(context->team);
}

void mb_log_line(const moeblock_context *context, const char *format, ...)
{
    if (!context->log) return;
    char raw[sizeof((moeblock_error *)0)->message], line[sizeof raw];
    va_list arguments;
    va_start(arguments, format);
    if (vsnprintf(raw, sizeof raw, format, arguments) < 0) raw[0] = '\0';
    va_end(arguments);
    mb_escape(line, sizeof line, raw);
    context->log(context->log_user, line);
}
