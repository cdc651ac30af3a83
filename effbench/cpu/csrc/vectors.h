// Vectors of float32 as wide as the processor's registers, and partial loads and stores where channels end.
#pragma once
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#include <immintrin.h>
#endif

typedef int64_t i64;
#define INLINE static inline __attribute__((always_inline))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
enum { SERIAL_LIMIT = 1 << 14 };  // elements up to which a second thread costs more than it saves
#define THREADS(elements) num_threads((elements) > SERIAL_LIMIT ? threads : 1)

#if defined(__AVX512F__)
enum { V = 16 };
#else
enum { V = 8 };
#endif
typedef float vec __attribute__((vector_size(4 * V), aligned(4), may_alias));
typedef int32_t lane_indices __attribute__((vector_size(4 * V)));

INLINE vec broadcast(float value) {
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

// sum + a b, rounded once where the processor has fused multiply-add.
INLINE vec multiply_add(vec sum, vec a, vec b) {
#if defined(__AVX512F__)
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#elif defined(__AVX2__) && defined(__FMA__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
#else
    return sum + a * b;
#endif
}

// The first n lanes; the others are 0 and their memory is not read.
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

// Stores the first n lanes.
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
