#include "format/checkpoint_index.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <set>

#include "format/json.h"
#include "marlin/error.h"

namespace marlin {
namespace {

[[noreturn]] void fail(ErrorCode code, std::string_view file, const std::string& what) {
  throw Error(code, fmt::format("{}: {}", file, what));
}

// A shard lies beside its index: a separator would let a checkpoint read files elsewhere.
void check_shard_name(std::string_view shard, std::string_view file) {
  if (shard.empty() || shard.front() == '.' || shard.find_first_of("/\\") != std::string_view::npos ||
      printable(shard) != shard) {
    fail(ErrorCode::kBadFile, file,
         fmt::format("weight_map names the shard '{}', expected a plain file name in the same directory; download the "
                     "index again",
                     printable(shard)));
  }
}

// The string field `key`, or "" when it is absent or null.
std::string string_field(const nlohmann::json& json, const char* key, std::string_view file) {
  const auto it = json.find(key);
  if (it == json.end() || it->is_null()) return "";
  if (!it->is_string()) {
    fail(ErrorCode::kBadFile, file, fmt::format("{} is a JSON {}, expected a string", key, it->type_name()));
  }
  return it->get<std::string>();
}

bool bool_field(const nlohmann::json& json, const char* key, std::string_view file) {
  const auto it = json.find(key);
  if (it == json.end() || it->is_null()) return false;
  if (!it->is_boolean()) {
    fail(ErrorCode::kBadFile, file, fmt::format("{} is a JSON {}, expected true or false", key, it->type_name()));
  }
  return it->get<bool>();
}

void check_format(const nlohmann::json& json, std::string_view file) {
  const std::string method = string_field(json, "quant_method", file);
  const std::string format = string_field(json, "format", file);
  const bool known_method = method.empty() || method.find("mmfp4") != std::string::npos;
  const bool known_format =
      format.empty() || format.find("fp4") != std::string::npos || format.find("e2m1") != std::string::npos;
  if (!known_method || !known_format) {
    fail(ErrorCode::kUnsupported, file,
         fmt::format("quant_method is '{}' and format '{}', expected mmfp4 and e2m1; use an MMFP4 checkpoint, or "
                     "quantize the BF16 one",
                     printable(method), printable(format)));
  }
  const std::string scales = string_field(json, "scale_dtype", file);
  if (!scales.empty() && scales != "float16" && scales != "fp16" && scales != "F16") {
    fail(ErrorCode::kUnsupported, file, fmt::format("scale_dtype is '{}', expected float16", printable(scales)));
  }
}

}  // namespace

ShardIndex parse_shard_index(std::string_view text, std::string_view name) {
  simdjson::dom::parser parser;
  const simdjson::padded_string padded(text);
  simdjson::dom::object map;
  const simdjson::error_code error = parser.parse(padded)["weight_map"].get_object().get(map);
  if (error != simdjson::SUCCESS) {
    fail(ErrorCode::kBadFile, name,
         fmt::format("expected a JSON object with an object weight_map: {}; download the index again",
                     simdjson::error_message(error)));
  }
  ShardIndex index;
  std::set<std::string_view> shards;
  for (const simdjson::dom::key_value_pair field : map) {
    std::string_view shard;
    if (field.value.get_string().get(shard) != simdjson::SUCCESS) {
      fail(ErrorCode::kBadFile, name,
           fmt::format("weight_map of {} is not a string, expected the name of a shard; download the index again",
                       printable(field.key)));
    }
    check_shard_name(shard, name);
    if (!index.weight_map.emplace(field.key, shard).second) {
      fail(ErrorCode::kBadFile, name,
           fmt::format("weight_map names {} twice, expected every tensor once; download the index again",
                       printable(field.key)));
    }
    shards.insert(shard);
  }
  index.shards.assign(shards.begin(), shards.end());
  return index;
}

QuantizationClaims parse_quantization_claims(const nlohmann::json& json, std::string_view name) {
  QuantizationClaims claims;
  if (!json.is_object()) {
    fail(ErrorCode::kBadFile, name,
         fmt::format("quantization_config is a JSON {}, expected an object", json.type_name()));
  }
  check_format(json, name);
  if (const auto it = json.find("group_size"); it != json.end() && !it->is_null()) {
    if (!it->is_number_integer()) {
      fail(ErrorCode::kBadFile, name,
           fmt::format("group_size is a JSON {}, expected the integer 32, 64 or 128", it->type_name()));
    }
    claims.group_size = it->get<int64_t>();
  }
  claims.hadamard = bool_field(json, "use_hadamard", name);
  claims.act_order = bool_field(json, "actorder", name);
  return claims;
}

}  // namespace marlin
