// SPDX-License-Identifier: Apache-2.0
// Prints docs/config.md: every key with its range, default and other spellings, the presets, and what is accepted and
// not compared.
#include "config/docs.h"

#include <string.h>

#include "config/preset.h"
#include "config/value.h"

static const char introduction[] =
    "# Configuration\n"
    "\n"
    "This page is printed from the table in `src/config/schema.c`; a test fails when it is stale.\n"
    "\n"
    "A configuration is a JSON object, with `//` and `/* */` comments allowed. The keys stand at the root or under\n"
    "`\"moe_block\"`. A Hugging Face `config.json`, or a folder that holds one, is a configuration too: `moeblock "
    "config\n"
    "PATH` prints what it becomes.\n"
    "\n"
    "A value comes from the strongest of these sources: `--set key.path=value`, the file, the `config.json` of the\n"
    "checkpoint (`--weights`, or `weights.path`), the preset of `router.type`, the default below. A `router.type` "
    "that\n"
    "the file or `--set` names goes before the `config.json`: of the keys in its preset only those given beside it "
    "count.\n"
    "A required key that no source gives is an error that lists all such keys. Unknown keys, wrong types, values out "
    "of\n"
    "range and values that contradict each other are errors with file, line, key, what was found and what is "
    "allowed.\n"
    "\n"
    "Both families of the original's files are understood. `model_params.X` is `model.X`, `router.X` is\n"
    "`router.config.X`, and the other spellings stand beside their key. Two spellings of one key in one file must "
    "have\n"
    "one value.\n";

static const char names_text[] =
    "\n"
    "## Tensor names\n"
    "\n"
    "A tensor's name is `weights.module_prefix`, a dot and the pattern of `weights.names`; a pattern that starts with\n"
    "`/` is the whole name without the prefix. `{layer}`, `{expert}` and `{bank}` (of `weights.banks`) are replaced "
    "by\n"
    "numbers. A tensor is also found\n"
    "without the prefix (`mlp.gate.weight`) and without the pattern's first word (`gate.weight`). Scales have the "
    "name\n"
    "of their weights with `_scale_inv` added (FP8); MXFP4 weights are `_blocks` and `_scales`.\n"
    "\n"
    "Instead of an object, `weights.names` may be the name of a preset, which also sets `module_prefix`, `layout`,\n"
    "`orientation`, `gate_up` and `shared_gate_up`; keys that the file gives go before it. Presets:\n";

static const char ignored_text[] =
    "\n"
    "## Accepted and not compared\n"
    "\n"
    "Keys of the original's files that place data on its hardware, or that follow from other keys. They may have any\n"
    "value.\n"
    "\n"
    "| key | reason |\n"
    "|---|---|\n";

// Writes text for a table cell: bars would end it.
static void cell(FILE *to, const char *text)
{
    for (; *text; text++) fprintf(to, *text == '|' ? "\\|" : "%c", *text);
}

static void spellings(FILE *to, const struct mb_schema_row *row)
{
    for (const char *const *alias = row->aliases; alias && *alias; alias++)
        fprintf(to, "%s`%s`", alias == row->aliases ? " Also: " : ", ", *alias);
    if (row->aliases) fputs(".", to);
}

static void key_line(FILE *to, int i)
{
    const struct mb_schema_row *row = &mb_schema[i];
    char allowed[512];
    mb_value_allowed(i, allowed, sizeof allowed);
    fprintf(to, "| `%s` | ", row->path);
    cell(to, row->type == MB_TYPE_SPECIAL ? "the name of an activation" : allowed);
    if (row->fallback)
        fprintf(to, " | `%s` | ", row->fallback);
    else
        fputs(row->required ? " | required | " : " | | ", to);
    cell(to, row->help);
    spellings(to, row);
    fputs(" |\n", to);
}

// Whether a row belongs to a section, which is the first word of its path; "" are the keys at the root.
static bool in_section(const struct mb_schema_row *row, const char *section, size_t length)
{
    if (row->type == MB_TYPE_IGNORED) return false;
    if (!length) return !strchr(row->path, '.');
    return !strncmp(row->path, section, length) && row->path[length] == '.';
}

static void section_table(FILE *to, const char *section, size_t length)
{
    fprintf(to, "\n## %.*s\n\n", length ? (int)length : 4, length ? section : "Root");
    fputs("| key | value | default | meaning |\n|---|---|---|---|\n", to);
    for (size_t i = 0; i < mb_schema_count; i++)
        if (in_section(&mb_schema[i], section, length)) key_line(to, (int)i);
}

// A section an object, in the order of their first keys.
static void keys(FILE *to)
{
    section_table(to, "", 0);
    for (size_t i = 0; i < mb_schema_count; i++) {
        const char *path = mb_schema[i].path;
        const size_t length = strcspn(path, ".");
        bool seen = !path[length] || mb_schema[i].type == MB_TYPE_IGNORED;
        for (size_t j = 0; j < i; j++) seen |= in_section(&mb_schema[j], path, length);
        if (!seen) section_table(to, path, length);
    }
}

static void presets(FILE *to)
{
    const char *type, *path, *value;
    fputs("\n## Presets of router.type\n\n| type | key | value |\n|---|---|---|\n", to);
    for (int i = 0; mb_router_preset_at(i, &type, &path, &value); i++)
        fprintf(to, "| `%s` | `%s` | `%s` |\n", type, path, value);
    fputs("\n`grouped_topk` is `moe_gate`; `linear` sets nothing.\n", to);
}

void mb_config_docs(FILE *to)
{
    fputs(introduction, to);
    keys(to);
    presets(to);
    fputs(names_text, to);
    for (int i = 0; mb_names_preset_name(i); i++) fprintf(to, "%s`%s`", i ? ", " : "", mb_names_preset_name(i));
    fputs(".\n", to);
    fputs(ignored_text, to);
    for (size_t i = 0; i < mb_schema_count; i++) {
        if (mb_schema[i].type != MB_TYPE_IGNORED) continue;
        fprintf(to, "| `%s`", mb_schema[i].path);
        for (const char *const *alias = mb_schema[i].aliases; alias && *alias; alias++) fprintf(to, ", `%s`", *alias);
        fprintf(to, " | %s |\n", mb_schema[i].help);
    }
}
