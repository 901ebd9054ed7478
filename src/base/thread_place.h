// Where a thread of the CPU kernels runs.
#pragma once

#include <vector>

namespace marlin {

struct ThreadPlace {
  int node = 0;           // of memory
  std::vector<int> cpus;  // the thread runs on these alone; empty: wherever the system puts it
};

/// Moves the calling thread there for good. Apple's systems bind no threads; there it asks for performance cores. A
/// system that refuses costs speed and nothing else, so that is no error.
void take_place(const ThreadPlace& place);

}  // namespace marlin
