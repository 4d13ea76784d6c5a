/*  plot.h - line plots as SVG files: linear and logarithmic axes, several series, one or more panels

        const double step[] = {0, 100, 200, 300}, loss[] = {5.55, 3.31, 2.84, 2.69};
        plot_series series[1] = {{0}};
        series[0].name = "training", series[0].x = step, series[0].y = loss, series[0].count = 4;
        series[0].modelled = 1;              // the last point was not measured: dashed line, hollow marker
        plot panel = {0};                    // zero is the default everywhere
        panel.title = "Loss", panel.x.title = "step", panel.y.title = "nats per byte";
        panel.series = series, panel.num_series = 1;
        int error = plot_write("loss.svg", &panel, 1, 1);
        if (error) fprintf(stderr, "loss.svg: %s\n", strerror(error));

    C11 that is also C++17, and the C library alone. The file appears in one piece: it is written beside its
    place, as PATH.tmp, and renamed. Points that cannot be drawn (NaN, infinite, not positive on a logarithmic
    axis) leave a gap; points closer than half a pixel to the last one are left out, so that a series may have
    any length. The background is painted, for pages with a dark theme; colours differ in brightness, too. */

#ifndef PLOT_H
#define PLOT_H

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct plot_axis {
    const char *title;
    const char *unit; /* "s": labels like 10 ms; "B" with log_base 2: like 16 MiB; NULL: plain numbers */
    int log_base;     /* 2 or 10; 0 = linear */
    double from, to;  /* both 0: from the data. Widened to whole ticks */
} plot_axis;

typedef struct plot_series {
    const char *name; /* for the legend */
    const double *x, *y;
    int count;
    int modelled;      /* so many of the last points are not measured: dashed line, hollow markers */
    const char *color; /* of CSS; NULL = the next of the palette */
} plot_series;

typedef struct plot { /* one panel */
    const char *title;
    plot_axis x, y;
    const plot_series *series;
    int num_series;
    int width, height; /* 0 = 420 x 320; those of the first panel are those of all */
} plot;

/* Writes panels, in rows of `columns`, as an SVG file. Returns 0, or an errno; then PATH is as it was. */
static inline int plot_write(const char *path, const plot *panels, int count, int columns);

/* ---------------------------------------------------------------------------------------- */

#define PLOT_INK "#24292f"
#define PLOT_STYLE \
    "\ntext { font: 12px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; " \
    "fill: " PLOT_INK " }" \
    "\ntext.title { font-size: 15px; font-weight: 600 }" \
    "\npath { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round }" \
    "\npath.grid { stroke: #d8dee4; stroke-width: 1 }" \
    "\npath.dash { stroke-dasharray: 4 5 }" \
    "\npath.dot { stroke-width: 8 }" \
    "\npath.hole { stroke: #fff; stroke-width: 4.6 }\n"
enum {
    PLOT_MARKERS = 40, /* a series with more points has a line alone */
    PLOT_LEFT = 74,    /* margins of a panel, for titles, legend and labels */
    PLOT_RIGHT = 24,
    PLOT_TOP = 36,
    PLOT_BOTTOM = 50,
    PLOT_LEGEND_ROW = 18,
    PLOT_LETTER = 7 /* pixels, the mean width of a letter: no font can be asked */
};

typedef struct plot_scale { /* values from .. to (their logarithms) on pixels start .. end */
    double from, to, step, start, end;
    int base;
} plot_scale;

static inline double plot_coordinate(int base, double value) {
    return base ? log(value) / log((double)base) : value;
}

static inline double plot_pixel(const plot_scale *s, double value) {
    const double part = (plot_coordinate(s->base, value) - s->from) / (s->to - s->from);
    return s->start + part * (s->end - s->start);
}

static inline int plot_drawable(int base, double value) { return isfinite(value) && (!base || value > 0); }

/* Ticks 1, 2 or 5 times a power of ten apart, at most seven; on logarithmic axes whole powers of the base. */
static inline double plot_step(double length, int base) {
    double step = base ? 1 : pow(10, floor(log10(length / 7)));
    while (length / step > 7) {
        const double first = step / pow(10, floor(log10(step) + 1e-9));
        step *= base || first < 1.5 || first > 4.5 ? 2 : 2.5;
    }
    return step;
}

static inline plot_scale plot_axis_scale(const plot_axis *axis, const plot *panel, int is_x, double start,
                                         double end) {
    plot_scale s = {INFINITY, -INFINITY, 1, start, end, axis->log_base};
    if (axis->from != 0 || axis->to != 0) {
        s.from = plot_coordinate(s.base, axis->from), s.to = plot_coordinate(s.base, axis->to);
    } else {
        for (int i = 0; i < panel->num_series; i++)
            for (int p = 0; p < panel->series[i].count; p++) {
                const plot_series *series = &panel->series[i];
                const double x = series->x[p], y = series->y[p];
                if (!plot_drawable(panel->x.log_base, x) || !plot_drawable(panel->y.log_base, y)) continue;
                const double c = plot_coordinate(s.base, is_x ? x : y);
                s.from = c < s.from ? c : s.from, s.to = c > s.to ? c : s.to;
            }
    }
    if (!isfinite(s.from) || !isfinite(s.to)) s.from = 0, s.to = 1; /* nothing to draw */
    if (!(s.to - s.from > 1e-9 * fabs(s.to))) s.from -= 0.5, s.to += 0.5;
    s.step = plot_step(s.to - s.from, s.base);
    const double whole = s.base ? 1 : s.step; /* widened to */
    s.from = floor(s.from / whole + 1e-6) * whole, s.to = ceil(s.to / whole - 1e-6) * whole;
    return s;
}

static inline void plot_label(char text[48], double value, const plot_axis *axis) {
    static const char *const binary[] = {"", "Ki", "Mi", "Gi", "Ti", "Pi"};
    static const char *const si[] = {"n", "\302\265", "m", "", "k", "M", "G", "T", "P"};
    const char *prefix = "";
    if (axis->unit && axis->log_base == 2) {
        int p = 0;
        for (; p < 5 && fabs(value) >= 1024; p++) value /= 1024;
        prefix = binary[p];
    } else if (axis->unit && value != 0) {
        int p = 3;
        for (; p < 8 && fabs(value) > 999.9; p++) value /= 1000;
        for (; p > 0 && fabs(value) < 0.9999; p--) value *= 1000;
        prefix = si[p];
    }
    snprintf(text, 48, "%.6g%s%s%s", value, axis->unit ? " " : "", prefix, axis->unit ? axis->unit : "");
}

/* Text of an XML document: markup is escaped, bytes that XML does not allow become question marks. */
static inline void plot_text(FILE *file, const char *text) {
    for (; text && *text; text++) {
        const char *name = *text == '&' ? "&amp;" : *text == '<' ? "&lt;" : *text == '>' ? "&gt;" : NULL;
        if (name)
            fputs(name, file);
        else
            fputc((unsigned char)*text < 32 ? '?' : *text, file);
    }
}

static inline double plot_tenth(double pixels) { return round(pixels * 10) / 10; } /* for %g */

static inline void plot_words(FILE *file, double x, double y, const char *attributes, const char *text) {
    fprintf(file, "<text x='%g' y='%g'%s%s>", plot_tenth(x), plot_tenth(y), *attributes ? " " : "",
            attributes);
    plot_text(file, text);
    fputs("</text>\n", file);
}

static inline void plot_grid(FILE *file, const plot_axis *axis, const plot_scale *s, const plot_scale *other,
                             int is_x) {
    const double first = ceil(s->from / s->step - 1e-6) * s->step, last = s->to + 1e-6 * s->step;
    const double scale = (s->end - s->start) / (s->to - s->from);
    fputs("<path class='grid' d='", file);
    for (double tick = first; tick <= last; tick += s->step) {
        const double at = s->start + (tick - s->from) * scale;
        if (is_x)
            fprintf(file, "M%g %gV%g", plot_tenth(at), other->start, other->end);
        else
            fprintf(file, "M%g %gH%g", other->start, plot_tenth(at), other->end);
    }
    fprintf(file, "'/>\n<g text-anchor='%s'>\n", is_x ? "middle" : "end");
    for (double tick = first; tick <= last; tick += s->step) {
        const double at = s->start + (tick - s->from) * scale;
        const double clean = fabs(tick) < 1e-9 * s->step ? 0 : tick; /* not 5.6e-17 */
        char label[48];
        plot_label(label, s->base ? pow((double)s->base, clean) : clean, axis);
        plot_words(file, is_x ? at : other->start - 6, is_x ? other->start + 16 : at + 4, "", label);
    }
    fputs("</g>\n", file);
}

/* Points first .. last-1 as one path: a line, or dots (line = 0), the round ends of lines without length. */
static inline void plot_path(FILE *file, const plot_series *series, const plot_scale *x, const plot_scale *y,
                             int first, int last, int line, const char *style) {
    double last_x = 0, last_y = 0;
    int pen = 0, begun = 0; /* the pen is down; the path has begun */
    for (int p = first < 0 ? 0 : first; p < last; p++) {
        if (!plot_drawable(x->base, series->x[p]) || !plot_drawable(y->base, series->y[p])) {
            pen = 0;
            continue;
        }
        const double px = plot_pixel(x, series->x[p]), py = plot_pixel(y, series->y[p]);
        if (pen && p + 1 < last && fabs(px - last_x) < 0.5 && fabs(py - last_y) < 0.5) continue;
        if (!begun) fprintf(file, "<path %sd='", style);
        fprintf(file, "%c%g %g%s", pen ? 'L' : 'M', plot_tenth(px), plot_tenth(py), line ? "" : "h0");
        last_x = px, last_y = py, pen = line, begun = 1;
    }
    if (begun) fputs("'/>\n", file);
}

static inline const char *plot_color(const plot *panel, int i) {
    static const char *const palette[] = {"#b3370b", "#0072b2", "#e69f00", "#56b4e9", "#009e73", "#a0487b"};
    return panel->series[i].color ? panel->series[i].color : palette[i % 6];
}

/* Lines, then dots: points dot_first .. dot_last-1, hollow where they are modelled. */
static inline void plot_draw(FILE *file, const plot_series *s, const char *color, const plot_scale *x,
                             const plot_scale *y, int dot_first, int dot_last) {
    const int measured = s->count > s->modelled ? s->count - s->modelled : 0;
    const int hollow = measured > dot_first ? measured : dot_first;
    fprintf(file, "<g stroke='%s'>\n", color);
    plot_path(file, s, x, y, 0, measured, 1, "");
    if (s->modelled > 0) plot_path(file, s, x, y, measured - 1, s->count, 1, "class='dash' ");
    plot_path(file, s, x, y, dot_first, dot_last, 0, "class='dot' ");
    plot_path(file, s, x, y, hollow, dot_last, 0, "class='hole' ");
    fputs("</g>\n", file);
}

/* One entry after the other, in as many rows as it needs. Returns the height; file NULL: that alone. */
static inline double plot_legend(FILE *file, const plot *panel, double left, double right, double top) {
    double x = left, y = top;
    int modelled = 0;
    for (int i = 0; i < panel->num_series; i++) modelled |= panel->series[i].modelled > 0;
    for (int i = 0; i < panel->num_series + modelled; i++) { /* the last one explains the dashes */
        const char *name = i < panel->num_series ? panel->series[i].name : "modelled";
        const char *color = i < panel->num_series ? plot_color(panel, i) : PLOT_INK;
        if (!name) continue;
        const double width = 34 + PLOT_LETTER * (double)strlen(name) + 10;
        if (x > left && x + width > right) x = left, y += PLOT_LEGEND_ROW;
        if (file) {
            const double lx[] = {x, x + 13, x + 26}, ly[] = {y - 4, y - 4, y - 4};
            const plot_series sample = {NULL, lx, ly, 3, i < panel->num_series ? 0 : 3, NULL};
            const plot_scale pixels = {0, 1, 1, 0, 1, 0};
            const int dot = panel->series[i % panel->num_series].count <= PLOT_MARKERS;
            plot_draw(file, &sample, color, &pixels, &pixels, 1, 1 + dot);
            plot_words(file, x + 32, y, "", name);
        }
        x += width;
    }
    return x > left ? y - top + PLOT_LEGEND_ROW : 0;
}

static inline void plot_panel(FILE *file, const plot *panel, int left, int top, int width, int height) {
    const double first = PLOT_LEFT, right = width - PLOT_RIGHT;
    const double legend = plot_legend(NULL, panel, first, right, 0);
    const plot_scale x = plot_axis_scale(&panel->x, panel, 1, first, right);
    const plot_scale y = plot_axis_scale(&panel->y, panel, 0, height - PLOT_BOTTOM, PLOT_TOP + legend);
    fprintf(file, "<g transform='translate(%d %d)'>\n", left, top);
    if (panel->title) plot_words(file, first, 22, "class='title'", panel->title);
    plot_legend(file, panel, first, right, PLOT_TOP + 8);
    plot_grid(file, &panel->x, &x, &y, 1);
    plot_grid(file, &panel->y, &y, &x, 0);
    if (panel->x.title)
        plot_words(file, (first + right) / 2, height - 14, "text-anchor='middle'", panel->x.title);
    if (panel->y.title) {
        char turned[100];
        const double middle = (y.start + y.end) / 2;
        snprintf(turned, sizeof turned, "text-anchor='middle' transform='rotate(-90 16 %g)'", middle);
        plot_words(file, 16, middle, turned, panel->y.title);
    }
    for (int i = 0; i < panel->num_series; i++) {
        const plot_series *series = &panel->series[i];
        const int dots = series->count <= PLOT_MARKERS ? series->count : 0;
        plot_draw(file, series, plot_color(panel, i), &x, &y, 0, dots);
    }
    fputs("</g>\n", file);
}

static inline int plot_write(const char *path, const plot *panels, int count, int columns) {
    const int width = count > 0 && panels->width > 0 ? panels->width : 420;
    const int height = count > 0 && panels->height > 0 ? panels->height : 320;
    columns = columns < 1 ? 1 : columns > count ? count : columns;
    const int rows = count > 0 ? (count + columns - 1) / columns : 0;
    char *beside = (char *)malloc(strlen(path) + sizeof ".tmp");
    if (!beside) return ENOMEM;
    strcat(strcpy(beside, path), ".tmp");
    errno = 0;
    FILE *file = fopen(beside, "w");
    int error = file ? 0 : errno ? errno : EIO;
    if (file) {
        fprintf(file,
                "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %d %d' width='%d' height='%d' "
                "role='img'>\n",
                columns * width, rows * height, columns * width, rows * height);
        fputs("<style>" PLOT_STYLE "</style>\n<title>", file);
        for (int i = 0; i < count; i++) {
            if (i) fputs("; ", file);
            plot_text(file, panels[i].title);
        }
        fprintf(file, "</title>\n<rect width='%d' height='%d' rx='6' fill='#fff'/>\n", columns * width,
                rows * height);
        for (int i = 0; i < count; i++)
            plot_panel(file, &panels[i], i % columns * width, i / columns * height, width, height);
        fputs("</svg>\n", file);
        if (ferror(file)) error = errno ? errno : EIO;
        if (fclose(file) != 0 && !error) error = errno ? errno : EIO;
        if (!error && rename(beside, path) != 0) error = errno;
        if (error) remove(beside);
    }
    free(beside);
    return error;
}

#endif
