// The dense ops, as their equations in ops.h say. Strides count elements.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/ref/weight_reader.h"

namespace marlin::ref {

double sigmoid(double x);
double silu(double x);
double dot(const double* a, const double* b, int64_t n);

/// x_i = exp(x_i) / sum of exp(x), in place. NaN spreads to all elements.
void softmax(std::vector<double>& x);

/// out = x * rsqrt(mean(x^2) + eps) * gain over `n` elements; out may be x.
void rms_norm(const double* x, const double* gain, int64_t n, double eps, double* out);

/// out[t, n] = sum_k W[n, k] x[t, k] + b[n].
void linear(const WeightReader& weight, int64_t rows, const double* x, int64_t x_stride, double* out,
            int64_t out_stride);

/// Rotates the pair (x[2i], x[2i+1]) by the angle position * theta^(-2i/dims), for i < dims / 2.
void rope(double* x, int dims, int64_t position, double theta);

/// out = silu(gate) * up over `n` elements; out may be gate.
void swiglu(const double* gate, const double* up, int64_t n, double* out);

}  // namespace marlin::ref
