// The weight gradient of a depthwise convolution, channels last: each tap is a sum over positions of two rows that lie
// in memory channel by channel, so 16 channels fill a vector register and a row of taps stays in registers.
#include <stdint.h>

typedef int64_t i64;
enum { LANES = 16, MAX_K = 7 };

// One image's part of one row of taps, added to acc[k][LANES].
static inline __attribute__((always_inline)) void row_of_taps(
    const float *x, const float *gy, float acc[][LANES], i64 lanes, i64 C, i64 H, i64 W, i64 OH, i64 OW, int k, int kh,
    int stride, int pad) {
    for (i64 oh = 0; oh < OH; oh++) {
        i64 h = oh * stride - pad + kh;
        if (h < 0 || h >= H) continue;
        for (i64 ow = 0; ow < OW; ow++) {
            const float *g = gy + (oh * OW + ow) * C;
            i64 w0 = ow * stride - pad;
            for (int kw = 0; kw < k; kw++) {
                i64 w = w0 + kw;
                if (w < 0 || w >= W) continue;
                const float *xi = x + (h * W + w) * C;
                _Pragma("omp simd")
                for (i64 c = 0; c < lanes; c++) acc[kw][c] += g[c] * xi[c];
            }
        }
    }
}

// x: (N, H, W, C). gy: (N, OH, OW, C). gw: (C, k, k).
void depthwise_weight_gradient(const float *x, const float *gy, float *gw, i64 N, i64 C, i64 H, i64 W, i64 OH, i64 OW,
                               int k, int stride, int pad, int threads) {
    i64 blocks = (C + LANES - 1) / LANES;
    _Pragma("omp parallel for num_threads(threads) schedule(dynamic) collapse(2)")
    for (i64 block = 0; block < blocks; block++) {
        for (int kh = 0; kh < k; kh++) {
            i64 first = block * LANES;
            i64 lanes = C - first < LANES ? C - first : LANES;
            float total[MAX_K][LANES] = {{0}};
            for (i64 n = 0; n < N; n++) {
                float acc[MAX_K][LANES] = {{0}};  // by image first: sums of sums keep the rounding small
                const float *xn = x + n * H * W * C + first, *gn = gy + n * OH * OW * C + first;
                if (lanes == LANES && k == 3)
                    row_of_taps(xn, gn, acc, LANES, C, H, W, OH, OW, 3, kh, stride, pad);
                else if (lanes == LANES && k == 5)
                    row_of_taps(xn, gn, acc, LANES, C, H, W, OH, OW, 5, kh, stride, pad);
                else
                    row_of_taps(xn, gn, acc, lanes, C, H, W, OH, OW, k, kh, stride, pad);
                for (int kw = 0; kw < k; kw++)
                    for (i64 c = 0; c < LANES; c++) total[kw][c] += acc[kw][c];
            }
            for (int kw = 0; kw < k; kw++)
                for (i64 c = 0; c < lanes; c++) gw[((first + c) * k + kh) * k + kw] = total[kw][c];
        }
    }
}
