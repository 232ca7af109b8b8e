// SPDX-License-Identifier: Apache-2.0
// Draws the rooflines as SVG: operations per byte of weights against operations per second, both on logarithmic axes,
// a roof a thread count and a point a case.
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "cli/bench.h"
#include "cli/exit.h"
#include "cli/machine.h"

enum { WIDTH = 900, HEIGHT = 600, LEFT = 80, RIGHT = 30, TOP = 70, BOTTOM = 60 };
static const char *const colours[] = {"#1b6ca8", "#c4472b", "#2f7d4f", "#7a4fa3", "#9a6b00", "#3f3f3f"};

// Decades shown: 10^x0 to 10^x1 operations a byte, 10^y0 to 10^y1 GFLOP/s.
struct frame {
    double x0, x1, y0, y1;
};

static double across(const struct frame *f, double intensity)
{
    return LEFT + (log10(intensity) - f->x0) / (f->x1 - f->x0) * (WIDTH - LEFT - RIGHT);
}
static double down(const struct frame *f, double gflops)
{
    return HEIGHT - BOTTOM - (log10(gflops) - f->y0) / (f->y1 - f->y0) * (HEIGHT - TOP - BOTTOM);
}

static const char *colour_of(int team) { return colours[(size_t)team % (sizeof colours / sizeof *colours)]; }

// Text from outside: what XML gives a meaning is written as references, control characters are left out.
static void print_text(FILE *to, const char *text)
{
    for (; *text; text++) {
        const unsigned char c = (unsigned char)*text;
        if (c == '<' || c == '>' || c == '&' || c == '"')
            fprintf(to, "&#%d;", c);
        else if (c >= ' ' && c < 127)
            fputc(c, to);
    }
}

static struct frame frame_of(const struct bench *bench)
{
    double least_x = 1, most_x = 10, least_y = 1e3, most_y = 1;
    for (int i = 0; i < bench->case_count; i++) {
        const struct bench_case *const one = &bench->cases[i];
        const double x = one->flops / one->bytes, y = 1e-9 * one->flops / one->median;
        least_x = fmin(least_x, x);
        most_x = fmax(most_x, fmax(x, one->limits.peak.rate / fmax(one->limits.read.rate, 1)));
        least_y = fmin(least_y, y);
        most_y = fmax(most_y, fmax(y, 1e-9 * one->limits.peak.rate));
    }
    return (struct frame){floor(log10(least_x)), ceil(log10(most_x * 1.5)), floor(log10(least_y)),
                          ceil(log10(most_y * 1.5))};
}

static void draw_axes(FILE *to, const struct frame *f)
{
    for (double x = f->x0; x <= f->x1; x++) {
        const double at = across(f, pow(10, x));
        fprintf(to, "<line x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\" stroke=\"#dddddd\"/>\n", at, TOP, at,
                HEIGHT - BOTTOM);
        fprintf(to, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g</text>\n", at, HEIGHT - BOTTOM + 18,
                pow(10, x));
    }
    for (double y = f->y0; y <= f->y1; y++) {
        const double at = down(f, pow(10, y));
        fprintf(to, "<line x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\" stroke=\"#dddddd\"/>\n", LEFT, at, WIDTH - RIGHT,
                at);
        fprintf(to, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n", LEFT - 8, at + 4, pow(10, y));
    }
    fprintf(to, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">operations per byte of weights</text>\n",
            (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 18);
    fprintf(to, "<text transform=\"translate(22 %d) rotate(-90)\" text-anchor=\"middle\">GFLOP/s</text>\n",
            (TOP + HEIGHT - BOTTOM) / 2);
}

// The median over a thread count's cases of their limits.
static double middle(const struct bench *bench, int team, bool reading)
{
    double lowest = 0;
    for (int i = 0; i < bench->case_count; i++) {
        const struct cli_limits *const limits = &bench->cases[i].limits;
        const double rate = reading ? limits->read.rate : limits->peak.rate;
        int below = 0, same = 0, all = 0;
        if (bench->cases[i].team != team) continue;
        for (int j = 0; j < bench->case_count; j++) {
            const struct cli_limits *const other = &bench->cases[j].limits;
            if (bench->cases[j].team != team) continue;
            const double beside = reading ? other->read.rate : other->peak.rate;
            below += beside < rate;
            same += beside == rate;
            all++;
        }
        if (2 * below <= all && 2 * (below + same) >= all) lowest = rate;
    }
    return lowest;
}

static void draw_roof(FILE *to, const struct frame *f, const struct bench *bench, int team)
{
    const double read = middle(bench, team, true), peak = middle(bench, team, false);
    const double left = pow(10, f->x0), right = pow(10, f->x1);
    if (read <= 0 || peak <= 0) return;
    const double corner = fmin(fmax(peak / read, left), right);
    // The slope begins where it enters the frame.
    const double begin = fmin(fmax(left, pow(10, f->y0) * 1e9 / read), corner);
    fprintf(to, "<polyline points=\"%.1f,%.1f %.1f,%.1f %.1f,%.1f\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"/>\n",
            across(f, begin), down(f, 1e-9 * begin * read), across(f, corner), down(f, 1e-9 * corner * read),
            across(f, right), down(f, 1e-9 * peak), colour_of(team));
    fprintf(to,
            "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\" fill=\"%s\">%" PRId64 " threads: %.1f GB/s, %.0f GFLOP/s"
            "</text>\n",
            WIDTH - RIGHT, down(f, 1e-9 * peak) - 8, colour_of(team), bench->threads.value[team], 1e-9 * read,
            1e-9 * peak);
}

static void draw_case(FILE *to, const struct frame *f, const struct bench_case *one)
{
    const double x = across(f, one->flops / one->bytes), y = down(f, 1e-9 * one->flops / one->median);
    fprintf(to, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\"><title>", x, y, colour_of(one->team));
    print_text(to, one->variant->setting);
    fprintf(to, " %" PRId64 " tokens, %d threads: %.3f ms, share %.2f</title></circle>\n", one->tokens, one->threads,
            1e3 * one->median, one->roofline / one->median);
    fprintf(to, "<text x=\"%.1f\" y=\"%.1f\" fill=\"%s\">T=%" PRId64 "</text>\n", x + 7, y + 12, colour_of(one->team),
            one->tokens);
}

static void draw(FILE *to, const struct bench *bench)
{
    const struct bench_variant *const v = &bench->variants[0];
    const struct frame f = frame_of(bench);
    struct cli_machine machine;
    cli_machine_read(&machine);
    fprintf(to,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" "
            "font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n",
            WIDTH, HEIGHT, WIDTH, HEIGHT);
    fprintf(to, "<text x=\"%d\" y=\"30\" font-size=\"16\">", LEFT);
    print_text(to, bench->name);
    fprintf(to, ", ");
    print_text(to, v->info.format);
    fprintf(to, ", %s compute</text>\n<text x=\"%d\" y=\"50\">", cli_compute_name(v->info.compute), LEFT);
    print_text(to, machine.cpu);
    fprintf(to, ", level ");
    print_text(to, moeblock_context_level(v->session.context));
    fprintf(to, "</text>\n");
    draw_axes(to, &f);
    for (int t = 0; t < (int)bench->threads.count; t++) draw_roof(to, &f, bench, t);
    for (int i = 0; i < bench->case_count; i++) draw_case(to, &f, &bench->cases[i]);
    fprintf(to, "</svg>\n");
}

int bench_plot(const struct bench *bench, const char *path)
{
    FILE *const file = fopen(path, "we");
    if (!file) return cli_fail(CLI_IO, "writing '%s': the file cannot be made", path);
    draw(file, bench);
    const bool bad = ferror(file) != 0;
    if (fclose(file) != 0 || bad) return cli_fail(CLI_IO, "writing '%s': not everything could be written", path);
    return CLI_OK;
}
