// Clipping by the norm of all gradients (arXiv:1211.5063): each is read once, and written only where the norm exceeds
// the limit.
#include <math.h>

#include "elements.h"

// limit: of the L2 norm. Squares are summed in float64, where none overflows.
void clip_norm(i64 count, const i64 *sizes, float **gradients, float limit, int threads) {
    double sums[threads];
    for (int part = 0; part < threads; part++) sums[part] = 0.0;
    FOR_MY_ELEMENTS({
        const float *restrict g = gradients[t];
        double sum = 0.0;
        _Pragma("omp simd reduction(+ : sum)")
        for (i64 i = begin; i < end; i++) sum += (double)g[i] * (double)g[i];
        sums[part] += sum;
    });
    double square = 0.0;
    for (int part = 0; part < threads; part++) square += sums[part];
    double factor = limit / (sqrt(square) + 1e-6);
    if (factor >= 1.0) return;  // false for NaN, which makes all gradients NaN, as in torch
    float scale = (float)factor;
    FOR_MY_ELEMENTS({
        float *restrict g = gradients[t];
        _Pragma("omp simd")
        for (i64 i = begin; i < end; i++) g[i] *= scale;
    });
}
