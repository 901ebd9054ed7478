// The model's tensors bound to a device. Names die here: after loading there are only struct fields.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/progress.h"
#include "format/checkpoint.h"
#include "model/config.h"

namespace marlin {

struct AttentionWeights {
  LinearWeight q_a, q_b, kv_a, kv_b, o;
  VectorWeight q_a_norm, kv_a_norm;
};

/// A SwiGLU block: down(silu(gate x) * up x).
struct MlpWeights {
  LinearWeight gate, up, down;
};

struct MoeWeights {
  LinearWeight router;
  View correction_bias;  // F32 [n_experts]
  ExpertBank gate, up, down;
  std::optional<MlpWeights> shared;
};

struct LayerWeights {
  VectorWeight input_norm, post_attention_norm;
  AttentionWeights attention;
  std::optional<MlpWeights> dense;  // exactly one of dense and moe
  std::optional<MoeWeights> moe;

  /// What every token reads after attention, in order; absent ones are null.
  std::array<const LinearWeight*, 5> after_attention() const {
    const MlpWeights* mlp = dense ? &*dense : moe->shared ? &*moe->shared : nullptr;
    const auto part = [mlp](LinearWeight MlpWeights::*member) { return mlp != nullptr ? &(mlp->*member) : nullptr; };
    return {&attention.o, moe ? &moe->router : nullptr, part(&MlpWeights::gate), part(&MlpWeights::up),
            part(&MlpWeights::down)};
  }
};

struct MtpWeights {
  VectorWeight embedding_norm, hidden_norm, head_norm;  // enorm, hnorm, shared_head.norm
  LinearWeight projection;                              // eh_proj [H, 2 H]
  LayerWeights layer;
  std::optional<LinearWeight> embedding, head;  // absent: the trunk's
};

struct ModelWeights {
  LinearWeight embedding, head;
  VectorWeight norm;
  std::vector<LayerWeights> layers;
  std::optional<MtpWeights> mtp;
  std::vector<std::unique_ptr<Buffer>> buffers;  // what the views point into
  uint64_t bytes = 0;                            // of all bound tensors

  /// Binds every tensor the config asks for, checking names, types and shapes; a missing, misshapen or left-over tensor
  /// is an Error{kBadFile} that lists what was expected and found. `with_mtp` false leaves the MTP layer out.
  static ModelWeights bind(const Checkpoint& checkpoint, const ModelConfig& config, Device& device, bool with_mtp);
};

}  // namespace marlin
