#include "ops/ref/experts.h"

#include <cmath>

#include "ops/ref/math.h"

namespace marlin::ref {
namespace {

/// Indices of the `count` largest scores among the allowed ones, descending, ties to the lower index.
std::vector<int> largest(const std::vector<double>& scores, int count, std::vector<bool> allowed) {
  std::vector<int> chosen;
  for (int rank = 0; rank < count; ++rank) {
    int best = -1;
    for (int i = 0; i < static_cast<int>(scores.size()); ++i) {
      const auto u = static_cast<size_t>(i);
      if (!allowed[u]) continue;
      const bool better = best < 0 || scores[u] > scores[static_cast<size_t>(best)] ||
                          (std::isnan(scores[static_cast<size_t>(best)]) && !std::isnan(scores[u]));
      if (better) best = i;
    }
    if (best < 0) break;
    allowed[static_cast<size_t>(best)] = false;
    chosen.push_back(best);
  }
  return chosen;
}

/// Which experts take part: those of the topk_group groups whose two best experts have the largest sum.
std::vector<bool> in_best_groups(const RouteRule& rule, const std::vector<double>& ranked) {
  const auto n_experts = static_cast<size_t>(rule.n_experts);
  const size_t group_size = n_experts / static_cast<size_t>(rule.n_group);
  std::vector<double> group_scores;
  for (size_t g = 0; g < static_cast<size_t>(rule.n_group); ++g) {
    std::vector<bool> members(n_experts, false);
    for (size_t e = g * group_size; e < (g + 1) * group_size; ++e) members[e] = true;
    double sum = 0;
    for (const int e : largest(ranked, 2, members)) sum += ranked[static_cast<size_t>(e)];
    group_scores.push_back(sum);
  }
  const std::vector<bool> all_groups(group_scores.size(), true);
  std::vector<bool> allowed(n_experts, false);
  for (const int g : largest(group_scores, rule.topk_group, all_groups)) {
    for (size_t i = 0; i < group_size; ++i) allowed[static_cast<size_t>(g) * group_size + i] = true;
  }
  return allowed;
}

}  // namespace

void route(const RouteRule& rule, const double* logits, const float* bias, int32_t* ids, double* weights) {
  std::vector<double> scores;
  std::vector<double> ranked;
  for (int e = 0; e < rule.n_experts; ++e) {
    scores.push_back(sigmoid(logits[e]));
    ranked.push_back(scores.back() + static_cast<double>(bias[e]));
  }
  const std::vector<int> chosen = largest(ranked, rule.top_k, in_best_groups(rule, ranked));
  double sum = 0;
  for (const int e : chosen) sum += scores[static_cast<size_t>(e)];
  for (size_t j = 0; j < chosen.size(); ++j) {
    const double score = scores[static_cast<size_t>(chosen[j])];
    ids[j] = chosen[j];
    weights[j] = (rule.normalize ? score / (sum + 1e-20) : score) * rule.scale;
  }
}

void expert_linear(const std::vector<WeightReader>& experts, int64_t rows, int top_k, const int32_t* ids,
                   const double* x, int64_t x_row_stride, int64_t x_slot_stride, double* out) {
  for (size_t e = 0; e < experts.size(); ++e) {
    const WeightReader& expert = experts[e];
    std::vector<int64_t> choices;  // t * top_k + j of the tokens that chose this expert
    for (int64_t i = 0; i < rows * top_k; ++i) {
      if (ids[i] == static_cast<int32_t>(e)) choices.push_back(i);
    }
    if (choices.empty()) continue;
    for (int64_t n = 0; n < expert.out_features(); ++n) {
      const std::vector<double> w = expert.row(n);
      for (const int64_t i : choices) {
        const double* input = x + i / top_k * x_row_stride + i % top_k * x_slot_stride;
        out[i * expert.out_features() + n] = dot(w.data(), input, expert.in_features()) + expert.bias(n);
      }
    }
  }
}

void expert_sum(int top_k, int64_t width, const double* y, const double* weights, const double* shared, double* out) {
  for (int64_t i = 0; i < width; ++i) {
    double sum = 0;
    for (int64_t j = 0; j < top_k; ++j) sum += weights[j] * y[j * width + i];
    out[i] = shared != nullptr ? sum + shared[i] : sum;
  }
}

}  // namespace marlin::ref
