// Memory bandwidth of this machine, the roof over decoding: read-only streams over a buffer that no cache holds.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/thread_pool.h"

namespace marlin::cli {

/// Bytes the measurement reads: 1 GiB, or four times the last-level cache where that is more.
uint64_t roofline_bytes();

/// Measures when asked, so that it can be asked around the tests of a noisy machine: all passes count alike. The buffer
/// lives only during measure().
///
/// A pass reads every byte once with all threads, each over ranges of whole lines, and combines two cache lines of
/// 64-bit words at a time by XOR into independent sums: plain C++ that compilers turn into vector loads, and arithmetic
/// that hides behind them. Every other pass asks for memory ahead of its use: which way is faster depends on the
/// processor, and the roof is the faster one. Nothing is written, as in decoding. Every page is written before the
/// passes: untouched pages would all be one page of zeros in a cache.
class Roofline {
 public:
  explicit Roofline(int threads) : pool_(threads) {}

  /// Some passes after one that does not count. Throws std::bad_alloc.
  void measure();
  /// 10^9 bytes a second of each pass so far, of the way whose median is higher.
  const std::vector<double>& gbps() const;
  int threads() const { return pool_.size(); }

 private:
  ThreadPool pool_;
  std::array<std::vector<double>, 2> gbps_;  // without and with asking ahead
  uint64_t sink_ = 0;                        // keeps the reads from being optimised away
};

}  // namespace marlin::cli
