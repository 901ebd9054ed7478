// Bytes that decoding reads: computed from bound weights, and once more from the names in the file.
#include "model/weight_traffic.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "demo_model.h"

namespace marlin::testing {
namespace {

ModelConfig config_of(const Checkpoint& checkpoint) {
  return ModelConfig::from_json(checkpoint.config(), "config.json");
}

WeightTraffic bound(const std::filesystem::path& directory) {
  const Checkpoint checkpoint = Checkpoint::open(directory);
  const auto device = make_device("cpu", {.threads = 1});
  const ModelConfig config = config_of(checkpoint);
  return decode_traffic(ModelWeights::bind(checkpoint, config, *device, /*with_mtp=*/false), config);
}

/// Stored bytes by name: experts count top_k of n, the embedding counts one row, the MTP layer nothing.
WeightTraffic by_name(const std::filesystem::path& directory) {
  const Checkpoint checkpoint = Checkpoint::open(directory);
  const ModelConfig config = config_of(checkpoint);
  const std::string mtp = "model.layers." + std::to_string(config.n_layers) + ".";
  uint64_t rest = 0;
  uint64_t experts = 0;
  uint64_t embedding = 0;
  for (const auto& mapped : checkpoint.files()) {
    const SafetensorsFile file = SafetensorsFile::open(mapped->path());
    for (const TensorView& tensor : file.tensors()) {
      if (tensor.name.starts_with(mtp)) continue;
      const bool routed = tensor.name.find(".mlp.experts.") != std::string::npos;
      const bool row = tensor.name.starts_with("model.embed_tokens");
      (routed ? experts : row ? embedding : rest) += tensor.data.size();
    }
  }
  const uint64_t taken = experts / static_cast<uint64_t>(config.n_routed_experts) * static_cast<uint64_t>(config.top_k);
  return {rest + taken + embedding / static_cast<uint64_t>(config.vocab_size), taken};
}

void expect_same(const std::filesystem::path& directory) {
  const WeightTraffic computed = bound(directory);
  const WeightTraffic summed = by_name(directory);
  EXPECT_EQ(computed.bytes, summed.bytes);
  EXPECT_EQ(computed.expert_bytes, summed.expert_bytes);
  EXPECT_GT(computed.expert_bytes, 0u);
}

TEST(WeightTraffic, EqualsTheTensorsOfTheDemoModel) {
  expect_same(mmfp4_demo());
}

TEST(WeightTraffic, EqualsTheTensorsOfAPlainModel) {
  MARLIN_SKIP_WITHOUT(bf16_demo());
  expect_same(bf16_demo());
}

TEST(WeightTraffic, LinearsCountPlanesScalesAndBias) {
  Buffer bytes(0);
  const View view = {&bytes, 0};
  LinearWeight weight;
  weight.out_features = 10;
  weight.in_features = 256;
  weight.plain = view;
  weight.plain_type = DType::kBF16;
  EXPECT_EQ(stored_bytes(weight), 10u * 256 * 2);
  weight.bias = view;
  weight.bias_type = DType::kF32;
  EXPECT_EQ(stored_bytes(weight), 10u * 256 * 2 + 40);
  weight.plain = {};
  weight.planes[0] = {view, view, 128};
  weight.planes[1] = {view, view, 64};
  weight.n_planes = 2;
  EXPECT_EQ(stored_bytes(weight), 2 * 10u * 128 + 10 * 2 * 2 + 10 * 4 * 2 + 40);
}

}  // namespace
}  // namespace marlin::testing
