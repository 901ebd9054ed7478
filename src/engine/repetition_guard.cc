#include "engine/repetition_guard.h"

#include <algorithm>

namespace marlin {

bool RepetitionGuard::push(std::span<const int32_t> ids) {
  const auto newest = static_cast<int>(ids.size()) - 1;
  const int longest = std::min(kLongestCycle, newest);
  bool loop = false;
  for (int period = 1; period <= longest; ++period) {
    int32_t& run = repeated_[static_cast<size_t>(period - 1)];
    const bool equal = ids[static_cast<size_t>(newest)] == ids[static_cast<size_t>(newest - period)];
    run = equal ? run + 1 : 0;
    loop = loop || run + period >= std::max(kTokens, kCycles * period);
  }
  return loop;
}

}  // namespace marlin
