// Throughput of the FP4 kernels at the shapes of GLM-4.7-Flash, beside a read-only stream over the same memory. Weights
// are far larger than the caches; the figures of one table come from one run, interleaved, and are medians.
//
//   fp4_bench [threads] [kernels]
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/kernels/families.h"
#include "backend/cpu/kernels/rows.h"

namespace marlin::cpu {
namespace {

constexpr int kRepeats = 7;

/// With one thread the processor time it used, which other programs disturb less than the clock.
double now(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double seconds(const ThreadPool& pool, const auto& body) {
  const clockid_t clock = pool.size() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
  const double start = now(clock);
  body();
  return now(clock) - start;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

struct Shape {
  const char* name;
  int64_t out;
  int64_t in;
  int rows;
};

/// Reads every byte and nothing else: the bound of a kernel whose weights come from memory.
void read_stream(ThreadPool& pool, std::span<const std::byte> bytes) {
  using Line = uint64_t __attribute__((vector_size(64)));
  pool.parallel_for(static_cast<int64_t>(bytes.size() / 64), [&](int64_t begin, int64_t end, int) {
    Line sum[4] = {};
    const std::byte* data = bytes.data();
    for (int64_t i = begin; i + 4 <= end; i += 4) {
      for (int v = 0; v < 4; ++v) {
        Line line;
        std::memcpy(&line, data + (i + v) * 64, 64);
        sum[v] ^= line;
        __builtin_prefetch(data + (i + v) * 64 + 4096);
      }
    }
    const Line all = sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
    volatile uint64_t sink = all[0];
    (void)sink;
  });
}

void run(int threads, const std::string& kernels) {
  const auto device = make_device("cpu", {.threads = threads, .deterministic = false, .kernels = kernels});
  const auto stream = device->make_stream();
  ThreadPool pool(threads);
  std::vector<std::byte> memory(size_t{640} << 20);
  uint64_t state = 1;
  for (size_t i = 0; i < memory.size(); i += 8) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    std::memcpy(memory.data() + i, &state, 8);
  }
  // Scales: small finite halves.
  std::vector<uint16_t> scales(size_t{160} << 14, uint16_t{0x2000});
  const auto codes = device->bind(memory, nullptr);
  const auto scale_buffer = device->bind(std::as_bytes(std::span(scales)), nullptr);
  fmt::print("{}\n| shape | rows | GB/s | % of stream | Gop/s |\n|---|---|---|---|---|\n", device->info().description);
  for (const Shape& shape :
       {Shape{"expert 1536 x 2048", 1536, 2048, 1}, Shape{"expert 2048 x 1536", 2048, 1536, 1},
        Shape{"q_b 5120 x 768", 5120, 768, 1}, Shape{"dense 10240 x 2048", 10240, 2048, 1},
        Shape{"head 154880 x 2048", 154880, 2048, 1}, Shape{"dense 10240 x 2048", 10240, 2048, 2},
        Shape{"dense 10240 x 2048", 10240, 2048, 4}, Shape{"dense 10240 x 2048", 10240, 2048, 8},
        Shape{"dense 10240 x 2048", 10240, 2048, 16}, Shape{"dense 10240 x 2048", 10240, 2048, 32},
        Shape{"dense 10240 x 2048", 10240, 2048, 64}, Shape{"dense 10240 x 2048", 10240, 2048, 128},
        Shape{"dense 10240 x 2048", 10240, 2048, 512}, Shape{"expert 1536 x 2048", 1536, 2048, 32}}) {
    const auto bytes = static_cast<size_t>(shape.out * shape.in / 2);
    // Several matrices one after the other, so that none is found in a cache.
    const size_t copies = shape.rows >= 64 ? 1 : std::max<size_t>(1, (size_t{128} << 20) / bytes);
    const auto x = device->allocate(static_cast<size_t>(shape.rows * shape.in) * 4);
    const auto out = device->allocate(static_cast<size_t>(shape.rows * shape.out) * 4);
    std::vector<float> values(static_cast<size_t>(shape.rows * shape.in));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 251) / 125 - 1;
    stream->upload({x.get(), 0}, std::as_bytes(std::span(values)));
    std::vector<double> times;
    std::vector<double> stream_times;
    for (int r = 0; r < kRepeats; ++r) {
      stream_times.push_back(seconds(pool, [&] { read_stream(pool, std::span(memory).first(copies * bytes)); }));
      times.push_back(seconds(pool, [&] {
        for (size_t i = 0; i < copies; ++i) {
          LinearWeight weight;
          weight.out_features = shape.out;
          weight.in_features = shape.in;
          weight.n_planes = 1;
          weight.planes[0] = {{codes.get(), i * bytes}, {scale_buffer.get(), 0}, 128};
          stream->linear({shape.rows, {x.get(), 0}, shape.in, &weight, {}, {out.get(), 0}, shape.out});
        }
      }));
    }
    const auto total = static_cast<double>(copies * bytes);
    const double time = median(times);
    fmt::print("| {} | {} | {:.1f} | {:.0f} | {:.0f} |\n", shape.name, shape.rows, total * 1.03125 / time / 1e9,
               100 * 1.03125 * median(stream_times) / time, 4 * total * shape.rows / time / 1e9);
  }
}

}  // namespace
}  // namespace marlin::cpu

int main(int argc, char** argv) {
  marlin::cpu::run(argc > 1 ? std::atoi(argv[1]) : 1, argc > 2 ? argv[2] : "");
}
