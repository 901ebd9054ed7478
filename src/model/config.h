// The validated shape of a model. Every number a kernel needs comes from here.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "ops/ops.h"

namespace marlin {

/// glm4_moe_lite: MLA attention, mixture of experts with a shared expert, optional MTP layer. Names follow the model's
/// config.json; sizes count elements.
struct ModelConfig {
  std::string model_type;
  int hidden_size = 0;
  int n_layers = 0;
  int n_mtp_layers = 0;  // 0 or 1
  int n_heads = 0;
  int q_lora_rank = 0;
  int kv_lora_rank = 0;
  int qk_nope_head_dim = 0;
  int qk_rope_head_dim = 0;
  int v_head_dim = 0;
  int intermediate_size = 0;      // dense layers
  int moe_intermediate_size = 0;  // one expert; the shared expert has n_shared_experts times that
  int n_routed_experts = 0;
  int n_shared_experts = 0;
  int top_k = 0;
  int n_group = 1;
  int topk_group = 1;
  bool norm_topk_prob = true;
  double routed_scaling_factor = 1;
  double rope_theta = 0;
  double rms_norm_eps = 0;
  double latent_norm_eps = 1e-6;  // q_a_layernorm and kv_a_layernorm are built without the config's eps
  int vocab_size = 0;
  int max_position_embeddings = 0;
  bool tie_word_embeddings = false;
  std::vector<bool> sparse;  // [n_layers]: mixture of experts or dense
  std::vector<int32_t> eos_token_ids;
  bool use_fused_moe = true;

  int qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
  double attention_scale() const;
  MlaShape mla() const { return {n_heads, qk_nope_head_dim, qk_rope_head_dim, v_head_dim, kv_lora_rank}; }

  /// Reads and validates config.json. `name` stands in messages. Accepts rope_theta and rope_parameters, and fills the
  /// model's defaults. Throws Error{kUnsupported} for another architecture or a feature we do not compute (rope
  /// scaling, attention bias, other gating…), Error{kBadFile} for a missing field or an impossible value.
  static ModelConfig from_json(const nlohmann::json& json, const std::string& name);
};

}  // namespace marlin
