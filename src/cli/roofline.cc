#include "cli/roofline.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>

#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace marlin::cli {
namespace {

constexpr int kPasses = 5;
constexpr uint64_t kSmallestBuffer = uint64_t{1} << 30;
constexpr int64_t kLineWords = 8;  // 64 bytes
constexpr int64_t kPageWords = 512;
constexpr int64_t kAheadLines = 64;

uint64_t last_level_cache_bytes() {
#if defined(__APPLE__)
  for (const char* name : {"hw.l3cachesize", "hw.perflevel0.l2cachesize", "hw.l2cachesize"}) {
    uint64_t bytes = 0;
    size_t size = sizeof(bytes);
    if (sysctlbyname(name, &bytes, &size, nullptr, 0) == 0 && bytes > 0) return bytes;
  }
  return 0;
#elif defined(_SC_LEVEL4_CACHE_SIZE)
  const long bytes = std::max(sysconf(_SC_LEVEL3_CACHE_SIZE), sysconf(_SC_LEVEL4_CACHE_SIZE));
  return bytes > 0 ? static_cast<uint64_t>(bytes) : 0;
#else
  return 0;
#endif
}

/// XOR of `lines` lines. Sixteen sums are eight vectors of 16 bytes: none leaves its register on a plain x86-64 or ARM.
template <bool kAhead>
uint64_t read_lines(const uint64_t* words, int64_t lines) {
  uint64_t sums[2 * kLineWords] = {};
  int64_t line = 0;
  for (; line + 2 <= lines; line += 2) {
    if (kAhead && line + kAheadLines + 1 < lines) {
      __builtin_prefetch(words + (line + kAheadLines) * kLineWords);
      __builtin_prefetch(words + (line + kAheadLines + 1) * kLineWords);
    }
    for (int64_t i = 0; i < 2 * kLineWords; ++i) sums[i] ^= words[line * kLineWords + i];
  }
  uint64_t sum = 0;
  for (int64_t i = line * kLineWords; i < lines * kLineWords; ++i) sum ^= words[i];
  for (const uint64_t part : sums) sum ^= part;
  return sum;
}

double median(std::vector<double> values) {
  std::ranges::nth_element(values, values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2));
  return values[values.size() / 2];
}

}  // namespace

uint64_t roofline_bytes() {
  return std::max(kSmallestBuffer, 4 * last_level_cache_bytes());
}

void Roofline::measure() {
  const auto lines = static_cast<int64_t>(roofline_bytes() / (kLineWords * sizeof(uint64_t)));
  const std::unique_ptr<uint64_t[]> words(new uint64_t[static_cast<size_t>(lines * kLineWords)]);
  pool_.parallel_for(lines * kLineWords / kPageWords, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin * kPageWords; i < end * kPageWords; ++i)
      words[static_cast<size_t>(i)] = static_cast<uint64_t>(i);
  });
  for (int pass = 0; pass < 2 * (kPasses + 1); ++pass) {
    const bool ahead = pass % 2 == 1;
    std::atomic<uint64_t> sum{0};
    const auto start = std::chrono::steady_clock::now();
    pool_.parallel_for(lines, [&](int64_t begin, int64_t end, int) {
      const uint64_t* from = words.get() + begin * kLineWords;
      sum.fetch_xor(ahead ? read_lines<true>(from, end - begin) : read_lines<false>(from, end - begin),
                    std::memory_order_relaxed);
    });
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    sink_ ^= sum.load();
    const double bytes = static_cast<double>(lines) * kLineWords * sizeof(uint64_t);
    if (pass > 1) gbps_[ahead ? 1 : 0].push_back(bytes / 1e9 / time.count());
  }
}

const std::vector<double>& Roofline::gbps() const {
  const auto& [plain, ahead] = gbps_;
  return !plain.empty() && median(ahead) > median(plain) ? ahead : plain;
}

}  // namespace marlin::cli
