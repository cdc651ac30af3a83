// Every function of the library. Layers: float32, channels last, (N, H, W, C). Sizes: N images, H x W pixels in, OH x
// OW pixels out, P pixels of an image, C channels, R rows (all pixels of a batch), I inputs and O outputs of a product.
// y = layer(x); dx, dy, dw: gradients. *_scratch: how many elements the scratch argument of a function must have.
#pragma once
#include <stdint.h>

typedef int64_t i64;

// --- gemm.c

i64 conv1x1_scratch(i64 I, i64 O);
void conv1x1(const float *x, const float *w, float *packed, float *y, i64 R, i64 I, i64 O, int threads);
void conv1x1_backward_input(const float *dy, const float *w, float *dx, i64 R, i64 I, i64 O, int threads);
i64 conv1x1_backward_weight_scratch(i64 I, i64 O);
void conv1x1_backward_weight(const float *x, const float *dy, float *transposed, float *dw, i64 R, i64 I, i64 O,
                             int threads);

// --- depthwise.c

i64 depthwise_scratch(i64 C, i64 k);
void depthwise(const float *x, const float *w, float *packed, float *y, i64 N, i64 C, i64 H, i64 W, i64 OH, i64 OW,
               i64 k, i64 stride, int threads);
void depthwise_backward_input(const float *dy, const float *w, float *packed, float *dx, i64 N, i64 C, i64 H, i64 W,
                              i64 OH, i64 OW, i64 k, i64 stride, int threads);
i64 depthwise_backward_weight_scratch(i64 C, i64 k);
void depthwise_backward_weight(const float *x, const float *dy, float *partial, float *dw, i64 N, i64 C, i64 H, i64 W,
                               i64 OH, i64 OW, i64 k, i64 stride, int threads);

// --- batch_norm.c

i64 batch_norm_scratch(i64 R, i64 C);  // of float64
void batch_norm(const float *x, const float *gamma, const float *beta, float *running_mean, float *running_var,
                double *sums, float *statistics, float *y, i64 R, i64 C, float eps, float momentum, i64 activation,
                int threads);
void batch_norm_backward(const float *x, const float *dy, const float *statistics, double *sums, float *means,
                         float *dx, float *dgamma, float *dbeta, i64 R, i64 C, i64 activation, int threads);

// --- squeeze_excite.c

void average_pool(const float *x, float *y, i64 N, i64 P, i64 C, int threads);
void scale_channels(const float *x, const float *s, float *y, i64 N, i64 P, i64 C, int threads);
void scale_channels_backward_scale(const float *x, const float *dy, float *ds, i64 N, i64 P, i64 C, int threads);
void squeeze_excite_backward_input(const float *dy, const float *s, const float *dpooled, float *dx, i64 N, i64 P,
                                   i64 C, int threads);
void bias_activation(float *y, const float *b, i64 N, i64 C, int activation);
void bias_activation_backward(float *dy, const float *y, float *db, i64 N, i64 C, int activation);
void add_in_place(float *to, const float *from, i64 count, int threads);

// --- inverted_residual.c; effbench/cpu/inverted_residual_function.py passes the structs, field by field

typedef struct {
    double eps, momentum;
    i64 activation;
} Norm;

typedef struct {
    i64 images, channels, height, width;  // of x
    i64 expanded, squeezed, out_channels;  // channels; squeezed: 0 without squeeze-and-excitation
    i64 out_height, out_width, kernel, stride;
    i64 expands, gate, residual;  // gate: the activation after squeeze-and-excitation
    Norm expand_norm, depthwise_norm, project_norm;
    i64 saved_floats, forward_floats, backward_floats;  // buffer sizes, set by inverted_residual_sizes
} Block;

// A convolution and the batch norm after it: parameters or their gradients; null where the block has no such layer.
typedef struct {
    float *conv, *gamma, *beta;
} Layer;

typedef struct {
    Layer expand, depthwise;
    float *reduce, *reduce_bias, *restore, *restore_bias;  // of squeeze-and-excitation
    Layer project;
} Weights;

typedef struct {
    float *mean, *var;
} RunningStatistics;

typedef struct {
    RunningStatistics expand, depthwise, project;
} Running;

void inverted_residual_sizes(Block *b);
void inverted_residual_forward(const Block *b, const Weights *weights, const Running *running, const float *x,
                               float *out, float *saved, float *scratch, int threads);
void inverted_residual_backward(const Block *b, const Weights *weights, const float *x, const float *dout, float *saved,
                                float *scratch, float *dx, const Weights *gradients, int threads);

// --- dropout.c, image_batch.c

void dropout(const float *x, float *y, i64 count, i64 seed, i64 threshold, float keep, int threads);
void look_up_pixels(const uint8_t *images, const i64 *chosen, const i64 *offsets, const uint8_t *flips,
                    const float *tables, float *out, i64 N, i64 C, i64 H, i64 W, i64 padding, int channels_last,
                    int threads);

// --- optimizer_steps.c, clip.c: lists of `count` tensors of `sizes` elements

void lion(i64 count, const i64 *sizes, float **params, float **gradients, float **moments, float sign, float keep,
          float lr, float b1, float c1, float b2, float c2, int threads);
void adan(i64 count, const i64 *sizes, float **params, float **gradients, float **previous, float **ms, float **vs,
          float **ns, float sign, float later, float lr, float w1, float w2, float b2, float b3, float w3,
          float m_scale, float v_scale, float n_scale, float eps, float keep, int threads);
void clip_norm(i64 count, const i64 *sizes, float **gradients, float limit, int threads);
