// Squeeze-and-excitation (arXiv:1709.01507) but for its matrix products, which are gemm.c's.
#include <math.h>

#include "layers.h"
#include "vectors.h"

enum { RELU = 1, HARDSIGMOID, SIGMOID };

#define EACH_IMAGE _Pragma("omp parallel for THREADS(N * P * C) schedule(static)") for (i64 n = 0; n < N; n++)
#define EACH_CHANNEL _Pragma("omp simd") for (i64 c = 0; c < C; c++)

// p (N, C): the means of an image's P pixels.
void pool(const float *x, float *p, i64 N, i64 P, i64 C, int threads) {
    EACH_IMAGE {
        float *to = p + n * C;
        memset(to, 0, sizeof(float) * C);
        for (i64 i = n * P; i < (n + 1) * P; i++) EACH_CHANNEL to[c] += x[i * C + c];
        EACH_CHANNEL to[c] /= P;
    }
}

// y = x s, s (N, C).
void gate(const float *x, const float *s, float *y, i64 N, i64 P, i64 C, int threads) {
    EACH_IMAGE for (i64 i = n * P; i < (n + 1) * P; i++) EACH_CHANNEL y[i * C + c] = x[i * C + c] * s[n * C + c];
}

// ds (N, C): sums over pixels of dy x.
void gate_sums(const float *x, const float *dy, float *ds, i64 N, i64 P, i64 C, int threads) {
    EACH_IMAGE {
        float *to = ds + n * C;
        memset(to, 0, sizeof(float) * C);
        for (i64 i = n * P; i < (n + 1) * P; i++) EACH_CHANNEL to[c] += dy[i * C + c] * x[i * C + c];
    }
}

// dx = dy s + dp / P, s and dp (N, C); dx may be dy.
void gate_gradient(const float *dy, const float *s, const float *dp, float *dx, i64 N, i64 P, i64 C, int threads) {
    EACH_IMAGE for (i64 i = n * P; i < (n + 1) * P; i++)
        EACH_CHANNEL dx[i * C + c] = dy[i * C + c] * s[n * C + c] + dp[n * C + c] / P;
}

// Comparisons are such that NaN stays NaN.
INLINE float activated(float v, int act) {
    if (act == SIGMOID) return 1.0f / (1.0f + expf(-v));
    if (act == HARDSIGMOID) v = (v + 3.0f) / 6.0f;
    v = v < 0.0f ? 0.0f : v;
    return act == HARDSIGMOID && v > 1.0f ? 1.0f : v;
}

// The gradient before an activation that gave y; where that is flat it is 0, also of infinity, as torch has it.
INLINE float before(float dy, float y, int act) {
    if (act == SIGMOID) return dy * y * (1.0f - y);
    if (act == HARDSIGMOID) return y > 0.0f && y < 1.0f ? dy / 6.0f : 0.0f;
    return y <= 0.0f ? 0.0f : dy;
}

// y becomes act(y + b), y (N, C).
void bias(float *y, const float *b, i64 N, i64 C, int act) {
    for (i64 n = 0; n < N; n++) EACH_CHANNEL y[n * C + c] = activated(y[n * C + c] + b[c], act);
}

// dy becomes the gradient before the activation that gave y; db is its sum.
void bias_gradient(float *dy, const float *y, float *db, i64 N, i64 C, int act) {
    memset(db, 0, sizeof(float) * C);
    for (i64 n = 0; n < N; n++)
        EACH_CHANNEL {
            dy[n * C + c] = before(dy[n * C + c], y[n * C + c], act);
            db[c] += dy[n * C + c];
        }
}

void add(float *to, const float *from, i64 count, int threads) {
    _Pragma("omp parallel for simd THREADS(count) schedule(static)")
    for (i64 i = 0; i < count; i++) to[i] += from[i];
}
