// The demo checkpoints loaded for tests, and one call that runs tokens through them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "format/checkpoint.h"
#include "model/model.h"

namespace marlin::testing {

inline std::filesystem::path bf16_demo() {
  return std::filesystem::path(MARLIN_SHARED_DIR) / "demo-model/bf16";
}
inline std::filesystem::path mmfp4_demo() {
  return std::filesystem::path(MARLIN_SOURCE_DIR) / "models/GLM-4.7-Flash-Demo-MMFP4";
}

/// The Metal this build has: a Mac's GPU, or the emulated one; "" for none.
inline std::string metal_device() {
  for (const DeviceEntry& entry : device_registry()) {
    if (entry.name.starts_with("metal") && entry.make) return entry.name;
  }
  return "";
}

#define MARLIN_SKIP_WITHOUT(path)                                                    \
  if (!std::filesystem::exists(path)) {                                              \
    GTEST_SKIP() << "needs " << (path).string() << ", which is not on this machine"; \
  }

struct DemoOptions {
  std::filesystem::path directory = bf16_demo();
  std::string device = "cpu";
  std::string kernels = {};  // of the CPU
  int threads = 2;
  bool deterministic = true;
  ModelOptions model = {.max_tokens = 80,
                        .max_logit_rows = 80,
                        .max_slots = 8,
                        .max_positions = 512,
                        .kv_type = KvType::kF32,
                        .attention = AttentionForm::kAbsorbed,
                        .with_mtp = true};
  /// Wraps the device's stream, for mutations.
  std::function<std::unique_ptr<Stream>(Device&, Stream&)> wrap = nullptr;
};

/// A loaded model with a cache and a stream.
class DemoModel {
 public:
  explicit DemoModel(const DemoOptions& options)
      : checkpoint_(Checkpoint::open(options.directory)),
        device_(make_device(
            options.device,
            {.threads = options.threads, .deterministic = options.deterministic, .kernels = options.kernels})),
        inner_(device_->make_stream()),
        wrapped_(options.wrap ? options.wrap(*device_, *inner_) : nullptr),
        model_(Model::load(checkpoint_, *device_, options.model)),
        cache_(*device_, model_->kv_layout(), 64) {}

  Model& model() { return *model_; }
  KvCache& cache() { return cache_; }
  Stream& stream() { return wrapped_ ? *wrapped_ : *inner_; }
  Device& device() { return *device_; }
  int vocab() const { return model_->config().vocab_size; }
  int hidden() const { return model_->config().hidden_size; }

  /// Extends `sequence` by `ids` in one step and returns their logits [ids, vocab].
  std::vector<float> feed(KvSequence& sequence, std::span<const int32_t> ids, Role role = Role::kPrompt) {
    const int start = sequence.length();
    EXPECT_TRUE(sequence.extend(stream(), static_cast<int>(ids.size())));
    Step step;
    step.sequences = {&sequence};
    for (size_t i = 0; i < ids.size(); ++i) {
      step.tokens.push_back({ids[i], 0, start + static_cast<int>(i), role, true});
    }
    return run(step);
  }

  std::vector<float> run(const Step& step) {
    const Model::Outputs out = model_->forward(stream(), step, cache_);
    return read(out.logits, static_cast<int64_t>(out.n_logit_rows) * vocab());
  }

  std::vector<float> read(View view, int64_t elements) {
    return read_activations(stream(), *device_, stream().wait(stream().submit()), view, elements);
  }

 private:
  Checkpoint checkpoint_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Stream> inner_;
  std::unique_ptr<Stream> wrapped_;
  std::unique_ptr<Model> model_;
  KvCache cache_;
};

template <typename T>
std::vector<T> tensor_values(const TensorView& tensor) {
  std::vector<T> values(tensor.data.size() / sizeof(T));
  std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
  return values;
}

inline double max_difference(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(difference <= largest)) largest = difference;  // a NaN is kept
  }
  return largest;
}

/// ||a - b|| / ||b||.
inline double relative_l2(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double noise = 0;
  double signal = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    noise += std::pow(static_cast<double>(a[i]) - b[i], 2);
    signal += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(noise / signal);
}

/// One reference passage and what transformers made of it.
struct Passage {
  std::vector<int32_t> ids;
  std::vector<float> logits, hidden, mtp_logits;
};

inline std::filesystem::path reference_vectors() {
  return std::filesystem::path(MARLIN_SHARED_DIR) / "demo-model/reference/reference.safetensors";
}

inline Passage read_passage(const std::string& name) {
  const SafetensorsFile file = SafetensorsFile::open(reference_vectors());
  const auto get = [&](const char* part) { return *file.find(name + "." + part); };
  return {tensor_values<int32_t>(get("ids")), tensor_values<float>(get("logits")), tensor_values<float>(get("hidden")),
          tensor_values<float>(get("mtp_logits"))};
}

/// Largest deviations of a model from a passage's reference.
struct Deviation {
  double logits = 0;      // absolute
  double mtp_logits = 0;  // absolute
  double hidden = 0;      // relative L2, worst layer
};

inline Deviation measure(DemoModel& demo, const Passage& passage) {
  const auto n = static_cast<int>(passage.ids.size());
  const size_t layer_values = passage.ids.size() * static_cast<size_t>(demo.hidden());
  const int layers = demo.model().config().n_layers;
  const auto captured =
      demo.device().allocate(activation_bytes(demo.device(), static_cast<int64_t>(layer_values) * (layers + 1)));
  KvSequence sequence(demo.cache());
  EXPECT_TRUE(sequence.extend(demo.stream(), n));
  Step step;
  step.sequences = {&sequence};
  for (int i = 0; i < n; ++i) step.tokens.push_back({passage.ids[static_cast<size_t>(i)], 0, i, Role::kPrompt, true});
  Model::Outputs out = demo.model().forward(demo.stream(), step, demo.cache(), {captured.get(), 0});
  const auto logits = demo.read(out.logits, static_cast<int64_t>(n) * demo.vocab());
  const auto hidden = demo.read({captured.get(), 0}, static_cast<int64_t>(layer_values) * (layers + 1));

  out.batch.n_tokens = n - 1;  // the last token has no next one
  const View mtp = demo.model().mtp(demo.stream(), out, std::span(passage.ids).subspan(1), demo.cache());
  const auto mtp_logits = demo.read(mtp, static_cast<int64_t>(n - 1) * demo.vocab());

  Deviation deviation;
  deviation.logits = max_difference(logits, passage.logits);
  deviation.mtp_logits = max_difference(mtp_logits, passage.mtp_logits);
  for (int i = 0; i <= layers; ++i) {
    const size_t at = static_cast<size_t>(i) * layer_values;
    deviation.hidden = std::max(deviation.hidden, relative_l2(std::span(hidden).subspan(at, layer_values),
                                                              std::span(passage.hidden).subspan(at, layer_values)));
  }
  return deviation;
}

}  // namespace marlin::testing
