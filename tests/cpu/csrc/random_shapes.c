// Calls every C function on random shapes, for AddressSanitizer and UndefinedBehaviorSanitizer: random_shapes SEED
// CASES. Each buffer has exactly the size that the function may use, at any 4-byte alignment. Reads that the sanitizer
// does not see, such as masked vector loads, hit an inaccessible page. Outputs must not keep the NaN they start with.
#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels.h"

// --- random numbers and buffers

static uint64_t state;

static uint64_t next(void) {  // xorshift64*
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return state * 0x2545F4914F6CDD1Du;
}

static i64 pick(i64 low, i64 high) { return low + (i64)(next() >> 33) % (high - low + 1); }

static i64 pick_channels(void) {  // around the widths of vectors, panels and strips
    static const i64 edges[] = {1, 8, 16, 24, 32, 48, 64, 128};
    return pick(0, 1) ? pick(1, 40) : edges[pick(0, 7)] + pick(0, 2);
}

enum { BUFFERS = 128 };
static struct {
    char *memory;
    size_t mapped;  // 0: from malloc
} buffers[BUFFERS];
static int used;

// `bytes` that end or begin at an inaccessible page, or on the heap at an odd alignment.
static void *allocate(size_t bytes, size_t alignment) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), inner = (bytes + page - 1) / page * page, shift;
    char *memory;
    if (used == BUFFERS) abort();
    switch (pick(0, 3)) {
        case 0:
        case 1:
            memory = mmap(NULL, inner + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE)) abort();
            if (mprotect(memory + page + inner, page, PROT_NONE)) abort();
            buffers[used].memory = memory, buffers[used++].mapped = inner + 2 * page;
            return memory + page + (pick(0, 1) ? inner - bytes : 0);
        default:
            shift = (size_t)pick(0, 7) * alignment;
            memory = malloc(bytes + shift);
            if (!memory) abort();
            buffers[used].memory = memory, buffers[used++].mapped = 0;
            return memory + shift;
    }
}

static void release_all(void) {
    while (used) {
        used--;
        if (buffers[used].mapped) munmap(buffers[used].memory, buffers[used].mapped);
        else free(buffers[used].memory);
    }
}

static float *input(i64 count) {
    float *values = allocate(sizeof(float) * count, sizeof(float));
    for (i64 i = 0; i < count; i++) values[i] = (float)pick(-3000, 3000) / 1000;
    return values;
}

static float *output(i64 count) {
    float *values = allocate(sizeof(float) * count, sizeof(float));
    for (i64 i = 0; i < count; i++) values[i] = NAN;
    return values;
}

static void check(const char *function, const float *values, i64 count) {
    for (i64 i = 0; i < count; i++)
        if (isnan(values[i])) {
            fprintf(stderr, "%s: element %lld of %lld is not written\n", function, (long long)i, (long long)count);
            exit(1);
        }
}

// --- one random case of each function

static void try_gemm(int threads) {
    i64 R = pick(1, 300), I = pick_channels(), O = pick_channels();
    float *x = input(R * I), *w = input(O * I), *dy = input(R * O);
    float *y = output(R * O), *dx = output(R * I), *dw = output(O * I);
    conv1x1(x, w, output(conv1x1_scratch(I, O)), y, R, I, O, threads);
    conv1x1_backward_input(dy, w, dx, R, I, O, threads);
    conv1x1_backward_weight(x, dy, output(conv1x1_backward_weight_scratch(I, O)), dw, R, I, O, threads);
    check("conv1x1", y, R * O);
    check("conv1x1_backward_input", dx, R * I);
    check("conv1x1_backward_weight", dw, O * I);
}

static void try_depthwise(int threads) {
    i64 N = pick(1, 4), C = pick_channels(), H = pick(1, 9), W = pick(1, 9);
    int k = 3 + 2 * (int)pick(0, 2), stride = (int)pick(1, 3);
    i64 OH = (H - 1) / stride + 1, OW = (W - 1) / stride + 1;
    float *x = input(N * H * W * C), *w = input(C * k * k), *dy = input(N * OH * OW * C);
    float *y = output(N * OH * OW * C), *dx = output(N * H * W * C), *dw = output(C * k * k);
    depthwise(x, w, output(depthwise_scratch(C, k)), y, N, C, H, W, OH, OW, k, stride, threads);
    depthwise_backward_input(dy, w, output(depthwise_scratch(C, k)), dx, N, C, H, W, OH, OW, k, stride, threads);
    float *partial = output(depthwise_backward_weight_scratch(C, k));
    depthwise_backward_weight(x, dy, partial, dw, N, C, H, W, OH, OW, k, stride, threads);
    check("depthwise", y, N * OH * OW * C);
    check("depthwise_backward_input", dx, N * H * W * C);
    check("depthwise_backward_weight", dw, C * k * k);
}

static void try_batch_norm(int threads) {
    i64 R = pick(2, 400), C = pick(0, 3) ? pick_channels() : pick(120, 300);
    int activation = (int)pick(0, 3);
    float *x = input(R * C), *dy = input(R * C), *gamma = input(C), *beta = input(C), *mean = input(C), *var = input(C);
    float *y = output(R * C), *statistics = output(4 * C), *dgamma = output(C), *dbeta = output(C);
    float *dx = pick(0, 1) ? dy : output(R * C);
    size_t scratch = sizeof(double) * batch_norm_scratch(R, C);
    batch_norm(x, gamma, beta, mean, var, allocate(scratch, sizeof(double)), statistics, y, R, C, 1e-3f, 0.1f,
               activation, threads);
    batch_norm_backward(x, dy, statistics, allocate(scratch, sizeof(double)), output(2 * C), dx, dgamma, dbeta, R, C,
                        activation, threads);
    check("batch_norm", y, R * C), check("batch_norm", statistics, 4 * C);
    check("batch_norm", mean, C), check("batch_norm", var, C);
    check("batch_norm_backward", dx, R * C), check("batch_norm_backward", dgamma, C);
    check("batch_norm_backward", dbeta, C);
}

static void try_squeeze_excite(int threads) {
    i64 N = pick(1, 5), P = pick(1, 50), C = pick_channels();
    int activation = (int)pick(1, 3);
    float *x = input(N * P * C), *dy = input(N * P * C), *s = input(N * C), *b = input(C);
    float *pooled = output(N * C), *y = output(N * P * C), *ds = output(N * C), *db = output(C);
    float *dx = pick(0, 1) ? dy : output(N * P * C);
    average_pool(x, pooled, N, P, C, threads);
    scale_channels(x, s, y, N, P, C, threads);
    scale_channels_backward_scale(x, dy, ds, N, P, C, threads);
    bias_activation(s, b, N, C, activation);
    bias_activation_backward(ds, s, db, N, C, activation);
    squeeze_excite_backward_input(dy, s, pooled, dx, N, P, C, threads);
    add_in_place(y, x, N * P * C, threads);
    check("average_pool", pooled, N * C), check("scale_channels", y, N * P * C);
    check("bias_activation_backward", db, C), check("bias_activation_backward", ds, N * C);
    check("squeeze_excite_backward_input", dx, N * P * C);
}

static Layer layer_of(i64 weights, i64 channels, float *(*make)(i64)) {
    Layer layer = {.conv = make(weights)};
    layer.gamma = make(channels), layer.beta = make(channels);
    return layer;
}

static Weights weights_of(const Block *b, float *(*make)(i64)) {
    i64 C = b->expanded, S = b->squeezed, O = b->out_channels;
    Weights w = {.depthwise = layer_of(C * b->kernel * b->kernel, C, make), .project = layer_of(O * C, O, make)};
    if (b->expands) w.expand = layer_of(C * b->channels, C, make);
    if (S) w.reduce = make(S * C), w.reduce_bias = make(S), w.restore = make(C * S), w.restore_bias = make(C);
    return w;
}

static void check_layer(const Layer *layer, i64 weights, i64 channels) {
    const char *name = "inverted_residual_backward";
    check(name, layer->conv, weights), check(name, layer->gamma, channels), check(name, layer->beta, channels);
}

static void check_weights(const Block *b, const Weights *w) {
    const char *name = "inverted_residual_backward";
    i64 C = b->expanded, S = b->squeezed, O = b->out_channels;
    if (b->expands) check_layer(&w->expand, C * b->channels, C);
    check_layer(&w->depthwise, C * b->kernel * b->kernel, C), check_layer(&w->project, O * C, O);
    if (S) check(name, w->reduce, S * C), check(name, w->reduce_bias, S);
    if (S) check(name, w->restore, C * S), check(name, w->restore_bias, C);
}

static Block random_block(void) {
    Block b = {.images = pick(1, 3), .channels = pick_channels(), .height = pick(1, 7), .width = pick(1, 7)};
    if (b.images * b.height * b.width < 2) b.images = 2;
    b.kernel = 3 + 2 * (int)pick(0, 2), b.stride = (int)pick(1, 2), b.expands = (int)pick(0, 1);
    b.gate = (int)pick(2, 3);
    b.out_height = (b.height - 1) / b.stride + 1, b.out_width = (b.width - 1) / b.stride + 1;
    if (b.images * b.out_height * b.out_width < 2) b.images = 2;
    b.expanded = b.expands ? pick_channels() : b.channels, b.squeezed = pick(0, 1) ? pick(1, 20) : 0;
    b.residual = b.stride == 1 && pick(0, 1), b.out_channels = b.residual ? b.channels : pick_channels();
    b.expand_norm = (Norm){1e-3f, 0.1f, (int)pick(0, 3)}, b.depthwise_norm = (Norm){1e-3f, 0.1f, (int)pick(0, 3)};
    b.project_norm = (Norm){1e-3f, 0.1f, 0};
    inverted_residual_sizes(&b);
    return b;
}

static void try_inverted_residual(int threads) {
    Block b = random_block();
    i64 in = b.images * b.height * b.width * b.channels, out = b.images * b.out_height * b.out_width * b.out_channels;
    i64 C = b.expanded, O = b.out_channels;
    Weights w = weights_of(&b, input), gradients = weights_of(&b, output);
    Running running = {{input(C), input(C)}, {input(C), input(C)}, {input(O), input(O)}};
    float *x = input(in), *y = output(out), *dy = input(out), *dx = output(in);
    // The float64 sums lie in the scratch, which torch aligns to 64 bytes.
    float *saved = allocate(sizeof(float) * b.saved_floats, 64);
    inverted_residual_forward(&b, &w, &running, x, y, saved, allocate(sizeof(float) * b.forward_floats, 64), threads);
    inverted_residual_backward(&b, &w, x, dy, saved, allocate(sizeof(float) * b.backward_floats, 64), dx, &gradients,
                               threads);
    check("inverted_residual_forward", y, out), check("inverted_residual_backward", dx, in);
    check_weights(&b, &gradients);
}

static void try_dropout(int threads) {
    i64 count = pick(1, 40000);
    float *x = input(count), *y = pick(0, 1) ? x : output(count);
    dropout(x, y, count, (i64)next(), (uint32_t)next(), (float)pick(1, 999) / 1000, threads);
    check("dropout", y, count);
}

static void try_look_up_pixels(int threads) {
    i64 N = pick(1, 5), C = pick(1, 4), H = pick(1, 12), W = pick(1, 12), total = pick(1, 6), padding = pick(0, 14);
    uint8_t *images = allocate(total * C * H * W, 1), *flips = allocate(N, 1);
    i64 *chosen = allocate(sizeof(i64) * N, sizeof(i64)), *offsets = allocate(sizeof(i64) * 2 * N, sizeof(i64));
    for (i64 i = 0; i < total * C * H * W; i++) images[i] = (uint8_t)next();
    for (i64 n = 0; n < N; n++) {
        chosen[n] = pick(0, total - 1), flips[n] = (uint8_t)pick(0, 1);
        offsets[2 * n] = pick(0, 2 * padding), offsets[2 * n + 1] = pick(0, 2 * padding);
    }
    float *tables = input(C * 256), *out = output(N * C * H * W);
    look_up_pixels(images, chosen, pick(0, 3) ? offsets : NULL, pick(0, 3) ? flips : NULL, tables, out, N, C, H, W,
                   padding, (int)pick(0, 1), threads);
    check("look_up_pixels", out, N * C * H * W);
}

static void try_lists(int threads) {
    enum { TENSORS = 5, COLUMNS = 6 };
    i64 sizes[TENSORS];
    float *columns[COLUMNS][TENSORS];
    for (int t = 0; t < TENSORS; t++) {
        sizes[t] = pick(0, 3) ? pick(1, 70) : pick(1, 20000);
        for (int c = 0; c < COLUMNS; c++) columns[c][t] = input(sizes[t]);
        for (i64 i = 0; i < sizes[t]; i++) columns[5][t][i] = fabsf(columns[5][t][i]);  // whose root is taken
    }
    lion(TENSORS, sizes, columns[0], columns[1], columns[2], 1, 0.99f, 1e-3f, 0.9f, 0.1f, 0.99f, 0.01f, threads);
    adan(TENSORS, sizes, columns[0], columns[1], columns[2], columns[3], columns[4], columns[5], 1, 1, 1e-3f, 0.02f,
         0.08f, 0.92f, 0.99f, 0.01f, 1, 1, 1, 1e-8f, 0.99f, threads);
    clip_norm(TENSORS, sizes, columns[1], pick(0, 1) ? 0.1f : 1e9f, threads);
    for (int t = 0; t < TENSORS; t++)
        for (int c = 0; c < COLUMNS; c++) check("lion, adan or clip_norm", columns[c][t], sizes[t]);
}

int main(int argc, char **argv) {
    static void (*const tries[])(int) = {try_gemm, try_depthwise, try_batch_norm, try_squeeze_excite,
                                         try_inverted_residual, try_dropout, try_look_up_pixels, try_lists};
    if (argc != 3) return 2;
    i64 seed = atoll(argv[1]), cases = atoll(argv[2]);
    for (i64 i = 0; i < cases; i++) {
        state = (uint64_t)(seed + i) * 0x9E3779B97F4A7C15u + 1;
        for (int warm = 0; warm < 4; warm++) next();
        tries[i % (i64)(sizeof tries / sizeof *tries)]((int)pick(1, 3));
        release_all();
    }
    printf("%lld cases\n", (long long)cases);
    return 0;
}
