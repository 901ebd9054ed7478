// The JSON files beside the shards: the index, and what quantization_config claims.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace marlin {

/// model.safetensors.index.json.
struct ShardIndex {
  std::map<std::string, std::string> weight_map;  // stored tensor name -> shard file name
  std::vector<std::string> shards;                // each once, sorted
};

/// Throws Error{kBadFile} when `text` is no index, repeats a tensor or names a shard outside the directory.
ShardIndex parse_shard_index(std::string_view text, std::string_view name);

/// What quantization_config (inside config.json, or the file quantization_config.json) says about the tensors.
struct QuantizationClaims {
  std::optional<int64_t> group_size;
  bool hadamard = false;   // weights stored rotated
  bool act_order = false;  // columns were quantized in another order
};

/// `json` is the quantization_config object. Throws Error{kUnsupported} when it describes another format than MMFP4,
/// whose tensors could have the same names and shapes, and Error{kBadFile} when a field has the wrong type.
QuantizationClaims parse_quantization_claims(const nlohmann::json& json, std::string_view name);

}  // namespace marlin
