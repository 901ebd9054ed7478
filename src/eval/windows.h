// Texts cut into the windows that are scored.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace marlin {

/// Token i + 1 of `ids` is predicted from ids[0..i]; `scored[i]` tells whether that prediction counts.
struct Window {
  std::vector<int32_t> ids;
  std::vector<bool> scored;  // ids.size() - 1
};

/// Reads JSON lines with {"text"} or {"messages","tools"} rows (one kind a file) and cuts them as eval.h says; at most
/// `limit` windows (0 = all). Throws Error naming file and line.
std::vector<Window> read_windows(const std::filesystem::path& text, const std::filesystem::path& model_directory,
                                 int limit);

}  // namespace marlin
