// A chain of layers in one call: effbench/cpu/block_program.py writes operations down, and here they are carried out in turn.
//
// An operand is a number: which of the addresses it lies at, times 2^40, plus how many floats further on.
#include "layers.h"
#include "vectors.h"

enum { OPERANDS = 8, SIZES = 8, WIDTH = 1 + OPERANDS + SIZES };  // of an operation, after what it is
enum { MIX, UNMIX, MIX_GRADIENT, DEPTHWISE, UNDEPTHWISE, DEPTHWISE_GRADIENT, NORM, NORM_GRADIENT, POOL, GATE, GATE_SUMS,
       GATE_GRADIENT, BIAS, BIAS_GRADIENT, ADD };

#define AT(i) ((float *)addresses[op[1 + i] >> 40] + (op[1 + i] & (((i64)1 << 40) - 1)))
#define SIZE(i) op[1 + OPERANDS + i]
#define MAPS SIZE(0), SIZE(1), SIZE(2), SIZE(3), SIZE(4), SIZE(5), (int)SIZE(6), (int)SIZE(7)

static void play_one(const i64 *op, void *const *addresses, const double *numbers, int threads) {
    switch (op[0]) {
        case MIX: mix(AT(0), AT(1), AT(2), AT(3), SIZE(0), SIZE(1), SIZE(2), threads); break;
        case UNMIX: unmix(AT(0), AT(1), AT(2), SIZE(0), SIZE(1), SIZE(2), threads); break;
        case MIX_GRADIENT: mix_gradient(AT(0), AT(1), AT(2), AT(3), SIZE(0), SIZE(1), SIZE(2), threads); break;
        case DEPTHWISE: depthwise(AT(0), AT(1), AT(2), AT(3), MAPS, threads); break;
        case UNDEPTHWISE: undepthwise(AT(0), AT(1), AT(2), AT(3), MAPS, threads); break;
        case DEPTHWISE_GRADIENT: depthwise_gradient(AT(0), AT(1), AT(2), AT(3), MAPS, threads); break;
        case NORM:
            batch_norm(AT(0), AT(1), AT(2), AT(3), AT(4), (double *)AT(5), AT(6), AT(7), SIZE(0), SIZE(1),
                       (float)numbers[SIZE(3)], (float)numbers[SIZE(4)], (int)SIZE(2),
                       SIZE(0) * SIZE(1) > ALONE ? threads : 1);
            break;
        case NORM_GRADIENT:
            batch_norm_backward(AT(0), AT(1), AT(2), (double *)AT(3), AT(4), AT(5), AT(6), AT(7), SIZE(0), SIZE(1),
                                (int)SIZE(2), SIZE(0) * SIZE(1) > ALONE ? threads : 1);
            break;
        case POOL: pool(AT(0), AT(1), SIZE(0), SIZE(1), SIZE(2), threads); break;
        case GATE: gate(AT(0), AT(1), AT(2), SIZE(0), SIZE(1), SIZE(2), threads); break;
        case GATE_SUMS: gate_sums(AT(0), AT(1), AT(2), SIZE(0), SIZE(1), SIZE(2), threads); break;
        case GATE_GRADIENT: gate_gradient(AT(0), AT(1), AT(2), AT(3), SIZE(0), SIZE(1), SIZE(2), threads); break;
        case BIAS: bias(AT(0), AT(1), SIZE(0), SIZE(1), (int)SIZE(2)); break;
        case BIAS_GRADIENT: bias_gradient(AT(0), AT(1), AT(2), SIZE(0), SIZE(1), (int)SIZE(2)); break;
        case ADD: add(AT(0), AT(1), SIZE(0), threads); break;
    }
}

void play(const i64 *tape, i64 count, void *const *addresses, const double *numbers, int threads) {
    for (i64 i = 0; i < count; i++) play_one(tape + i * WIDTH, addresses, numbers, threads);
}
