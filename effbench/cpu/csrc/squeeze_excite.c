// Squeeze-and-excitation (arXiv:1709.01507) without its two matrix products, which are in gemm.c.
#include <math.h>

#include "kernels.h"
#include "vectors.h"

enum { RELU = 1, HARDSIGMOID, SIGMOID };  // as in effbench/cpu/inverted_residual_function.py

#define FOR_IMAGES _Pragma("omp parallel for THREADS(N * P * C) schedule(static)") for (i64 n = 0; n < N; n++)
#define FOR_CHANNELS _Pragma("omp simd") for (i64 c = 0; c < C; c++)

// y (N, C): the mean over an image's P pixels.
void average_pool(const float *x, float *y, i64 N, i64 P, i64 C, int threads) {
    FOR_IMAGES {
        float *to = y + n * C;
        memset(to, 0, sizeof(float) * C);
        for (i64 i = n * P; i < (n + 1) * P; i++) FOR_CHANNELS to[c] += x[i * C + c];
        FOR_CHANNELS to[c] /= P;
    }
}

// y = x s, s (N, C).
void scale_channels(const float *x, const float *s, float *y, i64 N, i64 P, i64 C, int threads) {
    FOR_IMAGES for (i64 i = n * P; i < (n + 1) * P; i++) FOR_CHANNELS y[i * C + c] = x[i * C + c] * s[n * C + c];
}

// ds (N, C): the sum over pixels of dy x.
void scale_channels_backward_scale(const float *x, const float *dy, float *ds, i64 N, i64 P, i64 C, int threads) {
    FOR_IMAGES {
        float *to = ds + n * C;
        memset(to, 0, sizeof(float) * C);
        for (i64 i = n * P; i < (n + 1) * P; i++) FOR_CHANNELS to[c] += dy[i * C + c] * x[i * C + c];
    }
}

// dx = dy s + dpooled / P; s and dpooled are (N, C). dx may be dy.
void squeeze_excite_backward_input(const float *dy, const float *s, const float *dpooled, float *dx, i64 N, i64 P,
                                   i64 C, int threads) {
    FOR_IMAGES for (i64 i = n * P; i < (n + 1) * P; i++)
        FOR_CHANNELS dx[i * C + c] = dy[i * C + c] * s[n * C + c] + dpooled[n * C + c] / P;
}

// The comparisons keep NaN.
INLINE float activate(float v, int activation) {
    if (activation == SIGMOID) return 1.0f / (1.0f + expf(-v));
    if (activation == HARDSIGMOID) v = (v + 3.0f) / 6.0f;
    v = v < 0.0f ? 0.0f : v;
    return activation == HARDSIGMOID && v > 1.0f ? 1.0f : v;
}

// The gradient before the activation whose output is y. Where the activation is flat it is 0, also for infinite dy, as
// in torch.
INLINE float activate_backward(float dy, float y, int activation) {
    if (activation == SIGMOID) return dy * y * (1.0f - y);
    if (activation == HARDSIGMOID) return y > 0.0f && y < 1.0f ? dy / 6.0f : 0.0f;
    return y <= 0.0f ? 0.0f : dy;
}

// In place: y = activation(y + b), y (N, C).
void bias_activation(float *y, const float *b, i64 N, i64 C, int activation) {
    for (i64 n = 0; n < N; n++) FOR_CHANNELS y[n * C + c] = activate(y[n * C + c] + b[c], activation);
}

// In place: dy becomes the gradient before the activation whose output is y. db (C): its sum.
void bias_activation_backward(float *dy, const float *y, float *db, i64 N, i64 C, int activation) {
    memset(db, 0, sizeof(float) * C);
    for (i64 n = 0; n < N; n++)
        FOR_CHANNELS {
            dy[n * C + c] = activate_backward(dy[n * C + c], y[n * C + c], activation);
            db[c] += dy[n * C + c];
        }
}

void add_in_place(float *to, const float *from, i64 count, int threads) {
    _Pragma("omp parallel for simd THREADS(count) schedule(static)")
    for (i64 i = 0; i < count; i++) to[i] += from[i];
}
