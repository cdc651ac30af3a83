// Dropout (Srivastava et al. 2014) whose mask nobody keeps: an element's fate is a hash of a seed and of its place.
//
// The hash is SplitMix64's (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014): its n-th output
// can be had without the others, so threads do not change it. Each gives 32 bits to two elements.
#include "vectors.h"

typedef uint64_t hashes __attribute__((vector_size(4 * V)));
typedef uint32_t words __attribute__((vector_size(4 * V)));
static const uint64_t GOLDEN = 0x9E3779B97F4A7C15;  // 2^64 over the golden ratio, odd

INLINE hashes mixed(hashes z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
}

// y = x / share where 32 bits are not below the threshold, x 0 elsewhere, so that NaN stays NaN; y may be x.
void dropout(const float *x, float *y, i64 count, uint64_t seed, uint32_t threshold, float share, int threads) {
    hashes steps;
    for (int l = 0; l < V / 2; l++) steps[l] = (l + 1) * GOLDEN;
    const words scales = (words)all(1.0f / share);
    _Pragma("omp parallel for THREADS(count) schedule(static)")
    for (i64 i = 0; i < count; i += V) {
        words kept = (words)((words)mixed(steps + (seed + (uint64_t)(i / 2) * GOLDEN)) >= threshold);
        i64 n = MIN(V, count - i);
        store(y + i, load(x + i, n) * (vec)(kept & scales), n);
    }
}
