#include "model/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "marlin/error.h"

namespace marlin {
namespace {

using nlohmann::json;

/// Typed access to one config file; every failure names file and field.
class Fields {
 public:
  Fields(const json& object, const std::string& name) : object_(object), name_(name) {}

  [[noreturn]] void fail(const char* field, const std::string& found, const std::string& expected) const {
    throw Error(ErrorCode::kBadFile, fmt::format("{}: \"{}\" is {}; expected {}", name_, field, found, expected));
  }
  [[noreturn]] void unsupported(const char* field, const std::string& found, const std::string& expected) const {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: \"{}\" is {}; this version computes only {}", name_, field, found, expected));
  }

  const json* find(const char* field) const {
    const auto it = object_.find(field);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }

  /// A whole number in [low, high].
  int integer(const char* field, int low, int high = 1 << 30) const {
    const json* value = find(field);
    if (value == nullptr) fail(field, "missing", "a whole number");
    return checked_integer(field, *value, low, high);
  }
  int integer_or(const char* field, int fallback, int low, int high = 1 << 30) const {
    const json* value = find(field);
    return value == nullptr ? fallback : checked_integer(field, *value, low, high);
  }
  /// A finite positive number.
  double positive_or(const char* field, double fallback) const {
    const json* value = find(field);
    if (value == nullptr) return fallback;
    if (!value->is_number() || !(value->get<double>() > 0) || !std::isfinite(value->get<double>())) {
      fail(field, value->dump(), "a positive number");
    }
    return value->get<double>();
  }
  bool boolean_or(const char* field, bool fallback) const {
    const json* value = find(field);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) fail(field, value->dump(), "true or false");
    return value->get<bool>();
  }
  /// The field, if present, must equal `only`.
  void require(const char* field, const json& only) const {
    const json* value = find(field);
    if (value != nullptr && *value != only) unsupported(field, value->dump(), only.dump());
  }

 private:
  int checked_integer(const char* field, const json& value, int low, int high) const {
    if (!value.is_number_integer() || value.get<int64_t>() < low || value.get<int64_t>() > high) {
      fail(field, value.dump(), fmt::format("a whole number from {} to {}", low, high));
    }
    return value.get<int>();
  }

  const json& object_;
  const std::string& name_;
};

void read_attention(const Fields& fields, ModelConfig& c) {
  c.n_heads = fields.integer("num_attention_heads", 1, 4096);
  c.q_lora_rank = fields.integer("q_lora_rank", 1, 1 << 20);
  c.kv_lora_rank = fields.integer("kv_lora_rank", 1, 1 << 20);
  c.qk_nope_head_dim = fields.integer("qk_nope_head_dim", 1, 1 << 16);
  c.qk_rope_head_dim = fields.integer("qk_rope_head_dim", 2, 1 << 16);
  c.v_head_dim = fields.integer("v_head_dim", 1, 1 << 16);
  if (c.qk_rope_head_dim % 2 != 0) {
    fields.fail("qk_rope_head_dim", std::to_string(c.qk_rope_head_dim), "an even number (RoPE turns pairs)");
  }
  fields.require("attention_bias", false);
  fields.require("rope_interleave", true);
  fields.require("partial_rotary_factor", 1.0);
  if (const json* scaling = fields.find("rope_scaling")) fields.unsupported("rope_scaling", scaling->dump(), "null");
}

void read_rope_theta(const Fields& fields, const std::string& name, ModelConfig& c) {
  c.rope_theta = fields.positive_or("rope_theta", 1e6);
  const json* parameters = fields.find("rope_parameters");
  if (parameters == nullptr) return;
  if (!parameters->is_object()) fields.fail("rope_parameters", parameters->dump(), "an object");
  const Fields inner(*parameters, name);
  inner.require("rope_type", "default");
  inner.require("partial_rotary_factor", 1.0);
  c.rope_theta = inner.positive_or("rope_theta", c.rope_theta);
}

void read_experts(const Fields& fields, ModelConfig& c) {
  c.moe_intermediate_size = fields.integer("moe_intermediate_size", 1, 1 << 24);
  c.n_routed_experts = fields.integer("n_routed_experts", 1, 4096);
  c.n_shared_experts = fields.integer_or("n_shared_experts", 0, 0, 64);
  c.top_k = fields.integer("num_experts_per_tok", 1, c.n_routed_experts);
  c.n_group = fields.integer_or("n_group", 1, 1, c.n_routed_experts);
  c.topk_group = fields.integer_or("topk_group", 1, 1, c.n_group);
  if (c.n_routed_experts % c.n_group != 0 || c.top_k > c.n_routed_experts / c.n_group * c.topk_group) {
    fields.fail(
        "n_group", std::to_string(c.n_group),
        fmt::format("a divisor of {} experts that leaves at least {} to choose from", c.n_routed_experts, c.top_k));
  }
  c.norm_topk_prob = fields.boolean_or("norm_topk_prob", true);
  c.routed_scaling_factor = fields.positive_or("routed_scaling_factor", 1.8);
  fields.require("scoring_func", "sigmoid");
  fields.require("topk_method", "noaux_tc");
}

void read_layer_types(const Fields& fields, ModelConfig& c) {
  const int dense = fields.integer_or("first_k_dense_replace", 1, 0, c.n_layers);
  c.sparse.resize(static_cast<size_t>(c.n_layers));
  for (int i = 0; i < c.n_layers; ++i) c.sparse[static_cast<size_t>(i)] = i >= dense;
  const json* types = fields.find("mlp_layer_types");
  if (types == nullptr) return;
  if (!types->is_array() || types->size() < static_cast<size_t>(c.n_layers)) {
    fields.fail("mlp_layer_types", types->is_array() ? fmt::format("{} long", types->size()) : types->dump(),
                fmt::format("an array of {} layer types", c.n_layers));
  }
  for (int i = 0; i < c.n_layers; ++i) {
    const json& type = (*types)[static_cast<size_t>(i)];
    if (type != "dense" && type != "sparse") fields.fail("mlp_layer_types", type.dump(), "\"dense\" or \"sparse\"");
    c.sparse[static_cast<size_t>(i)] = type == "sparse";
  }
}

void read_eos(const Fields& fields, ModelConfig& c) {
  const json* eos = fields.find("eos_token_id");
  if (eos == nullptr) return;
  const json list = eos->is_array() ? *eos : json::array({*eos});
  for (const json& id : list) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= c.vocab_size) {
      fields.fail("eos_token_id", eos->dump(), fmt::format("ids from 0 to {}", c.vocab_size - 1));
    }
    c.eos_token_ids.push_back(id.get<int32_t>());
  }
}

}  // namespace

double ModelConfig::attention_scale() const {
  return 1.0 / std::sqrt(static_cast<double>(qk_head_dim()));
}

ModelConfig ModelConfig::from_json(const json& json, const std::string& name) {
  if (!json.is_object()) throw Error(ErrorCode::kBadFile, fmt::format("{}: expected a JSON object", name));
  const Fields fields(json, name);
  ModelConfig c;
  const nlohmann::json* type = fields.find("model_type");
  if (type == nullptr || *type != "glm4_moe_lite") {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: \"model_type\" is {}; this version runs \"glm4_moe_lite\" (GLM-4.7-Flash)", name,
                            type == nullptr ? "missing" : type->dump()));
  }
  c.model_type = "glm4_moe_lite";
  c.vocab_size = fields.integer("vocab_size", 2, 1 << 26);
  c.hidden_size = fields.integer("hidden_size", 2, 1 << 20);
  c.n_layers = fields.integer("num_hidden_layers", 1, 4096);
  c.n_mtp_layers = fields.integer_or("num_nextn_predict_layers", 0, 0, 1);
  c.intermediate_size = fields.integer("intermediate_size", 1, 1 << 24);
  c.max_position_embeddings = fields.integer("max_position_embeddings", 1, 1 << 28);
  c.rms_norm_eps = fields.positive_or("rms_norm_eps", 1e-5);
  c.tie_word_embeddings = fields.boolean_or("tie_word_embeddings", false);
  c.use_fused_moe = fields.boolean_or("use_fused_moe", true);
  fields.require("hidden_act", "silu");
  read_attention(fields, c);
  read_rope_theta(fields, name, c);
  read_experts(fields, c);
  read_layer_types(fields, c);
  read_eos(fields, c);
  return c;
}

}  // namespace marlin
