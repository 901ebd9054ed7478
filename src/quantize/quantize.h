// BF16 (or F16, F32) Hugging Face checkpoint -> MMFP4, streaming: the source is mapped, and memory holds a few rows of
// one tensor and the scales of one shard.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/progress.h"
#include "marlin/text.h"

namespace marlin {

enum class QuantizeMethod { kRtn };

struct QuantizeOptions {
  QuantizeMethod method = QuantizeMethod::kRtn;
  int group_size = 128;             // 32, 64 or 128
  bool include_head = false;        // lm_head in FP4 too
  bool include_embeddings = false;  // embed_tokens in FP4 too
  uint64_t max_shard_bytes = uint64_t{4} << 30;
  bool resume = false;  // keep whole shards of an interrupted run of the same source and options
  ProgressFn progress = {};
};

/// Error of one quantized tensor against its source.
struct TensorError {
  std::string name;
  int64_t rows = 0;
  int64_t columns = 0;
  double relative_rmse = 0;  // ||w - q|| / ||w||
  double max_abs = 0;        // max |w - q|
  double sqnr_db = 0;        // 20 log10(||w|| / ||w - q||)
};

struct QuantizeReport {
  std::vector<TensorError> tensors;  // in the model's order; those of shards kept by resume, too
  int64_t quantized_parameters = 0;
  int64_t plain_parameters = 0;
  uint64_t bytes = 0;          // of all shards
  double bits_per_weight = 0;  // over all parameters
  double seconds = 0;
  Json to_json() const;
};

/// Reads `source`, writes `destination` (created; must be empty, or hold an interrupted run when resuming): shards,
/// index, config.json with quantization_config, and the tokenizer, template and generation files copied. While it is
/// written, the directory holds kUnfinishedName and no reader takes it. Throws Error; leaves nothing that looks whole.
QuantizeReport quantize_checkpoint(const std::filesystem::path& source, const std::filesystem::path& destination,
                                   const QuantizeOptions& options);

}  // namespace marlin
