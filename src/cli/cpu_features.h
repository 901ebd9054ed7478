// What the processor can do, for `doctor`.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace marlin::cli {

/// The instruction sets that the kernels could use, and whether this processor has them.
std::vector<std::pair<std::string, bool>> cpu_features();

}  // namespace marlin::cli
