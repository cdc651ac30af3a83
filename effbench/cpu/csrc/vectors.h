// Vectors of float32 as wide as the processor's registers, and parts of them where channels end.
#pragma once
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#include <immintrin.h>
#endif

typedef int64_t i64;
#define INLINE static inline __attribute__((always_inline))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
enum { ALONE = 1 << 14 };  // elements up to which a second thread costs more than it takes off
#define THREADS(elements) num_threads((elements) > ALONE ? threads : 1)

#if defined(__AVX512F__)
enum { V = 16 };
#else
enum { V = 8 };
#endif
typedef float vec __attribute__((vector_size(4 * V), aligned(4), may_alias));
typedef int32_t lanes __attribute__((vector_size(4 * V)));  // numbers of lanes, of two vectors in a row

INLINE vec all(float value) {
#if defined(__AVX512F__)
    return (vec)_mm512_set1_ps(value);
#elif defined(__AVX2__) && defined(__FMA__)
    return (vec)_mm256_set1_ps(value);
#else
    vec v;
    for (int l = 0; l < V; l++) v[l] = value;
    return v;
#endif
}

// sum + a b, rounded once where the processor can.
INLINE vec plus(vec sum, vec a, vec b) {
#if defined(__AVX512F__)
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#elif defined(__AVX2__) && defined(__FMA__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
#else
    return sum + a * b;
#endif
}

// The first n lanes; the others, where nothing may be read, are 0.
INLINE vec load(const float *from, i64 n) {
    if (n == V) return *(const vec *)from;
#if defined(__AVX512F__)
    return (vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), from);
#else
    vec v = {0};
    for (i64 l = 0; l < n; l++) v[l] = from[l];
    return v;
#endif
}

INLINE void store(float *to, vec v, i64 n) {
    if (n == V) {
        *(vec *)to = v;
        return;
    }
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(to, (__mmask16)((1u << n) - 1), (__m512)v);
#else
    for (i64 l = 0; l < n; l++) to[l] = v[l];
#endif
}
