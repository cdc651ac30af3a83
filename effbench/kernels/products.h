// Matrix products of pixels (many rows) and weights (few columns), by tiles that fill the vector registers.
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

typedef int64_t i64;
#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
enum { V = 16, TALL = 8, WIDE = 3 };  // 24 sums, 3 rows of b and a factor of a: 28 of 32 registers
#else
enum { V = 8, TALL = 4, WIDE = 3 };
#endif
typedef float vec __attribute__((vector_size(4 * V), aligned(4), may_alias));

// The first n of a vector's lanes; zeros for the others, which lie where nothing may be read.
INLINE vec part_of(const float *from, i64 n) {
#if defined(__AVX512F__)
    return (vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), from);
#else
    vec v = {0};
    for (i64 l = 0; l < n; l++) v[l] = from[l];
    return v;
#endif
}

INLINE void store_part(float *to, vec v, i64 n) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(to, (__mmask16)((1u << n) - 1), (__m512)v);
#else
    for (i64 l = 0; l < n; l++) to[l] = v[l];
#endif
}

// c[r, :] (+)= sum over k of a[r * ar + k * ak] b[k * bk + :], r < tall, for wide vectors of which the last has `last` lanes.
INLINE void tile(const float *a, i64 ar, i64 ak, const float *b, i64 bk, i64 K, float *c, i64 cr, int tall, int wide,
                 i64 last, int add) {
    vec sum[TALL][WIDE];
    for (int r = 0; r < tall; r++)
        for (int v = 0; v < wide; v++) sum[r][v] = (vec){0};
    for (i64 k = 0; k < K; k++) {
        vec row[WIDE];
        for (int v = 0; v < wide - 1; v++) row[v] = *(const vec *)(b + k * bk + v * V);
        row[wide - 1] = last == V ? *(const vec *)(b + k * bk + (wide - 1) * V) : part_of(b + k * bk + (wide - 1) * V, last);
        for (int r = 0; r < tall; r++) {
            float factor = a[r * ar + k * ak];
            for (int v = 0; v < wide; v++) sum[r][v] += factor * row[v];
        }
    }
    for (int r = 0; r < tall; r++) {
        float *to = c + r * cr;
        for (int v = 0; v < wide; v++) {
            i64 lanes = v == wide - 1 ? last : V;
            if (add) sum[r][v] += lanes == V ? *(const vec *)(to + v * V) : part_of(to + v * V, lanes);
            if (lanes == V)
                *(vec *)(to + v * V) = sum[r][v];
            else
                store_part(to + v * V, sum[r][v], lanes);
        }
    }
}

// The same for any number of rows and columns.
#define TILES(T, W)                                                                                                    \
    do {                                                                                                               \
        if (last == V)                                                                                                 \
            tile(a + r * ar, ar, ak, b + n, bk, K, c + r * cr + n, cr, T, W, V, add);                                  \
        else                                                                                                           \
            tile(a + r * ar, ar, ak, b + n, bk, K, c + r * cr + n, cr, T, W, last, add);                               \
    } while (0)
static void times(const float *a, i64 ar, i64 ak, const float *b, i64 bk, i64 R, i64 K, i64 N, float *c, i64 cr,
                  int add) {
    for (i64 n = 0; n < N; n += WIDE * V) {
        i64 columns = N - n < WIDE * V ? N - n : WIDE * V, wide = (columns + V - 1) / V, last = columns - (wide - 1) * V;
        i64 r = 0;
        for (; R - r >= TALL; r += TALL) {
            if (wide == 3) TILES(TALL, 3);
            else if (wide == 2) TILES(TALL, 2);
            else TILES(TALL, 1);
        }
        for (; r < R; r++) {
            if (wide == 3) TILES(1, 3);
            else if (wide == 2) TILES(1, 2);
            else TILES(1, 1);
        }
    }
}
