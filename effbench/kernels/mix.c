// 1 x 1 convolutions: matrix products of many rows, the pixels, with few columns, by tiles that fill the registers.
#include "layers.h"
#include "vectors.h"

#if defined(__AVX512F__)
enum { TALL = 8, WIDE = 3 };  // 24 sums, 3 vectors of b and a factor of a: 28 of 32 registers
#else
enum { TALL = 4, WIDE = 3 };
#endif
enum { ROWS = 64 };   // of a, which then stay in the nearest cache
enum { DEEP = 256 };  // rows that a tile of a weight gradient sums in one go

// c[r, :] (+)= sum over k of a[r ar + k ak] b[k, :] for `tall` r and `wide` vectors, of which the last has `last` lanes.
INLINE void tile(const float *a, i64 ar, i64 ak, const float *b, i64 N, i64 K, float *c, int tall, int wide, i64 last,
                 int more) {
    vec sum[TALL][WIDE];
    for (int r = 0; r < tall; r++)
        for (int v = 0; v < wide; v++) sum[r][v] = more ? load(c + r * N + v * V, v == wide - 1 ? last : V) : all(0);
    for (i64 k = 0; k < K; k++) {
        vec row[WIDE];
        for (int v = 0; v < wide; v++) row[v] = load(b + k * N + v * V, v == wide - 1 ? last : V);
        for (int r = 0; r < tall; r++) {
            vec factor = all(a[r * ar + k * ak]);
            for (int v = 0; v < wide; v++) sum[r][v] = plus(sum[r][v], factor, row[v]);
        }
    }
    for (int r = 0; r < tall; r++)
        for (int v = 0; v < wide; v++) store(c + r * N + v * V, sum[r][v], v == wide - 1 ? last : V);
}

#define TILE(TALL, WIDE, LAST) tile(a + r * ar, ar, ak, b + n, N, K, c + r * N + n, TALL, WIDE, LAST, more)
#define WIDTHS(TALL)                                                                                                   \
    do {                                                                                                               \
        if (wide == 3 && last == V) TILE(TALL, 3, V);                                                                  \
        else if (wide == 3) TILE(TALL, 3, last);                                                                       \
        else if (wide == 2 && last == V) TILE(TALL, 2, V);                                                             \
        else if (wide == 2) TILE(TALL, 2, last);                                                                       \
        else if (last == V) TILE(TALL, 1, V);                                                                          \
        else TILE(TALL, 1, last);                                                                                      \
    } while (0)

// c (R, N) = or, for `more`, += a (R, K), whose elements are ar and ak apart, times b (K, N).
static void times(const float *a, i64 ar, i64 ak, const float *b, i64 R, i64 K, i64 N, float *c, int more) {
    for (i64 n = 0; n < N; n += WIDE * V) {
        i64 columns = MIN(WIDE * V, N - n), wide = (columns + V - 1) / V, last = columns - (wide - 1) * V, r = 0;
        for (; R - r >= TALL; r += TALL) WIDTHS(TALL);
        for (; r < R; r++) WIDTHS(1);
    }
}

// to (J, I) = from (I, J) turned, for the columns [first, end) of from: small squares, which stay in the cache.
INLINE void turn(const float *from, float *to, i64 I, i64 J, i64 first, i64 end) {
    for (i64 i0 = 0; i0 < I; i0 += 64)
        for (i64 j = first; j < end; j++)
            for (i64 i = i0; i < MIN(i0 + 64, I); i++) to[j * I + i] = from[i * J + j];
}

// y (R, O) = x (R, I) w^T, w (O, I). packed: scratch, (I, O).
void mix(const float *x, const float *w, float *packed, float *y, i64 R, i64 I, i64 O, int threads) {
    _Pragma("omp parallel THREADS(R * O)")
    {
        _Pragma("omp for schedule(static)")
        for (i64 i = 0; i < I; i += V) turn(w, packed, O, I, i, MIN(i + V, I));
        _Pragma("omp for schedule(static)")
        for (i64 r = 0; r < R; r += ROWS) times(x + r * I, I, 1, packed, MIN(ROWS, R - r), I, O, y + r * O, 0);
    }
}

// dx (R, I) = dy (R, O) w.
void unmix(const float *dy, const float *w, float *dx, i64 R, i64 I, i64 O, int threads) {
    _Pragma("omp parallel for THREADS(R * I) schedule(static)")
    for (i64 r = 0; r < R; r += ROWS) times(dy + r * O, O, 1, w, MIN(ROWS, R - r), O, I, dx + r * I, 0);
}

// c (A, B) = a^T b, a (R, A), b (R, B): each element is summed by one thread, whatever their number.
INLINE void gradient(const float *a, const float *b, float *c, i64 R, i64 A, i64 B) {
    for (i64 r = 0; r < R; r += DEEP) {
        _Pragma("omp for schedule(static) nowait")
        for (i64 i = 0; i < A; i += TALL)
            times(a + r * A + i, 1, A, b + r * B, MIN(TALL, A - i), MIN(DEEP, R - r), B, c + i * B, r > 0);
    }
}

// dw (O, I) = dy^T x. turned: scratch, (I, O), for where vectors are better filled along O.
void mix_gradient(const float *x, const float *dy, float *turned, float *dw, i64 R, i64 I, i64 O, int threads) {
    _Pragma("omp parallel THREADS(R * O)")
    if (I < WIDE * V && O > I) {
        gradient(x, dy, turned, R, I, O);
        _Pragma("omp barrier")
        _Pragma("omp for schedule(static)")
        for (i64 o = 0; o < O; o += V) turn(turned, dw, I, O, o, MIN(o + V, O));
    } else {
        gradient(dy, x, dw, R, O, I);
    }
}
