// What this process may use of the processor.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/thread_place.h"

namespace marlin::cpu {

/// A physical core that this process may use.
struct Core {
  int cpu = 0;   // the first of its hardware threads
  int node = 0;  // counted among the nodes of memory that have such cores
  bool operator==(const Core&) const = default;
};

/// The cores of the CPUs in `mask`, by node and CPU, as `sys` (Linux's /sys) describes them. Where it says nothing, a
/// CPU is a core of node 0.
std::vector<Core> read_cores(const std::filesystem::path& sys, const std::vector<int>& mask);

/// The cores of the affinity mask; empty where the system has none.
std::vector<Core> affinity_cores();

/// Where `n_threads` threads run. As many as there are cores: each on its own. Otherwise they spread over the nodes in
/// proportion to their cores and stay there; on a single node the system places them best.
std::vector<ThreadPlace> place_threads(int n_threads, const std::vector<Core>& cores);

/// Physical cores (performance cores on Apple silicon) inside the affinity mask, at most the cgroup's quota; at
/// least 1.
int usable_cores();

/// The processor's name as the system tells it, or the architecture.
std::string processor_name();

}  // namespace marlin::cpu
