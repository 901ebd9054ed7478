#include "ops/ref/sample.h"

#include <algorithm>
#include <cmath>

#include "ops/random.h"

namespace marlin::ref {
namespace {

struct Candidate {
  int32_t id = 0;
  double logit = 0;
};
/// In descending order of logits, ties by id.
using Candidates = std::vector<Candidate>;

constexpr uint32_t kInPrompt = 0x80000000u;

bool all_finite(std::span<const double> values) {
  return std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); });
}

void apply_bias(const SampleInput& input, std::vector<double>& logits) {
  for (size_t i = 0; i < input.bias_ids.size(); ++i) {
    const auto id = static_cast<size_t>(input.bias_ids[i]);
    if (id < logits.size()) logits[id] += static_cast<double>(input.bias_values[i]);
  }
}

void apply_penalties(const SampleInput& input, std::vector<double>& logits) {
  if (input.counts.empty()) return;
  const double repetition = input.params.repetition_penalty;
  for (size_t id = 0; id < logits.size(); ++id) {
    const uint32_t count = input.counts[id];
    if (count == 0) continue;
    double& logit = logits[id];
    logit = logit > 0 ? logit / repetition : logit * repetition;
    const uint32_t generated = count & ~kInPrompt;
    if (generated == 0) continue;
    logit -= static_cast<double>(input.params.presence_penalty);
    logit -= static_cast<double>(input.params.frequency_penalty) * generated;
  }
}

Candidates allowed_candidates(std::span<const uint32_t> mask, const std::vector<double>& logits) {
  Candidates candidates;
  for (size_t id = 0; id < logits.size(); ++id) {
    const bool allowed = mask.empty() || ((mask[id / 32] >> (id % 32)) & 1u) != 0;
    if (allowed) candidates.push_back({static_cast<int32_t>(id), logits[id]});
  }
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.logit > b.logit; });
  return candidates;
}

/// Probabilities of the candidates alone, in their order.
std::vector<double> probabilities(const Candidates& candidates) {
  std::vector<double> p;
  double sum = 0;
  for (const Candidate& c : candidates) {
    p.push_back(std::exp(c.logit - candidates.front().logit));
    sum += p.back();
  }
  for (double& value : p) value /= sum;
  return p;
}

void keep_top_k(int32_t top_k, Candidates& candidates) {
  if (top_k > 0 && static_cast<size_t>(top_k) < candidates.size()) candidates.resize(static_cast<size_t>(top_k));
}

/// The smallest prefix with a cumulative probability of at least top_p, never empty.
void keep_top_p(double top_p, Candidates& candidates) {
  if (top_p >= 1) return;
  const std::vector<double> p = probabilities(candidates);
  size_t kept = 1;
  for (double cumulative = p[0]; cumulative < top_p && kept < p.size(); ++kept) cumulative += p[kept];
  candidates.resize(kept);
}

void keep_min_p(double min_p, Candidates& candidates) {
  const std::vector<double> p = probabilities(candidates);
  size_t kept = 1;
  while (kept < p.size() && p[kept] >= min_p * p[0]) ++kept;
  candidates.resize(kept);
}

/// The first candidate whose cumulative probability exceeds u.
int32_t draw(double u, const Candidates& candidates) {
  const std::vector<double> p = probabilities(candidates);
  double cumulative = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    cumulative += p[i];
    if (u < cumulative) return candidates[i].id;
  }
  return candidates.back().id;  // u lies within the rounding error of 1
}

int32_t choose(const SampleParams& params, Candidates candidates) {
  if (params.temperature == 0) return candidates.front().id;
  for (Candidate& c : candidates) c.logit /= static_cast<double>(params.temperature);
  keep_top_k(params.top_k, candidates);
  keep_top_p(static_cast<double>(params.top_p), candidates);
  keep_min_p(static_cast<double>(params.min_p), candidates);
  return draw(static_cast<double>(uniform_draw(params.seed, params.choice, params.position)), candidates);
}

void report_logprobs(const Candidates& candidates, SampleOutput& output) {
  double sum = 0;
  for (const Candidate& c : candidates) sum += std::exp(c.logit - candidates.front().logit);
  const double log_total = candidates.front().logit + std::log(sum);
  for (size_t i = 0; i < candidates.size(); ++i) {
    const double logprob = candidates[i].logit - log_total;
    if (candidates[i].id == output.id) output.logprob = logprob;
    if (i >= output.top_ids.size()) continue;
    output.top_ids[i] = candidates[i].id;
    output.top_values[i] = logprob;
  }
}

}  // namespace

SampleOutput sample(const SampleInput& input) {
  SampleOutput output;
  output.top_ids.assign(static_cast<size_t>(input.top_logprobs), -1);
  output.top_values.assign(static_cast<size_t>(input.top_logprobs), -INFINITY);
  if (!all_finite(input.logits)) {
    output.status = SampleStatus::kNotFinite;
    return output;
  }
  std::vector<double> logits(input.logits.begin(), input.logits.end());
  apply_bias(input, logits);
  apply_penalties(input, logits);
  const Candidates candidates = allowed_candidates(input.mask, logits);
  if (candidates.empty()) {
    output.status = SampleStatus::kNothingAllowed;
    return output;
  }
  output.id = choose(input.params, candidates);
  report_logprobs(candidates, output);
  return output;
}

}  // namespace marlin::ref
