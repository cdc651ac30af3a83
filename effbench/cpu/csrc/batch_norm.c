// Batch normalisation in training (arXiv:1502.03167), channels last, with the activation that follows it: x is read
// twice and y written once; backward reads x and dy twice and writes dx once. The activation takes no pass of its own.
#include <math.h>
#include <stdint.h>

typedef int64_t i64;
enum { ROWS = 128 };  // of a block: sums within it are float32's, over blocks float64's, however many threads there are
enum { MOST = 128 };  // channels of a strip; half and twice as many were slower where there are 2048
enum { NONE, RELU, RELU6, HARDSWISH };

#define INLINE static inline __attribute__((always_inline))

// Comparisons are such that NaN stays NaN.
INLINE float activated(float v, int act) {
    if (act == RELU) return v < 0.0f ? 0.0f : v;
    if (act == RELU6) return v < 0.0f ? 0.0f : (v > 6.0f ? 6.0f : v);
    if (act == HARDSWISH) {
        float gate = v + 3.0f;
        gate = gate < 0.0f ? 0.0f : (gate > 6.0f ? 6.0f : gate);
        return v * gate * (1.0f / 6.0f);
    }
    return v;
}

// The gradient before the activation of v. As torch has it, it is 0 where the activation is flat, also for dy of NaN or
// infinity, and ReLU's passes where v is NaN: a choice between values, as a product with a slope of 0 does neither.
INLINE float before(float dy, float v, int act) {
    if (act == RELU) return v <= 0.0f ? 0.0f : dy;
    if (act == RELU6) return (v > 0.0f) & (v < 6.0f) ? dy : 0.0f;
    if (act == HARDSWISH) return v <= -3.0f ? 0.0f : (v >= 3.0f ? dy : dy * (v * (1.0f / 3.0f) + 0.5f));
    return dy;
}

// BODY(lanes) for the channels [c, c + lanes) until all are done; lanes is a constant, so that its loops fill registers.
#define FOR_STRIPS(BODY)                                                                                               \
    do {                                                                                                               \
        i64 c = 0;                                                                                                     \
        for (; C - c >= MOST; c += MOST) BODY(MOST);                                                                   \
        for (; C - c >= 32; c += 32) BODY(32);                                                                         \
        for (; C - c >= 16; c += 16) BODY(16);                                                                         \
        for (; C - c >= 8; c += 8) BODY(8);                                                                            \
        for (; c < C; c++) BODY(1);                                                                                    \
    } while (0)

#define FOR_ACTIVATION(CALL)                                                                                           \
    switch (act) {                                                                                                     \
        case RELU: CALL(RELU); break;                                                                                  \
        case RELU6: CALL(RELU6); break;                                                                                \
        case HARDSWISH: CALL(HARDSWISH); break;                                                                        \
        default: CALL(NONE);                                                                                           \
    }

// Sums of x - origin and of its squares, the origin being the block's first row: little is lost in their difference.
INLINE void sum_strip(const float *x, double *sums, i64 rows, i64 C, int lanes) {
    float first[MOST] = {0}, second[MOST] = {0};
    for (i64 r = 0; r < rows; r++) {
        _Pragma("omp simd")
        for (int l = 0; l < lanes; l++) {
            float d = x[r * C + l] - x[l];
            first[l] += d;
            second[l] += d * d;
        }
    }
    for (int l = 0; l < lanes; l++) {
        sums[l] = first[l];
        sums[C + l] = second[l];
    }
}

INLINE void normalise_strip(const float *x, const float *scale, const float *shift, float *y, i64 rows, i64 C, int lanes,
                            int act) {
    for (i64 r = 0; r < rows; r++) {
        _Pragma("omp simd")
        for (int l = 0; l < lanes; l++) y[r * C + l] = activated(x[r * C + l] * scale[l] + shift[l], act);
    }
}

// Sums of the gradient g before the activation, and of g (x - mean).
INLINE void sum_gradient_strip(const float *x, const float *dy, const float *mean, const float *scale,
                               const float *shift, double *sums, i64 rows, i64 C, int lanes, int act) {
    float first[MOST] = {0}, second[MOST] = {0};
    for (i64 r = 0; r < rows; r++) {
        _Pragma("omp simd")
        for (int l = 0; l < lanes; l++) {
            float xi = x[r * C + l], g = before(dy[r * C + l], xi * scale[l] + shift[l], act);
            first[l] += g;
            second[l] += g * (xi - mean[l]);
        }
    }
    for (int l = 0; l < lanes; l++) {
        sums[l] = first[l];
        sums[C + l] = second[l];
    }
}

// dx = scale (g - mean(g)) - along (x - mean).
INLINE void gradient_strip(const float *x, const float *dy, const float *mean, const float *scale, const float *shift,
                           const float *level, const float *along, float *dx, i64 rows, i64 C, int lanes, int act) {
    for (i64 r = 0; r < rows; r++) {
        _Pragma("omp simd")
        for (int l = 0; l < lanes; l++) {
            float xi = x[r * C + l], g = before(dy[r * C + l], xi * scale[l] + shift[l], act);
            dx[r * C + l] = scale[l] * (g - level[l]) - along[l] * (xi - mean[l]);
        }
    }
}

#define BLOCK_ROWS (R - b * ROWS < ROWS ? R - b * ROWS : ROWS)

// Into the first block's sums, in the order of the blocks.
static void add_blocks(double *sums, i64 blocks, i64 C) {
    for (i64 b = 1; b < blocks; b++)
        for (i64 c = 0; c < 2 * C; c++) sums[c] += sums[b * 2 * C + c];
}

// Every block's sums as if its origin were the first block's; in float64, where that one may be far off.
static void move_origins(const float *x, double *sums, i64 blocks, i64 R, i64 C) {
    for (i64 b = 1; b < blocks; b++) {
        double rows = BLOCK_ROWS, *first = sums + b * 2 * C, *second = first + C;
        for (i64 c = 0; c < C; c++) {
            double shift = (double)x[b * ROWS * C + c] - (double)x[c];
            second[c] += 2.0 * shift * first[c] + rows * shift * shift;
            first[c] += rows * shift;
        }
    }
}

#define FOR_BLOCKS _Pragma("omp for schedule(static)") for (i64 b = 0; b < blocks; b++)

// x, y: (R, C), R rows of pixels over all images. sums: scratch, (blocks of ROWS rows, 2, C).
// statistics: (4, C): mean, 1 / sqrt(var + eps), and the scale and shift that make y of x.
void batch_norm(const float *x, const float *gamma, const float *beta, float *running_mean, float *running_var,
                double *sums, float *statistics, float *y, i64 R, i64 C, float eps, float momentum, int act,
                int threads) {
    i64 blocks = (R + ROWS - 1) / ROWS;
    float *mean = statistics, *invstd = mean + C, *scale = invstd + C, *shift = scale + C;
    _Pragma("omp parallel num_threads(threads)")
    {
        FOR_BLOCKS {
            i64 rows = BLOCK_ROWS;
#define SUM(LANES) sum_strip(x + b * ROWS * C + c, sums + b * 2 * C + c, rows, C, LANES)
            FOR_STRIPS(SUM);
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
            i64 rows = BLOCK_ROWS, at = b * ROWS * C;
#define NORMALISE(ACT) FOR_STRIPS(NORMALISE_##ACT)
#define NORMALISE_STRIP(LANES, ACT) normalise_strip(x + at + c, scale + c, shift + c, y + at + c, rows, C, LANES, ACT)
#define NORMALISE_NONE(LANES) NORMALISE_STRIP(LANES, NONE)
#define NORMALISE_RELU(LANES) NORMALISE_STRIP(LANES, RELU)
#define NORMALISE_RELU6(LANES) NORMALISE_STRIP(LANES, RELU6)
#define NORMALISE_HARDSWISH(LANES) NORMALISE_STRIP(LANES, HARDSWISH)
            FOR_ACTIVATION(NORMALISE)
        }
    }
}

// dx: (R, C). sums as above. factors: scratch, (2, C). for_gamma, for_beta: (C).
void batch_norm_backward(const float *x, const float *dy, const float *statistics, double *sums, float *factors,
                         float *dx, float *for_gamma, float *for_beta, i64 R, i64 C, int act, int threads) {
    i64 blocks = (R + ROWS - 1) / ROWS;
    const float *mean = statistics, *invstd = mean + C, *scale = invstd + C, *shift = scale + C;
    float *level = factors, *along = factors + C;
    _Pragma("omp parallel num_threads(threads)")
    {
        FOR_BLOCKS {
            i64 rows = BLOCK_ROWS, at = b * ROWS * C;
#define GSUM(ACT) FOR_STRIPS(GSUM_##ACT)
#define GSUM_STRIP(LANES, ACT)                                                                                         \
    sum_gradient_strip(x + at + c, dy + at + c, mean + c, scale + c, shift + c, sums + b * 2 * C + c, rows, C, LANES, ACT)
#define GSUM_NONE(LANES) GSUM_STRIP(LANES, NONE)
#define GSUM_RELU(LANES) GSUM_STRIP(LANES, RELU)
#define GSUM_RELU6(LANES) GSUM_STRIP(LANES, RELU6)
#define GSUM_HARDSWISH(LANES) GSUM_STRIP(LANES, HARDSWISH)
            FOR_ACTIVATION(GSUM)
        }
        _Pragma("omp single")
        {
            add_blocks(sums, blocks, C);
            for (i64 c = 0; c < C; c++) {
                for_beta[c] = (float)sums[c];
                for_gamma[c] = (float)(sums[C + c] * invstd[c]);
                level[c] = (float)(sums[c] / R);
                along[c] = (float)((double)scale[c] * invstd[c] * invstd[c] * sums[C + c] / R);
            }
        }
        FOR_BLOCKS {
            i64 rows = BLOCK_ROWS, at = b * ROWS * C;
#define GRADIENT(ACT) FOR_STRIPS(GRADIENT_##ACT)
#define GRADIENT_STRIP(LANES, ACT)                                                                                     \
    gradient_strip(x + at + c, dy + at + c, mean + c, scale + c, shift + c, level + c, along + c, dx + at + c, rows, C, \
                   LANES, ACT)
#define GRADIENT_NONE(LANES) GRADIENT_STRIP(LANES, NONE)
#define GRADIENT_RELU(LANES) GRADIENT_STRIP(LANES, RELU)
#define GRADIENT_RELU6(LANES) GRADIENT_STRIP(LANES, RELU6)
#define GRADIENT_HARDSWISH(LANES) GRADIENT_STRIP(LANES, HARDSWISH)
            FOR_ACTIVATION(GRADIENT)
        }
    }
}
