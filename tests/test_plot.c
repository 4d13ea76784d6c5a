/* examples/plot.h: what the file says, axes, gaps, and that it appears whole or not at all. */
#define _POSIX_C_SOURCE 200809L /* symlink */
#include "fa_test.h"
#include "../examples/plot.h"

#include <unistd.h>

static char text[1 << 20];

static int read_back(const char *path) { /* 1: there is a file, and it is in text */
    FILE *file = fopen(path, "r");
    size_t bytes = file ? fread(text, 1, sizeof text - 1, file) : 0;
    text[bytes] = 0;
    if (file) fclose(file);
    return file != NULL;
}

static int count(const char *word) {
    int n = 0;
    for (const char *at = text; (at = strstr(at, word)) != NULL; at += strlen(word)) n++;
    return n;
}

static void path_of(char path[300], const char *name) {
    const char *dir = getenv("TMPDIR");
    snprintf(path, 300, "%s/fa_test_plot_%p_%s.svg", dir ? dir : "/tmp", (void *)text, name);
}

/* One panel with one series of n points. */
static plot panel_of(plot_series *series, const double *x, const double *y, int n) {
    static plot none;
    plot panel = none;
    memset(series, 0, sizeof *series);
    series->name = "series", series->x = x, series->y = y, series->count = n;
    panel.series = series, panel.num_series = 1;
    return panel;
}

static int draw(const plot *panels, int n, int columns) { /* into text */
    char path[300];
    path_of(path, "draw");
    const int error = plot_write(path, panels, n, columns);
    FA_EXPECT(read_back(path) == (error == 0));
    remove(path);
    FA_EXPECT(count("<svg ") == 1 && count("</svg>") == 1 && count("<g ") == count("</g>"));
    FA_EXPECT(count("<text ") == count("</text>") && count("nan") == 0 && count("inf") == 0);
    return error;
}

FA_TEST(labels_have_units) {
    static const struct {
        double value;
        const char *unit;
        int base;
        const char *want;
    } cases[] = {{0, NULL, 0, "0"},
                 {-2.5, NULL, 0, "-2.5"},
                 {65536, NULL, 2, "65536"},
                 {1e-3, "s", 10, "1 ms"},
                 {1e-9, "s", 10, "1 ns"},
                 {10, "s", 10, "10 s"},
                 {1000, "s", 10, "1 ks"},
                 {0, "s", 0, "0 s"},
                 {1 << 20, "B", 2, "1 MiB"},
                 {16384, "B", 2, "16 KiB"},
                 {512, "B", 2, "512 B"},
                 {2e9, "B", 10, "2 GB"},
                 {1e-6, "s", 10, "1 \302\265s"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        plot_axis axis = {NULL, cases[i].unit, cases[i].base, 0, 0};
        char label[48];
        plot_label(label, cases[i].value, &axis);
        FA_EXPECT_MSG(!strcmp(label, cases[i].want), "%s, not %s", label, cases[i].want);
    }
}

FA_TEST(axes_hold_the_data) {
    uint64_t rng = fat_seed;
    for (int n = 0; n < 500; n++) {
        double v[3];
        const int base = n % 3 == 0 ? 0 : n % 3 == 1 ? 2 : 10;
        for (int i = 0; i < 3; i++)
            v[i] =
                base ? pow(10, 12 * fat_uniform(&rng) - 6) : (fat_uniform(&rng) - 0.5) * pow(10, n % 13 - 6);
        plot_series series;
        plot panel = panel_of(&series, v, v, n % 5 ? 3 : 1);
        panel.x.log_base = panel.y.log_base = base;
        const plot_scale s = plot_axis_scale(&panel.y, &panel, 0, 300, 20);
        for (int i = 0; i < series.count; i++) {
            const double at = plot_pixel(&s, v[i]);
            FA_EXPECT_MSG(at >= 20 - 1e-3 && at <= 300 + 1e-3, "%g lies at %g", v[i], at);
        }
        const double ticks = (s.to - s.from) / s.step;
        FA_EXPECT_MSG(ticks > 0.9 && ticks < 11, "%g ticks, base %d, %g .. %g", ticks, base, s.from, s.to);
    }
}

FA_TEST(modelled_points_are_hollow) {
    const double x[] = {1, 2, 3, 4}, y[] = {1, 4, 9, 16};
    plot_series series;
    plot panel = panel_of(&series, x, y, 4);
    panel.title = "squares";
    FA_EXPECT(draw(&panel, 1, 1) == 0);
    FA_EXPECT(count("'dash'") == 0 && count("modelled") == 0 && count("'hole'") == 0);
    FA_EXPECT(count(">squares<") == 2 && count(">series<") == 1);
    series.modelled = 2;
    FA_EXPECT(draw(&panel, 1, 1) == 0);
    FA_EXPECT(count("'dash'") == 2 && count(">modelled<") == 1 && count("'hole'") == 2);
    series.modelled = 9; /* all of them and more */
    FA_EXPECT(draw(&panel, 1, 1) == 0 && count("'dash'") == 2);
}

FA_TEST(what_cannot_be_drawn_leaves_a_gap) {
    const double x[] = {1, 2, 3, 4, 5}, y[] = {1, NAN, 3, INFINITY, 5}, z[] = {-1, 10, 0, 10, 100};
    plot_series series;
    plot panel = panel_of(&series, x, y, 5);
    series.name = NULL; /* nor a legend */
    FA_EXPECT(draw(&panel, 1, 1) == 0);
    FA_EXPECT(count("<path d='M") == 1 && count("h0") == 3); /* one path; three dots */
    series.y = z, panel.y.log_base = 10;
    FA_EXPECT(draw(&panel, 1, 1) == 0 && count("h0") == 3);
    series.count = 0;
    FA_EXPECT(draw(&panel, 1, 1) == 0 && count("h0") == 0);
    panel.num_series = 0;
    FA_EXPECT(draw(&panel, 1, 1) == 0);
    FA_EXPECT(draw(&panel, 0, 1) == 0);
}

FA_TEST(markup_is_escaped) {
    const double x[] = {1, 2};
    plot_series series;
    plot panel = panel_of(&series, x, x, 2);
    panel.title = "a < b & c > d \001", panel.x.title = "<x>", panel.y.title = "&amp;";
    FA_EXPECT(draw(&panel, 1, 1) == 0);
    FA_EXPECT(count("a &lt; b &amp; c &gt; d ?") == 2 && count("&lt;x&gt;") == 1 && count("&amp;amp;") == 1);
}

FA_TEST(long_series_stay_small) {
    enum { N = 100000 };
    double *x = (double *)malloc(N * sizeof *x), *y = (double *)malloc(N * sizeof *y);
    FA_REQUIRE(x && y);
    for (int i = 0; i < N; i++) x[i] = i, y[i] = 2 + 3 * exp(-i / 1e4);
    plot_series series;
    plot panel = panel_of(&series, x, y, N);
    FA_EXPECT(draw(&panel, 1, 1) == 0);
    FA_EXPECT_MSG(strlen(text) < 20000, "%zu bytes", strlen(text));
    FA_EXPECT(count("h0") == 0 && count("L396 ") == 1); /* no dots; the last point is there */
    free(x), free(y);
}

FA_TEST(panels_stand_in_rows) {
    const double x[] = {1, 2};
    plot_series series;
    const plot one = panel_of(&series, x, x, 2);
    plot panels[3] = {one, one, one};
    panels[0].width = 100, panels[0].height = 200;
    FA_EXPECT(draw(panels, 3, 2) == 0 && count("viewBox='0 0 200 400'") == 1);
    FA_EXPECT(draw(panels, 3, 9) == 0 && count("viewBox='0 0 300 200'") == 1);
    FA_EXPECT(draw(panels, 3, 0) == 0 && count("viewBox='0 0 100 600'") == 1);
}

FA_TEST(whole_or_not_at_all) {
    const double x[] = {1, 2};
    char path[300], beside[310];
    plot_series series;
    plot panel = panel_of(&series, x, x, 2);
    path_of(path, "whole");
    snprintf(beside, sizeof beside, "%s.tmp", path);
    remove(path);
    FA_REQUIRE(plot_write(path, &panel, 1, 1) == 0 && read_back(path));
    FA_EXPECT(!read_back(beside));
    FA_EXPECT(plot_write("/nowhere/at/all.svg", &panel, 1, 1) == ENOENT);
    FILE *file = fopen(path, "w"); /* a full disk: what was there stays */
    FA_REQUIRE(file && fputs("before", file) >= 0 && fclose(file) == 0);
#if defined(__linux__)
    FA_REQUIRE(symlink("/dev/full", beside) == 0);
    FA_EXPECT(plot_write(path, &panel, 1, 1) == ENOSPC);
    FA_EXPECT(read_back(path) && !strcmp(text, "before") && remove(beside) != 0);
#endif
    FA_EXPECT(plot_write(path, &panel, 1, 1) == 0 && read_back(path) && strstr(text, "</svg>"));
    remove(path);
}

FA_TEST_MAIN
