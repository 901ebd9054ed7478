// A model's generation_config.json: its sampling defaults and stop tokens.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "marlin/engine.h"

namespace marlin {

/// The largest SamplingParams::top_logprobs.
inline constexpr int kMostTopLogprobs = 20;

struct GenerationConfig {
  SamplingParams sampling;
  std::vector<int32_t> eos_ids;

  /// The defaults of SamplingParams where the file or a field is missing. Throws Error{kBadFile} naming the field.
  static GenerationConfig load(const std::filesystem::path& model_directory);
  static GenerationConfig parse(std::string_view json, const std::string& name);
};

/// Why these cannot be sampled with, on one line; empty when they can. `vocab_size`: ids below it have a token.
std::string sampling_fault(const SamplingParams& sampling, int vocab_size);

}  // namespace marlin
