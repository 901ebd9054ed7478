// What a checkpoint is made of, and what it lacks. Reads headers only, never the weights.
#pragma once

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "model/config.h"

namespace marlin {

/// Sums over the stored tensors of one use.
struct KindTotals {
  int64_t tensors = 0;
  int64_t parameters = 0;
  uint64_t bytes = 0;
  std::set<std::string> stored_as;
};

/// All of a checkpoint directory.
struct Inspection {
  ModelConfig config;
  std::string writer;
  std::string producer;
  size_t files = 0;
  uint64_t file_bytes = 0;
  bool has_mtp = false;
  std::vector<std::pair<std::string, KindTotals>> kinds;  // in the order of the files
  KindTotals total;
  std::vector<std::string> missing, misshapen, extra, missing_files, notes;
  bool whole() const { return missing.empty() && misshapen.empty() && missing_files.empty(); }
};

/// Opens `directory`, tolerating what is missing, and compares it with its config. Throws Error for what cannot be
/// read.
Inspection inspect_checkpoint(const std::filesystem::path& directory);

}  // namespace marlin
