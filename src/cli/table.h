// Rows of text in aligned columns.
#pragma once

#include <string>
#include <vector>

namespace marlin::cli {

/// The first row is the heading. The first column stands left, the others right; the last one left when `text_last`.
std::string table(const std::vector<std::vector<std::string>>& rows, bool text_last = false);

/// 31221488 -> "31,221,488"
std::string grouped(int64_t number);

}  // namespace marlin::cli
