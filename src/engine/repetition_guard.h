// Notices when generation has fallen into an endless loop.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace marlin {

/// The rule: the last tokens are one cycle of at most 128 tokens, at least 8 times over and at least 512 tokens in all,
/// without a single deviation. Tables, lists and code repeat their frame and not every token; what does repeat exactly
/// (a row of zeros) is shorter.
class RepetitionGuard {
 public:
  static constexpr int kLongestCycle = 128;
  static constexpr int kCycles = 8;
  static constexpr int kTokens = 512;

  /// `ids` are all generated ids, the newest last; called once for each. True when the rule holds.
  bool push(std::span<const int32_t> ids);

 private:
  /// [p - 1]: how many of the newest tokens in a row equal the one p before.
  std::array<int32_t, kLongestCycle> repeated_{};
};

}  // namespace marlin
