// What a device's ops reach at the shapes of GLM-4.7-Flash: copies and decode products in GB/s, prompt products in
// TFLOP/s, attention in microseconds. Weights take turns so that they come from memory. Medians.
//
//   op_bench [device] [--json]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "marlin/error.h"

namespace marlin {
namespace {

constexpr int kRepeats = 5;
constexpr int kGroup = 128;

double seconds(const auto& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct Result {
  std::string name;
  double value = 0;
  const char* unit = "";
};

class Bench {
 public:
  explicit Bench(const std::string& device) : device_(make_device(device, {})), stream_(device_->make_stream()) {}

  std::string description() const { return fmt::format("{}: {}", device_->info().name, device_->info().description); }

  Result copies() {
    constexpr size_t kBytes = size_t{256} << 20;
    const View from = allocate(kBytes);
    const View to = allocate(kBytes);
    const double time = median([&] { stream_->copy({from, to, kBytes}); });
    return {"copy of 256 MiB, read and written", 2 * static_cast<double>(kBytes) / time / 1e9, "GB/s"};
  }

  /// One token against enough copies of a weight that no cache holds them.
  Result decode_linear(int64_t in, int64_t out) {
    const std::vector<LinearWeight> weights = fp4_weights(in, out, 256 << 20);
    const View x = allocate(static_cast<size_t>(in) * 4);
    const View y = allocate(static_cast<size_t>(out) * 4);
    const double time = median([&] {
      for (const LinearWeight& weight : weights) stream_->linear({1, x, in, &weight, {}, y, out});
    });
    const double bytes = static_cast<double>(in * out) * (0.5 + 2.0 / kGroup) * static_cast<double>(weights.size());
    return {fmt::format("decode product, {} x {}", out, in), bytes / time / 1e9, "GB/s"};
  }

  Result prompt_linear(int64_t in, int64_t out, int tokens) {
    const std::vector<LinearWeight> weights = fp4_weights(in, out, 1);
    const View x = allocate(static_cast<size_t>(in * tokens) * 4);
    const View y = allocate(static_cast<size_t>(out * tokens) * 4);
    const RoleView prompt(bytes_of(std::vector<uint8_t>(static_cast<size_t>(tokens), 0)), true, false);
    const double time = median([&] { stream_->linear({tokens, x, in, weights.data(), prompt, y, out}); });
    return {fmt::format("prompt product, {} x {}, {} tokens", out, in, tokens),
            2.0 * static_cast<double>(in * out * tokens) / time / 1e12, "TFLOP/s"};
  }

  Result attention(int context) {
    const MlaShape shape{20, 192, 64, 256, 512};
    KvView kv;
    kv.layout = {device_->kv_type(KvType::kF16), shape.latent, shape.rope, 1};
    const int blocks = context / kKvBlockTokens;
    kv.pool = allocate(kv.layout.block_bytes() * static_cast<size_t>(blocks));
    std::vector<int32_t> table(static_cast<size_t>(blocks));
    for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i);
    TokenBatch batch;
    batch.n_tokens = 1;
    batch.ids = bytes_of(std::vector<int32_t>{0});
    batch.positions = bytes_of(std::vector<int32_t>{context - 1});
    batch.slots = bytes_of(std::vector<int32_t>{0});
    batch.roles = RoleView(bytes_of(std::vector<uint8_t>{1}), false, true);
    batch.block_tables = bytes_of(table);
    batch.n_slots = 1;
    batch.blocks_per_slot = blocks;
    const View q = allocate(size_t{4} * 20 * 512);
    const View out = allocate(size_t{4} * 20 * 512);
    const double time = median([&] {
      MlaAttendArgs args;
      args.batch = &batch;
      args.kv = kv;
      args.shape = shape;
      args.scale = 0.0625;
      args.q_latent = q;
      args.q_rope = q;
      args.q_row_stride = 20 * 64;
      args.q_head_stride = 64;
      args.out = out;
      stream_->mla_attend(args);
    });
    return {fmt::format("attention of a token, {} positions, f16 cache", context), time * 1e6, "us"};
  }

 private:
  View allocate(size_t bytes) {
    buffers_.push_back(device_->allocate(bytes));
    return {buffers_.back().get(), 0};
  }

  template <typename T>
  View bytes_of(const std::vector<T>& values) {
    const View view = allocate(values.size() * sizeof(T));
    stream_->upload(view, std::as_bytes(std::span(values)));
    return view;
  }

  /// Of at least `bytes` together. Codes are of a small counter, scales 1/64.
  std::vector<LinearWeight> fp4_weights(int64_t in, int64_t out, int64_t bytes) {
    const int64_t codes = in * out / 2;
    const int64_t scales = in * out / kGroup * 2;
    std::vector<std::byte> one(static_cast<size_t>(codes + scales));
    for (int64_t i = 0; i < codes; ++i) one[static_cast<size_t>(i)] = static_cast<std::byte>(i * 37 >> 3);
    const uint16_t scale = 0x2400;
    for (int64_t i = 0; i < scales; i += 2) std::memcpy(&one[static_cast<size_t>(codes + i)], &scale, 2);
    std::vector<LinearWeight> weights;
    for (int64_t have = 0; have < bytes; have += codes + scales) {
      LinearWeight weight;
      weight.out_features = out;
      weight.in_features = in;
      const View data = bytes_of(one);
      weight.planes[0] = {data, data.at(static_cast<size_t>(codes)), kGroup};
      weight.n_planes = 1;
      weights.push_back(weight);
    }
    return weights;
  }

  double median(const auto& enqueue) {
    std::vector<double> times;
    for (int r = 0; r < kRepeats + 1; ++r) {
      const double time = seconds([&] {
        enqueue();
        stream_->wait(stream_->submit());
      });
      if (r > 0) times.push_back(time);  // the first one compiles kernels and maps pages
    }
    std::ranges::sort(times);
    return times[times.size() / 2];
  }

  std::unique_ptr<Device> device_;
  std::unique_ptr<Stream> stream_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
};

int run(const std::string& device, bool json) {
  Bench bench(device);
  const std::vector<Result> results = {bench.copies(),
                                       bench.decode_linear(2048, 5120),
                                       bench.decode_linear(5120, 2048),
                                       bench.decode_linear(2048, 154880),
                                       bench.prompt_linear(2048, 5120, 512),
                                       bench.attention(4096),
                                       bench.attention(16384)};
  if (!json) fmt::print("{}\n", bench.description());
  for (const Result& r : results) {
    if (json) {
      fmt::print("{{\"name\": \"{}\", \"value\": {:.4g}, \"unit\": \"{}\"}}\n", r.name, r.value, r.unit);
    } else {
      fmt::print("{:52} {:10.4g} {}\n", r.name, r.value, r.unit);
    }
  }
  return 0;
}

}  // namespace
}  // namespace marlin

int main(int argc, char** argv) {
  try {
    const std::string device = argc > 1 ? argv[1] : "auto";
    return marlin::run(device, argc > 2 && std::string(argv[2]) == "--json");
  } catch (const marlin::Error& error) {
    fmt::print(stderr, "op_bench: {}\n", error.what());
    return 1;
  }
}
