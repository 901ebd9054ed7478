// What the machine has left, for budgets and refusals that quote numbers.
#pragma once

#include <cstdint>

namespace marlin {

/// Bytes; 0 where the system does not tell.
struct MemoryStatus {
  uint64_t total = 0;
  uint64_t available = 0;  // what can be allocated without swapping
  uint64_t swap_total = 0;
  uint64_t swap_used = 0;
};

MemoryStatus memory_status();

/// The process's peak resident set in bytes.
uint64_t peak_resident_bytes();

/// Starts the peak anew from what is resident now. False where the system cannot (only Linux can).
bool reset_peak_resident_bytes();

}  // namespace marlin
