// Depthwise convolutions, k x k and centred. Vectors hold channels of one pixel; each tap of the filter is a product.
#include "kernels.h"
#include "vectors.h"

enum { MAX_KERNEL = 7 };      // as in effbench/cpu/depthwise.py
enum { PIXELS_AT_ONCE = 4 };  // that share a load of the weights
enum { PARTS = 16 };          // of the images; each has a partial sum of the weight gradient

i64 depthwise_scratch(i64 C, i64 k) { return k * k * C; }

// w (C, k, k) tap by tap, (k, k, C); where `flipped`, rotated by 180 degrees.
static void pack_taps(const float *w, float *packed, i64 C, int taps, int flipped) {
    for (int t = 0; t < taps; t++)
        for (i64 c = 0; c < C; c++) packed[t * C + c] = w[c * taps + (flipped ? taps - 1 - t : t)];
}

// `count` pixels of y: sums over rows [i0, i1) and columns [j0, j1) of the filter. x: the pixel under the first tap.
// row, step: floats from one row of x to the next, and from one output pixel's input to the next.
INLINE void convolve_pixels(const float *x, const float *w, float *y, i64 row, i64 step, i64 C, i64 lanes, int i0,
                            int i1, int j0, int j1, int k, int count) {
    vec sum[PIXELS_AT_ONCE];
    for (int p = 0; p < count; p++) sum[p] = broadcast(0);
    for (int i = i0; i < i1; i++)
        for (int j = j0; j < j1; j++) {
            vec weight = load(w + (i * k + j) * C, lanes);
            for (int p = 0; p < count; p++)
                sum[p] = multiply_add(sum[p], load(x + i * row + j * C + p * step, lanes), weight);
        }
    for (int p = 0; p < count; p++) store(y + p * C, sum[p], lanes);
}

// Output columns [inside, outside) have all their taps within the input's W columns.
INLINE i64 first_inside(int k, int stride) { return (k / 2 + stride - 1) / stride; }
INLINE i64 first_outside(i64 W, int k, int stride) { return W + k / 2 >= k ? (W + k / 2 - k) / stride + 1 : 0; }

// One row of y (OW, C) from rows [i0, i1) of the filter.
INLINE void convolve_row(const float *x, const float *w, float *y, i64 C, i64 lanes, i64 W, i64 OW, int i0, int i1,
                         int k, int stride) {
    i64 pad = k / 2, row = W * C, step = stride * C, ow = 0;
    i64 inside = first_inside(k, stride), outside = first_outside(W, k, stride);
    while (ow < OW) {
        i64 first = ow * stride - pad;
        const float *from = x + first * C;
        float *to = y + ow * C;
        if (ow >= inside && ow + PIXELS_AT_ONCE <= outside) {
            convolve_pixels(from, w, to, row, step, C, lanes, i0, i1, 0, k, k, PIXELS_AT_ONCE);
            ow += PIXELS_AT_ONCE;
        } else if (ow >= inside && ow < outside) {
            convolve_pixels(from, w, to, row, step, C, lanes, i0, i1, 0, k, k, 1);
            ow++;
        } else {
            int j0 = first < 0 ? (int)-first : 0, j1 = (int)MIN(k, W - first);
            convolve_pixels(from, w, to, row, step, C, lanes, i0, i1, j0, j1, k, 1);
            ow++;
        }
    }
}

// The kernel size and full vectors are constants at each call, so that the compiler unrolls the loops.
#define CONVOLVE_ROW(LANES, K) convolve_row(from + c, packed + c, to + c, C, LANES, W, OW, i0, i1, K, stride)

static void convolve(const float *x, const float *packed, float *y, i64 N, i64 C, i64 H, i64 W, i64 OH, i64 OW, int k,
                     int stride, int threads) {
    i64 pad = k / 2;
    _Pragma("omp parallel for THREADS(N * OH * OW * C) schedule(static) collapse(2)")
    for (i64 n = 0; n < N; n++)
        for (i64 oh = 0; oh < OH; oh++) {
            i64 first = oh * stride - pad;
            int i0 = first < 0 ? (int)-first : 0, i1 = (int)MIN(k, H - first);
            const float *from = x + (n * H + first) * W * C;
            float *to = y + (n * OH + oh) * OW * C;
            for (i64 c = 0; c < C; c += V) {
                i64 lanes = MIN(V, C - c);
                if (lanes == V && k == 3) CONVOLVE_ROW(V, 3);
                else if (lanes == V && k == 5) CONVOLVE_ROW(V, 5);
                else CONVOLVE_ROW(lanes, k);
            }
        }
}

// x (N, H, W, C) -> y (N, OH, OW, C). packed: scratch.
void depthwise(const float *x, const float *w, float *packed, float *y, i64 N, i64 C, i64 H, i64 W, i64 OH, i64 OW,
               i64 k, i64 stride, int threads) {
    pack_taps(w, packed, C, k * k, 0);
    convolve(x, packed, y, N, C, H, W, OH, OW, k, stride, threads);
}

// Along one axis: the taps that read the input position `at`, and their output positions. Returns how many.
INLINE int taps_at(i64 at, i64 outputs, int k, int stride, int *taps, i64 *output) {
    int count = 0;
    i64 pad = k / 2;
    for (int i = (int)((at + pad) % stride); i < k && i <= at + pad; i += stride) {
        i64 o = (at + pad - i) / stride;
        if (o < outputs) taps[count] = i, output[count++] = o;
    }
    return count;
}

// One pixel of dx, from rows i and columns j of the filter and rows oh and columns ow of dy.
INLINE void backward_pixel(const float *dy, const float *w, float *dx, i64 C, i64 lanes, i64 OW, int k, int rows,
                           const int *i, const i64 *oh, int columns, const int *j, const i64 *ow) {
    vec sum = broadcast(0);
    for (int a = 0; a < rows; a++)
        for (int b = 0; b < columns; b++)
            sum = multiply_add(sum, load(dy + (oh[a] * OW + ow[b]) * C, lanes), load(w + (i[a] * k + j[b]) * C, lanes));
    store(dx, sum, lanes);
}

// One row of dx (W, C), from one image's dy.
INLINE void backward_row(const float *dy, const float *w, float *dx, i64 h, i64 C, i64 W, i64 OH, i64 OW, int k,
                         int stride) {
    int i[MAX_KERNEL], j[MAX_KERNEL];
    i64 oh[MAX_KERNEL], ow[MAX_KERNEL];
    int rows = taps_at(h, OH, k, stride, i, oh);
    for (i64 x = 0; x < W; x++) {
        int columns = taps_at(x, OW, k, stride, j, ow);
        i64 c = 0;
        for (; C - c >= V; c += V)
            backward_pixel(dy + c, w + c, dx + x * C + c, C, V, OW, k, rows, i, oh, columns, j, ow);
        if (c < C) backward_pixel(dy + c, w + c, dx + x * C + c, C, C - c, OW, k, rows, i, oh, columns, j, ow);
    }
}

#define BACKWARD_ROW(K, STRIDE) backward_row(from, packed, to, h, C, W, OH, OW, K, STRIDE)

// dy (N, OH, OW, C) -> dx (N, H, W, C). packed: scratch. For stride 1 it is a convolution with the rotated filter.
void depthwise_backward_input(const float *dy, const float *w, float *packed, float *dx, i64 N, i64 C, i64 H, i64 W,
                              i64 OH, i64 OW, i64 k, i64 stride, int threads) {
    pack_taps(w, packed, C, k * k, stride == 1);
    if (stride == 1) {
        convolve(dy, packed, dx, N, C, H, W, H, W, k, 1, threads);
        return;
    }
    _Pragma("omp parallel for THREADS(N * H * W * C) schedule(static) collapse(2)")
    for (i64 n = 0; n < N; n++)
        for (i64 h = 0; h < H; h++) {
            const float *from = dy + n * OH * OW * C;
            float *to = dx + (n * H + h) * W * C;
            if (stride == 2 && k == 3) BACKWARD_ROW(3, 2);
            else if (stride == 2 && k == 5) BACKWARD_ROW(5, 2);
            else BACKWARD_ROW(k, stride);
        }
}

// Adds one image's share of row i of the taps to dw, for `vectors` vectors of channels, the last of `last` lanes.
INLINE void add_tap_row(const float *x, const float *dy, float *dw, i64 C, i64 H, i64 W, i64 OH, i64 OW, int k, int i,
                        int stride, int vectors, i64 last) {
    i64 pad = k / 2, inside = first_inside(k, stride), outside = first_outside(W, k, stride);
    vec sum[MAX_KERNEL][2];
    for (int j = 0; j < k; j++)
        for (int v = 0; v < vectors; v++) sum[j][v] = broadcast(0);
    for (i64 oh = 0; oh < OH; oh++) {
        i64 h = oh * stride - pad + i;
        if (h < 0 || h >= H) continue;
        for (i64 ow = 0; ow < OW; ow++) {
            vec g[2];
            for (int v = 0; v < vectors; v++) g[v] = load(dy + (oh * OW + ow) * C + v * V, v == vectors - 1 ? last : V);
            const float *from = x + (h * W + ow * stride - pad) * C;
            if (ow >= inside && ow < outside) {
                for (int j = 0; j < k; j++)
                    for (int v = 0; v < vectors; v++) {
                        i64 lanes = v == vectors - 1 ? last : V;
                        sum[j][v] = multiply_add(sum[j][v], g[v], load(from + j * C + v * V, lanes));
                    }
            } else {
                for (int j = 0; j < k; j++) {
                    i64 at = ow * stride - pad + j;
                    if (at < 0 || at >= W) continue;
                    for (int v = 0; v < vectors; v++) {
                        i64 lanes = v == vectors - 1 ? last : V;
                        sum[j][v] = multiply_add(sum[j][v], g[v], load(from + j * C + v * V, lanes));
                    }
                }
            }
        }
    }
    for (int j = 0; j < k; j++)
        for (int v = 0; v < vectors; v++) {
            i64 lanes = v == vectors - 1 ? last : V;
            float *to = dw + (i * k + j) * C + v * V;
            store(to, load(to, lanes) + sum[j][v], lanes);
        }
}

#define ADD_TAP_ROW(K, VECTORS, LAST)                                                                                  \
    add_tap_row(xn + c, dyn + c, sums + c, C, H, W, OH, OW, K, i, stride, VECTORS, LAST)

i64 depthwise_backward_weight_scratch(i64 C, i64 k) { return PARTS * k * k * C; }

// dw (C, k, k) of x (N, H, W, C) and dy (N, OH, OW, C). partial: scratch, (PARTS, k, k, C). The images are summed in
// PARTS parts, and the parts in order, so that the number of threads changes no bit.
void depthwise_backward_weight(const float *x, const float *dy, float *partial, float *dw, i64 N, i64 C, i64 H, i64 W,
                               i64 OH, i64 OW, i64 k, i64 stride, int threads) {
    i64 size = k * k * C;
    _Pragma("omp parallel THREADS(N * OH * OW * C)")
    {
        _Pragma("omp for schedule(static)")
        for (i64 part = 0; part < PARTS; part++) {
            float *sums = partial + part * size;
            memset(sums, 0, sizeof(float) * size);
            for (i64 n = N * part / PARTS; n < N * (part + 1) / PARTS; n++) {
                const float *xn = x + n * H * W * C, *dyn = dy + n * OH * OW * C;
                for (i64 c = 0; c < C; c += 2 * V)
                    for (int i = 0; i < k; i++) {
                        i64 lanes = MIN(2 * V, C - c), last = lanes > V ? lanes - V : lanes;
                        if (lanes == 2 * V && k == 3) ADD_TAP_ROW(3, 2, V);
                        else if (lanes == 2 * V && k == 5) ADD_TAP_ROW(5, 2, V);
                        else if (lanes == V && k == 3) ADD_TAP_ROW(3, 1, V);
                        else if (lanes == V && k == 5) ADD_TAP_ROW(5, 1, V);
                        else if (lanes > V) ADD_TAP_ROW(k, 2, last);
                        else ADD_TAP_ROW(k, 1, last);
                    }
            }
        }
        _Pragma("omp for schedule(static)")
        for (i64 c = 0; c < C; c++)
            for (int t = 0; t < k * k; t++) {
                float sum = 0.0f;
                for (i64 part = 0; part < PARTS; part++) sum += partial[part * size + t * C + c];
                dw[c * k * k + t] = sum;
            }
    }
}
