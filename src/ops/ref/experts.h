// The router and the experts.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/ref/weight_reader.h"

namespace marlin::ref {

struct RouteRule {
  int n_experts = 0;
  int top_k = 0;
  int n_group = 1;
  int topk_group = 1;
  bool normalize = true;
  double scale = 1;
};

/// The chosen experts of one token, best first, and their weights; see RouteArgs. A NaN logit is never preferred, but
/// stays visible as a NaN weight when the expert is chosen all the same.
void route(const RouteRule& rule, const double* logits, const float* bias, int32_t* ids, double* weights);

/// out[t, j, :] = experts[ids[t, j]] x[t, j, :]; out is [rows, top_k, out_features].
void expert_linear(const std::vector<WeightReader>& experts, int64_t rows, int top_k, const int32_t* ids,
                   const double* x, int64_t x_row_stride, int64_t x_slot_stride, double* out);

/// out[i] = sum_j weights[j] * y[j, i] in rank order, then + shared[i] unless null.
void expert_sum(int top_k, int64_t width, const double* y, const double* weights, const double* shared, double* out);

}  // namespace marlin::ref
