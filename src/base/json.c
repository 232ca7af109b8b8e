// SPDX-License-Identifier: Apache-2.0
// What JSON is accepted. Our own scan refuses what would be unsafe to hand to the parser (depth, size) or what it would
// not report well (a byte-order mark, NUL, a root that is no object); jansson, in its strict mode, refuses the rest.
#include "base/json.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/status.h"

enum { DEFAULT_DEPTH = 32, LONGEST_STRING = 64 << 10, DEFAULT_BYTES = 32 << 20 };

// A place in the text.
struct cursor {
    const char *at, *end;
};

static bool starts_with(const struct cursor *cursor, const char *two)
{
    return cursor->end - cursor->at >= 2 && cursor->at[0] == two[0] && cursor->at[1] == two[1];
}

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

// Moves behind the string that starts here, or to the end of the text when it is not closed.
static void skip_string(struct cursor *cursor)
{
    for (cursor->at++; cursor->at < cursor->end && *cursor->at != '"'; cursor->at++) {
        if (*cursor->at == '\\' && cursor->at + 1 < cursor->end) cursor->at++;
    }
    if (cursor->at < cursor->end) cursor->at++;
}

// Moves behind the comment that starts here (a line comment ends before its newline); false when it is not closed.
static bool skip_comment(struct cursor *cursor)
{
    if (starts_with(cursor, "//")) {
        while (cursor->at < cursor->end && *cursor->at != '\n') cursor->at++;
        return true;
    }
    for (cursor->at += 2; cursor->at < cursor->end; cursor->at++) {
        if (!starts_with(cursor, "*/")) continue;
        cursor->at += 2;
        return true;
    }
    return false;
}

static bool at_comment(const struct cursor *cursor) { return starts_with(cursor, "//") || starts_with(cursor, "/*"); }

// Line and column (in characters, both from 1) of a place.
struct position {
    int line, column;
};

static struct position position_of(const char *text, const char *place)
{
    struct position position = {1, 1};
    for (const char *at = text; at < place; at++) {
        if (*at == '\n') {
            position.line++;
            position.column = 1;
        } else if (((unsigned char)*at & 0xc0) != 0x80) { // not inside a UTF-8 character
            position.column++;
        }
    }
    return position;
}

// The text being checked, for messages.
struct source {
    const char *text, *name;
    moeblock_error *error;
};

static moeblock_status fail_at(const struct source *source, const char *place, moeblock_status code, const char *what)
{
    const struct position position = position_of(source->text, place);
    return mb_fail(source->error, code, "%s:%d:%d: %s", source->name, position.line, position.column, what);
}

// Python's json module writes infinity as this word, so that published files hold it. No key that counts can be
// infinite: it becomes null, which says nothing.
static size_t blank_infinity(char *text, const char *end)
{
    static const char word[] = "Infinity";
    const size_t sign = *text == '-', length = sign + sizeof word - 1;
    if ((size_t)(end - text) < length || memcmp(text + sign, word, sizeof word - 1) != 0) return 0;
    memset(text, ' ', length);
    memcpy(text, "null", 4);
    return length;
}

static moeblock_status blank_extensions(const struct source *source, char *text, size_t bytes,
                                        const struct mb_json_options *options)
{
    struct cursor cursor = {text, text + bytes};
    while (cursor.at < cursor.end) {
        char *const start = text + (cursor.at - text);
        if (*cursor.at == '"') {
            skip_string(&cursor);
        } else if (options->comments && at_comment(&cursor)) {
            if (!skip_comment(&cursor))
                return fail_at(source, start, options->invalid, "this comment is not closed; add */");
            for (char *at = start; at < cursor.at; at++) {
                if (*at != '\n') *at = ' ';
            }
        } else {
            const size_t word = options->infinity ? blank_infinity(start, cursor.end) : 0;
            cursor.at += word ? word : 1;
        }
    }
    return MOEBLOCK_OK;
}

// Refuses what must not reach the parser: it recurses once a level.
static moeblock_status check_nesting(const struct source *source, size_t bytes, int deepest)
{
    struct cursor cursor = {source->text, source->text + bytes};
    char what[96];
    int depth = 0;
    while (cursor.at < cursor.end) {
        const char *const start = cursor.at;
        if (*start == '"') {
            skip_string(&cursor);
            if (cursor.at - start - 2 <= LONGEST_STRING) continue;
            snprintf(what, sizeof what, "this string is longer than the %d bytes allowed", LONGEST_STRING);
            return fail_at(source, start, MOEBLOCK_LIMIT, what);
        }
        depth += (*start == '{' || *start == '[') - (*start == '}' || *start == ']');
        if (depth > deepest) {
            snprintf(what, sizeof what, "values are nested deeper than the %d levels allowed", deepest);
            return fail_at(source, start, MOEBLOCK_LIMIT, what);
        }
        cursor.at++;
    }
    return MOEBLOCK_OK;
}

static moeblock_status check_start(const struct source *source, size_t bytes, moeblock_status invalid)
{
    if (bytes >= 3 && memcmp(source->text, "\xef\xbb\xbf", 3) == 0) {
        return fail_at(source, source->text, invalid, "the text starts with a byte-order mark; save it without one");
    }
    const char *const nul = memchr(source->text, '\0', bytes);
    if (nul) return fail_at(source, nul, invalid, "a NUL byte is not allowed in JSON");
    const char *start = source->text;
    while (start < source->text + bytes && is_space(*start)) start++;
    if (start == source->text + bytes) return fail_at(source, start, invalid, "the text is empty; expected an object");
    if (*start != '{') return fail_at(source, start, invalid, "expected an object, which starts with {");
    return MOEBLOCK_OK;
}

static moeblock_status parse_checked(const struct source *source, size_t bytes, moeblock_status invalid, json_t **out)
{
    json_error_t reason;
    *out = json_loadb(source->text, bytes, JSON_REJECT_DUPLICATES, &reason);
    if (*out) return MOEBLOCK_OK;
    if (json_error_code(&reason) == json_error_out_of_memory) {
        return mb_fail(source->error, MOEBLOCK_OUT_OF_MEMORY, "%s: no memory to parse %zu bytes of JSON", source->name,
                       bytes);
    }
    return mb_fail(source->error, invalid, "%s:%d:%d: not valid JSON: %s", source->name, reason.line, reason.column,
                   reason.text);
}

static moeblock_status parse_strict(const struct source *source, size_t bytes, const struct mb_json_options *options,
                                    json_t **out)
{
    MB_TRY(check_start(source, bytes, options->invalid));
    MB_TRY(check_nesting(source, bytes, options->max_depth ? options->max_depth : DEFAULT_DEPTH));
    return parse_checked(source, bytes, options->invalid, out);
}

// Blanks what JSON has not in a copy and parses that.
static moeblock_status parse_extended(const struct source *source, size_t bytes, const struct mb_json_options *options,
                                      json_t **out)
{
    char *copy = mb_alloc(&mb_default_allocator, bytes);
    if (!copy) {
        return mb_fail(source->error, MOEBLOCK_OUT_OF_MEMORY, "%s: no memory for %zu bytes of JSON", source->name,
                       bytes);
    }
    memcpy(copy, source->text, bytes);
    const struct source blanked = {copy, source->name, source->error};
    moeblock_status status = blank_extensions(&blanked, copy, bytes, options);
    if (status == MOEBLOCK_OK) status = parse_strict(&blanked, bytes, options, out);
    mb_free(&mb_default_allocator, copy);
    return status;
}

moeblock_status mb_json_parse(const char *text, size_t bytes, const char *name, const struct mb_json_options *options,
                              json_t **out, moeblock_error *error)
{
    *out = NULL;
    const size_t most = options->max_bytes ? options->max_bytes : DEFAULT_BYTES;
    if (bytes > most) {
        return mb_fail(error, MOEBLOCK_LIMIT, "%s: %zu bytes of JSON; at most %zu are allowed", name, bytes, most);
    }
    const struct source source = {text, name, error};
    return options->comments || options->infinity ? parse_extended(&source, bytes, options, out)
                                                  : parse_strict(&source, bytes, options, out);
}

static void skip_space(struct cursor *cursor)
{
    while (cursor->at < cursor->end) {
        if (is_space(*cursor->at))
            cursor->at++;
        else if (!at_comment(cursor) || !skip_comment(cursor))
            return;
    }
}

// Moves behind the value that starts here; in malformed text somewhere further on.
static void skip_value(struct cursor *cursor)
{
    int depth = 0;
    do {
        skip_space(cursor);
        if (cursor->at == cursor->end) return;
        const char c = *cursor->at;
        if (c == '"') {
            skip_string(cursor);
            continue;
        }
        depth += (c == '{' || c == '[') - (c == '}' || c == ']');
        if (depth < 0) return; // the end of what holds the value
        cursor->at++;
        if (depth == 0 && c != '}' && c != ']') { // a number or a word
            while (cursor->at < cursor->end && !is_space(*cursor->at) && !strchr(",]}/", *cursor->at)) cursor->at++;
        }
    } while (depth > 0);
}

// The part of the path behind `key`, NULL when the path does not begin with it.
static const char *behind_key(const char *path, const char *key, size_t bytes)
{
    if (strncmp(path, key, bytes) != 0) return NULL;
    const char *const rest = path + bytes;
    return *rest == '.' ? rest + 1 : *rest == '[' || *rest == '\0' ? rest : NULL;
}

// From inside an object to the value of the member that the path names; returns the rest of the path, NULL for none.
static const char *find_member(struct cursor *cursor, const char *path)
{
    for (cursor->at++;; cursor->at++) {
        skip_space(cursor);
        if (cursor->at == cursor->end || *cursor->at != '"') return NULL;
        const char *const key = cursor->at + 1;
        skip_string(cursor);
        if (cursor->at == cursor->end) return NULL; // before the subtraction: the key may not be closed
        const char *const rest = behind_key(path, key, (size_t)(cursor->at - key - 1));
        skip_space(cursor);
        if (cursor->at == cursor->end || *cursor->at != ':') return NULL;
        cursor->at++;
        skip_space(cursor);
        if (rest) return rest;
        skip_value(cursor);
        skip_space(cursor);
        if (cursor->at == cursor->end || *cursor->at != ',') return NULL;
    }
}

// The same in a list, for a path that begins with "[index]".
static const char *find_element(struct cursor *cursor, const char *path)
{
    uint32_t index = 0;
    const char *rest = path + 1;
    for (; *rest >= '0' && *rest <= '9' && index < 100000000; rest++) index = index * 10 + (uint32_t)(*rest - '0');
    if (*path != '[' || *rest != ']') return NULL;
    rest += rest[1] == '.' ? 2 : 1;
    for (cursor->at++;; cursor->at++) {
        skip_space(cursor);
        if (cursor->at == cursor->end || *cursor->at == ']') return NULL;
        if (index-- == 0) return rest;
        skip_value(cursor);
        skip_space(cursor);
        if (cursor->at == cursor->end || *cursor->at != ',') return NULL;
    }
}

int mb_json_line(const char *text, size_t bytes, const char *path)
{
    struct cursor cursor = {text, text + bytes};
    skip_space(&cursor);
    const char *deepest = cursor.at;
    while (path && *path && cursor.at < cursor.end) {
        if (*cursor.at == '{')
            path = find_member(&cursor, path);
        else if (*cursor.at == '[')
            path = find_element(&cursor, path);
        else
            break;
        if (path) deepest = cursor.at;
    }
    return position_of(text, deepest).line;
}
