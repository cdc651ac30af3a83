// An inverted residual block (arXiv:1801.04381, arXiv:1905.02244) in training, forward and backward in one call each:
//   expand 1x1, norm, activation      where `expands`
//   depthwise k x k, norm, activation
//   squeeze-and-excitation            where `squeezed`
//   project 1x1, norm, activation
//   + x                               where `residual`
// A step of a small network is bound by what each operation costs before it computes anything, not by its sums.
#include "kernels.h"
#include "vectors.h"

// Hands out parts of a buffer, each on a cache line. Passed by value, it releases what the callee took. `base` is null
// in a dry run, which only finds the peak.
enum { CACHE_LINE = 16 };  // floats
typedef struct {
    float *base;
    i64 used, *peak;
} Arena;

static float *take(Arena *arena, i64 floats) {
    float *part = arena->base ? arena->base + arena->used : NULL;
    arena->used += (floats + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    if (arena->used > *arena->peak) *arena->peak = arena->used;
    return part;
}

// What the backward pass needs of the forward pass. `out`: after norm and activation.
typedef struct {
    float *conv, *statistics, *out;
} SavedLayer;

typedef struct {
    SavedLayer expand, depthwise, project;
    float *pooled, *reduced, *scale, *scaled;  // of squeeze-and-excitation
} Saved;

#define PIXELS (b->images * b->height * b->width)
#define OUT_PIXELS (b->images * b->out_height * b->out_width)

static void take_layer(Arena *arena, SavedLayer *layer, i64 R, i64 C) {
    layer->conv = take(arena, R * C);
    layer->statistics = take(arena, 4 * C);
}

// project.out, the block's output, is not part of the buffer.
static Saved saved_parts(const Block *b, float *base, i64 *floats) {
    *floats = 0;
    Arena arena = {base, 0, floats};
    i64 pixels = PIXELS, out_pixels = OUT_PIXELS, C = b->expanded;
    Saved s = {0};
    if (b->expands) {
        take_layer(&arena, &s.expand, pixels, C);
        s.expand.out = take(&arena, pixels * C);
    }
    take_layer(&arena, &s.depthwise, out_pixels, C);
    s.depthwise.out = take(&arena, out_pixels * C);
    if (b->squeezed) {
        s.pooled = take(&arena, b->images * C);
        s.reduced = take(&arena, b->images * b->squeezed);
        s.scale = take(&arena, b->images * C);
        s.scaled = take(&arena, out_pixels * C);
    }
    take_layer(&arena, &s.project, out_pixels, b->out_channels);
    return s;
}

static void pointwise_forward(Arena scratch, const float *x, const float *w, float *y, i64 R, i64 I, i64 O,
                              int threads) {
    float *packed = take(&scratch, conv1x1_scratch(I, O));
    if (packed) conv1x1(x, w, packed, y, R, I, O, threads);
}

static void pointwise_backward(Arena scratch, const float *x, const float *dy, const float *w, float *dw, float *dx,
                               i64 R, i64 I, i64 O, int threads) {
    float *transposed = take(&scratch, conv1x1_backward_weight_scratch(I, O));
    if (!transposed) return;
    conv1x1_backward_weight(x, dy, transposed, dw, R, I, O, threads);
    conv1x1_backward_input(dy, w, dx, R, I, O, threads);
}

static void norm_forward(Arena scratch, const Norm *norm, const Layer *w, const RunningStatistics *running,
                         const SavedLayer *s, i64 R, i64 C, int threads) {
    double *sums = (double *)take(&scratch, 2 * batch_norm_scratch(R, C));
    if (sums)
        batch_norm(s->conv, w->gamma, w->beta, running->mean, running->var, sums, s->statistics, s->out, R, C,
                   (float)norm->eps, (float)norm->momentum, norm->activation, threads);
}

// dx may be dy.
static void norm_backward(Arena scratch, const Norm *norm, const SavedLayer *s, const float *dy, float *dx,
                          const Layer *gradients, i64 R, i64 C, int threads) {
    double *sums = (double *)take(&scratch, 2 * batch_norm_scratch(R, C));
    float *means = take(&scratch, 2 * C);
    if (sums)
        batch_norm_backward(s->conv, dy, s->statistics, sums, means, dx, gradients->gamma, gradients->beta, R, C,
                            norm->activation, threads);
}

#define MAPS b->images, b->expanded, b->height, b->width, b->out_height, b->out_width, b->kernel, b->stride, threads

static void depthwise_forward(Arena scratch, const Block *b, const float *x, const float *w, float *y, int threads) {
    float *packed = take(&scratch, depthwise_scratch(b->expanded, b->kernel));
    if (packed) depthwise(x, w, packed, y, MAPS);
}

static void depthwise_backward(Arena scratch, const Block *b, const float *x, const float *dy, const float *w,
                               float *dw, float *dx, int threads) {
    float *packed = take(&scratch, depthwise_scratch(b->expanded, b->kernel));
    float *partial = take(&scratch, depthwise_backward_weight_scratch(b->expanded, b->kernel));
    if (!packed) return;
    depthwise_backward_weight(x, dy, partial, dw, MAPS);
    depthwise_backward_input(dy, w, packed, dx, MAPS);
}

enum { RELU = 1 };  // squeeze_excite.c's

static void excite_forward(Arena scratch, const Block *b, const Weights *w, const Saved *s, int threads) {
    i64 N = b->images, P = b->out_height * b->out_width, C = b->expanded, S = b->squeezed;
    if (scratch.base) average_pool(s->depthwise.out, s->pooled, N, P, C, threads);
    pointwise_forward(scratch, s->pooled, w->reduce, s->reduced, N, C, S, threads);
    if (scratch.base) bias_activation(s->reduced, w->reduce_bias, N, S, RELU);
    pointwise_forward(scratch, s->reduced, w->restore, s->scale, N, S, C, threads);
    if (!scratch.base) return;
    bias_activation(s->scale, w->restore_bias, N, C, b->gate);
    scale_channels(s->depthwise.out, s->scale, s->scaled, N, P, C, threads);
}

// In place: dy becomes dx.
static void excite_backward(Arena scratch, const Block *b, const Weights *w, const Saved *s, float *dy,
                            const Weights *gradients, int threads) {
    i64 N = b->images, P = b->out_height * b->out_width, C = b->expanded, S = b->squeezed;
    float *dpooled = take(&scratch, N * C), *dreduced = take(&scratch, N * S), *dscale = take(&scratch, N * C);
    if (dscale) {
        scale_channels_backward_scale(s->depthwise.out, dy, dscale, N, P, C, threads);
        bias_activation_backward(dscale, s->scale, gradients->restore_bias, N, C, b->gate);
    }
    pointwise_backward(scratch, s->reduced, dscale, w->restore, gradients->restore, dreduced, N, S, C, threads);
    if (dreduced) bias_activation_backward(dreduced, s->reduced, gradients->reduce_bias, N, S, RELU);
    pointwise_backward(scratch, s->pooled, dreduced, w->reduce, gradients->reduce, dpooled, N, C, S, threads);
    if (dpooled) squeeze_excite_backward_input(dy, s->scale, dpooled, dy, N, P, C, threads);
}

static void forward(Arena scratch, const Block *b, const Weights *w, const Running *running, const float *x,
                    const Saved *s, int threads) {
    i64 pixels = PIXELS, out_pixels = OUT_PIXELS, C = b->expanded, O = b->out_channels;
    if (b->expands) {
        pointwise_forward(scratch, x, w->expand.conv, s->expand.conv, pixels, b->channels, C, threads);
        norm_forward(scratch, &b->expand_norm, &w->expand, &running->expand, &s->expand, pixels, C, threads);
    }
    const float *expanded = b->expands ? s->expand.out : x;
    depthwise_forward(scratch, b, expanded, w->depthwise.conv, s->depthwise.conv, threads);
    norm_forward(scratch, &b->depthwise_norm, &w->depthwise, &running->depthwise, &s->depthwise, out_pixels, C,
                 threads);
    if (b->squeezed) excite_forward(scratch, b, w, s, threads);
    const float *filtered = b->squeezed ? s->scaled : s->depthwise.out;
    pointwise_forward(scratch, filtered, w->project.conv, s->project.conv, out_pixels, C, O, threads);
    norm_forward(scratch, &b->project_norm, &w->project, &running->project, &s->project, out_pixels, O, threads);
    if (b->residual && scratch.base) add_in_place(s->project.out, x, pixels * b->channels, threads);
}

static void backward(Arena scratch, const Block *b, const Weights *w, const float *x, const float *dout, const Saved *s,
                     float *dx, const Weights *gradients, int threads) {
    i64 pixels = PIXELS, out_pixels = OUT_PIXELS, C = b->expanded, O = b->out_channels;
    const float *expanded = b->expands ? s->expand.out : x, *filtered = b->squeezed ? s->scaled : s->depthwise.out;
    // Gradients of activations, each kept until the layer before has read it: norms and the excitation work in place.
    float *dproject = take(&scratch, MAX(out_pixels * O, b->expands ? pixels * C : 0));
    float *dfiltered = take(&scratch, out_pixels * C), *dexpanded = b->expands ? dproject : dx;
    norm_backward(scratch, &b->project_norm, &s->project, dout, dproject, &gradients->project, out_pixels, O, threads);
    pointwise_backward(scratch, filtered, dproject, w->project.conv, gradients->project.conv, dfiltered, out_pixels, C,
                       O, threads);
    if (b->squeezed) excite_backward(scratch, b, w, s, dfiltered, gradients, threads);
    norm_backward(scratch, &b->depthwise_norm, &s->depthwise, dfiltered, dfiltered, &gradients->depthwise, out_pixels,
                  C, threads);
    depthwise_backward(scratch, b, expanded, dfiltered, w->depthwise.conv, gradients->depthwise.conv, dexpanded,
                       threads);
    if (b->expands) {
        norm_backward(scratch, &b->expand_norm, &s->expand, dexpanded, dexpanded, &gradients->expand, pixels, C,
                      threads);
        pointwise_backward(scratch, x, dexpanded, w->expand.conv, gradients->expand.conv, dx, pixels, b->channels, C,
                           threads);
    }
    if (b->residual && scratch.base) add_in_place(dx, dout, pixels * b->channels, threads);
}

// Sets the buffer sizes of a block whose other fields are set.
void inverted_residual_sizes(Block *b) {
    Weights none = {0};
    Running no_statistics = {0};
    Saved s = saved_parts(b, NULL, &b->saved_floats);
    b->forward_floats = b->backward_floats = 0;
    forward((Arena){NULL, 0, &b->forward_floats}, b, &none, &no_statistics, NULL, &s, 1);
    backward((Arena){NULL, 0, &b->backward_floats}, b, &none, NULL, NULL, &s, NULL, &none, 1);
}

// x (images, height, width, channels) -> out (images, out_height, out_width, out_channels); updates `running`.
// saved: kept for the backward pass. scratch: forward_floats.
void inverted_residual_forward(const Block *b, const Weights *weights, const Running *running, const float *x,
                               float *out, float *saved, float *scratch, int threads) {
    i64 floats, peak = 0;
    Saved s = saved_parts(b, saved, &floats);
    s.project.out = out;
    forward((Arena){scratch, 0, &peak}, b, weights, running, x, &s, threads);
}

// dout -> dx and the weights' gradients. scratch: backward_floats.
void inverted_residual_backward(const Block *b, const Weights *weights, const float *x, const float *dout, float *saved,
                                float *scratch, float *dx, const Weights *gradients, int threads) {
    i64 floats, peak = 0;
    Saved s = saved_parts(b, saved, &floats);
    backward((Arena){scratch, 0, &peak}, b, weights, x, dout, &s, dx, gradients, threads);
}
