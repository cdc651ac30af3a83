// Loops over lists of float32 tensors.
#include "kernels.h"

// Runs BODY for the part [begin, end) of each tensor t that falls into this thread's equal share; `part` is its number.
#define FOR_MY_ELEMENTS(BODY)                                                                                          \
    do {                                                                                                               \
        i64 total = 0;                                                                                                 \
        for (i64 t = 0; t < count; t++) total += sizes[t];                                                             \
        _Pragma("omp parallel for num_threads(threads) schedule(static)")                                              \
        for (int part = 0; part < threads; part++) {                                                                   \
            i64 low = total * part / threads, high = total * (part + 1) / threads, first = 0;                          \
            for (i64 t = 0; t < count && first < high; first += sizes[t], t++) {                                       \
                i64 begin = low > first ? low - first : 0;                                                             \
                i64 end = high - first < sizes[t] ? high - first : sizes[t];                                           \
                if (begin < end) BODY                                                                                  \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)
