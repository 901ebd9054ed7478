// Scalar functions that several kernels share, so that a fused op and its decomposition round alike.
#pragma once

#include <cmath>
#include <cstdint>

namespace marlin::cpu {

inline float sigmoid(float x) {
  return 1.0f / (1.0f + std::exp(-x));
}

/// out[i] = sum_j weights[j] * y[j * stride + i] in rank order, then + shared[i] unless null.
inline void rank_sums(const float* weights, const float* y, int64_t stride, int top_k, const float* shared, int64_t n,
                      float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = weights[0] * y[i];
  for (int j = 1; j < top_k; ++j) {
    for (int64_t i = 0; i < n; ++i) out[i] += weights[j] * y[j * stride + i];
  }
  for (int64_t i = 0; shared != nullptr && i < n; ++i) out[i] += shared[i];
}

}  // namespace marlin::cpu
