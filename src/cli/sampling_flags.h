// The flags that decide how an answer is sampled and when it ends, shared by generate and chat.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "marlin/engine.h"

namespace marlin::cli {

struct SamplingFlags {
  std::optional<float> temperature;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<int> top_k;
  std::optional<float> repetition_penalty;
  std::optional<float> presence_penalty;
  std::optional<float> frequency_penalty;
  std::vector<std::string> logit_bias;  // "ID=V"
  std::optional<uint64_t> seed;
  int max_tokens = 0;
  int max_thinking_tokens = -1;
  std::vector<std::string> stop;
  bool ignore_eos = false;

  void add_to(CLI::App& app);
  /// Throws Error{kUsage} for a malformed --logit-bias or --stop: before a model is loaded in vain.
  void check() const;
  /// The model's defaults with the flags over them.
  SamplingParams over(const SamplingParams& defaults) const;
  /// Sets everything of `request` that the flags decide; the prompt, tools and starts_in_reasoning are set already.
  void apply(const ModelInfo& info, Request& request) const;
};

/// On one line, for -v.
std::string describe(const SamplingParams& sampling);

}  // namespace marlin::cli
