// An inverted residual block (arXiv:1801.04381, arXiv:1905.02244) in training, forward and backward in one call each:
//   expand 1x1, norm, activation      where `expands`
//   depthwise k x k, norm, activation
//   squeeze-and-excitation            where `squeezed`
//   project 1x1, norm, activation
//   + x                               where `residual`
// A step of a small network is bound by what each operation costs before it computes anything, not by its sums.
#include <stddef.h>

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

// What the backward pass needs of the forward pass.
typedef struct {
    float *expand_conv, *expand_statistics, *expanded;
    float *depthwise_conv, *depthwise_statistics, *filtered;
    float *pooled, *reduced, *scale, *scaled;
    float *project_conv, *project_statistics;
} Saved;

#define PIXELS (b->images * b->height * b->width)
#define OUT_PIXELS (b->images * b->out_height * b->out_width)

static Saved saved_parts(const Block *b, float *base, i64 *floats) {
    *floats = 0;
    Arena arena = {base, 0, floats};
    i64 pixels = PIXELS, out_pixels = OUT_PIXELS;
    Saved s = {0};
    if (b->expands) {
        s.expand_conv = take(&arena, pixels * b->expanded);
        s.expand_statistics = take(&arena, 4 * b->expanded);
        s.expanded = take(&arena, pixels * b->expanded);
    }
    s.depthwise_conv = take(&arena, out_pixels * b->expanded);
    s.depthwise_statistics = take(&arena, 4 * b->expanded);
    s.filtered = take(&arena, out_pixels * b->expanded);
    if (b->squeezed) {
        s.pooled = take(&arena, b->images * b->expanded);
        s.reduced = take(&arena, b->images * b->squeezed);
        s.scale = take(&arena, b->images * b->expanded);
        s.scaled = take(&arena, out_pixels * b->expanded);
    }
    s.project_conv = take(&arena, out_pixels * b->out_channels);
    s.project_statistics = take(&arena, 4 * b->out_channels);
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

static void norm_forward(Arena scratch, const Norm *norm, const float *x, const float *gamma, const float *beta,
                         float *mean, float *var, float *statistics, float *y, i64 R, i64 C, int threads) {
    double *sums = (double *)take(&scratch, 2 * batch_norm_scratch(R, C));
    if (sums)
        batch_norm(x, gamma, beta, mean, var, sums, statistics, y, R, C, (float)norm->eps,
                   (float)norm->momentum, norm->activation, threads);
}

// dx may be dy.
static void norm_backward(Arena scratch, const Norm *norm, const float *x, const float *dy, const float *statistics,
                          float *dx, float *dgamma, float *dbeta, i64 R, i64 C, int threads) {
    double *sums = (double *)take(&scratch, 2 * batch_norm_scratch(R, C));
    float *means = take(&scratch, 2 * C);
    if (sums) batch_norm_backward(x, dy, statistics, sums, means, dx, dgamma, dbeta, R, C, norm->activation, threads);
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
    if (scratch.base) average_pool(s->filtered, s->pooled, N, P, C, threads);
    pointwise_forward(scratch, s->pooled, w->reduce, s->reduced, N, C, S, threads);
    if (scratch.base) bias_activation(s->reduced, w->reduce_bias, N, S, RELU);
    pointwise_forward(scratch, s->reduced, w->restore, s->scale, N, S, C, threads);
    if (!scratch.base) return;
    bias_activation(s->scale, w->restore_bias, N, C, b->gate);
    scale_channels(s->filtered, s->scale, s->scaled, N, P, C, threads);
}

// In place: dy becomes dx.
static void excite_backward(Arena scratch, const Block *b, const Weights *w, const Saved *s, float *dy,
                            const Weights *gradients, int threads) {
    i64 N = b->images, P = b->out_height * b->out_width, C = b->expanded, S = b->squeezed;
    float *dpooled = take(&scratch, N * C), *dreduced = take(&scratch, N * S), *dscale = take(&scratch, N * C);
    if (dscale) {
        scale_channels_backward_scale(s->filtered, dy, dscale, N, P, C, threads);
        bias_activation_backward(dscale, s->scale, gradients->restore_bias, N, C, b->gate);
    }
    pointwise_backward(scratch, s->reduced, dscale, w->restore, gradients->restore, dreduced, N, S, C, threads);
    if (dreduced) bias_activation_backward(dreduced, s->reduced, gradients->reduce_bias, N, S, RELU);
    pointwise_backward(scratch, s->pooled, dreduced, w->reduce, gradients->reduce, dpooled, N, C, S, threads);
    if (dpooled) squeeze_excite_backward_input(dy, s->scale, dpooled, dy, N, P, C, threads);
}

static void forward(Arena scratch, const Block *b, const Weights *w, const Running *running, const float *x, float *out,
                    const Saved *s, int threads) {
    i64 pixels = PIXELS, out_pixels = OUT_PIXELS;
    if (b->expands) {
        pointwise_forward(scratch, x, w->expand, s->expand_conv, pixels, b->channels, b->expanded, threads);
        norm_forward(scratch, &b->expand_norm, s->expand_conv, w->expand_gamma, w->expand_beta, running->expand_mean,
                     running->expand_var, s->expand_statistics, s->expanded, pixels, b->expanded, threads);
    }
    depthwise_forward(scratch, b, b->expands ? s->expanded : x, w->depthwise, s->depthwise_conv, threads);
    norm_forward(scratch, &b->depthwise_norm, s->depthwise_conv, w->depthwise_gamma, w->depthwise_beta,
                 running->depthwise_mean, running->depthwise_var, s->depthwise_statistics, s->filtered, out_pixels,
                 b->expanded, threads);
    if (b->squeezed) excite_forward(scratch, b, w, s, threads);
    pointwise_forward(scratch, b->squeezed ? s->scaled : s->filtered, w->project, s->project_conv, out_pixels,
                      b->expanded, b->out_channels, threads);
    norm_forward(scratch, &b->project_norm, s->project_conv, w->project_gamma, w->project_beta, running->project_mean,
                 running->project_var, s->project_statistics, out, out_pixels, b->out_channels, threads);
    if (b->residual && scratch.base) add_in_place(out, x, pixels * b->channels, threads);
}

static void backward(Arena scratch, const Block *b, const Weights *w, const float *x, const float *dout, const Saved *s,
                     float *dx, const Weights *gradients, int threads) {
    i64 pixels = PIXELS, out_pixels = OUT_PIXELS;
    // Gradients of activations, each kept until the layer before has read it: norms and the excitation work in place.
    float *dproject = take(&scratch, MAX(out_pixels * b->out_channels, b->expands ? pixels * b->expanded : 0));
    float *dfiltered = take(&scratch, out_pixels * b->expanded), *dexpanded = dproject;
    norm_backward(scratch, &b->project_norm, s->project_conv, dout, s->project_statistics, dproject,
                  gradients->project_gamma, gradients->project_beta, out_pixels, b->out_channels, threads);
    pointwise_backward(scratch, b->squeezed ? s->scaled : s->filtered, dproject, w->project, gradients->project,
                       dfiltered, out_pixels, b->expanded, b->out_channels, threads);
    if (b->squeezed) excite_backward(scratch, b, w, s, dfiltered, gradients, threads);
    norm_backward(scratch, &b->depthwise_norm, s->depthwise_conv, dfiltered, s->depthwise_statistics, dfiltered,
                  gradients->depthwise_gamma, gradients->depthwise_beta, out_pixels, b->expanded, threads);
    depthwise_backward(scratch, b, b->expands ? s->expanded : x, dfiltered, w->depthwise, gradients->depthwise,
                       b->expands ? dexpanded : dx, threads);
    if (b->expands) {
        norm_backward(scratch, &b->expand_norm, s->expand_conv, dexpanded, s->expand_statistics, dexpanded,
                      gradients->expand_gamma, gradients->expand_beta, pixels, b->expanded, threads);
        pointwise_backward(scratch, x, dexpanded, w->expand, gradients->expand, dx, pixels, b->channels, b->expanded,
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
    forward((Arena){NULL, 0, &b->forward_floats}, b, &none, &no_statistics, NULL, NULL, &s, 1);
    backward((Arena){NULL, 0, &b->backward_floats}, b, &none, NULL, NULL, &s, NULL, &none, 1);
}

// x (images, height, width, channels) -> out (images, out_height, out_width, out_channels); updates `running`.
// saved: kept for the backward pass. scratch: forward_floats.
void inverted_residual_forward(const Block *b, const Weights *weights, const Running *running, const float *x,
                               float *out, float *saved, float *scratch, int threads) {
    i64 floats, peak = 0;
    Saved s = saved_parts(b, saved, &floats);
    forward((Arena){scratch, 0, &peak}, b, weights, running, x, out, &s, threads);
}

// dout -> dx and the weights' gradients. scratch: backward_floats.
void inverted_residual_backward(const Block *b, const Weights *weights, const float *x, const float *dout, float *saved,
                                float *scratch, float *dx, const Weights *gradients, int threads) {
    i64 floats, peak = 0;
    Saved s = saved_parts(b, saved, &floats);
    backward((Arena){scratch, 0, &peak}, b, weights, x, dout, &s, dx, gradients, threads);
}

// The fields of Block, Weights and Running by index, so that a mirror can be checked; null after the last one.
const Field *inverted_residual_layout(i64 index) {
#define FIELD(STRUCT, NAME) {#STRUCT "." #NAME, offsetof(STRUCT, NAME), sizeof(((STRUCT *)0)->NAME)}
#define B(NAME) FIELD(Block, NAME)
#define W(NAME) FIELD(Weights, NAME)
#define R(NAME) FIELD(Running, NAME)
    static const Field fields[] = {
        FIELD(Norm, eps), FIELD(Norm, momentum), FIELD(Norm, activation),
        B(images), B(channels), B(height), B(width), B(expanded), B(squeezed), B(out_channels), B(out_height),
        B(out_width),
        B(kernel), B(stride), B(expands), B(gate), B(residual), B(expand_norm), B(depthwise_norm), B(project_norm),
        B(saved_floats), B(forward_floats), B(backward_floats),
        W(expand), W(expand_gamma), W(expand_beta), W(depthwise), W(depthwise_gamma), W(depthwise_beta), W(reduce),
        W(reduce_bias), W(restore), W(restore_bias), W(project), W(project_gamma), W(project_beta),
        R(expand_mean), R(expand_var), R(depthwise_mean), R(depthwise_var), R(project_mean), R(project_var),
    };
    return index < (i64)(sizeof fields / sizeof *fields) ? fields + index : NULL;
}
