// Throughput of absorbed attention at the shape of GLM-4.7-Flash: 20 heads, latents of 512 and rotated keys of 64.
// Several layers take turns, so that the cache's rows come from memory. Medians.
//
//   attend_bench [threads] [kernels]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "backend/backend.h"

namespace marlin {
namespace {

constexpr int kRepeats = 7;
constexpr int kLayers = 8;
constexpr int kContext = 16384;
constexpr MlaShape kShape{20, 192, 64, 256, 512};

double seconds(const auto& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// One device with a cache of one sequence.
class Bench {
 public:
  Bench(Device& device, KvType type) : device_(device), stream_(device.make_stream()) {
    kv_.layout = {type, kShape.latent, kShape.rope, kLayers};
    kv_.pool = allocate(kv_.layout.block_bytes() * kContext / kKvBlockTokens);
    std::vector<int32_t> tables(kContext / kKvBlockTokens);
    for (size_t i = 0; i < tables.size(); ++i) tables[i] = static_cast<int32_t>(i);
    tables_ = upload(tables);
    constexpr int kWritten = 1024;
    std::vector<float> rows(kWritten * static_cast<size_t>(kv_.layout.values()));
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = std::sin(static_cast<float>(i % 9973));
    const View x = upload(rows);
    const int64_t stride = kv_.layout.values();
    for (int first = 0; first < kContext; first += kWritten) {
      const TokenBatch batch = tokens(first, kWritten);
      for (kv_.layer = 0; kv_.layer < kLayers; ++kv_.layer) {
        stream_->kv_write({&batch, kv_, x, stride, x.at(size_t{4} * kShape.latent), stride});
      }
    }
    q_ = x;
    out_ = allocate(size_t{64} * 4 * kShape.heads * kShape.latent);
  }

  /// Median time of a layer's attention for `count` neighbouring tokens that see `context` positions and their own.
  double attend(int context, int count) {
    const TokenBatch batch = tokens(context, count);
    std::vector<double> times;
    for (int r = 0; r < kRepeats; ++r) {
      times.push_back(seconds([&] {
        for (kv_.layer = 0; kv_.layer < kLayers; ++kv_.layer) {
          MlaAttendArgs args;
          args.batch = &batch;
          args.kv = kv_;
          args.shape = kShape;
          args.scale = 1.0 / 16;
          args.q_latent = q_;
          args.q_rope = q_;
          args.q_row_stride = kShape.heads * (kShape.nope + kShape.rope);
          args.q_head_stride = kShape.nope + kShape.rope;
          args.out = out_;
          stream_->mla_attend(args);
        }
      }));
    }
    std::ranges::sort(times);
    return times[times.size() / 2] / kLayers;
  }

 private:
  View allocate(size_t bytes) {
    buffers_.push_back(device_.allocate(bytes));
    return {buffers_.back().get(), 0};
  }
  template <typename T>
  View upload(const std::vector<T>& values) {
    const View view = allocate(values.size() * sizeof(T));
    stream_->upload(view, std::as_bytes(std::span(values)));
    return view;
  }

  TokenBatch tokens(int first, int count) {
    std::vector<int32_t> positions;
    for (int i = 0; i < count; ++i) positions.push_back(first + i);
    TokenBatch batch;
    batch.n_tokens = count;
    batch.positions = upload(positions);
    batch.slots = upload(std::vector<int32_t>(static_cast<size_t>(count), 0));
    batch.block_tables = tables_;
    batch.n_slots = 1;
    batch.blocks_per_slot = kContext / kKvBlockTokens;
    return batch;
  }

  Device& device_;
  std::unique_ptr<Stream> stream_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  KvView kv_;
  View tables_, q_, out_;
};

void run(int threads, const std::string& kernels) {
  const auto device = make_device("cpu", {.threads = threads, .deterministic = false, .kernels = kernels});
  fmt::print("{}\n| cache | context | tokens | us a block and token | Gop/s |\n|---|---|---|---|---|\n",
             device->info().description);
  for (const auto& [name, type] : {std::pair{"f32", KvType::kF32}, {"f16", KvType::kF16}, {"q8", KvType::kQ8}}) {
    Bench bench(*device, type);
    for (const int context : {512, 4096, 16000}) {
      for (const int count : {1, 4, 32}) {
        const double time = bench.attend(context, count);
        const double positions = static_cast<double>(count) * (context + 0.5 * count);
        const double ops = 2.0 * kShape.heads * (2 * kShape.latent + kShape.rope) * positions;
        fmt::print("| {} | {} | {} | {:.2f} | {:.0f} |\n", name, context, count, time / positions * 64e6,
                   ops / time / 1e9);
      }
    }
  }
}

}  // namespace
}  // namespace marlin

int main(int argc, char** argv) {
  marlin::run(argc > 1 ? std::atoi(argv[1]) : 1, argc > 2 ? argv[2] : "");
}
