// 1 x 1 convolutions: matrix products of many rows, the pixels, with few columns, by tiles that fill the registers.
#include "layers.h"
#include "vectors.h"

#if defined(__AVX512F__)
enum { TALL = 8, WIDE = 3 };  // 24 sums, 3 vectors of b and a factor of a: 28 of 32 registers
#else
enum { TALL = 4, WIDE = 3 };
#endif
enum { PANEL = WIDE * V };
enum { ROWS = 64 };   // of a, which then stay in the nearest cache
enum { DEEP = 256 };  // rows that a tile of a weight gradient sums in one go

// c[r, :] (+)= sum over k of a[r ar + k ak] b[k, :] for `tall` r and `wide` vectors, of which the last has `last` lanes.
// bs, cs: from one row of b or c to the next.
INLINE void tile(const float *a, i64 ar, i64 ak, const float *b, i64 bs, i64 K, float *c, i64 cs, int tall, int wide,
                 i64 last, int more) {
    vec sum[TALL][WIDE];
    for (int r = 0; r < tall; r++)
        for (int v = 0; v < wide; v++) sum[r][v] = all(0);
    for (i64 k = 0; k < K; k++) {
        vec row[WIDE];
        for (int v = 0; v < wide; v++) row[v] = load(b + k * bs + v * V, v == wide - 1 ? last : V);
        for (int r = 0; r < tall; r++) {
            vec factor = all(a[r * ar + k * ak]);
            for (int v = 0; v < wide; v++) sum[r][v] = plus(sum[r][v], factor, row[v]);
        }
    }
    for (int r = 0; r < tall; r++)
        for (int v = 0; v < wide; v++) {
            i64 count = v == wide - 1 ? last : V;
            float *to = c + r * cs + v * V;
            if (more) sum[r][v] += load(to, count);
            store(to, sum[r][v], count);
        }
}

#define TILE(TALL, WIDE, LAST) tile(a + r * ar, ar, ak, b, bs, K, c + r * cs, cs, TALL, WIDE, LAST, more)
#define WIDTHS(TALL)                                                                                                   \
    do {                                                                                                               \
        if (wide == 3 && last == V) TILE(TALL, 3, V);                                                                  \
        else if (wide == 3) TILE(TALL, 3, last);                                                                       \
        else if (wide == 2 && last == V) TILE(TALL, 2, V);                                                             \
        else if (wide == 2) TILE(TALL, 2, last);                                                                       \
        else if (last == V) TILE(TALL, 1, V);                                                                          \
        else TILE(TALL, 1, last);                                                                                      \
    } while (0)

// The same for R rows and up to PANEL columns.
static void panel(const float *a, i64 ar, i64 ak, const float *b, i64 bs, i64 R, i64 K, i64 columns, float *c, i64 cs,
                  int more) {
    i64 wide = (columns + V - 1) / V, last = columns - (wide - 1) * V, r = 0;
    for (; R - r >= TALL; r += TALL) WIDTHS(TALL);
    for (; r < R; r++) WIDTHS(1);
}

// c (R, N) = or, for `more`, += a (R, K), whose elements are ar and ak apart, times b (K, N).
static void times(const float *a, i64 ar, i64 ak, const float *b, i64 R, i64 K, i64 N, float *c, int more) {
    for (i64 n = 0; n < N; n += PANEL) panel(a, ar, ak, b + n, N, R, K, MIN(PANEL, N - n), c + n, N, more);
}

// Lanes of a and b by their numbers, b's after a's.
INLINE vec chosen(vec a, vec b, lanes which) {
#if defined(__clang__)
    vec v;
    for (int l = 0; l < V; l++) v[l] = which[l] < V ? a[which[l]] : b[which[l] - V];
    return v;
#else
    return __builtin_shuffle(a, b, which);
#endif
}

// Blocks of `half` lanes and rows change places with their neighbours across the diagonal.
INLINE void swap(vec square[V], int half) {
    lanes upper, lower;
    for (int l = 0; l < V; l++) {
        upper[l] = l & half ? V + l - half : l;
        lower[l] = l & half ? V + l : l + half;
    }
    _Pragma("GCC unroll 16")
    for (int r = 0; r < V; r++) {
        if (r & half) continue;
        vec above = square[r], below = square[r + half];
        square[r] = chosen(above, below, upper);
        square[r + half] = chosen(above, below, lower);
    }
}

// The square turned over its diagonal.
INLINE void turn(vec square[V]) {
    swap(square, 1), swap(square, 2), swap(square, 4);
    if (V == 16) swap(square, 8);
}

// w (O, I), from one of its rows on, as a panel (I, PANEL) of `columns` columns.
static void pack(const float *w, float *packed, i64 I, i64 columns) {
    for (i64 i = 0; i < I; i += V)
        for (i64 o = 0; o < columns; o += V) {
            vec square[V];
            i64 wide = MIN(V, I - i), tall = MIN(V, columns - o);
            if (wide == V && tall == V) {
                _Pragma("GCC unroll 16")
                for (int r = 0; r < V; r++) square[r] = load(w + (o + r) * I + i, V);
                turn(square);
                _Pragma("GCC unroll 16")
                for (int r = 0; r < V; r++) store(packed + (i + r) * PANEL + o, square[r], V);
                continue;
            }
            for (i64 r = 0; r < V; r++) square[r] = r < tall ? load(w + (o + r) * I + i, wide) : all(0);
            turn(square);
            for (i64 r = 0; r < wide; r++) store(packed + (i + r) * PANEL + o, square[r], V);
        }
}

// How many rows at a time: few enough for every thread to get some.
INLINE i64 rows_of(i64 R, int threads) {
    i64 share = (R + threads - 1) / threads;
    return share ? MIN(ROWS, (share + TALL - 1) / TALL * TALL) : ROWS;
}

// y (R, O) = x (R, I) w^T, w (O, I). packed: scratch, I times O rounded up to panels.
void mix(const float *x, const float *w, float *packed, float *y, i64 R, i64 I, i64 O, int threads) {
    i64 block = rows_of(R, threads);
    _Pragma("omp parallel THREADS(R * O)")
    {
        _Pragma("omp for schedule(static)")
        for (i64 o = 0; o < O; o += PANEL) pack(w + o * I, packed + o * I, I, MIN(PANEL, O - o));
        _Pragma("omp for schedule(static)")
        for (i64 r = 0; r < R; r += block)
            for (i64 o = 0; o < O; o += PANEL)
                panel(x + r * I, I, 1, packed + o * I, PANEL, MIN(block, R - r), I, MIN(PANEL, O - o), y + r * O + o, O, 0);
    }
}

// dx (R, I) = dy (R, O) w.
void unmix(const float *dy, const float *w, float *dx, i64 R, i64 I, i64 O, int threads) {
    i64 block = rows_of(R, threads);
    _Pragma("omp parallel for THREADS(R * I) schedule(static)")
    for (i64 r = 0; r < R; r += block) times(dy + r * O, O, 1, w, MIN(block, R - r), O, I, dx + r * I, 0);
}

// c (A, B) = a^T b, a (R, A), b (R, B), R > 0: each element is summed by one thread, whatever their number, and sums of
// sums keep the rounding small.
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
    if (I < PANEL && O > I) {
        gradient(x, dy, turned, R, I, O);
        _Pragma("omp barrier")
        _Pragma("omp for schedule(static)")
        for (i64 o = 0; o < O; o++)
            for (i64 i = 0; i < I; i++) dw[o * I + i] = turned[i * O + o];
    } else {
        gradient(dy, x, dw, R, O, I);
    }
}
