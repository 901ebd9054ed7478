#include "model/weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <unordered_map>

#include "base/check.h"
#include "marlin/error.h"
#include "model/tensors.h"

namespace marlin {
namespace {

/// Turns checkpoint tensors into views of device buffers: one buffer a mapped file, one for each tensor that the
/// checkpoint had to copy.
class Binder {
 public:
  Binder(const Checkpoint& checkpoint, Device& device, ModelWeights& out)
      : checkpoint_(checkpoint), device_(device), out_(out) {}

  LinearWeight linear(const std::string& name, int64_t out_features, int64_t in_features) {
    return bind(checkpoint_.linear(name, out_features, in_features));
  }

  VectorWeight vector(const std::string& name, int64_t size) {
    const TensorView tensor = checkpoint_.tensor(name, {size});
    if (tensor.dtype != DType::kBF16 && tensor.dtype != DType::kF16 && tensor.dtype != DType::kF32) {
      throw Error(ErrorCode::kBadFile,
                  fmt::format("{}: {} is {}; expected BF16, F16 or F32", directory(), name, tensor.describe()));
    }
    return {view(tensor), tensor.dtype, size};
  }

  /// The correction bias decides between experts whose scores are close: only F32 keeps that choice.
  View correction_bias(const std::string& name, int64_t size) {
    const TensorView tensor = checkpoint_.tensor(name, {size});
    if (tensor.dtype != DType::kF32) {
      throw Error(ErrorCode::kBadFile, fmt::format("{}: {} is {}; expected F32 (add the original with `mmfp4 repair`)",
                                                   directory(), name, tensor.describe()));
    }
    return view(tensor);
  }

  ExpertBank experts(const std::string& prefix, const char* kind, int count, int64_t out_features,
                     int64_t in_features) {
    ExpertBank bank;
    for (const LinearTensors& tensors : checkpoint_.experts(prefix, kind, count, out_features, in_features)) {
      bank.experts.push_back(bind(tensors));
    }
    require_uniform(bank, prefix, kind);
    return bank;
  }

  bool has_linear(const std::string& name) const { return checkpoint_.has_linear(name); }
  std::string directory() const { return checkpoint_.directory().string(); }

 private:
  LinearWeight bind(const LinearTensors& tensors) {
    LinearWeight weight;
    weight.out_features = tensors.out_features;
    weight.in_features = tensors.in_features;
    if (tensors.plain) {
      weight.plain = view(*tensors.plain);
      weight.plain_type = tensors.plain->dtype;
    }
    MARLIN_CHECK(tensors.planes.size() <= 2, "{} has {} planes", tensors.name, tensors.planes.size());
    for (const Fp4Plane& plane : tensors.planes) {
      weight.planes[weight.n_planes++] = {view(plane.weight), view(plane.scales), plane.group_size};
    }
    if (tensors.bias) {
      weight.bias = view(*tensors.bias);
      weight.bias_type = tensors.bias->dtype;
    }
    return weight;
  }

  void require_uniform(const ExpertBank& bank, const std::string& prefix, const char* kind) const {
    const LinearWeight& first = bank.experts.front();
    for (size_t e = 1; e < bank.experts.size(); ++e) {
      const LinearWeight& expert = bank.experts[e];
      const bool same = expert.n_planes == first.n_planes && expert.plain_type == first.plain_type &&
                        expert.planes[0].group_size == first.planes[0].group_size &&
                        expert.planes[1].group_size == first.planes[1].group_size &&
                        static_cast<bool>(expert.bias) == static_cast<bool>(first.bias);
      if (!same) {
        throw Error(ErrorCode::kUnsupported,
                    fmt::format("{}: {}.experts.{}.{} is stored unlike expert 0 (type, planes, group size or bias); "
                                "expected all experts of a layer alike",
                                directory(), prefix, e, kind));
      }
    }
  }

  View view(const TensorView& tensor) {
    out_.bytes += tensor.data.size();
    const std::byte* base = tensor.data.data();
    size_t size = tensor.data.size();
    std::shared_ptr<const void> owner = tensor.owner;
    if (tensor.file) {
      base = tensor.file->bytes().data();
      size = tensor.file->bytes().size();
      owner = tensor.file;
    }
    Buffer*& buffer = bound_[base];
    if (buffer == nullptr) {
      out_.buffers.push_back(device_.bind({base, size}, owner));
      buffer = out_.buffers.back().get();
    }
    return {buffer, static_cast<size_t>(tensor.data.data() - base)};
  }

  const Checkpoint& checkpoint_;
  Device& device_;
  ModelWeights& out_;
  std::unordered_map<const std::byte*, Buffer*> bound_;
};

AttentionWeights bind_attention(Binder& bind, const std::string& prefix, const ModelConfig& c) {
  AttentionWeights a;
  a.q_a = bind.linear(prefix + ".q_a_proj", c.q_lora_rank, c.hidden_size);
  a.q_a_norm = bind.vector(prefix + ".q_a_layernorm.weight", c.q_lora_rank);
  a.q_b = bind.linear(prefix + ".q_b_proj", int64_t{c.n_heads} * c.qk_head_dim(), c.q_lora_rank);
  a.kv_a = bind.linear(prefix + ".kv_a_proj_with_mqa", c.kv_lora_rank + c.qk_rope_head_dim, c.hidden_size);
  a.kv_a_norm = bind.vector(prefix + ".kv_a_layernorm.weight", c.kv_lora_rank);
  a.kv_b = bind.linear(prefix + ".kv_b_proj", int64_t{c.n_heads} * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank);
  a.o = bind.linear(prefix + ".o_proj", c.hidden_size, int64_t{c.n_heads} * c.v_head_dim);
  return a;
}

MlpWeights bind_mlp(Binder& bind, const std::string& prefix, int64_t hidden, int64_t intermediate) {
  return {bind.linear(prefix + ".gate_proj", intermediate, hidden),
          bind.linear(prefix + ".up_proj", intermediate, hidden),
          bind.linear(prefix + ".down_proj", hidden, intermediate)};
}

MoeWeights bind_moe(Binder& bind, const std::string& prefix, const ModelConfig& c) {
  MoeWeights m;
  m.router = bind.linear(prefix + ".gate", c.n_routed_experts, c.hidden_size);
  m.correction_bias = bind.correction_bias(prefix + ".gate.e_score_correction_bias", c.n_routed_experts);
  m.gate = bind.experts(prefix, "gate_proj", c.n_routed_experts, c.moe_intermediate_size, c.hidden_size);
  m.up = bind.experts(prefix, "up_proj", c.n_routed_experts, c.moe_intermediate_size, c.hidden_size);
  m.down = bind.experts(prefix, "down_proj", c.n_routed_experts, c.hidden_size, c.moe_intermediate_size);
  if (c.n_shared_experts > 0) {
    m.shared = bind_mlp(bind, prefix + ".shared_experts", c.hidden_size,
                        int64_t{c.n_shared_experts} * c.moe_intermediate_size);
  }
  return m;
}

LayerWeights bind_layer(Binder& bind, int index, bool sparse, const ModelConfig& c) {
  const std::string prefix = fmt::format("model.layers.{}", index);
  LayerWeights layer;
  layer.input_norm = bind.vector(prefix + ".input_layernorm.weight", c.hidden_size);
  layer.post_attention_norm = bind.vector(prefix + ".post_attention_layernorm.weight", c.hidden_size);
  layer.attention = bind_attention(bind, prefix + ".self_attn", c);
  if (sparse) {
    layer.moe = bind_moe(bind, prefix + ".mlp", c);
  } else {
    layer.dense = bind_mlp(bind, prefix + ".mlp", c.hidden_size, c.intermediate_size);
  }
  return layer;
}

MtpWeights bind_mtp(Binder& bind, const ModelConfig& c) {
  const std::string prefix = fmt::format("model.layers.{}", c.n_layers);
  MtpWeights mtp;
  mtp.embedding_norm = bind.vector(prefix + ".enorm.weight", c.hidden_size);
  mtp.hidden_norm = bind.vector(prefix + ".hnorm.weight", c.hidden_size);
  mtp.head_norm = bind.vector(prefix + ".shared_head.norm.weight", c.hidden_size);
  mtp.projection = bind.linear(prefix + ".eh_proj", c.hidden_size, 2 * int64_t{c.hidden_size});
  mtp.layer = bind_layer(bind, c.n_layers, /*sparse=*/true, c);
  if (bind.has_linear(prefix + ".embed_tokens")) {
    mtp.embedding = bind.linear(prefix + ".embed_tokens", c.vocab_size, c.hidden_size);
  }
  if (bind.has_linear(prefix + ".shared_head.head")) {
    mtp.head = bind.linear(prefix + ".shared_head.head", c.vocab_size, c.hidden_size);
  }
  return mtp;
}

/// "a, b, c, d, …": enough names to recognise what is wrong.
std::string first_names(const std::vector<std::string>& names) {
  const size_t shown = std::min<size_t>(names.size(), 4);
  return fmt::format("{}{}", fmt::join(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(shown), ", "),
                     shown < names.size() ? ", …" : "");
}

void refuse_missing(const Checkpoint& checkpoint, const ModelConfig& config) {
  const std::vector<std::string> missing = missing_tensors(checkpoint, config, /*with_mtp=*/false);
  if (missing.empty()) return;
  throw Error(ErrorCode::kBadFile,
              fmt::format("{}: {} tensors are missing: {}; add unquantized ones with `metal-marlin mmfp4 repair {} "
                          "--from <BF16 checkpoint>`, or convert the model again",
                          checkpoint.directory().string(), missing.size(), first_names(missing),
                          checkpoint.directory().string()));
}

void refuse_unclaimed(const Checkpoint& checkpoint, const std::string& skipped_prefix) {
  std::vector<std::string> extra;
  for (const std::string& name : checkpoint.unclaimed()) {
    if (skipped_prefix.empty() || name.rfind(skipped_prefix, 0) != 0) extra.push_back(name);
  }
  if (extra.empty()) return;
  throw Error(ErrorCode::kBadFile,
              fmt::format("{}: {} tensors that config.json does not account for: {}; expected only the tensors of the "
                          "model it describes",
                          checkpoint.directory().string(), extra.size(), first_names(extra)));
}

}  // namespace

ModelWeights ModelWeights::bind(const Checkpoint& checkpoint, const ModelConfig& config, Device& device,
                                bool with_mtp) {
  ModelWeights weights;
  refuse_missing(checkpoint, config);
  Binder bind(checkpoint, device, weights);
  weights.embedding = bind.linear("model.embed_tokens", config.vocab_size, config.hidden_size);
  for (int i = 0; i < config.n_layers; ++i) {
    weights.layers.push_back(bind_layer(bind, i, config.sparse[static_cast<size_t>(i)], config));
  }
  const std::string mtp_prefix = fmt::format("model.layers.{}.", config.n_layers);
  const bool mtp_stored = checkpoint.has_tensor(mtp_prefix + "enorm.weight");
  if (with_mtp && config.n_mtp_layers > 0 && mtp_stored) weights.mtp = bind_mtp(bind, config);
  weights.norm = bind.vector("model.norm.weight", config.hidden_size);
  if (config.tie_word_embeddings && !bind.has_linear("lm_head")) {
    weights.head = weights.embedding;
  } else {
    weights.head = bind.linear("lm_head", config.vocab_size, config.hidden_size);
  }
  refuse_unclaimed(checkpoint, weights.mtp || config.n_mtp_layers == 0 ? "" : mtp_prefix);
  return weights;
}

}  // namespace marlin
