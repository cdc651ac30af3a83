// The layers that tape.c plays. Pixels lie row by row, the channels of one side by side: (N, H, W, C).
#pragma once
#include <stdint.h>

typedef int64_t i64;

void mix(const float *x, const float *w, float *packed, float *y, i64 R, i64 I, i64 O, int threads);
void unmix(const float *dy, const float *w, float *dx, i64 R, i64 I, i64 O, int threads);
void mix_gradient(const float *x, const float *dy, float *turned, float *dw, i64 R, i64 I, i64 O, int threads);

void depthwise(const float *x, const float *w, float *packed, float *y, i64 N, i64 C, i64 H, i64 W, i64 OH, i64 OW, int k,
               int stride, int threads);
void undepthwise(const float *dy, const float *w, float *packed, float *dx, i64 N, i64 C, i64 H, i64 W, i64 OH, i64 OW,
                 int k, int stride, int threads);
void depthwise_gradient(const float *x, const float *dy, float *parts, float *dw, i64 N, i64 C, i64 H, i64 W, i64 OH,
                        i64 OW, int k, int stride, int threads);

void batch_norm(const float *x, const float *gamma, const float *beta, float *running_mean, float *running_var,
                double *sums, float *statistics, float *y, i64 R, i64 C, float eps, float momentum, int act, int threads);
void batch_norm_backward(const float *x, const float *dy, const float *statistics, double *sums, float *factors, float *dx,
                         float *for_gamma, float *for_beta, i64 R, i64 C, int act, int threads);

void pool(const float *x, float *p, i64 N, i64 P, i64 C, int threads);
void gate(const float *x, const float *s, float *y, i64 N, i64 P, i64 C, int threads);
void gate_sums(const float *x, const float *dy, float *ds, i64 N, i64 P, i64 C, int threads);
void gate_gradient(const float *dy, const float *s, const float *dp, float *dx, i64 N, i64 P, i64 C, int threads);
void bias(float *y, const float *b, i64 N, i64 C, int act);
void bias_gradient(float *dy, const float *y, float *db, i64 N, i64 C, int act);
void add(float *to, const float *from, i64 count, int threads);
