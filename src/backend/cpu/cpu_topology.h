// What this process may use of the processor.
#pragma once

#include <string>

namespace marlin::cpu {

/// Physical cores (performance cores on Apple silicon) inside the affinity mask, at most the cgroup's quota; at
/// least 1.
int usable_cores();

/// The processor's name as the system tells it, or the architecture.
std::string processor_name();

}  // namespace marlin::cpu
