#include "base/memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <vector>

namespace marlin {
namespace {

TEST(Memory, StatusIsPlausible) {
  const MemoryStatus status = memory_status();
  EXPECT_GT(status.total, uint64_t{64} << 20);
  EXPECT_GT(status.available, 0u);
  EXPECT_LE(status.available, status.total);
  EXPECT_LE(status.swap_used, status.swap_total);
}

TEST(Memory, PeakGrowsWithWhatWasTouched) {
  constexpr size_t kBytes = size_t{64} << 20;
  const std::vector<char> block(kBytes, 1);
  EXPECT_GE(peak_resident_bytes(), block.size());
}

TEST(Memory, ThePeakStartsAnewWhereTheSystemCan) {
  constexpr size_t kBytes = size_t{256} << 20;
  // Not from the heap, which may keep what is freed.
  void* block = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
  ASSERT_NE(block, MAP_FAILED);
  std::memset(block, 1, kBytes);
  munmap(block, kBytes);
  const uint64_t before = peak_resident_bytes();
  EXPECT_GE(before, kBytes);
  if (reset_peak_resident_bytes()) {
    EXPECT_LT(peak_resident_bytes(), kBytes);
  } else {
    EXPECT_GE(peak_resident_bytes(), before);
  }
}

}  // namespace
}  // namespace marlin
