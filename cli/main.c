// SPDX-License-Identifier: Apache-2.0
// The table of commands, and the way from argv to one of them.
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/exit.h"
#include "cli/out.h"
#include "moeblock/export.h"

static const struct cli_command commands[] = {
    {"run",
     "CONFIG",
     1,
     1,
     cli_run,
     "runs one layer on an input",
     "Runs the Mixture-of-Experts block of one layer: reads x, routes every token, computes its experts, writes y. "
     "CONFIG is a configuration of moeblock, a Hugging Face config.json, or a folder that holds one; a downloaded "
     "model runs as it is.",
     {"run models/Mixtral-8x7B --layer 0 --input x.npy --output y.npy",
      "run configs/gpt_oss_20b.json --weights models/gpt-oss-20b --layer 3 --input x.npy --output y.npy --show 4"}},
    {"bench",
     "CONFIG",
     1,
     1,
     cli_bench,
     "times a layer beside the machine's own limits",
     "Times the block of CONFIG for several batch sizes and thread counts, with weights made up unless --weights is "
     "given. Beside each case stand the rates that this machine reaches in simple loops with as many threads, and "
     "the share of the bound that they set.",
     {"bench configs/mixtral_8x7b.json --format bf16 --tokens 1,32 --threads 1,2", NULL}},
    {"synth",
     "CONFIG",
     1,
     1,
     cli_synth,
     "writes a checkpoint of random weights in the published layout",
     "Writes one layer of CONFIG as a checkpoint with the model's real shapes, tensor names, layout and number "
     "format, and moeblock.json beside it, so that `moeblock run DIR` works. The same seed gives the same bytes.",
     {"synth configs/gpt_oss_20b.json --format mxfp4 --layer 0 --output demo --tokens 8", NULL}},
    {"config",
     "[CONFIG]",
     0,
     1,
     cli_config,
     "prints a configuration in full, as moeblock reads it",
     "Prints the description that moeblock makes of CONFIG (a configuration of moeblock, a Hugging Face config.json, "
     "or a folder that holds one), every key with its value.",
     {"config models/DeepSeek-V3 --layer 3 > deepseek_v3.json", "config --docs"}},
    {"inspect",
     "PATH",
     1,
     1,
     cli_inspect,
     "lists the tensors of a checkpoint",
     "Lists name, type, shape, bytes, offset and file of each tensor of a .safetensors file or of a folder, and "
     "the sums by type. Reads headers only.",
     {"inspect models/gpt-oss-20b", NULL}},
    {"validate",
     "PATH [CONFIG]",
     1,
     2,
     cli_validate,
     "checks a checkpoint against every rule of its format",
     "Checks each file of the checkpoint, the index, and, with CONFIG or when PATH has a config.json, that every "
     "tensor of the layer is there in the right shape.",
     {"validate models/Mixtral-8x7B --layer 0", "validate model.safetensors --values"}},
    {"route",
     "CONFIG",
     1,
     1,
     cli_route,
     "shows which experts an input goes to, and how evenly",
     "Routes every token of x and counts the rows of each expert, without loading any expert: only the router's "
     "tensors "
     "are read. With --mesh it shows how the rows lie on the ranks and makes a placement that balances them, with "
     "copies of the experts with the most rows; copies never change bits.",
     {"route models/DeepSeek-V3 --layer 3 --input x.npy --output load.json --plot load.svg",
      "route models/DeepSeek-V3 --layer 3 --input x.npy --mesh 32x8 --copies 1 --placement placement.json"}},
    {"plan",
     "CONFIG",
     1,
     1,
     cli_plan,
     "predicts memory, bytes and time of meshes, without MPI and without weights",
     "Sizes one layer of CONFIG on meshes of processes, side by side: weights and workspace of a rank, bytes that each "
     "step moves (counted exactly as a run counts them, for the routing that is given), and the time that follows from "
     "the rates of a rank, step by step. A step takes as long as its slowest rank.",
     {"plan configs/deepseek_v3.json --mesh 32x8,64x4,256x1 --tokens 4096 --format fp8",
      "plan models/DeepSeek-V3 --mesh 32x8 --tokens 4096 --routing load.json --alpha 5 --beta 12.5"}},
    {"info",
     "",
     0,
     0,
     cli_info,
     "tells what this machine and this build offer",
     "Prints the CPU, the kernel levels and which of them is chosen and why, threads, memory, huge pages and MPI.",
     {"info", NULL}},
    {0},
};

static const struct cli_command *find_command(const char *name)
{
    for (const struct cli_command *c = commands; c->name; c++)
        if (strcmp(c->name, name) == 0) return c;
    return NULL;
}

static int unknown_command(const char *name)
{
    const char *names[sizeof commands / sizeof *commands];
    size_t count = 0;
    for (const struct cli_command *c = commands; c->name; c++) names[count++] = c->name;
    const char *nearest = cli_nearest(name, names, count);
    if (nearest) return cli_fail(CLI_USAGE, "there is no command '%.200s'; did you mean %s?", name, nearest);
    return cli_fail(CLI_USAGE, "there is no command '%.200s'; `moeblock --help` lists them", name);
}

// The words that may stand in the place of a command.
static int top_level(int argc, char **argv)
{
    const char *const word = argv[1];
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0) {
        const struct cli_command *about = argc > 2 ? find_command(argv[2]) : NULL;
        if (argc > 2 && !about) return unknown_command(argv[2]);
        cli_print_help(commands, about);
    } else if (strcmp(word, "--version") == 0) {
        printf("moeblock %s\n", moeblock_version());
    } else if (strcmp(word, "--man") == 0) {
        const struct cli_command *about = argc > 2 ? find_command(argv[2]) : NULL;
        if (argc > 2 && !about) return unknown_command(argv[2]);
        cli_print_man(commands, about);
    } else if (strcmp(word, "--completion") == 0) {
        cli_print_completion(commands);
    } else {
        return unknown_command(word);
    }
    return CLI_OK;
}

int main(int argc, char **argv)
{
    cli_prepare_streams();
    if (argc < 2) {
        cli_fail(CLI_USAGE, "no command given");
        fprintf(stderr, "moeblock: `moeblock --help` lists the commands\n");
        return CLI_USAGE;
    }
    const struct cli_command *command = find_command(argv[1]);
    if (!command) return cli_finish(top_level(argc, argv));
    static struct cli_args args; // with room for every value of every option: too large for the stack's taste
    const int code = cli_parse(command, argc - 2, argv + 2, &args);
    if (code) return code;
    if (args.help) {
        cli_print_help(commands, command);
        return cli_finish(CLI_OK);
    }
    return cli_finish(command->run(&args));
}
