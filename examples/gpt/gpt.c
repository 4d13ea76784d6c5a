/*  gpt - a small GPT over bytes: trains, generates, and writes the same text in fewer steps

        cc -O2 -march=native -fopenmp -I../.. gpt.c attention.c -o gpt -lm
        ./gpt run file...                       all of the following, one after the other
        ./gpt train file...                     learn from the files; goes on where it was stopped
        ./gpt generate [--prompt TEXT]          go on with a text
        ./gpt compare file...                   ways of speculative decoding, side by side

    gpt.h of this folder: model.h the model, train.h how it learns, decode.h a step of inference, speculate.h guessing
    ahead, compare.h the table; attention.h is where the attention library comes in. Exit status: 0 fine; 1 an error, or a
    way of decoding that changed the text; 2 bad usage. */

#define _POSIX_C_SOURCE 200809L /* clock_gettime, fsync, isatty */

#include "compare.h"

#include "../plot.h"

#include <sys/stat.h>

typedef struct options {
    const char *command, *directory, *prompt;
    gpt_config model, draft;
    training train;
    double guess_seconds;
    int64_t guess_steps;
    sampling how;
    int32_t bytes, draws;
    char **files;
    int num_files;
} options;

static const char usage[] =
    "usage: gpt run|train|generate|compare [options] [file...]\n"
    "  --dir DIR            where models are kept (build/gpt)\n"
    "  --fresh              start anew, even if there is a model\n"
    "  --seconds S          time to learn for the model (95), and --guess-seconds S for drafts and heads "
    "(20)\n"
    "  --steps N            or a number of steps, which makes it repeatable; --guess-steps N\n"
    "  --save S             seconds between checkpoints (15)\n"
    "  --dim N --layers N --heads N --heads-k N --hidden N --context N    shape (128 4 2 1 384 256)\n"
    "  --batch N --seqlen N --rate R --decay R                            learning (4 256 0.003 0.1)\n"
    "  --prompt TEXT        to go on with (a line of C)\n"
    "  --bytes N            to write: up to the context, for compare behind each prompt (176)\n"
    "  --temperature T --top-k K --top-p P --seed N                       sampling (0.8 0 0 1); T = 0: "
    "greedy\n"
    "  --draws N            texts for each chi-square test of compare (2000)\n";

static _Noreturn void bad_usage(const char *what, const char *which) {
    fprintf(stderr, "gpt: %s %s\n%s", what, which, usage);
    exit(2);
}

static double number(const char *option, const char *value, double least, double most, int whole) {
    char *end;
    const double x = value ? strtod(value, &end) : 0;
    if (!value || end == value || *end || !(x >= least && x <= most) || (whole && x != floor(x))) {
        fprintf(stderr, "gpt: %s must be %s%.10g .. %.10g, not %s\n", option, whole ? "a whole number, " : "",
                least, most, value ? value : "missing");
        exit(2);
    }
    return x;
}

static options read_options(int argc, char **argv) {
    options o;
    memset(&o, 0, sizeof o);
    const gpt_config model = {128, 4, 2, 1, 384, 256}, draft = {64, 1, 1, 1, 192, 256};
    o.directory = "build/gpt", o.model = model, o.draft = draft, o.guess_seconds = 20;
    o.prompt = "/* Returns the number of ";
    o.train.seconds = 95, o.train.save = 15, o.train.batch = 4, o.train.seqlen = 256, o.train.rate = 3e-3;
    o.train.decay = 0.1, o.train.seed = 1, o.how.temperature = 0.8f, o.how.seed = 1, o.draws = 2000;
    if (argc < 2) bad_usage("a command is", "missing");
    o.command = argv[1];
    int i = 2;
    for (; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        struct {
            const char *name;
            int32_t *to;
            int32_t least, most;
        } const counts[] = {
            {"--dim", &o.model.dim, 16, 4096},       {"--layers", &o.model.layers, 1, MAX_LAYERS},
            {"--heads", &o.model.heads, 1, 64},      {"--heads-k", &o.model.heads_k, 1, 64},
            {"--hidden", &o.model.hidden, 1, 65536}, {"--context", &o.model.context, 128, 1 << 20},
            {"--batch", &o.train.batch, 1, 1024},    {"--seqlen", &o.train.seqlen, 2, 1 << 20},
            {"--bytes", &o.bytes, 1, 1 << 20},       {"--top-k", &o.how.top_k, 0, VOCAB},
            {"--draws", &o.draws, 0, 1000000}};
        size_t n = 0;
        while (n < sizeof counts / sizeof *counts && strcmp(name, counts[n].name) != 0) n++;
        if (n < sizeof counts / sizeof *counts) {
            *counts[n].to = (int32_t)number(name, value, counts[n].least, counts[n].most, 1), i++;
            continue;
        }
        if (strcmp(name, "--fresh") == 0) {
            o.train.fresh = 1;
            continue;
        }
        i++;
        if (strcmp(name, "--dir") == 0 && value)
            o.directory = value;
        else if (strcmp(name, "--prompt") == 0 && value && *value)
            o.prompt = value;
        else if (strcmp(name, "--seconds") == 0)
            o.train.seconds = number(name, value, 0.1, 1e9, 0);
        else if (strcmp(name, "--guess-seconds") == 0)
            o.guess_seconds = number(name, value, 0.1, 1e9, 0);
        else if (strcmp(name, "--steps") == 0)
            o.train.steps = (int64_t)number(name, value, 1, 1e12, 1);
        else if (strcmp(name, "--guess-steps") == 0)
            o.guess_steps = (int64_t)number(name, value, 1, 1e12, 1);
        else if (strcmp(name, "--save") == 0)
            o.train.save = number(name, value, 0, 1e9, 0);
        else if (strcmp(name, "--rate") == 0)
            o.train.rate = number(name, value, 1e-9, 1, 0);
        else if (strcmp(name, "--decay") == 0)
            o.train.decay = number(name, value, 0, 10, 0);
        else if (strcmp(name, "--temperature") == 0)
            o.how.temperature = (float)number(name, value, 0, 100, 0);
        else if (strcmp(name, "--top-p") == 0)
            o.how.top_p = (float)number(name, value, 0, 1, 0);
        else if (strcmp(name, "--seed") == 0)
            o.how.seed = o.train.seed = (uint64_t)number(name, value, 0, 1e15, 1);
        else
            bad_usage("unknown option, or no value for it:", name);
    }
    if (o.how.temperature > 0 && o.how.temperature < 1e-6f)
        bad_usage("--temperature must be 0 or", "at least 1e-6");
    if (o.model.heads % o.model.heads_k) bad_usage("--heads must be a multiple of", "--heads-k");
    o.files = argv + i, o.num_files = argc - i;
    return o;
}

static const char *path_of(const options *o, const char *name, char *path, size_t room) {
    if ((size_t)snprintf(path, room, "%s/%s", o->directory, name) >= room)
        fail("%s is too long", o->directory);
    return path;
}

static void make_directory(const char *path) { /* with those above it */
    char part[4096];
    for (size_t i = 0; i < sizeof part - 1; i++) {
        part[i] = path[i];
        if (i && (path[i] == '/' || !path[i])) {
            part[i] = 0;
            if (mkdir(part, 0777) != 0 && errno != EEXIST) fail("%s: %s", part, strerror(errno));
            part[i] = path[i];
        }
        if (!path[i]) return;
    }
    fail("%s is too long", path);
}

static corpus load(const options *o) {
    if (!o->num_files) bad_usage("no files to learn from, for", o->command);
    return corpus_load(o->files, o->num_files);
}

/* ---- commands ---- */

static void draw_curve(const options *o, const checkpoint *h, const float *curve, double trigram) {
    char path[4096];
    double *x = (double *)allocate((size_t)h->curve * 4 + 4, sizeof *x), *y = x + h->curve;
    double *vx = y + h->curve, *vy = vx + h->curve, *tx = vy + h->curve, *ty = tx + 2;
    plot_series series[3] = {{0}, {0}, {0}};
    plot panel = {0};
    int32_t count = 0;
    for (int32_t i = 0; i < h->curve; i++) {
        x[i] = (double)curve[3 * i] * h->elapsed, y[i] = (double)curve[3 * i + 1];
        if (curve[3 * i + 2] > 0) vx[count] = x[i], vy[count++] = (double)curve[3 * i + 2];
    }
    tx[0] = 0, tx[1] = h->elapsed, ty[0] = ty[1] = trigram;
    series[0].name = "training", series[0].x = x, series[0].y = y, series[0].count = h->curve;
    series[1].name = "not seen", series[1].x = vx, series[1].y = vy, series[1].count = count;
    series[2].name = "trigram, not seen", series[2].x = tx, series[2].y = ty, series[2].count = 2;
    panel.title = "Loss", panel.x.title = "seconds of training", panel.y.title = "bits a byte";
    panel.series = series, panel.num_series = 3;
    const int error = plot_write(path_of(o, "curve.svg", path, sizeof path), &panel, 1, 1);
    if (error) fail("%s: %s", path, strerror(error));
    printf("loss curve: %s\n", path);
    free(x);
}

static gpt *train(const options *o, const corpus *x) {
    char path[4096];
    checkpoint h;
    static float curve[3 * CURVE_ROOM];
    training t = o->train;
    make_directory(o->directory);
    t.path = path_of(o, "model.gpt", path, sizeof path);
    printf("text: %d files, %zu bytes to learn from, %zu to be judged by\n", x->files, x->num_train,
           x->num_valid);
    gpt *g = train_model(&o->model, x, &t, &h, curve);
    const gpt_config *c = &g->config;
    printf("model: %zu parameters, %d layers of %d, %d query heads on %d, learned %" PRIu64
           " steps in %.0f s on the %s\n",
           g->count, c->layers, c->dim, c->heads, c->heads_k, h.step, h.elapsed, attention_device);
    const double trigram = corpus_trigram(x);
    printf("bits a byte of text not seen: %.3f; a trigram model with backoff: %.3f\n", h.valid, trigram);
    draw_curve(o, &h, curve, trigram);
    return g;
}

static gpt *load_model(const options *o) {
    char path[4096];
    checkpoint h;
    FILE *file;
    gpt_params unused;
    path_of(o, "model.gpt", path, sizeof path);
    if (!checkpoint_open(path, KIND_MODEL, &h, &file)) fail("%s is not there: gpt train makes it", path);
    const size_t count = gpt_map(&h.config, NULL, &unused);
    if (h.count != count) fail("%s is damaged: its header makes no sense; delete it and train again", path);
    float *moments = floats(2 * count + 3 * CURVE_ROOM);
    gpt *g = gpt_new(&h.config, h.seed, floats(count));
    const checkpoint_data data = {g->data, moments, moments + count, moments + 2 * count};
    checkpoint_read(path, &h, file, &data);
    free(moments);
    return g;
}

static void generate(const options *o, const gpt *g) {
    plan plain;
    memset(&plain, 0, sizeof plain);
    const int32_t bytes = o->bytes ? o->bytes : g->config.context, length = (int32_t)strlen(o->prompt);
    const int32_t room = g->config.context - 1;
    if (length >= room) fail("the prompt has %d bytes, the context %d", length, g->config.context);
    writer *w = writer_new(g, NULL, length + bytes < room ? length + bytes : room);
    writer_begin(w, (const uint8_t *)o->prompt, length, &o->how);
    fwrite(o->prompt, 1, (size_t)length, stdout);
    const double start = now();
    while (w->count < w->room) {
        const int32_t from = w->count;
        write_step(w, &plain, NULL, NULL);
        for (int32_t i = from; i < w->count; i++) putchar(w->token[i]);
        fflush(stdout);
    }
    printf("\n[%d bytes, %.0f a second]\n", w->count - length, (w->count - length) / (now() - start));
    writer_free(w);
}

static int compare(const options *o, const gpt *g, const corpus *x) {
    char path[4096];
    training t = o->train;
    make_directory(o->directory);
    t.path = path_of(o, "guess.gpt", path, sizeof path), t.seconds = o->guess_seconds,
    t.steps = o->guess_steps;
    comparison c = {x, o->bytes ? o->bytes : 176, o->draws, NULL};
    const int32_t room = PROMPT + c.length;
    if (room + LEVELS > g->config.context)
        fail("--bytes is at most %d: prompts have %d, the context %d", g->config.context - LEVELS - PROMPT,
             PROMPT, g->config.context);
    if (x->num_valid < (LEARN + TRY) * PROMPT) fail("the text is too short for prompts of %d bytes", PROMPT);
    gpt_config draft = o->draft;
    draft.context = g->config.context; /* the model's, which need not be that of the options */
    guessers s = train_guessers(g, &draft, x, &t);
    c.w = writer_new(g, &s, room);
    const sampling greedy = {0, 0, 0, o->how.seed};
    sampling random = o->how;
    if (random.temperature == 0) random.temperature = 0.8f;
    printf("\n%d prompts of %d bytes, %d bytes written behind each; medians of %d rounds\n\n", TRY, PROMPT,
           c.length, ROUNDS);
    int wrong = compare_ways(&c, &greedy);
    wrong += compare_ways(&c, &random);
    if (wrong) printf("%d ways changed the text or its law\n", wrong);
    writer_free(c.w);
    guessers_free(&s);
    return wrong;
}

int main(int argc, char **argv) {
    const options o = read_options(argc, argv);
    setvbuf(stdout, NULL, _IOLBF, 0); /* in step with the progress on stderr */
    int wrong = 0;
    if (strcmp(o.command, "run") == 0) {
        corpus x = load(&o);
        gpt *g = train(&o, &x);
        printf("\n");
        generate(&o, g);
        wrong = compare(&o, g, &x);
        free(g->data), gpt_free(g), corpus_free(&x);
    } else if (strcmp(o.command, "train") == 0) {
        corpus x = load(&o);
        gpt *g = train(&o, &x);
        free(g->data), gpt_free(g), corpus_free(&x);
    } else if (strcmp(o.command, "generate") == 0) {
        gpt *g = load_model(&o);
        generate(&o, g);
        free(g->data), gpt_free(g);
    } else if (strcmp(o.command, "compare") == 0) {
        corpus x = load(&o);
        gpt *g = load_model(&o);
        wrong = compare(&o, g, &x);
        free(g->data), gpt_free(g), corpus_free(&x);
    } else {
        bad_usage("unknown command", o.command);
    }
    return wrong ? 1 : 0;
}
