// SPDX-License-Identifier: Apache-2.0
// What the option table looks like as --help, as a man page and as bash completion.
#include <stdio.h>
#include <string.h>

#include "cli/opt.h"
#include "moeblock/export.h"

static const char exit_status_text[] =
    "0 done, 64 wrong usage, 65 bad data (or --compare beyond --tolerance), 66 missing file or tensor, 69 another "
    "process failed, 70 a bug of moeblock, 71 the system refused (memory), 74 input or output failed, 75 timed out, "
    "78 bad configuration.";

static const char program_text[] =
    "Runs the Mixture-of-Experts block of language models on CPUs, straight from published checkpoints. Results go to "
    "stdout, progress and messages to stderr.";

enum { WIDTH = 100 };

// Prints words up to WIDTH columns, every line but the first indented; the first starts at `column`.
static void wrap(const char *text, int indent, int column)
{
    bool line_start = true;
    while (*text) {
        const int length = (int)strcspn(text, " ");
        if (!line_start && column + 1 + length > WIDTH) {
            printf("\n%*s", indent, "");
            column = indent;
            line_start = true;
        }
        column += printf("%s%.*s", line_start ? "" : " ", length, text);
        line_start = false;
        text += length + (text[length] == ' ');
    }
    printf("\n");
}

static void print_option(const struct cli_option *option)
{
    char left[80], text[640];
    snprintf(left, sizeof left, "--%s%s%s", option->name, option->value ? " " : "", option->value ? option->value : "");
    int used = snprintf(text, sizeof text, "%s", option->help);
    if (option->choices) used += snprintf(text + used, sizeof text - (size_t)used, ": %s", option->choices);
    if (option->required) used += snprintf(text + used, sizeof text - (size_t)used, " (required)");
    if (option->fallback) snprintf(text + used, sizeof text - (size_t)used, " (default %s)", option->fallback);
    enum { INDENT = 26 };
    const int column = printf("  %-*s", INDENT - 3, left);
    if (column >= INDENT)
        printf("\n%*s", INDENT, "");
    else
        printf("%*s", INDENT - column, "");
    wrap(text, INDENT, INDENT);
}

static void print_command_help(const struct cli_command *command)
{
    printf("usage: moeblock %s %s%s[options]\n\n", command->name, command->arguments, *command->arguments ? " " : "");
    wrap(command->description, 0, 0);
    printf("\noptions:\n");
    for (size_t i = 0; i < cli_option_count; i++)
        if (cli_option_of(&cli_options[i], command)) print_option(&cli_options[i]);
    printf("\nexample:\n");
    for (int i = 0; i < 2 && command->example[i]; i++) printf("  moeblock %s\n", command->example[i]);
    printf("\nexit status: ");
    wrap(exit_status_text, 0, 13);
}

void cli_print_help(const struct cli_command *commands, const struct cli_command *command)
{
    if (command) {
        print_command_help(command);
        return;
    }
    printf("usage: moeblock COMMAND [arguments]\n\n");
    wrap(program_text, 0, 0);
    printf("\ncommands:\n");
    for (const struct cli_command *c = commands; c->name; c++) printf("  %-10s %s\n", c->name, c->summary);
    printf("\n`moeblock COMMAND --help` tells more.\n"
           "Also: --version, --man [COMMAND] (a man page in roff), --completion (for bash).\n"
           "\nexample:\n  moeblock run models/Mixtral-8x7B --layer 0 --input x.npy --output y.npy\n"
           "\nexit status: ");
    wrap(exit_status_text, 0, 13);
}

// roff text: backslashes and dashes escaped, and no line starts with a control character.
static void roff(const char *text)
{
    if (*text == '.' || *text == '\'') printf("\\&");
    for (; *text; text++) {
        if (*text == '\\')
            printf("\\e");
        else if (*text == '-')
            printf("\\-");
        else if (*text == '\n')
            printf("\n%s", text[1] == '\n' ? ".PP" : "");
        else
            putchar(*text);
    }
}

static void roff_option(const struct cli_option *option)
{
    printf(".TP\n.B \"");
    roff("--");
    roff(option->name);
    if (option->value) {
        printf(" \\fI");
        roff(option->value);
        printf("\\fP");
    }
    printf("\"\n");
    roff(option->help);
    if (option->choices) {
        printf(": ");
        roff(option->choices);
    }
    if (option->required) printf(" (required)");
    if (option->fallback) {
        printf(" (default ");
        roff(option->fallback);
        printf(")");
    }
    printf("\n");
}

static void man_head(const char *name, const char *summary)
{
    printf(".TH MOEBLOCK%s%s 1 \"\" \"moeblock %s\"\n.SH NAME\nmoeblock%s%s \\- ", *name ? "\\-" : "", name,
           moeblock_version(), *name ? "\\-" : "", name);
    roff(summary);
    printf("\n.SH SYNOPSIS\n.B moeblock");
    if (*name) printf(" %s", name);
    printf("\n");
}

static void man_tail(const char *example)
{
    printf(".SH EXAMPLE\n.EX\nmoeblock ");
    roff(example);
    printf("\n.EE\n.SH EXIT STATUS\n");
    roff(exit_status_text);
    printf("\n");
}

void cli_print_man(const struct cli_command *commands, const struct cli_command *command)
{
    if (command) {
        man_head(command->name, command->summary);
        roff(command->arguments);
        printf("\n.RI [ options ]\n.SH DESCRIPTION\n");
        roff(command->description);
        printf("\n.SH OPTIONS\n");
        for (size_t i = 0; i < cli_option_count; i++)
            if (cli_option_of(&cli_options[i], command)) roff_option(&cli_options[i]);
        man_tail(command->example[0]);
        return;
    }
    man_head("", "the Mixture-of-Experts block of language models on CPUs");
    printf(".I COMMAND\n.RI [ arguments ]\n.SH DESCRIPTION\n");
    roff(program_text);
    printf("\n.SH COMMANDS\n");
    for (const struct cli_command *c = commands; c->name; c++) {
        printf(".TP\n.BR moeblock\\-%s (1)\n", c->name);
        roff(c->summary);
        printf("\n");
    }
    man_tail(commands->example[0]);
}

static void complete_option(const struct cli_command *command, const struct cli_option *option)
{
    if (option->type == CLI_CHOICE)
        printf("        %s:--%s) COMPREPLY=($(compgen -W \"%s\" -- \"$word\")); return ;;\n", command->name,
               option->name, option->choices);
    else if (option->type == CLI_FILE || option->type == CLI_FOLDER)
        printf("        %s:--%s) COMPREPLY=($(compgen -%c -- \"$word\")); return ;;\n", command->name, option->name,
               option->type == CLI_FILE ? 'f' : 'd');
    else if (option->value)
        printf("        %s:--%s) return ;;\n", command->name, option->name);
}

void cli_print_completion(const struct cli_command *commands)
{
    printf("# bash completion of moeblock, made by `moeblock --completion`\n"
           "_moeblock() {\n"
           "    local word=${COMP_WORDS[COMP_CWORD]} last=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}\n"
           "    COMPREPLY=()\n"
           "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
           "        COMPREPLY=($(compgen -W \"");
    for (const struct cli_command *c = commands; c->name; c++) printf("%s ", c->name);
    printf("--help --version --man --completion\" -- \"$word\"))\n"
           "        return\n"
           "    fi\n"
           "    case \"$command:$last\" in\n");
    for (const struct cli_command *c = commands; c->name; c++)
        for (size_t i = 0; i < cli_option_count; i++)
            if (cli_option_of(&cli_options[i], c)) complete_option(c, &cli_options[i]);
    printf("    esac\n"
           "    case \"$command:$word\" in\n");
    for (const struct cli_command *c = commands; c->name; c++) {
        printf("        %s:-*) COMPREPLY=($(compgen -W \"", c->name);
        for (size_t i = 0; i < cli_option_count; i++)
            if (cli_option_of(&cli_options[i], c)) printf("--%s ", cli_options[i].name);
        printf("\" -- \"$word\")) ;;\n");
    }
    printf("        *) COMPREPLY=($(compgen -f -- \"$word\")) ;;\n"
           "    esac\n"
           "}\n"
           "complete -o filenames -F _moeblock moeblock\n");
}
