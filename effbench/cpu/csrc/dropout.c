// Dropout (Srivastava et al. 2014) without a stored mask: whether an element is kept is a hash of a seed and its index.
//
// The hash is SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). Its n-th output
// does not depend on the others, so the number of threads changes nothing. Each output gives 32 bits to two elements.
#include "kernels.h"
#include "vectors.h"

typedef uint64_t u64_lanes __attribute__((vector_size(4 * V)));
typedef uint32_t u32_lanes __attribute__((vector_size(4 * V)));
static const uint64_t GOLDEN = 0x9E3779B97F4A7C15;  // 2^64 over the golden ratio, odd

INLINE u64_lanes mix_bits(u64_lanes z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
}

// y = x / keep where the element's 32 bits are >= threshold, else x 0, so that NaN stays NaN. y may be x.
// keep: 1 - p. threshold: p 2^32.
void dropout(const float *x, float *y, i64 count, i64 seed, i64 threshold, float keep, int threads) {
    u64_lanes steps;
    for (int l = 0; l < V / 2; l++) steps[l] = (l + 1) * GOLDEN;
    const u32_lanes scale = (u32_lanes)broadcast(1.0f / keep);
    _Pragma("omp parallel for THREADS(count) schedule(static)")
    for (i64 i = 0; i < count; i += V) {
        u64_lanes bits = mix_bits(steps + ((uint64_t)seed + (uint64_t)(i / 2) * GOLDEN));
        u32_lanes kept = (u32_lanes)((u32_lanes)bits >= (uint32_t)threshold);
        i64 n = MIN(V, count - i);
        store(y + i, load(x + i, n) * (vec)(kept & scale), n);
    }
}
