// SPDX-License-Identifier: Apache-2.0
// exp, sigmoid, tanh, erf, log1p for activations and routers: ours, from basic operations in a fixed order, so that
// every level and platform gives the same bits. Each states its largest error against double, tested in tests/unit.
#ifndef MB_KERNELS_MATH_H
#define MB_KERNELS_MATH_H

float mb_exp(float x);     // 0 below -87.34 (no denormals), infinity above 88.72
float mb_log(float x);     // x > 0; NaN below, -infinity at 0
float mb_sigmoid(float x); // 1 / (1 + exp(-x))
float mb_tanh(float x);
float mb_erf(float x);
float mb_softplus(float x); // log(1 + exp(x)) without cancellation

#endif
