// How much of the model and its cache fits: the context and the number of KV blocks, decided before anything large is
// allocated.
#pragma once

#include <cstdint>
#include <string>

#include "base/memory.h"

namespace marlin {

struct MemoryRequest {
  std::string model;  // for messages
  uint64_t weight_bytes = 0;
  uint64_t workspace_bytes = 0;
  uint64_t block_bytes = 0;  // one KV block
  int model_context = 0;
  int context = 0;         // 0 = choose
  uint64_t kv_memory = 0;  // 0 = `contexts` full ones
  int contexts = 1;
  int max_parallel = 1;
  uint64_t device_budget = 0;  // 0 = unknown
  MemoryStatus memory;
};

struct MemoryPlan {
  int context = 0;
  int kv_blocks = 0;
};

/// The context is the one asked for, else the largest that fits, at most 32,768 and the model's. Throws Error{kUsage}
/// for a context the model or `kv_memory` cannot have, and Error{kNoMemory} with all figures and the state of the swap
/// when it does not fit.
MemoryPlan plan_memory(const MemoryRequest& request);

}  // namespace marlin
