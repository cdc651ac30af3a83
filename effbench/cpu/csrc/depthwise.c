// Depthwise convolutions, k x k and centred: the channels of a pixel fill vectors, for each tap of the filter.
#include "layers.h"
#include "vectors.h"

enum { MOST_K = 7, AHEAD = 4 };  // AHEAD: pixels at once, which share a load of the weights
enum { PARTS = 16 };             // of the images, of which each has sums of its own

// w (C, k, k) tap by tap, (k, k, C); `back`: turned by 180 degrees.
static void by_tap(const float *w, float *packed, i64 C, int taps, int back) {
    for (int t = 0; t < taps; t++)
        for (i64 c = 0; c < C; c++) packed[t * C + c] = w[c * taps + (back ? taps - 1 - t : t)];
}

// `count` pixels of y: sums over the rows [i0, i1) and columns [j0, j1) of the filter. x: where its first tap falls.
INLINE void pixels(const float *x, const float *w, float *y, i64 row, i64 step, i64 C, i64 lanes, int i0, int i1, int j0,
                   int j1, int k, int count) {
    vec sum[AHEAD];
    for (int p = 0; p < count; p++) sum[p] = all(0);
    for (int i = i0; i < i1; i++)
        for (int j = j0; j < j1; j++) {
            vec weight = load(w + (i * k + j) * C, lanes);
            for (int p = 0; p < count; p++) sum[p] = plus(sum[p], load(x + i * row + j * C + p * step, lanes), weight);
        }
    for (int p = 0; p < count; p++) store(y + p * C, sum[p], lanes);
}

// One row of y (OW, C) from the rows [i0, i1) of the filter.
INLINE void row_of(const float *x, const float *w, float *y, i64 C, i64 lanes, i64 W, i64 OW, int i0, int i1, int k,
                   int stride) {
    i64 pad = k / 2, row = W * C, step = stride * C, ow = 0;
    i64 inside = (pad + stride - 1) / stride, outside = W + pad >= k ? (W + pad - k) / stride + 1 : 0;
    while (ow < OW) {
        i64 first = ow * stride - pad;
        const float *from = x + first * C;
        float *to = y + ow * C;
        if (ow >= inside && ow + AHEAD <= outside) {
            pixels(from, w, to, row, step, C, lanes, i0, i1, 0, k, k, AHEAD);
            ow += AHEAD;
        } else if (ow >= inside && ow < outside) {
            pixels(from, w, to, row, step, C, lanes, i0, i1, 0, k, k, 1);
            ow++;
        } else {
            pixels(from, w, to, row, step, C, lanes, i0, i1, first < 0 ? (int)-first : 0, (int)MIN(k, W - first), k, 1);
            ow++;
        }
    }
}

#define ROW_OF(LANES, K) row_of(from + c, packed + c, to + c, C, LANES, W, OW, i0, i1, K, stride)

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
                if (lanes == V && k == 3) ROW_OF(V, 3);
                else if (lanes == V && k == 5) ROW_OF(V, 5);
                else ROW_OF(lanes, k);
            }
        }
}

// x (N, H, W, C) -> y (N, OH, OW, C). packed: scratch, (k, k, C).
void depthwise(const float *x, const float *w, float *packed, float *y, i64 N, i64 C, i64 H, i64 W, i64 OH, i64 OW, int k,
               int stride, int threads) {
    by_tap(w, packed, C, k * k, 0);
    convolve(x, packed, y, N, C, H, W, OH, OW, k, stride, threads);
}

// The taps that reach a pixel of one axis: of the filter in `taps`, from the output pixels in `from`. Returns how many.
INLINE int reaching(i64 at, i64 outputs, int k, int stride, int *taps, i64 *from) {
    int count = 0;
    i64 pad = k / 2;
    for (int i = (int)((at + pad) % stride); i < k && i <= at + pad; i += stride) {
        i64 o = (at + pad - i) / stride;
        if (o < outputs) taps[count] = i, from[count++] = o;
    }
    return count;
}

// One pixel of dx.
INLINE void pixel_back(const float *dy, const float *w, float *dx, i64 C, i64 lanes, i64 OW, int k, int rows, const int *i,
                       const i64 *oh, int columns, const int *j, const i64 *ow) {
    vec sum = all(0);
    for (int a = 0; a < rows; a++)
        for (int b = 0; b < columns; b++)
            sum = plus(sum, load(dy + (oh[a] * OW + ow[b]) * C, lanes), load(w + (i[a] * k + j[b]) * C, lanes));
    store(dx, sum, lanes);
}

// One row of dx (W, C), from an image's dy.
INLINE void row_back(const float *dy, const float *w, float *dx, i64 h, i64 C, i64 W, i64 OH, i64 OW, int k, int stride) {
    int i[MOST_K], j[MOST_K];
    i64 oh[MOST_K], ow[MOST_K];
    int rows = reaching(h, OH, k, stride, i, oh);
    for (i64 v = 0; v < W; v++) {
        int columns = reaching(v, OW, k, stride, j, ow);
        i64 c = 0;
        for (; C - c >= V; c += V) pixel_back(dy + c, w + c, dx + v * C + c, C, V, OW, k, rows, i, oh, columns, j, ow);
        if (c < C) pixel_back(dy + c, w + c, dx + v * C + c, C, C - c, OW, k, rows, i, oh, columns, j, ow);
    }
}

#define ROW_BACK(K, STRIDE) row_back(from, packed, to, h, C, W, OH, OW, K, STRIDE)

// dy (N, OH, OW, C) -> dx (N, H, W, C). packed: scratch, (k, k, C).
void undepthwise(const float *dy, const float *w, float *packed, float *dx, i64 N, i64 C, i64 H, i64 W, i64 OH, i64 OW,
                 int k, int stride, int threads) {
    by_tap(w, packed, C, k * k, stride == 1);
    if (stride == 1) {
        convolve(dy, packed, dx, N, C, H, W, H, W, k, 1, threads);
        return;
    }
    _Pragma("omp parallel for THREADS(N * H * W * C) schedule(static) collapse(2)")
    for (i64 n = 0; n < N; n++)
        for (i64 h = 0; h < H; h++) {
            const float *from = dy + n * OH * OW * C;
            float *to = dx + (n * H + h) * W * C;
            if (stride == 2 && k == 3) ROW_BACK(3, 2);
            else if (stride == 2 && k == 5) ROW_BACK(5, 2);
            else ROW_BACK(k, stride);
        }
}

// One image's part of one row of taps, added to dw, for `wide` vectors of channels: sums of sums keep the rounding small.
INLINE void row_of_taps(const float *x, const float *dy, float *dw, i64 C, i64 H, i64 W, i64 OH, i64 OW, int k, int i,
                        int stride, int wide, i64 last) {
    i64 pad = k / 2, inside = (pad + stride - 1) / stride, outside = W + pad >= k ? (W + pad - k) / stride + 1 : 0;
    vec sum[MOST_K][2];
    for (int j = 0; j < k; j++)
        for (int v = 0; v < wide; v++) sum[j][v] = all(0);
    for (i64 oh = 0; oh < OH; oh++) {
        i64 h = oh * stride - pad + i;
        if (h < 0 || h >= H) continue;
        for (i64 ow = 0; ow < OW; ow++) {
            vec g[2];
            for (int v = 0; v < wide; v++) g[v] = load(dy + (oh * OW + ow) * C + v * V, v == wide - 1 ? last : V);
            const float *from = x + (h * W + ow * stride - pad) * C;
            if (ow >= inside && ow < outside) {
                for (int j = 0; j < k; j++)
                    for (int v = 0; v < wide; v++)
                        sum[j][v] = plus(sum[j][v], g[v], load(from + j * C + v * V, v == wide - 1 ? last : V));
            } else {
                for (int j = 0; j < k; j++) {
                    i64 at = ow * stride - pad + j;
                    if (at < 0 || at >= W) continue;
                    for (int v = 0; v < wide; v++)
                        sum[j][v] = plus(sum[j][v], g[v], load(from + j * C + v * V, v == wide - 1 ? last : V));
                }
            }
        }
    }
    for (int j = 0; j < k; j++)
        for (int v = 0; v < wide; v++) {
            i64 lanes = v == wide - 1 ? last : V;
            float *to = dw + (i * k + j) * C + v * V;
            store(to, load(to, lanes) + sum[j][v], lanes);
        }
}

#define ROW_OF_TAPS(K, WIDE, LAST) row_of_taps(xn + c, gn + c, sums + c, C, H, W, OH, OW, K, i, stride, WIDE, LAST)

// dw (C, k, k) of x (N, H, W, C) and dy (N, OH, OW, C). parts: scratch, (PARTS, k, k, C). The images are summed in
// parts and these in their order, however many threads there are.
void depthwise_gradient(const float *x, const float *dy, float *parts, float *dw, i64 N, i64 C, i64 H, i64 W, i64 OH,
                        i64 OW, int k, int stride, int threads) {
    i64 size = k * k * C;
    _Pragma("omp parallel THREADS(N * OH * OW * C)")
    {
        _Pragma("omp for schedule(static)")
        for (i64 part = 0; part < PARTS; part++) {
            float *sums = parts + part * size;
            memset(sums, 0, sizeof(float) * size);
            for (i64 n = N * part / PARTS; n < N * (part + 1) / PARTS; n++) {
                const float *xn = x + n * H * W * C, *gn = dy + n * OH * OW * C;
                for (i64 c = 0; c < C; c += 2 * V)
                    for (int i = 0; i < k; i++) {
                        i64 lanes = MIN(2 * V, C - c), last = lanes > V ? lanes - V : lanes;
                        if (lanes == 2 * V && k == 3) ROW_OF_TAPS(3, 2, V);
                        else if (lanes == 2 * V && k == 5) ROW_OF_TAPS(5, 2, V);
                        else if (lanes == V && k == 3) ROW_OF_TAPS(3, 1, V);
                        else if (lanes == V && k == 5) ROW_OF_TAPS(5, 1, V);
                        else if (lanes > V) ROW_OF_TAPS(k, 2, last);
                        else ROW_OF_TAPS(k, 1, last);
                    }
            }
        }
        _Pragma("omp for schedule(static)")
        for (i64 c = 0; c < C; c++)
            for (int t = 0; t < k * k; t++) {
                float sum = 0.0f;
                for (i64 part = 0; part < PARTS; part++) sum += parts[part * size + t * C + c];
                dw[c * k * k + t] = sum;
            }
    }
}
