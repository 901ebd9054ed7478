// Adds to an MMFP4 checkpoint what its writer left out, from the BF16 model it was made of.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/progress.h"

namespace marlin {

struct RepairReport {
  std::vector<std::string> added;         // tensor names now present
  std::vector<std::string> copied_files;  // tokenizer, template… that were absent
};

/// Finds every unquantized tensor the model needs and `directory` lacks (model.norm.weight, e_score_correction_bias,
/// other norms), copies it from `bf16` into a new shard and rewrites the index last; existing shards are not touched.
/// Throws Error when a needed tensor is in neither, or when a quantized linear is missing (re-quantize then).
RepairReport repair_checkpoint(const std::filesystem::path& directory, const std::filesystem::path& bf16);

}  // namespace marlin
