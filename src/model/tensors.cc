#include "model/tensors.h"

#include <fmt/format.h>

namespace marlin {
namespace {

class Lister {
 public:
  explicit Lister(const ModelConfig& config) : c_(config) {}

  void linear(std::string name, TensorKind kind, int64_t out, int64_t in, bool required = true) {
    list_.push_back({std::move(name), kind, true, {out, in}, layer_, required});
  }
  void vector(std::string name, TensorKind kind, int64_t size) {
    list_.push_back({std::move(name), kind, false, {size}, layer_, true});
  }

  void attention(const std::string& prefix) {
    const auto kind = TensorKind::kAttention;
    linear(prefix + ".q_a_proj", kind, c_.q_lora_rank, c_.hidden_size);
    vector(prefix + ".q_a_layernorm.weight", TensorKind::kNorm, c_.q_lora_rank);
    linear(prefix + ".q_b_proj", kind, int64_t{c_.n_heads} * c_.qk_head_dim(), c_.q_lora_rank);
    linear(prefix + ".kv_a_proj_with_mqa", kind, c_.kv_lora_rank + c_.qk_rope_head_dim, c_.hidden_size);
    vector(prefix + ".kv_a_layernorm.weight", TensorKind::kNorm, c_.kv_lora_rank);
    linear(prefix + ".kv_b_proj", kind, int64_t{c_.n_heads} * (c_.qk_nope_head_dim + c_.v_head_dim), c_.kv_lora_rank);
    linear(prefix + ".o_proj", kind, c_.hidden_size, int64_t{c_.n_heads} * c_.v_head_dim);
  }

  void mlp(const std::string& prefix, TensorKind kind, int64_t intermediate) {
    linear(prefix + ".gate_proj", kind, intermediate, c_.hidden_size);
    linear(prefix + ".up_proj", kind, intermediate, c_.hidden_size);
    linear(prefix + ".down_proj", kind, c_.hidden_size, intermediate);
  }

  void moe(const std::string& prefix) {
    linear(prefix + ".gate", TensorKind::kRouter, c_.n_routed_experts, c_.hidden_size);
    vector(prefix + ".gate.e_score_correction_bias", TensorKind::kRouter, c_.n_routed_experts);
    const int64_t width = c_.moe_intermediate_size;
    for (const char* kind : {"gate_proj", "up_proj", "down_proj"}) {
      const bool down = std::string_view(kind) == "down_proj";
      for (int e = 0; e < c_.n_routed_experts; ++e) {
        linear(fmt::format("{}.experts.{}.{}", prefix, e, kind), TensorKind::kRoutedExpert,
               down ? c_.hidden_size : width, down ? width : c_.hidden_size);
      }
    }
    if (c_.n_shared_experts > 0) {
      mlp(prefix + ".shared_experts", TensorKind::kSharedExpert, int64_t{c_.n_shared_experts} * width);
    }
  }

  void layer(int index, bool sparse) {
    layer_ = index;
    const std::string prefix = fmt::format("model.layers.{}", index);
    vector(prefix + ".input_layernorm.weight", TensorKind::kNorm, c_.hidden_size);
    attention(prefix + ".self_attn");
    vector(prefix + ".post_attention_layernorm.weight", TensorKind::kNorm, c_.hidden_size);
    if (sparse) {
      moe(prefix + ".mlp");
    } else {
      mlp(prefix + ".mlp", TensorKind::kDense, c_.intermediate_size);
    }
  }

  void mtp() {
    layer(c_.n_layers, /*sparse=*/true);
    const std::string prefix = fmt::format("model.layers.{}", c_.n_layers);
    vector(prefix + ".enorm.weight", TensorKind::kNorm, c_.hidden_size);
    vector(prefix + ".hnorm.weight", TensorKind::kNorm, c_.hidden_size);
    vector(prefix + ".shared_head.norm.weight", TensorKind::kNorm, c_.hidden_size);
    linear(prefix + ".eh_proj", TensorKind::kMtp, c_.hidden_size, 2 * int64_t{c_.hidden_size});
    linear(prefix + ".embed_tokens", TensorKind::kEmbedding, c_.vocab_size, c_.hidden_size, false);
    linear(prefix + ".shared_head.head", TensorKind::kHead, c_.vocab_size, c_.hidden_size, false);
  }

  std::vector<ExpectedTensor> run() {
    layer_ = -1;
    linear("model.embed_tokens", TensorKind::kEmbedding, c_.vocab_size, c_.hidden_size);
    for (int i = 0; i < c_.n_layers; ++i) layer(i, c_.sparse[static_cast<size_t>(i)]);
    if (c_.n_mtp_layers > 0) mtp();
    layer_ = c_.n_layers + 1;
    vector("model.norm.weight", TensorKind::kNorm, c_.hidden_size);
    linear("lm_head", TensorKind::kHead, c_.vocab_size, c_.hidden_size, !c_.tie_word_embeddings);
    return std::move(list_);
  }

 private:
  const ModelConfig& c_;
  int layer_ = -1;
  std::vector<ExpectedTensor> list_;
};

}  // namespace

std::string_view tensor_kind_name(TensorKind kind) {
  switch (kind) {
    case TensorKind::kEmbedding:
      return "embeddings";
    case TensorKind::kNorm:
      return "norms";
    case TensorKind::kAttention:
      return "attention";
    case TensorKind::kDense:
      return "dense MLP";
    case TensorKind::kRouter:
      return "routers";
    case TensorKind::kRoutedExpert:
      return "routed experts";
    case TensorKind::kSharedExpert:
      return "shared experts";
    case TensorKind::kMtp:
      return "MTP projection";
    case TensorKind::kHead:
      return "head";
  }
  return "?";
}

std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config) {
  return Lister(config).run();
}

std::vector<std::string> missing_tensors(const Checkpoint& checkpoint, const ModelConfig& config, bool with_mtp) {
  std::vector<std::string> missing;
  for (const ExpectedTensor& tensor : expected_tensors(config)) {
    if (!tensor.required || (tensor.layer == config.n_layers && !with_mtp)) continue;
    const bool stored = tensor.linear ? checkpoint.has_linear(tensor.name) : checkpoint.has_tensor(tensor.name);
    if (!stored) missing.push_back(tensor.name);
  }
  return missing;
}

}  // namespace marlin
