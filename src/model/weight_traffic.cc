#include "model/weight_traffic.h"

#include <initializer_list>

namespace marlin {
namespace {

uint64_t bytes_of(const VectorWeight& weight) {
  return static_cast<uint64_t>(weight.size) * dtype_size(weight.type);
}

uint64_t bytes_of(const AttentionWeights& a) {
  uint64_t bytes = bytes_of(a.q_a_norm) + bytes_of(a.kv_a_norm);
  for (const LinearWeight* linear : {&a.q_a, &a.q_b, &a.kv_a, &a.kv_b, &a.o}) bytes += stored_bytes(*linear);
  return bytes;
}

uint64_t bytes_of(const MlpWeights& mlp) {
  return stored_bytes(mlp.gate) + stored_bytes(mlp.up) + stored_bytes(mlp.down);
}

/// What every token reads of a sparse layer.
uint64_t common_bytes(const MoeWeights& moe) {
  const uint64_t bias = moe.correction_bias ? static_cast<uint64_t>(moe.router.out_features) * sizeof(float) : 0;
  return stored_bytes(moe.router) + bias + (moe.shared ? bytes_of(*moe.shared) : 0);
}

/// All experts of a bank are stored alike.
uint64_t expert_bytes(const MoeWeights& moe) {
  uint64_t bytes = 0;
  for (const ExpertBank* bank : {&moe.gate, &moe.up, &moe.down}) bytes += stored_bytes(bank->experts.front());
  return bytes;
}

}  // namespace

uint64_t stored_bytes(const LinearWeight& weight) {
  const auto rows = static_cast<uint64_t>(weight.out_features);
  const auto columns = static_cast<uint64_t>(weight.in_features);
  uint64_t bytes = weight.plain ? rows * columns * dtype_size(weight.plain_type) : 0;
  for (int i = 0; i < weight.n_planes; ++i) {
    const auto group = static_cast<uint64_t>(weight.planes[i].group_size);
    bytes += rows * columns / 2 + rows * (columns / group) * dtype_size(DType::kF16);
  }
  if (weight.bias) bytes += rows * dtype_size(weight.bias_type);
  return bytes;
}

WeightTraffic decode_traffic(const ModelWeights& weights, const ModelConfig& config) {
  const uint64_t embedding_row = stored_bytes(weights.embedding) / static_cast<uint64_t>(config.vocab_size);
  WeightTraffic traffic;
  traffic.bytes = embedding_row + bytes_of(weights.norm) + stored_bytes(weights.head);
  for (const LayerWeights& layer : weights.layers) {
    traffic.bytes += bytes_of(layer.input_norm) + bytes_of(layer.post_attention_norm) + bytes_of(layer.attention);
    if (layer.dense) traffic.bytes += bytes_of(*layer.dense);
    if (!layer.moe) continue;
    traffic.bytes += common_bytes(*layer.moe);
    traffic.expert_bytes += static_cast<uint64_t>(config.top_k) * expert_bytes(*layer.moe);
  }
  traffic.bytes += traffic.expert_bytes;
  return traffic;
}

}  // namespace marlin
