// Sampling of one row of logits, step by step as SampleParams says.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops/ops.h"

namespace marlin::ref {

/// One row's inputs. Empty counts: no penalties; empty mask: all ids allowed.
struct SampleInput {
  std::span<const double> logits;  // the valid ones
  SampleParams params;
  std::span<const uint32_t> counts;  // [vocab]
  std::span<const uint32_t> mask;    // bit id % 32 of word id / 32
  std::span<const int32_t> bias_ids;
  std::span<const float> bias_values;
  int top_logprobs = 0;
};

/// Without kOk: id -1. Where fewer ids are allowed than top_logprobs asks for, the rest is id -1 with -infinity.
struct SampleOutput {
  SampleStatus status = SampleStatus::kOk;
  int32_t id = -1;
  double logprob = 0;
  std::vector<int32_t> top_ids;
  std::vector<double> top_values;
};

SampleOutput sample(const SampleInput& input);

}  // namespace marlin::ref
