// Matrix products of many rows (pixels) with few columns (channels): 1 x 1 convolutions and linear layers. Register
// tiles of TILE_ROWS rows and TILE_VECTORS vectors.
#include "kernels.h"
#include "vectors.h"

#if defined(__AVX512F__)
enum { TILE_ROWS = 8, TILE_VECTORS = 3 };  // 24 sums, 3 vectors of b and a factor of a: 28 of 32 registers
#else
enum { TILE_ROWS = 4, TILE_VECTORS = 3 };
#endif
enum { PANEL = TILE_VECTORS * V };  // columns
enum { CACHED_ROWS = 64 };          // rows of a that stay in the first-level cache
enum { SUMMED_ROWS = 256 };         // rows that a tile of a weight gradient sums at once

// c[r, :] = or, where `accumulate`, += sum over k of a[r a_row + k a_k] b[k, :], for `rows` r and `vectors` vectors;
// the last vector has `last` lanes. b_row, c_row: distance between rows of b and c.
INLINE void tile(const float *a, i64 a_row, i64 a_k, const float *b, i64 b_row, i64 K, float *c, i64 c_row, int rows,
                 int vectors, i64 last, int accumulate) {
    vec sum[TILE_ROWS][TILE_VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) sum[r][v] = broadcast(0);
    for (i64 k = 0; k < K; k++) {
        vec row[TILE_VECTORS];
        for (int v = 0; v < vectors; v++) row[v] = load(b + k * b_row + v * V, v == vectors - 1 ? last : V);
        for (int r = 0; r < rows; r++) {
            vec factor = broadcast(a[r * a_row + k * a_k]);
            for (int v = 0; v < vectors; v++) sum[r][v] = multiply_add(sum[r][v], factor, row[v]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) {
            i64 count = v == vectors - 1 ? last : V;
            float *to = c + r * c_row + v * V;
            if (accumulate) sum[r][v] += load(to, count);
            store(to, sum[r][v], count);
        }
}

// The tile sizes are constants at each call, so that the compiler unrolls its loops.
#define TILE(ROWS, VECTORS, LAST)                                                                                      \
    tile(a + r * a_row, a_row, a_k, b, b_row, K, c + r * c_row, c_row, ROWS, VECTORS, LAST, accumulate)
#define TILE_OF_WIDTH(ROWS)                                                                                            \
    do {                                                                                                               \
        if (vectors == 3 && last == V) TILE(ROWS, 3, V);                                                               \
        else if (vectors == 3) TILE(ROWS, 3, last);                                                                    \
        else if (vectors == 2 && last == V) TILE(ROWS, 2, V);                                                          \
        else if (vectors == 2) TILE(ROWS, 2, last);                                                                    \
        else if (last == V) TILE(ROWS, 1, V);                                                                          \
        else TILE(ROWS, 1, last);                                                                                      \
    } while (0)

// Like `tile`, for R rows and up to PANEL columns.
static void panel(const float *a, i64 a_row, i64 a_k, const float *b, i64 b_row, i64 R, i64 K, i64 columns, float *c,
                  i64 c_row, int accumulate) {
    i64 vectors = (columns + V - 1) / V, last = columns - (vectors - 1) * V, r = 0;
    for (; R - r >= TILE_ROWS; r += TILE_ROWS) TILE_OF_WIDTH(TILE_ROWS);
    for (; r < R; r++) TILE_OF_WIDTH(1);
}

// c (R, N) = or += a (R, K) b (K, N); elements of a are a_row and a_k apart.
static void gemm(const float *a, i64 a_row, i64 a_k, const float *b, i64 R, i64 K, i64 N, float *c, int accumulate) {
    for (i64 n = 0; n < N; n += PANEL)
        panel(a, a_row, a_k, b + n, N, R, K, MIN(PANEL, N - n), c + n, N, accumulate);
}

// Lanes of a (0 to V - 1) and b (V to 2 V - 1) by index.
INLINE vec shuffle(vec a, vec b, lane_indices which) {
#if defined(__clang__)
    vec v;
    for (int l = 0; l < V; l++) v[l] = which[l] < V ? a[which[l]] : b[which[l] - V];
    return v;
#else
    return __builtin_shuffle(a, b, which);
#endif
}

// One step of `transpose`: swaps the off-diagonal blocks of size `half` in each block of size 2 `half`.
INLINE void swap_blocks(vec square[V], int half) {
    lane_indices upper, lower;
    for (int l = 0; l < V; l++) {
        upper[l] = l & half ? V + l - half : l;
        lower[l] = l & half ? V + l : l + half;
    }
    _Pragma("GCC unroll 16")
    for (int r = 0; r < V; r++) {
        if (r & half) continue;
        vec above = square[r], below = square[r + half];
        square[r] = shuffle(above, below, upper);
        square[r + half] = shuffle(above, below, lower);
    }
}

INLINE void transpose(vec square[V]) {
    swap_blocks(square, 1), swap_blocks(square, 2), swap_blocks(square, 4);
    if (V == 16) swap_blocks(square, 8);
}

// `columns` rows of w (O, I) as a panel (I, PANEL); columns of the panel beyond the last whole vector are not written.
static void pack(const float *w, float *packed, i64 I, i64 columns) {
    for (i64 i = 0; i < I; i += V)
        for (i64 o = 0; o < columns; o += V) {
            vec square[V];
            i64 wide = MIN(V, I - i), tall = MIN(V, columns - o);
            if (wide == V && tall == V) {
                _Pragma("GCC unroll 16")
                for (int r = 0; r < V; r++) square[r] = load(w + (o + r) * I + i, V);
                transpose(square);
                _Pragma("GCC unroll 16")
                for (int r = 0; r < V; r++) store(packed + (i + r) * PANEL + o, square[r], V);
                continue;
            }
            for (i64 r = 0; r < V; r++) square[r] = r < tall ? load(w + (o + r) * I + i, wide) : broadcast(0);
            transpose(square);
            for (i64 r = 0; r < wide; r++) store(packed + (i + r) * PANEL + o, square[r], V);
        }
}

// Rows a thread takes at a time: few enough for every thread to get some.
INLINE i64 rows_at_once(i64 R, int threads) {
    i64 share = (R + threads - 1) / threads;
    return share ? MIN(CACHED_ROWS, (share + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS) : CACHED_ROWS;
}

i64 conv1x1_scratch(i64 I, i64 O) { return (O + PANEL - 1) / PANEL * PANEL * I; }

// y (R, O) = x (R, I) w^T, w (O, I). packed: scratch.
void conv1x1(const float *x, const float *w, float *packed, float *y, i64 R, i64 I, i64 O, int threads) {
    i64 block = rows_at_once(R, threads);
    _Pragma("omp parallel THREADS(R * O)")
    {
        _Pragma("omp for schedule(static)")
        for (i64 o = 0; o < O; o += PANEL) pack(w + o * I, packed + o * I, I, MIN(PANEL, O - o));
        _Pragma("omp for schedule(static)")
        for (i64 r = 0; r < R; r += block)
            for (i64 o = 0; o < O; o += PANEL)
                panel(x + r * I, I, 1, packed + o * I, PANEL, MIN(block, R - r), I, MIN(PANEL, O - o), y + r * O + o,
                      O, 0);
    }
}

// dx (R, I) = dy (R, O) w.
void conv1x1_backward_input(const float *dy, const float *w, float *dx, i64 R, i64 I, i64 O, int threads) {
    i64 block = rows_at_once(R, threads);
    _Pragma("omp parallel for THREADS(R * I) schedule(static)")
    for (i64 r = 0; r < R; r += block) gemm(dy + r * O, O, 1, w, MIN(block, R - r), O, I, dx + r * I, 0);
}

// c (A, B) = a^T b, a (R, A), b (R, B), R > 0. One thread sums each element, so that the number of threads changes no
// bit; sums of partial sums keep the rounding error small.
INLINE void sum_outer_products(const float *a, const float *b, float *c, i64 R, i64 A, i64 B) {
    for (i64 r = 0; r < R; r += SUMMED_ROWS) {
        _Pragma("omp for schedule(static) nowait")
        for (i64 i = 0; i < A; i += TILE_ROWS)
            gemm(a + r * A + i, 1, A, b + r * B, MIN(TILE_ROWS, A - i), MIN(SUMMED_ROWS, R - r), B, c + i * B, r > 0);
    }
}

// Vectors are better filled along O than along a short I.
INLINE int is_summed_transposed(i64 I, i64 O) { return I < PANEL && O > I; }

i64 conv1x1_backward_weight_scratch(i64 I, i64 O) { return is_summed_transposed(I, O) ? I * O : 0; }

// dw (O, I) = dy^T x. transposed: scratch.
void conv1x1_backward_weight(const float *x, const float *dy, float *transposed, float *dw, i64 R, i64 I, i64 O,
                             int threads) {
    _Pragma("omp parallel THREADS(R * O)")
    if (is_summed_transposed(I, O)) {
        sum_outer_products(x, dy, transposed, R, I, O);
        _Pragma("omp barrier")
        _Pragma("omp for schedule(static)")
        for (i64 o = 0; o < O; o++)
            for (i64 i = 0; i < I; i++) dw[o * I + i] = transposed[i * O + o];
    } else {
        sum_outer_products(dy, x, dw, R, O, I);
    }
}
