// Which kernel families there are, and which one a device runs.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "backend/cpu/kernels/family.h"

namespace marlin::cpu {

/// Those that this build and this processor can run, best first; portable is the last.
std::span<const Family* const> usable_families();

/// "" is the best one. Throws Error{kUsage} that lists the names there are.
const Family& choose_family(std::string_view name);

}  // namespace marlin::cpu
