// Scalar functions that several kernels share, so that a fused op and its decomposition round alike.
#pragma once

#include <cmath>
#include <cstdint>

namespace marlin::cpu {

inline float silu_times(float gate, float up) {
  return gate / (1.0f + std::exp(-gate)) * up;
}

inline float sigmoid(float x) {
  return 1.0f / (1.0f + std::exp(-x));
}

/// sum_j weights[j] * y[j * stride] in rank order.
inline float rank_sum(const float* weights, const float* y, int64_t stride, int top_k) {
  float sum = weights[0] * y[0];
  for (int j = 1; j < top_k; ++j) sum += weights[j] * y[j * stride];
  return sum;
}

}  // namespace marlin::cpu
