// Batch normalisation in training (arXiv:1502.03167), channels last, with the activation that follows it, in one pass:
// forward reads x twice and writes y once; backward reads x and dy twice and writes dx once.
#include <math.h>

#include "kernels.h"
#include "vectors.h"

// Rows are summed in blocks: in float32 within a block, in float64 over blocks. The number of threads changes no bit.
enum { BLOCK = 128 };
enum { STRIP = 128 };  // channels at once; 64 and 256 were slower at 2048 channels
enum { NONE, RELU, RELU6, HARDSWISH };  // as in effbench/cpu/batch_norm.py

// The comparisons keep NaN.
INLINE float activate(float v, int activation) {
    if (activation == RELU) return v < 0.0f ? 0.0f : v;
    if (activation == RELU6) return v < 0.0f ? 0.0f : (v > 6.0f ? 6.0f : v);
    if (activation == HARDSWISH) {
        float gate = v + 3.0f;
        gate = gate < 0.0f ? 0.0f : (gate > 6.0f ? 6.0f : gate);
        return v * gate * (1.0f / 6.0f);
    }
    return v;
}

// The gradient before the activation of v. As in torch it is 0 where the activation is flat, also for dy of NaN or
// infinity, and ReLU passes dy where v is NaN: a selection, because a product with a slope of 0 would do neither.
INLINE float activate_backward(float dy, float v, int activation) {
    if (activation == RELU) return v <= 0.0f ? 0.0f : dy;
    if (activation == RELU6) return (v > 0.0f) & (v < 6.0f) ? dy : 0.0f;
    if (activation == HARDSWISH) return v <= -3.0f ? 0.0f : (v >= 3.0f ? dy : dy * (v * (1.0f / 3.0f) + 0.5f));
    return dy;
}

// FUNCTION(..., lanes) for channels [c, c + lanes) until all are done; the arguments may use c. lanes is a constant at
// each call, so that the compiler unrolls.
#define FOR_STRIPS(FUNCTION, ...)                                                                                      \
    do {                                                                                                               \
        i64 c = 0;                                                                                                     \
        for (; C - c >= STRIP; c += STRIP) FUNCTION(__VA_ARGS__, STRIP);                                               \
        for (; C - c >= 32; c += 32) FUNCTION(__VA_ARGS__, 32);                                                        \
        for (; C - c >= 16; c += 16) FUNCTION(__VA_ARGS__, 16);                                                        \
        for (; C - c >= 8; c += 8) FUNCTION(__VA_ARGS__, 8);                                                           \
        for (; c < C; c++) FUNCTION(__VA_ARGS__, 1);                                                                   \
    } while (0)

// The same for FUNCTION(..., activation, lanes), with a constant activation: the loops have no branch.
#define FOR_ACTIVATION(FUNCTION, ...)                                                                                  \
    switch (activation) {                                                                                              \
        case RELU: FOR_STRIPS(FUNCTION, __VA_ARGS__, RELU); break;                                                     \
        case RELU6: FOR_STRIPS(FUNCTION, __VA_ARGS__, RELU6); break;                                                   \
        case HARDSWISH: FOR_STRIPS(FUNCTION, __VA_ARGS__, HARDSWISH); break;                                           \
        default: FOR_STRIPS(FUNCTION, __VA_ARGS__, NONE);                                                              \
    }

// Sums of x - origin and of its squares, where origin is the block's first row: it keeps the numbers small.
INLINE void sum_strip(const float *x, double *sums, i64 rows, i64 C, int lanes) {
    float sum[STRIP] = {0}, sum_of_squares[STRIP] = {0};
    for (i64 r = 0; r < rows; r++) {
        _Pragma("omp simd")
        for (int l = 0; l < lanes; l++) {
            float d = x[r * C + l] - x[l];
            sum[l] += d;
            sum_of_squares[l] += d * d;
        }
    }
    for (int l = 0; l < lanes; l++) {
        sums[l] = sum[l];
        sums[C + l] = sum_of_squares[l];
    }
}

INLINE void normalise_strip(const float *x, const float *scale, const float *shift, float *y, i64 rows, i64 C,
                            int activation, int lanes) {
    for (i64 r = 0; r < rows; r++) {
        _Pragma("omp simd")
        for (int l = 0; l < lanes; l++) y[r * C + l] = activate(x[r * C + l] * scale[l] + shift[l], activation);
    }
}

// Sums of the gradient g before the activation, and of g (x - mean).
INLINE void sum_gradient_strip(const float *x, const float *dy, const float *mean, const float *scale,
                               const float *shift, double *sums, i64 rows, i64 C, int activation, int lanes) {
    float sum_g[STRIP] = {0}, sum_gx[STRIP] = {0};
    for (i64 r = 0; r < rows; r++) {
        _Pragma("omp simd")
        for (int l = 0; l < lanes; l++) {
            float xi = x[r * C + l], g = activate_backward(dy[r * C + l], xi * scale[l] + shift[l], activation);
            sum_g[l] += g;
            sum_gx[l] += g * (xi - mean[l]);
        }
    }
    for (int l = 0; l < lanes; l++) {
        sums[l] = sum_g[l];
        sums[C + l] = sum_gx[l];
    }
}

// dx = scale (g - mean(g)) - slope (x - mean).
INLINE void gradient_strip(const float *x, const float *dy, const float *mean, const float *scale, const float *shift,
                           const float *mean_g, const float *slope, float *dx, i64 rows, i64 C, int activation,
                           int lanes) {
    for (i64 r = 0; r < rows; r++) {
        _Pragma("omp simd")
        for (int l = 0; l < lanes; l++) {
            float xi = x[r * C + l], g = activate_backward(dy[r * C + l], xi * scale[l] + shift[l], activation);
            dx[r * C + l] = scale[l] * (g - mean_g[l]) - slope[l] * (xi - mean[l]);
        }
    }
}

#define BLOCK_ROWS (R - b * BLOCK < BLOCK ? R - b * BLOCK : BLOCK)

// Adds the sums of all blocks, in order, to the first block's.
static void add_blocks(double *sums, i64 blocks, i64 C) {
    for (i64 b = 1; b < blocks; b++)
        for (i64 c = 0; c < 2 * C; c++) sums[c] += sums[b * 2 * C + c];
}

// Changes every block's sums to the first block's origin; in float64, because that origin may be far off.
static void move_origins(const float *x, double *sums, i64 blocks, i64 R, i64 C) {
    for (i64 b = 1; b < blocks; b++) {
        double rows = BLOCK_ROWS, *sum = sums + b * 2 * C, *sum_of_squares = sum + C;
        for (i64 c = 0; c < C; c++) {
            double shift = (double)x[b * BLOCK * C + c] - (double)x[c];
            sum_of_squares[c] += 2.0 * shift * sum[c] + rows * shift * shift;
            sum[c] += rows * shift;
        }
    }
}

#define FOR_BLOCKS _Pragma("omp for schedule(static)") for (i64 b = 0; b < blocks; b++)

i64 batch_norm_scratch(i64 R, i64 C) { return (R + BLOCK - 1) / BLOCK * 2 * C; }

// x, y: (R, C). sums: scratch, (blocks, 2, C).
// statistics: (4, C): mean, 1 / sqrt(var + eps), and scale and shift: y = activation(x scale + shift).
void batch_norm(const float *x, const float *gamma, const float *beta, float *running_mean, float *running_var,
                double *sums, float *statistics, float *y, i64 R, i64 C, float eps, float momentum, i64 activation,
                int threads) {
    i64 blocks = (R + BLOCK - 1) / BLOCK;
    float *mean = statistics, *invstd = mean + C, *scale = invstd + C, *shift = scale + C;
    _Pragma("omp parallel THREADS(R * C)")
    {
        FOR_BLOCKS {
            i64 rows = BLOCK_ROWS;
            FOR_STRIPS(sum_strip, x + b * BLOCK * C + c, sums + b * 2 * C + c, rows, C);
        }
        _Pragma("omp single")
        {
            move_origins(x, sums, blocks, R, C);
            add_blocks(sums, blocks, C);
            for (i64 c = 0; c < C; c++) {
                double from_origin = sums[c] / R, var = sums[C + c] / R - from_origin * from_origin;
                if (var < 0.0) var = 0.0;
                double centre = (double)x[c] + from_origin;
                mean[c] = (float)centre;
                invstd[c] = (float)(1.0 / sqrt(var + eps));
                scale[c] = gamma[c] * invstd[c];
                shift[c] = beta[c] - mean[c] * scale[c];
                running_mean[c] += momentum * (mean[c] - running_mean[c]);
                running_var[c] += momentum * ((float)(var * R / (R - 1)) - running_var[c]);
            }
        }
        FOR_BLOCKS {
            i64 rows = BLOCK_ROWS, at = b * BLOCK * C;
            FOR_ACTIVATION(normalise_strip, x + at + c, scale + c, shift + c, y + at + c, rows, C);
        }
    }
}

// dx: (R, C), may be dy. means: scratch, (2, C). statistics: from batch_norm.
void batch_norm_backward(const float *x, const float *dy, const float *statistics, double *sums, float *means,
                         float *dx, float *dgamma, float *dbeta, i64 R, i64 C, i64 activation, int threads) {
    i64 blocks = (R + BLOCK - 1) / BLOCK;
    const float *mean = statistics, *invstd = mean + C, *scale = invstd + C, *shift = scale + C;
    float *mean_g = means, *slope = means + C;
    _Pragma("omp parallel THREADS(R * C)")
    {
        FOR_BLOCKS {
            i64 rows = BLOCK_ROWS, at = b * BLOCK * C;
            FOR_ACTIVATION(sum_gradient_strip, x + at + c, dy + at + c, mean + c, scale + c, shift + c,
                           sums + b * 2 * C + c, rows, C);
        }
        _Pragma("omp single")
        {
            add_blocks(sums, blocks, C);
            for (i64 c = 0; c < C; c++) {
                dbeta[c] = (float)sums[c];
                dgamma[c] = (float)(sums[C + c] * invstd[c]);
                mean_g[c] = (float)(sums[c] / R);
                slope[c] = (float)((double)scale[c] * invstd[c] * invstd[c] * sums[C + c] / R);
            }
        }
        FOR_BLOCKS {
            i64 rows = BLOCK_ROWS, at = b * BLOCK * C;
            FOR_ACTIVATION(gradient_strip, x + at + c, dy + at + c, mean + c, scale + c, shift + c, mean_g + c,
                           slope + c, dx + at + c, rows, C);
        }
    }
}
