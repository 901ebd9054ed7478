#include "ops/ref/math.h"

#include <cmath>

namespace marlin::ref {

double sigmoid(double x) {
  return 1.0 / (1.0 + std::exp(-x));
}

double silu(double x) {
  return x * sigmoid(x);
}

double dot(const double* a, const double* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

void softmax(std::vector<double>& x) {
  double largest = -INFINITY;
  for (const double value : x) largest = std::fmax(largest, value);
  double sum = 0;
  for (double& value : x) {
    value = std::exp(value - largest);  // at most 1: nothing overflows
    sum += value;
  }
  for (double& value : x) value /= sum;
}

void rms_norm(const double* x, const double* gain, int64_t n, double eps, double* out) {
  const double mean_square = dot(x, x, n) / static_cast<double>(n);
  const double inverse = 1.0 / std::sqrt(mean_square + eps);
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] * inverse * gain[i];
}

void linear(const WeightReader& weight, int64_t rows, const double* x, int64_t x_stride, double* out,
            int64_t out_stride) {
  for (int64_t n = 0; n < weight.out_features(); ++n) {
    const std::vector<double> w = weight.row(n);
    for (int64_t t = 0; t < rows; ++t) {
      out[t * out_stride + n] = dot(w.data(), x + t * x_stride, weight.in_features()) + weight.bias(n);
    }
  }
}

void rope(double* x, int dims, int64_t position, double theta) {
  for (int i = 0; i < dims / 2; ++i) {
    const double angle = static_cast<double>(position) * std::pow(theta, -2.0 * i / dims);
    const double a = x[2 * i];
    const double b = x[2 * i + 1];
    x[2 * i] = a * std::cos(angle) - b * std::sin(angle);
    x[2 * i + 1] = a * std::sin(angle) + b * std::cos(angle);
  }
}

void swiglu(const double* gate, const double* up, int64_t n, double* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = silu(gate[i]) * up[i];
}

}  // namespace marlin::ref
