// Full-size checkpoints of random weights: what speed and memory are measured with where the real model is not at hand.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/progress.h"
#include "marlin/text.h"

namespace marlin {

struct SynthOptions {
  uint64_t seed = 0;
  uint64_t max_shard_bytes = uint64_t{4} << 30;
  std::optional<uint64_t> free_bytes = {};  // instead of asking the file system, for tests
  ProgressFn progress = {};
};

struct SynthReport {
  int layers = 0;  // without MTP
  int64_t parameters = 0;
  uint64_t tensor_bytes = 0;
  uint64_t written_bytes = 0;  // of the tensors; less when an interrupted run was continued
  double seconds = 0;
  Json to_json() const;
};

/// Architectures that synth_config knows.
const std::vector<std::string>& synth_architectures();

/// The config.json of `architecture` as published, cut to its first `layers` layers (0: all of them). Throws
/// Error{kUsage} for an unknown name or more layers than the model has.
Json synth_config(const std::string& architecture, int layers = 0);

/// Writes a checkpoint of random weights for `config` (docs/format.md, 5): every linear, embeddings and head in FP4
/// with group size 128, routers and norms BF16, correction biases F32, scaled so that activations keep an RMS near 1.
/// The bytes depend on config and seed alone. config.json says "synthetic": true; its first eos_token_id is the first
/// of the tokenizer's 36 added tokens. While it is written, the directory holds kUnfinishedName and no reader takes it;
/// an interrupted run is continued. Throws Error{kUsage} when the directory holds anything else, Error{kIo} when the
/// disk has too little space; both before a byte is written.
SynthReport synthesize_checkpoint(const Json& config, const std::filesystem::path& destination,
                                  const SynthOptions& options);

}  // namespace marlin
