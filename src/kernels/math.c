// SPDX-License-Identifier: Apache-2.0
// The functions of math.h for single values; loops over many include math_inline.h.
#include "kernels/math.h"

#include "kernels/math_inline.h"

float mb_exp(float x) { return mb_exp_body(x); }
float mb_log(float x) { return mb_log_body(x); }
float mb_sigmoid(float x) { return mb_sigmoid_body(x); }
float mb_tanh(float x) { return mb_tanh_body(x); }
float mb_erf(float x) { return mb_erf_body(x); }
float mb_softplus(float x) { return mb_softplus_body(x); }
