// The tensors a model of a given config is made of: what to bind, what is missing, what to quantize, and in which order
// a file holds them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "format/checkpoint.h"
#include "model/config.h"

namespace marlin {

enum class TensorKind {
  kEmbedding,
  kNorm,
  kAttention,
  kDense,   // MLP of a dense layer
  kRouter,  // router weight and correction bias
  kRoutedExpert,
  kSharedExpert,
  kMtp,  // the MTP layer's own projection (its block counts as attention, experts…)
  kHead,
};
std::string_view tensor_kind_name(TensorKind kind);

struct ExpectedTensor {
  std::string name;  // a linear without ".weight", anything else in full
  TensorKind kind = TensorKind::kNorm;
  bool linear = false;  // [out, in], may be stored as FP4
  std::vector<int64_t> shape;
  int layer = 0;         // -1 embedding, 0…, n_layers = MTP, n_layers + 1 = final norm and head
  bool required = true;  // false: MTP's copies of embedding and head
};

/// All tensors in file order: embedding, layers ascending (experts' gates by number, then ups, then downs), MTP (if the
/// config has one), final norm, head.
std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config);

/// Names of required tensors the checkpoint lacks. The MTP layer counts only when `with_mtp`.
std::vector<std::string> missing_tensors(const Checkpoint& checkpoint, const ModelConfig& config, bool with_mtp);

}  // namespace marlin
