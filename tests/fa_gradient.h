/* fa_gradient.h - the backward pass of the random problems of fa_problem.h, and its judge.
 *
 *     FA_EXPECT(fag_check(&attn64_info, "b=2 hq=8 hk=2 sq=113 sk=203 causal=1 seed=42"));
 *
 * builds the problem, runs the instance's forward pass for O and LSE, its backward pass, and compares dQ, dK, dV, dbias
 * and dsink with fa_reference_backward.  Everything that is no input is 0xff, as in fa_problem.h: rows of dO past the
 * end, the gradients before, the workspace; and what is no element of a gradient must stay so.
 *
 * C11 and C++17.  Include flashattn.h, fa_test.h and fa_problem.h first. */
#ifndef FA_GRADIENT_H
#define FA_GRADIENT_H

enum { FAG_DQ, FAG_DK, FAG_DV, FAG_DBIAS, FAG_DSINK, FAG_COUNT };
static const char *const fag_names[] = {"dq", "dk", "dv", "dbias", "dsink"};

typedef struct fag_problem {
    fap_problem p; /* p.args has all fields of the backward pass */
    fap_place d_o;
    fap_output out[FAG_COUNT];
    int wanted[FAG_COUNT];
    int64_t rows_k; /* packed rows of dk: batch * sk, or those concatenated */
    /* packed as fa_reference_grads says, dbias summed as args->dbias asks for: reference, plain arithmetic in the
     * precision of the problem, and what rounding may do to an element */
    double *ref[FAG_COUNT], *naive[FAG_COUNT], *noise[FAG_COUNT];
    int64_t count[FAG_COUNT];
} fag_problem;

static inline void fag_free(fag_problem *g) { fap_free(&g->p); }

/* Memory of one gradient, all elements of it marked by the caller. */
static inline void fag_place(fag_problem *g, int which, int layout, fa_dtype dtype, int64_t n, int64_t rows,
                             int64_t heads, int64_t dim) {
    fap_output *o = &g->out[which];
    int64_t bytes;
    o->place = fap_place_new(&g->p, layout, dtype, n, rows, heads, dim, &bytes);
    o->bytes = (unsigned char *)g->p.blocks[g->p.num_blocks - 1], o->size = (size_t)bytes + 512;
    o->element = (unsigned char *)memset(fap_alloc(&g->p, (int64_t)o->size), 0, o->size);
}
static inline fa_tensor_out fag_tensor(const fap_place *t, int layout) {
    fa_tensor_out r = {t->data, 0, 0, 0};
    if (layout != FAP_BSHD) r.stride_b = t->sb, r.stride_s = t->ss, r.stride_h = t->sh;
    return r;
}
static inline void fag_mark(fap_output *o, int64_t at, int64_t n) {
    const int64_t e = (int64_t)fa_sizeof(o->place.dtype);
    memset(o->element + ((unsigned char *)o->place.data - o->bytes) + at * e, 1, (size_t)(n * e));
}
/* Element of dk or dv: by position, also when K lies in pages. */
static inline int64_t fag_at_k(const fag_problem *g, const fap_place *t, int b, int j, int h) {
    return (g->p.args.cu_seqlens_k ? 0 : b * t->sb) + (g->p.row_k[b] + (int64_t)j) * t->ss + h * t->sh;
}
/* Row of dk in fa_reference_grads. */
static inline int64_t fag_row_k(const fag_problem *g, int b, int j) {
    return g->p.args.cu_seqlens_k ? g->p.row_k[b] + j : (int64_t)b * g->p.spec.sk + j;
}
/* Element of dbias, after summing over what is broadcast. */
static inline int64_t fag_at_bias(const fag_problem *g, int b, int h, int i, int j) {
    const fap_spec *s = &g->p.spec;
    if (s->bias == 4) return (int64_t)i * (s->sk + 5) + j;
    return (((int64_t)b * s->hq + h) * s->sq + i) * s->sk + j;
}

/* wanted: gradients to ask for, bits 1 << FAG_DQ ... */
static inline int fag_build(fag_problem *g, const char *line, const fa_info *info, int wanted) {
    fap_problem *p = &g->p;
    fap_spec *s = &p->spec;
    fa_args *a = &p->args;
    memset(g, 0, sizeof *g);
    if (!fap_build(p, line, info)) return 0;
    if (!s->lse) s->lse = 1, a->lse.data = p->lse.place.data;
    const int64_t nq = s->varlen ? 1 : s->b, total_q = s->varlen ? p->rows : s->sq;
    const int64_t nk = a->cu_seqlens_k ? 1 : s->b, total_k = a->cu_seqlens_k ? a->cu_seqlens_k[s->b] : s->sk;
    const int layout = s->layout > FAP_PADDED ? FAP_PADDED : s->layout;
    uint64_t rng = (uint64_t)s->seed + 3000000;
    int64_t bytes;
    if (s->layout != FAP_BSHD) { /* lse is strided like o; if it was not wanted at first it has no strides yet */
        a->lse.stride_b = p->lse.place.sb, a->lse.stride_s = p->lse.place.ss, a->lse.stride_h = p->lse.place.sh;
    }
    g->rows_k = nk * total_k;
    g->d_o = fap_place_new(p, layout, s->out, nq, total_q, s->hq, s->dv, &bytes);
    a->d_o = fap_tensor(&g->d_o, layout);
    fag_place(g, FAG_DQ, layout, s->dtype, nq, total_q, s->hq, s->d);
    fag_place(g, FAG_DK, layout, s->kv, nk, total_k, s->hk, s->d);
    fag_place(g, FAG_DV, layout, s->kv, nk, total_k, s->hk, s->dv);
    fag_place(g, FAG_DSINK, FAP_BSHD, FA_F32, 1, 1, 1, s->hq);
    const int64_t bias = s->bias == 4 ? (int64_t)s->sq * (s->sk + 5) : (int64_t)s->b * s->hq * s->sq * s->sk;
    fag_place(g, FAG_DBIAS, FAP_BSHD, FA_F32, 1, 1, 1, s->bias ? bias : 0);
    for (int b = 0; b < s->b; b++) {
        for (int h = 0; h < s->hq; h++)
            for (int i = 0; i < p->len_q[b]; i++) {
                fap_fill_row(&g->d_o, fap_at_q(p, &g->d_o, b, i, h), s->dv, 1, &rng, 0);
                fag_mark(&g->out[FAG_DQ], fap_at_q(p, &g->out[FAG_DQ].place, b, i, h), s->d);
            }
        for (int h = 0; h < s->hk; h++)
            for (int j = 0; j < p->len_k[b]; j++) {
                fag_mark(&g->out[FAG_DK], fag_at_k(g, &g->out[FAG_DK].place, b, j, h), s->d);
                fag_mark(&g->out[FAG_DV], fag_at_k(g, &g->out[FAG_DV].place, b, j, h), s->dv);
            }
    }
    if (!s->sink) wanted &= ~(1 << FAG_DSINK);
    if (!s->bias) wanted &= ~(1 << FAG_DBIAS);
    for (int n = 0; n < FAG_COUNT; n++) g->wanted[n] = wanted >> n & 1;
    if (g->wanted[FAG_DQ]) a->dq = fag_tensor(&g->out[FAG_DQ].place, layout);
    if (g->wanted[FAG_DK]) a->dk = fag_tensor(&g->out[FAG_DK].place, layout);
    if (g->wanted[FAG_DV]) a->dv = fag_tensor(&g->out[FAG_DV].place, layout);
    if (g->wanted[FAG_DSINK])
        fag_mark(&g->out[FAG_DSINK], 0, s->hq), a->dsink = (float *)(void *)g->out[FAG_DSINK].place.data;
    if (g->wanted[FAG_DBIAS]) {
        a->dbias.data = (float *)(void *)g->out[FAG_DBIAS].place.data;
        if (s->bias == 4) a->dbias.stride_b = a->dbias.stride_h = FA_BROADCAST, a->dbias.stride_q = s->sk + 5;
        for (int i = 0; i < s->sq && s->bias == 4; i++) fag_mark(&g->out[FAG_DBIAS], (int64_t)i * (s->sk + 5), s->sk);
        if (s->bias != 4) fag_mark(&g->out[FAG_DBIAS], 0, bias);
    }
    for (int n = 0; n < FAG_COUNT; n++)
        if (!g->wanted[n]) memset(g->out[n].element, 0, g->out[n].size);
    return 1;
}

/* Runs the passes with workspaces of NaN. */
static inline int fag_forward(fag_problem *g, const fa_info *info) {
    size_t bytes = info->forward_workspace(&g->p.args);
    void *workspace = malloc(bytes + 1);
    fa_status status = info->forward(&g->p.args, memset(workspace, 0xff, bytes), bytes);
    free(workspace);
    if (status) printf("# %s forward: %s\n", info->name, fa_strerror(status));
    return status == FA_OK;
}
static inline int fag_backward(fag_problem *g, const fa_info *info) {
    size_t bytes = info->backward_workspace(&g->p.args);
    unsigned char *workspace = (unsigned char *)malloc(bytes + 64);
    fa_status status;
    memset(workspace, 0xff, bytes + 64);
    for (int n = 0; n < FAG_COUNT; n++) memset(g->out[n].bytes, 0xff, g->out[n].size);
    status = info->backward(&g->p.args, bytes ? workspace : NULL, bytes);
    for (int n = 0; n < 64; n++) /* nothing behind the workspace */
        if (workspace[bytes + (size_t)n] != 0xff)
            printf("# %s: wrote behind the workspace\n", info->name), status = FA_ERR_WORKSPACE_SIZE;
    free(workspace);
    if (status) printf("# %s backward: %s\n", info->name, fa_strerror(status));
    return status == FA_OK;
}

/* ---- expectation ---------------------------------------------------------------------------- */

/* What query i of head h contributes, done plainly: S in f32, P and dS rounded to the dtype of Q, sums in f32.
 *
 * noise: with e_j = eps_f32 (4 + |s_j| + 2 slope |q| |k_j| + |lse|) the relative error of P_ij (S is computed in both
 * passes), eps that of the dtype and E = eps_o sum |dO| |O| the error of D by the rounding of O, dS_ij may be off by
 *     x_ij = P_ij ((e_j + eps) (|dP_ij| + |D_i|) + 8 eps_f32 |dO_i| |v_j| + E)
 * and an element of dQ by the root of the sum of (x_ij k_jc)^2, the signs being random. */
static inline double fag_square(double x) { return x * x; }
static inline void fag_add(double *sum, float x) { *sum = (double)((float)*sum + x); }
/* exp(s - max) / sum, 0 of what is masked, also if max and sum are NaN */
static inline float fag_weight(float s, float max, float sum) { return s == -INFINITY ? 0 : expf(s - max) / sum; }
static inline void fag_naive_row(fag_problem *g, const fa_sequence *seq, int h, int i, float *s, float *dp,
                                 const float *k, const float *v) {
    const fap_problem *p = &g->p;
    const fa_args *a = &p->args;
    const int d = p->spec.d, dv = p->spec.dv, hk = h / (p->spec.hq / p->spec.hk), low = p->spec.dtype != FA_F32;
    const float scale = a->softmax_scale != 0 ? a->softmax_scale : 1 / sqrtf((float)d);
    const double eps = low ? fap_epsilon(p->spec.dtype) : 0, e32 = 0x1p-24;
    float q[256], o[256], d_o[256], max = a->sink ? a->sink[h] : -INFINITY, sum, delta = 0, big = 0;
    /* hooks: the kernel changes to natural units and back; softcap: tanh is off by 2.6 ulp, once in each pass */
    const double times = p->info.score_mod || a->softcap > 0 ? 4 : 1;
    /* ALiBi: what a hook adds may cancel it */
    const double steps = a->alibi_slopes ? (double)a->alibi_slopes[seq->b * a->alibi_stride_b + h] : 0;
    double big_s = 0, d_o_o = 0;
    const fa_range r = fa_row_range(a, seq->len_q, seq->len_k, i);
    const int64_t row_q = (fap_row(p, seq->b, i) * p->spec.hq + h) * d;
    for (int c = 0; c < d; c++) q[c] = fa_load(p->q.data, fap_at_q(p, &p->q, seq->b, i, h) + c, p->spec.dtype);
    for (int c = 0; c < dv; c++) {
        d_o[c] = fa_load(g->d_o.data, fap_at_q(p, &g->d_o, seq->b, i, h) + c, p->spec.out);
        o[c] = fa_load(p->o.place.data, fap_at_q(p, &p->o.place, seq->b, i, h) + c, p->spec.out);
        d_o_o += (double)fabsf(d_o[c] * o[c]);
    }
    for (int j = r.lo; j < r.hi; j++) {
        s[j] = -INFINITY;
        if (!fa_reference_visible(&p->info, a, seq, h, i, j)) continue;
        s[j] = fap_score(p, seq, h, i, j, fap_dot(q, k + (int64_t)j * d, d) * scale);
        if (!(s[j] <= max)) max = s[j];
    }
    const double qn = (double)sqrtf(fap_dot(q, q, d)) * fabs((double)scale), don = (double)sqrtf(fap_dot(d_o, d_o, dv));
    if (max == -INFINITY) return;
    sum = a->sink ? expf(a->sink[h] - max) : 0;
    for (int j = r.lo; j < r.hi; j++) sum += fag_weight(s[j], max, 1);
    for (int j = r.lo; j < r.hi; j++) {
        const float e = fag_weight(s[j], max, sum);
        const double z =
            a->dropout_p > 0
                ? (fa_dropout_keep(a, seq->b, h, i, j) ? (double)fa_dropout_scale(a->dropout_p) : 0)
                : 1;
        dp[j] = 0;
        if (e == 0) continue;
        if (z != 0) dp[j] = (float)z * fap_dot(d_o, v + (int64_t)j * dv, dv);
        if (low) dp[j] = fap_round(dp[j], p->spec.dtype);
        delta += e * dp[j], big = fmaxf(big, fabsf(dp[j])), big_s = fmax(big_s, (double)fabsf(s[j]));
        const float w = low ? fap_round(e * (float)z, p->spec.dtype) : e * (float)z;
        const double kn = (double)sqrtf(fap_dot(k + (int64_t)j * d, k + (int64_t)j * d, d));
        double steep = 1, ignored;
        if (p->info.score_mod)
            fa_reference_score(&p->info, a, seq, h, i, j, (double)(fap_dot(q, k + (int64_t)j * d, d) * scale),
                               &steep, &ignored);
        const double x =
            (double)w *
                (eps +
                 e32 * (4 + times * (fabs((double)s[j]) + steps * abs(i + seq->len_k - seq->len_q - j)) +
                        (double)fabsf(max) + 2 * qn * kn * fabs(steep))) +
            e32 * e32;
        const int64_t row_v = (fag_row_k(g, seq->b, j) * p->spec.hk + hk) * dv;
        for (int c = 0; c < dv && z != 0; c++) {
            fag_add(&g->naive[FAG_DV][row_v + c], w * d_o[c]);
            g->noise[FAG_DV][row_v + c] += fag_square((double)d_o[c] * x);
        }
    }
    if (a->sink) {
        const double w = (double)expf(a->sink[h] - max) / (double)sum;
        g->naive[FAG_DSINK][h] -= w * (double)delta;
        g->noise[FAG_DSINK][h] += fag_square(w * (fabs((double)delta) * (e32 * (8 + big_s) + eps) +
                                                  d_o_o * (fap_epsilon(p->spec.out) + 8 * e32)));
    }
    for (int j = r.lo; j < r.hi; j++) {
        const float e = fag_weight(s[j], max, sum);
        double slope, slope_bias, x;
        if (e == 0) continue;
        const float *kj = k + (int64_t)j * d;
        const double kn = (double)sqrtf(fap_dot(kj, kj, d)),
                     vn = (double)sqrtf(fap_dot(v + (int64_t)j * dv, v + (int64_t)j * dv, dv));
        fa_reference_score(&p->info, a, seq, h, i, j, (double)(fap_dot(q, kj, d) * scale), &slope, &slope_bias);
        float ds = e * (dp[j] - delta);
        x = (double)e *
            ((e32 * (4 + times * (fabs((double)s[j]) + steps * abs(i + seq->len_k - seq->len_q - j)) +
                     2 * qn * kn * fabs(slope) + big_s) +
              eps) *
                 ((double)fabsf(dp[j]) + fabs((double)delta)) +
             8 * e32 * don * vn + d_o_o * ((p->spec.out == FA_F32 ? 0 : fap_epsilon(p->spec.out)) + 4 * e32));
        if (low) ds = fap_round(ds, p->spec.dtype);
        if (p->spec.bias) {
            fag_add(&g->naive[FAG_DBIAS][fag_at_bias(g, seq->b, h, i, j)], ds * (float)slope_bias);
            g->noise[FAG_DBIAS][fag_at_bias(g, seq->b, h, i, j)] += fag_square(x * slope_bias);
        }
        const float dss = ds * (float)slope * scale;
        const int64_t row_k = (fag_row_k(g, seq->b, j) * p->spec.hk + hk) * d;
        x *= fabs(slope * (double)scale), x += 0x1p-22 * fabs((double)dss);
        for (int c = 0; c < d; c++) {
            fag_add(&g->naive[FAG_DQ][row_q + c], dss * kj[c]),
                g->noise[FAG_DQ][row_q + c] += fag_square(x * (double)kj[c]);
            fag_add(&g->naive[FAG_DK][row_k + c], dss * q[c]),
                g->noise[FAG_DK][row_k + c] += fag_square(x * (double)q[c]);
        }
    }
}

static inline void fag_expect(fag_problem *g) {
    fap_problem *p = &g->p;
    const fap_spec *s = &p->spec;
    const int64_t all_bias = s->bias ? (int64_t)s->b * s->hq * s->sq * s->sk : 0;
    double *full, *scratch;
    float *k, *v, *row, *dp;
    fa_reference_grads grads;
    if (g->ref[0]) return;
    g->count[FAG_DQ] = p->rows * s->hq * s->d, g->count[FAG_DK] = g->rows_k * s->hk * s->d;
    g->count[FAG_DV] = g->rows_k * s->hk * s->dv, g->count[FAG_DSINK] = s->hq;
    g->count[FAG_DBIAS] = s->bias == 4 ? (int64_t)s->sq * (s->sk + 5) : all_bias;
    for (int n = 0; n < FAG_COUNT; n++) {
        double **const all[3] = {g->ref, g->naive, g->noise};
        for (int t = 0; t < 3; t++)
            all[t][n] = (double *)memset(fap_alloc(p, g->count[n] * 8 + 8), 0, (size_t)g->count[n] * 8 + 8);
    }
    full = (double *)(void *)fap_alloc(p, all_bias * 8 + 8);
    scratch = (double *)(void *)fap_alloc(p, (2 * s->sk + 4 * 256) * 8);
    grads.dq = g->ref[FAG_DQ], grads.dk = g->ref[FAG_DK], grads.dv = g->ref[FAG_DV], grads.dsink = g->ref[FAG_DSINK];
    grads.dbias = s->bias ? full : NULL;
    if (fa_reference_backward(&p->info, &p->args, p->args.d_o, &grads, scratch) != FA_OK) abort();
    for (int b = 0; b < s->b && s->bias; b++)
        for (int h = 0; h < s->hq; h++)
            for (int i = 0; i < s->sq; i++)
                for (int j = 0; j < s->sk; j++)
                    g->ref[FAG_DBIAS][fag_at_bias(g, b, h, i, j)] +=
                        full[(((int64_t)b * s->hq + h) * s->sq + i) * s->sk + j];

    k = (float *)malloc(((size_t)s->sk * (size_t)(s->d + s->dv + 2) + 1) * sizeof *k);
    v = k + (int64_t)s->sk * s->d, row = v + (int64_t)s->sk * s->dv, dp = row + s->sk;
    for (int b = 0; b < s->b; b++)
        for (int h = 0; h < s->hq; h++) {
            const fa_sequence seq = fa_get_sequence(&p->args, b);
            const int hk = h / (s->hq / s->hk);
            for (int j = 0; j < seq.len_k; j++) {
                const int64_t at_k = fap_at_k(p, &p->k, b, j, hk), at_v = fap_at_k(p, &p->v, b, j, hk);
                for (int c = 0; c < s->d; c++) k[(int64_t)j * s->d + c] = fa_load(p->k.data, at_k + c, s->kv);
                for (int c = 0; c < s->dv; c++) v[(int64_t)j * s->dv + c] = fa_load(p->v.data, at_v + c, s->kv);
            }
            for (int i = 0; i < seq.len_q; i++) fag_naive_row(g, &seq, h, i, row, dp, k, v);
        }
    free(k);
    for (int n = 0; n < FAG_COUNT; n++)
        for (int64_t e = 0; e < g->count[n]; e++) g->noise[n][e] = sqrt(g->noise[n][e]);
}

/* ---- judge ------------------------------------------------------------------------------------ */

typedef struct fag_worst {
    double e, n, noise, round, sum_e, sum_n, sum_noise, count;
    int bad; /* a NaN where there should be none, or the other way round */
} fag_worst;

static inline void fag_compare_element(fag_worst *w, const fag_problem *g, int which, int64_t got_at, int64_t ref_at) {
    const fa_dtype dtype = g->out[which].place.dtype;
    const double got = (double)fa_load(g->out[which].place.data, got_at, dtype), want = g->ref[which][ref_at];
    const double naive = (double)fap_round((float)g->naive[which][ref_at], dtype);
    const double e = fap_difference(got, want), n = fap_difference(naive, want), noise = g->noise[which][ref_at];
    const double round = fabs((double)fap_round((float)want, dtype) - want) +
                         fap_epsilon(dtype) * fabs(want) + fap_tiny(dtype) +
                         1e-28; /* P below 2^-100 counts as 0 */
    if (isnan(want) ? !isnan(got) : isnan(got) || (isfinite(want) && isinf(got))) w->bad = 1;
    if (isnan(want) || isnan(got)) return;
    w->e = fmax(w->e, e), w->sum_e += e * e, w->count++;
    if (isfinite(n)) w->n = fmax(w->n, n), w->sum_n += n * n;
    if (isfinite(noise)) w->noise = fmax(w->noise, noise), w->sum_noise += noise * noise;
    if (isfinite(round)) w->round = fmax(w->round, round);
}

/* The rules of fa_problem.h: r = 2 (3 with softcap), e = |out - ref|, n = |naive - ref|
 *     max   max e <= r max n + 2 rounding noise of the dtype + 2 max noise, over the whole gradient
 *     row   max e <= (r + 1) max n + rounding + 4 noise, for each row of a head
 *     rms   rms e <= r rms n + rms noise + rounding / 2, for each head
 * Naive arithmetic is exact by luck where a query sees one or two keys; there the noise decides. */
static inline int fag_rule(const fag_problem *g, int which, const char *rule, double error, double bound,
                           int b, int h, int i) {
    char line[512];
    if (error <= bound) return 1;
    printf("# %s: %s: rule %s: error %.3g > %.3g at b=%d h=%d row=%d\n#     %s\n", g->p.info.name,
           fag_names[which], rule, error, bound, b, h, i, fap_print(&g->p.spec, line));
    return 0;
}

static inline int fag_judge_rows(fag_problem *g, int which) {
    const fap_problem *p = &g->p;
    const fap_spec *s = &p->spec;
    const double r = s->softcap > 0 ? 3 : 2;
    const int heads = which == FAG_DQ ? s->hq : s->hk, dim = which == FAG_DV ? s->dv : s->d;
    const int32_t *len = which == FAG_DQ ? p->len_q : p->len_k;
    fag_worst all;
    memset(&all, 0, sizeof all);
    for (int b = 0; b < s->b; b++)
        for (int h = 0; h < heads; h++) {
            fag_worst head;
            memset(&head, 0, sizeof head);
            for (int i = 0; i < len[b]; i++) {
                fag_worst row;
                memset(&row, 0, sizeof row);
                const int64_t got = which == FAG_DQ ? fap_at_q(p, &g->out[which].place, b, i, h)
                                                    : fag_at_k(g, &g->out[which].place, b, i, h);
                const int64_t ref = ((which == FAG_DQ ? fap_row(p, b, i) : fag_row_k(g, b, i)) * heads + h) * dim;
                for (int c = 0; c < dim; c++) fag_compare_element(&row, g, which, got + c, ref + c);
                if (!fag_rule(g, which, "nan", row.bad, 0, b, h, i)) return 0;
                if (!fag_rule(g, which, "row", row.e, (r + 1) * row.n + row.round + 4 * row.noise, b, h, i)) return 0;
                head.sum_e += row.sum_e, head.sum_n += row.sum_n, head.sum_noise += row.sum_noise,
                    head.count += row.count;
                head.round = fmax(head.round, row.round);
                all.e = fmax(all.e, row.e), all.n = fmax(all.n, row.n), all.noise = fmax(all.noise, row.noise);
                all.round = fmax(all.round, row.round);
            }
            if (head.count > 0 && !fag_rule(g, which, "rms", sqrt(head.sum_e / head.count),
                                            r * sqrt(head.sum_n / head.count) +
                                                sqrt(head.sum_noise / head.count) + head.round / 2,
                                            b, h, -1))
                return 0;
        }
    return fag_rule(g, which, "max", all.e, r * all.n + 2 * all.round + 2 * all.noise, -1, -1, -1);
}

static inline int fag_judge(fag_problem *g) {
    const fap_spec *s = &g->p.spec;
    const double r = s->softcap > 0 ? 3 : 2;
    fag_expect(g);
    for (int n = 0; n < FAG_COUNT; n++) {
        fap_verdict v = {1, "none", 0, 0, -1, -1, -1, -1, 0, 0, 0, 1};
        fap_compare_guards(&g->out[n], &v);
        if (!fag_rule(g, n, "guard", !v.ok, 0, -1, -1, -1)) return 0;
        if (!g->wanted[n]) continue;
        if (n < FAG_DBIAS) {
            if (!fag_judge_rows(g, n)) return 0;
        } else {
            fag_worst w;
            memset(&w, 0, sizeof w);
            for (int64_t e = 0; e < g->count[n]; e++)
                if (n == FAG_DSINK || s->bias != 4 || e % (s->sk + 5) < s->sk) fag_compare_element(&w, g, n, e, e);
            if (!fag_rule(g, n, "nan", w.bad, 0, -1, -1, -1)) return 0;
            if (!fag_rule(g, n, "max", w.e, r * w.n + 2 * w.round + 4 * w.noise, -1, -1, -1)) return 0;
        }
    }
    return 1;
}

/* Builds the problem, runs both passes, judges the second. */
static inline int fag_check(const fa_info *info, const char *format, ...) {
    char line[512];
    fag_problem g;
    va_list list;
    int ok;
    va_start(list, format), vsnprintf(line, sizeof line, format, list), va_end(list);
    if (!fag_build(&g, line, info, 31)) return 0;
    ok = fag_forward(&g, info) && fag_backward(&g, info) && fag_judge(&g);
    if (!ok) printf("#     %s\n", line);
    fag_free(&g);
    return ok;
}

#endif
