// A chain of layers in one call: what effbench/models/chain.py writes down is carried out here, operation by operation.
//
// All tensors are float32, pixels row by row with their channels side by side. An operand is a number: which of the
// addresses it lies at, times 2^40, plus how many floats further on.
#pragma GCC optimize("fp-contract=fast")
#include <math.h>

#include "products.h"

enum { OPERANDS = 8, SIZES = 8, WIDTH = 1 + OPERANDS + SIZES };  // of an operation, after what it is
enum { MIX, UNMIX, MIX_GRADIENT, DEPTHWISE, UNDEPTHWISE, DEPTHWISE_GRADIENT, NORM, NORM_GRADIENT, POOL, GATE, GATE_SUMS,
       GATE_GRADIENT, BIAS, BIAS_GRADIENT, ADD };
enum { ROWS = 64 };      // of a, a part of which stays in the nearest cache
enum { DEEP = 256 };     // rows over which a tile of a weight gradient is summed at once
enum { ALONE = 1 << 14 };  // elements under which a second thread costs more than it takes off
enum { TAPS = 49 };
enum { RELU = 1, HARDSIGMOID, SIGMOID };

void batch_norm(const float *x, const float *gamma, const float *beta, float *running_mean, float *running_var,
                double *sums, float *statistics, float *y, i64 R, i64 C, float eps, float momentum, int act, int threads);
void batch_norm_backward(const float *x, const float *dy, const float *statistics, double *sums, float *factors, float *dx,
                         float *for_gamma, float *for_beta, i64 R, i64 C, int act, int threads);
void depthwise_weight_gradient(const float *x, const float *gy, float *gw, i64 N, i64 C, i64 H, i64 W, i64 OH, i64 OW,
                               int k, int stride, int pad, int threads);

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define THREADS(elements) num_threads((elements) > ALONE ? threads : 1)

// y (R, O) = x (R, I) w^T, w (O, I). packed: scratch, (I, O).
static void mix(const float *x, const float *w, float *packed, float *y, i64 R, i64 I, i64 O, int threads) {
    _Pragma("omp parallel THREADS(R * O)")
    {
        _Pragma("omp for schedule(static)")
        for (i64 i0 = 0; i0 < I; i0 += 16)
            for (i64 o0 = 0; o0 < O; o0 += 64)
                for (i64 i = i0; i < MIN(i0 + 16, I); i++)
                    for (i64 o = o0; o < MIN(o0 + 64, O); o++) packed[i * O + o] = w[o * I + i];
        _Pragma("omp for schedule(static)")
        for (i64 r = 0; r < R; r += ROWS)
            times(x + r * I, I, 1, packed, O, MIN(ROWS, R - r), I, O, y + r * O, O, 0);
    }
}

// dx (R, I) = dy (R, O) w.
static void unmix(const float *dy, const float *w, float *dx, i64 R, i64 I, i64 O, int threads) {
    _Pragma("omp parallel for THREADS(R * I) schedule(static)")
    for (i64 r = 0; r < R; r += ROWS)
        times(dy + r * O, O, 1, w, I, MIN(ROWS, R - r), O, I, dx + r * I, I, 0);
}

// dw (O, I) = dy^T x: every element is summed by one thread, in the same order however many there are.
static void mix_gradient(const float *x, const float *dy, float *dw, i64 R, i64 I, i64 O, int threads) {
    _Pragma("omp parallel THREADS(R * O)")
    for (i64 r = 0; r < R; r += DEEP) {
        _Pragma("omp for schedule(static) nowait")
        for (i64 o = 0; o < O; o += TALL)
            times(dy + r * O + o, 1, O, x + r * I, I, MIN(TALL, O - o), MIN(DEEP, R - r), I, dw + o * I, I, r > 0);
    }
}

// y[c] = sum over the taps of x[from[t] + c] w[which[t] * C + c].
INLINE void taps(const float *x, const float *w, float *y, const i64 *from, const i64 *which, int count, i64 C) {
    i64 c = 0;
    for (; C - c >= 4 * V; c += 4 * V) {
        vec s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
        for (int t = 0; t < count; t++) {
            const vec *a = (const vec *)(x + from[t] + c), *b = (const vec *)(w + which[t] + c);
            s0 += a[0] * b[0], s1 += a[1] * b[1], s2 += a[2] * b[2], s3 += a[3] * b[3];
        }
        vec *to = (vec *)(y + c);
        to[0] = s0, to[1] = s1, to[2] = s2, to[3] = s3;
    }
    for (; C - c > 0; c += V) {
        i64 lanes = MIN(V, C - c);
        vec sum = {0};
        for (int t = 0; t < count; t++)
            sum += lanes == V ? *(const vec *)(x + from[t] + c) * *(const vec *)(w + which[t] + c)
                              : part_of(x + from[t] + c, lanes) * part_of(w + which[t] + c, lanes);
        if (lanes == V) *(vec *)(y + c) = sum;
        else store_part(y + c, sum, lanes);
    }
}

// Weights (C, k, k) tap by tap: (k, k, C).
static void by_tap(const float *w, float *packed, i64 C, int k) {
    for (int t = 0; t < k * k; t++)
        for (i64 c = 0; c < C; c++) packed[t * C + c] = w[c * k * k + t];
}

// x (N, H, W, C) -> y (N, OH, OW, C).
static void depthwise(const float *x, const float *w, float *packed, float *y, i64 N, i64 C, i64 H, i64 W, i64 OH, i64 OW,
                      int k, int stride, int threads) {
    int pad = k / 2;
    by_tap(w, packed, C, k);
    _Pragma("omp parallel for THREADS(N * OH * OW * C) schedule(static) collapse(2)")
    for (i64 n = 0; n < N; n++)
        for (i64 oh = 0; oh < OH; oh++)
            for (i64 ow = 0; ow < OW; ow++) {
                i64 from[TAPS], which[TAPS];
                int count = 0;
                for (int i = 0; i < k; i++) {
                    i64 h = oh * stride - pad + i;
                    if (h < 0 || h >= H) continue;
                    for (int j = 0; j < k; j++) {
                        i64 v = ow * stride - pad + j;
                        if (v < 0 || v >= W) continue;
                        from[count] = (h * W + v) * C;
                        which[count++] = (i * k + j) * C;
                    }
                }
                taps(x + n * H * W * C, packed, y + ((n * OH + oh) * OW + ow) * C, from, which, count, C);
            }
}

// dy (N, OH, OW, C) -> dx (N, H, W, C).
static void undepthwise(const float *dy, const float *w, float *packed, float *dx, i64 N, i64 C, i64 H, i64 W, i64 OH,
                        i64 OW, int k, int stride, int threads) {
    int pad = k / 2;
    by_tap(w, packed, C, k);
    _Pragma("omp parallel for THREADS(N * H * W * C) schedule(static) collapse(2)")
    for (i64 n = 0; n < N; n++)
        for (i64 h = 0; h < H; h++)
            for (i64 v = 0; v < W; v++) {
                i64 from[TAPS], which[TAPS];
                int count = 0;
                for (int i = (int)((h + pad) % stride); i < k; i += stride) {
                    i64 oh = (h + pad - i) / stride;
                    if (h + pad < i || oh >= OH) continue;
                    for (int j = (int)((v + pad) % stride); j < k; j += stride) {
                        i64 ow = (v + pad - j) / stride;
                        if (v + pad < j || ow >= OW) continue;
                        from[count] = (oh * OW + ow) * C;
                        which[count++] = (i * k + j) * C;
                    }
                }
                taps(dy + n * OH * OW * C, packed, dx + ((n * H + h) * W + v) * C, from, which, count, C);
            }
}

// p (N, C): the mean of each image's P pixels.
static void pool(const float *x, float *p, i64 N, i64 P, i64 C, int threads) {
    _Pragma("omp parallel for THREADS(N * P * C) schedule(static)")
    for (i64 n = 0; n < N; n++) {
        float *to = p + n * C;
        memset(to, 0, sizeof(float) * C);
        for (i64 i = 0; i < P; i++)
            _Pragma("omp simd") for (i64 c = 0; c < C; c++) to[c] += x[(n * P + i) * C + c];
        for (i64 c = 0; c < C; c++) to[c] /= P;
    }
}

// y = x s, s (N, C) for all pixels of an image.
static void gate(const float *x, const float *s, float *y, i64 N, i64 P, i64 C, int threads) {
    _Pragma("omp parallel for THREADS(N * P * C) schedule(static)")
    for (i64 n = 0; n < N; n++)
        for (i64 i = n * P; i < (n + 1) * P; i++)
            _Pragma("omp simd") for (i64 c = 0; c < C; c++) y[i * C + c] = x[i * C + c] * s[n * C + c];
}

// ds (N, C) = sum over pixels of dy x, where `sums`; else dx = dy s + dp / P, which may overwrite dy.
static void gate_gradient(const float *x, const float *dy, const float *s, const float *dp, float *to, i64 N, i64 P, i64 C,
                          int sums, int threads) {
    _Pragma("omp parallel for THREADS(N * P * C) schedule(static)")
    for (i64 n = 0; n < N; n++) {
        if (sums) memset(to + n * C, 0, sizeof(float) * C);
        for (i64 i = n * P; i < (n + 1) * P; i++) {
            if (sums)
                _Pragma("omp simd") for (i64 c = 0; c < C; c++) to[n * C + c] += dy[i * C + c] * x[i * C + c];
            else
                _Pragma("omp simd") for (i64 c = 0; c < C; c++)
                    to[i * C + c] = dy[i * C + c] * s[n * C + c] + dp[n * C + c] / P;
        }
    }
}

INLINE float activated(float v, int act) {
    if (act == HARDSIGMOID) v = (v + 3.0f) / 6.0f;
    if (act == SIGMOID) return 1.0f / (1.0f + expf(-v));
    v = v < 0.0f ? 0.0f : v;
    return act == HARDSIGMOID && v > 1.0f ? 1.0f : v;
}

// Of an activation's output.
INLINE float slope(float y, int act) {
    if (act == SIGMOID) return y * (1.0f - y);
    if (act == HARDSIGMOID) return y > 0.0f && y < 1.0f ? 1.0f / 6.0f : 0.0f;
    return y > 0.0f ? 1.0f : 0.0f;
}

// y = act(y + b), y (N, C).
static void bias(float *y, const float *b, i64 N, i64 C, int act) {
    for (i64 n = 0; n < N; n++)
        for (i64 c = 0; c < C; c++) y[n * C + c] = activated(y[n * C + c] + b[c], act);
}

// dy becomes the gradient before the activation; db its sum.
static void bias_gradient(float *dy, const float *y, float *db, i64 N, i64 C, int act) {
    memset(db, 0, sizeof(float) * C);
    for (i64 n = 0; n < N; n++)
        for (i64 c = 0; c < C; c++) {
            dy[n * C + c] *= slope(y[n * C + c], act);
            db[c] += dy[n * C + c];
        }
}

static void add(float *to, const float *from, i64 count, int threads) {
    _Pragma("omp parallel for simd THREADS(count) schedule(static)")
    for (i64 i = 0; i < count; i++) to[i] += from[i];
}

#define AT(i) ((float *)addresses[op[1 + i] >> 40] + (op[1 + i] & (((i64)1 << 40) - 1)))
#define SIZE(i) op[1 + OPERANDS + i]
#define MAPS SIZE(0), SIZE(1), SIZE(2), SIZE(3), SIZE(4), SIZE(5), (int)SIZE(6), (int)SIZE(7)

static void play_one(const i64 *op, void *const *addresses, const double *numbers, int threads) {
    switch (op[0]) {
        case MIX: mix(AT(0), AT(1), AT(2), AT(3), SIZE(0), SIZE(1), SIZE(2), threads); break;
        case UNMIX: unmix(AT(0), AT(1), AT(2), SIZE(0), SIZE(1), SIZE(2), threads); break;
        case MIX_GRADIENT: mix_gradient(AT(0), AT(1), AT(2), SIZE(0), SIZE(1), SIZE(2), threads); break;
        case DEPTHWISE: depthwise(AT(0), AT(1), AT(2), AT(3), MAPS, threads); break;
        case UNDEPTHWISE: undepthwise(AT(0), AT(1), AT(2), AT(3), MAPS, threads); break;
        case DEPTHWISE_GRADIENT:
            depthwise_weight_gradient(AT(0), AT(1), AT(2), MAPS, (int)SIZE(6) / 2, threads);
            break;
        case NORM:
            batch_norm(AT(0), AT(1), AT(2), AT(3), AT(4), (double *)AT(5), AT(6), AT(7), SIZE(0), SIZE(1),
                       (float)numbers[SIZE(3)], (float)numbers[SIZE(4)], (int)SIZE(2),
                       SIZE(0) * SIZE(1) > ALONE ? threads : 1);
            break;
        case NORM_GRADIENT:
            batch_norm_backward(AT(0), AT(1), AT(2), (double *)AT(3), AT(4), AT(5), AT(6), AT(7), SIZE(0), SIZE(1),
                                (int)SIZE(2), SIZE(0) * SIZE(1) > ALONE ? threads : 1);
            break;
        case POOL: pool(AT(0), AT(1), SIZE(0), SIZE(1), SIZE(2), threads); break;
        case GATE: gate(AT(0), AT(1), AT(2), SIZE(0), SIZE(1), SIZE(2), threads); break;
        case GATE_SUMS: gate_gradient(AT(0), AT(1), 0, 0, AT(2), SIZE(0), SIZE(1), SIZE(2), 1, threads); break;
        case GATE_GRADIENT: gate_gradient(0, AT(0), AT(1), AT(2), AT(3), SIZE(0), SIZE(1), SIZE(2), 0, threads); break;
        case BIAS: bias(AT(0), AT(1), SIZE(0), SIZE(1), (int)SIZE(2)); break;
        case BIAS_GRADIENT: bias_gradient(AT(0), AT(1), AT(2), SIZE(0), SIZE(1), (int)SIZE(2)); break;
        case ADD: add(AT(0), AT(1), SIZE(0), threads); break;
    }
}

void play(const i64 *tape, i64 count, void *const *addresses, const double *numbers, int threads) {
    for (i64 i = 0; i < count; i++) play_one(tape + i * WIDTH, addresses, numbers, threads);
}
