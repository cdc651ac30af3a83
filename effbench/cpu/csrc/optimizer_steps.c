// Optimizer steps in one pass over memory. Every tensor is float32; a parameter, its gradient and its state share their
// strides, so that one index serves all. Sums round as torch's kernels do: fmaf where torch fuses.
#include <math.h>

#include "elements.h"

// arXiv:2302.06675, in the order of lion-pytorch's operations. sign: -1 to maximize. keep: 1 - lr * weight_decay.
void lion(i64 count, const i64 *sizes, float **params, float **gradients, float **moments, float sign, float keep,
          float lr, float b1, float c1, float b2, float c2, int threads) {
    FOR_MY_ELEMENTS({
        float *restrict p = params[t];
        const float *restrict g = gradients[t];
        float *restrict m = moments[t];
        _Pragma("omp simd")
        for (i64 i = begin; i < end; i++) {
            float gi = sign * g[i];
            float u = fmaf(gi, c1, m[i] * b1);
            float s = (float)((u > 0.0f) - (u < 0.0f));  // 0 for NaN, as in torch
            p[i] = fmaf(s, -lr, p[i] * keep);
            m[i] = fmaf(gi, c2, m[i] * b2);
        }
    });
}

// arXiv:2208.06677 as its authors run it. later: 0 in a parameter's first step, where d_1 = 0, else 1. w: 1 - beta.
// m_scale, v_scale, n_scale: bias corrections; n_scale multiplies sqrt(n), so that eps is added as by the authors.
void adan(i64 count, const i64 *sizes, float **params, float **gradients, float **previous, float **ms, float **vs,
          float **ns, float sign, float later, float lr, float w1, float w2, float b2, float b3, float w3,
          float m_scale, float v_scale, float n_scale, float eps, float keep, int threads) {
    FOR_MY_ELEMENTS({
        float *restrict p = params[t];
        const float *restrict g = gradients[t];
        float *restrict q = previous[t];
        float *restrict m = ms[t];
        float *restrict v = vs[t];
        float *restrict n = ns[t];
        _Pragma("omp simd")
        for (i64 i = begin; i < end; i++) {
            float gi = sign * g[i];
            float d = (gi - q[i]) * later;
            float mi = fmaf(w1, gi - m[i], m[i]);
            float vi = fmaf(w2, d - v[i], v[i]);
            float u = fmaf(d, b2, gi);
            float ni = fmaf(w3, u * u, n[i] * b3);
            float step = lr * (mi * m_scale + vi * v_scale) / (sqrtf(ni) * n_scale + eps);
            p[i] = (p[i] - step) * keep;
            q[i] = gi;
            m[i] = mi;
            v[i] = vi;
            n[i] = ni;
        }
    });
}
