// SPDX-License-Identifier: Apache-2.0
// A small regular expression matcher that runs all alternatives side by side: a pattern from a file can neither loop
// nor grow.
#include "config/hf/pattern.h"

#include <stdint.h>
#include <string.h>

enum { STEPS_MAX = 256, DEPTH_MAX = 16 };

enum step_kind { TAKE, SPLIT, JUMP, BEGIN, END, DONE };

struct step {
    enum step_kind kind;
    int x, y;        // SPLIT, JUMP: steps from here
    uint8_t set[32]; // TAKE: one bit a character
};

struct program {
    struct step step[STEPS_MAX];
    int count;
    const char *at; // what is left of the pattern
    int depth;
    bool valid;
};

static struct step *add(struct program *p, int place, enum step_kind kind, int x, int y)
{
    if (p->count >= STEPS_MAX) {
        p->valid = false;
        return &p->step[0];
    }
    memmove(p->step + place + 1, p->step + place, (size_t)(p->count - place) * sizeof p->step[0]);
    p->count++;
    p->step[place] = (struct step){.kind = kind, .x = x, .y = y};
    return &p->step[place];
}

static void put(uint8_t set[32], int first, int last)
{
    for (int c = first; c <= last; c++) set[c / 8] |= (uint8_t)(1 << c % 8);
}

// What a character after a backslash stands for.
static void put_escaped(struct program *p, uint8_t set[32], char c)
{
    if (c == 'd' || c == 'w') put(set, '0', '9');
    if (c == 'w') put(set, 'a', 'z'), put(set, 'A', 'Z'), put(set, '_', '_');
    if (c == 'd' || c == 'w') return;
    if (c == '\0' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) p->valid = false;
    put(set, (uint8_t)c, (uint8_t)c);
}

static void parse_set(struct program *p, uint8_t set[32])
{
    const bool inverted = *p->at == '^';
    p->at += inverted;
    for (bool first = true; *p->at && (first || *p->at != ']'); first = false) {
        const char c = *p->at++;
        if (c == '\\') {
            put_escaped(p, set, *p->at);
            p->at += *p->at != '\0';
        } else if (p->at[0] == '-' && p->at[1] && p->at[1] != ']') {
            put(set, (uint8_t)c, (uint8_t)p->at[1]);
            p->at += 2;
        } else {
            put(set, (uint8_t)c, (uint8_t)c);
        }
    }
    p->valid = p->valid && *p->at == ']';
    p->at += *p->at == ']';
    for (int i = 0; inverted && i < 32; i++) set[i] = (uint8_t)~set[i];
}

static void parse_alternatives(struct program *p);

static void parse_atom(struct program *p)
{
    const char c = *p->at++;
    if (c == '(') {
        if (p->at[0] == '?' && p->at[1] == ':') p->at += 2;
        parse_alternatives(p);
        p->valid = p->valid && *p->at == ')';
        p->at += *p->at == ')';
        return;
    }
    if (c == '^' || c == '$') {
        add(p, p->count, c == '^' ? BEGIN : END, 0, 0);
        return;
    }
    if (strchr("*+?{", c)) p->valid = false;
    struct step *step = add(p, p->count, TAKE, 0, 0);
    if (c == '.') {
        memset(step->set, 255, sizeof step->set);
    } else if (c == '[') {
        parse_set(p, step->set);
    } else if (c == '\\') {
        put_escaped(p, step->set, *p->at);
        p->at += *p->at != '\0';
    } else {
        put(step->set, (uint8_t)c, (uint8_t)c);
    }
}

static void parse_sequence(struct program *p)
{
    while (p->valid && *p->at && *p->at != '|' && *p->at != ')') {
        const int begin = p->count;
        parse_atom(p);
        const int length = p->count - begin;
        const char postfix = *p->at;
        if (postfix == '{') p->valid = false;
        if (postfix != '*' && postfix != '+' && postfix != '?') continue;
        p->at++;
        if (*p->at == '?') p->at++; // whether greedy does not matter here
        if (postfix == '+') {
            add(p, p->count, SPLIT, -length, 1);
        } else {
            add(p, begin, SPLIT, 1, length + (postfix == '*' ? 2 : 1));
            if (postfix == '*') add(p, p->count, JUMP, -length - 1, 0);
        }
    }
}

static void parse_alternatives(struct program *p)
{
    const int begin = p->count;
    if (++p->depth > DEPTH_MAX) {
        p->valid = false;
        return;
    }
    parse_sequence(p);
    if (p->valid && *p->at == '|') {
        p->at++;
        add(p, begin, SPLIT, 1, p->count - begin + 2);
        const int jump = p->count;
        add(p, jump, JUMP, 0, 0);
        parse_alternatives(p);
        if (p->valid) p->step[jump].x = p->count - jump;
    }
    p->depth--;
}

// Adds step `first`, and those that follow without taking a character. True when the end is among them.
static bool reach(const struct program *p, int first, bool at_begin, bool at_end, bool on[STEPS_MAX])
{
    int waiting[STEPS_MAX], count = 0;
    bool done = false;
    waiting[count++] = first;
    on[first] = true;
    while (count) {
        const int i = waiting[--count];
        const struct step *step = &p->step[i];
        int next[2] = {-1, -1};
        if (step->kind == DONE) done = true;
        if (step->kind == SPLIT) next[0] = i + step->x, next[1] = i + step->y;
        if (step->kind == JUMP) next[0] = i + step->x;
        if ((step->kind == BEGIN && at_begin) || (step->kind == END && at_end)) next[0] = i + 1;
        for (int n = 0; n < 2; n++) {
            if (next[n] < 0 || on[next[n]]) continue;
            on[next[n]] = true;
            waiting[count++] = next[n];
        }
    }
    return done;
}

bool mb_pattern_matches(const char *pattern, const char *name, bool *valid)
{
    struct program p = {.at = pattern, .valid = true};
    bool now[STEPS_MAX] = {false};
    parse_alternatives(&p);
    p.valid = p.valid && *p.at == '\0';
    add(&p, p.count, DONE, 0, 0);
    *valid = p.valid;
    if (!p.valid) return false;
    bool done = reach(&p, 0, true, !*name, now);
    for (const char *c = name; *c && !done; c++) {
        bool next[STEPS_MAX] = {false};
        for (int i = 0; i < p.count; i++) {
            const struct step *step = &p.step[i];
            if (!now[i] || step->kind != TAKE || !(step->set[(uint8_t)*c / 8] >> (uint8_t)*c % 8 & 1)) continue;
            if (!next[i + 1]) done = reach(&p, i + 1, false, !c[1], next) || done;
        }
        memcpy(now, next, sizeof now);
    }
    return done;
}

bool mb_wildcard_matches(const char *pattern, const char *name)
{
    const char *star = NULL, *retry = NULL;
    while (*name) {
        if (*pattern == '*') {
            star = pattern++;
            retry = name;
        } else if (*pattern == *name) {
            pattern++;
            name++;
        } else if (star) {
            pattern = star + 1;
            name = ++retry;
        } else {
            return false;
        }
    }
    while (*pattern == '*') pattern++;
    return !*pattern;
}
