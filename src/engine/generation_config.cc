#include "engine/generation_config.h"

#include <fmt/format.h>

#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>

#include "format/json.h"
#include "marlin/error.h"

namespace marlin {
namespace {

/// Typed access to the fields that are there and not null.
class Fields {
 public:
  Fields(const nlohmann::json& json, const std::string& name) : json_(json), name_(name) {}

  const nlohmann::json* find(const char* field) const {
    const auto found = json_.find(field);
    return found == json_.end() || found->is_null() ? nullptr : &*found;
  }
  void number(const char* field, float& out) const {
    const nlohmann::json* value = find(field);
    if (!value) return;
    if (!value->is_number()) fail(field, "a number", *value);
    out = value->get<float>();
  }
  bool is_false(const char* field) const {
    const nlohmann::json* value = find(field);
    if (value && !value->is_boolean()) fail(field, "true or false", *value);
    return value && !value->get<bool>();
  }
  int32_t integer(const char* field, const nlohmann::json& value) const {
    const bool fits = value.is_number_integer() && value.get<double>() >= std::numeric_limits<int32_t>::min() &&
                      value.get<double>() <= std::numeric_limits<int32_t>::max();
    if (!fits) fail(field, "a whole number", value);
    return value.get<int32_t>();
  }
  [[noreturn]] void fail(const char* field, const char* expected, const nlohmann::json& value) const {
    throw Error(ErrorCode::kBadFile,
                fmt::format("{}: {} is {}; expected {}", name_, field, printable(value.dump()), expected));
  }

 private:
  const nlohmann::json& json_;
  const std::string& name_;
};

std::vector<int32_t> read_ids(const Fields& fields, const char* field) {
  std::vector<int32_t> ids;
  const nlohmann::json* value = fields.find(field);
  if (!value) return ids;
  if (!value->is_array()) return {fields.integer(field, *value)};
  for (const nlohmann::json& id : *value) ids.push_back(fields.integer(field, id));
  return ids;
}

}  // namespace

GenerationConfig GenerationConfig::load(const std::filesystem::path& model_directory) {
  const std::filesystem::path path = model_directory / "generation_config.json";
  std::ifstream file(path, std::ios::binary);
  if (!file) return {};
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  return parse(text, path.string());
}

GenerationConfig GenerationConfig::parse(std::string_view json, const std::string& name) {
  const nlohmann::json object = parse_json_object(json, name);
  const Fields fields(object, name);
  GenerationConfig config;
  fields.number("temperature", config.sampling.temperature);
  fields.number("top_p", config.sampling.top_p);
  fields.number("min_p", config.sampling.min_p);
  fields.number("repetition_penalty", config.sampling.repetition_penalty);
  if (const nlohmann::json* value = fields.find("top_k")) config.sampling.top_k = fields.integer("top_k", *value);
  if (fields.is_false("do_sample")) config.sampling.temperature = 0;
  config.eos_ids = read_ids(fields, "eos_token_id");
  if (const std::string fault = sampling_fault(config.sampling, 0); !fault.empty()) {
    throw Error(ErrorCode::kBadFile, fmt::format("{}: {}", name, fault));
  }
  return config;
}

std::string sampling_fault(const SamplingParams& s, int vocab_size) {
  // Comparisons are written so that NaN fails them.
  const auto outside = [](const char* field, auto value, const char* expected) {
    return fmt::format("{} is {}; expected {}", field, value, expected);
  };
  if (!(s.temperature >= 0) || std::isinf(s.temperature)) return outside("temperature", s.temperature, "0 or more");
  if (s.top_k < 0) return outside("top_k", s.top_k, "0 (off) or more");
  if (!(s.top_p >= 0 && s.top_p <= 1)) return outside("top_p", s.top_p, "0 to 1");
  if (!(s.min_p >= 0 && s.min_p <= 1)) return outside("min_p", s.min_p, "0 to 1");
  if (!(s.repetition_penalty > 0) || std::isinf(s.repetition_penalty)) {
    return outside("repetition_penalty", s.repetition_penalty, "more than 0");
  }
  if (!std::isfinite(s.presence_penalty)) return outside("presence_penalty", s.presence_penalty, "a number");
  if (!std::isfinite(s.frequency_penalty)) return outside("frequency_penalty", s.frequency_penalty, "a number");
  if (s.top_logprobs < 0 || s.top_logprobs > kMostTopLogprobs) {
    return fmt::format("top_logprobs is {}; expected 0 to {}", s.top_logprobs, kMostTopLogprobs);
  }
  if (s.top_logprobs > 0 && !s.logprobs) return "top_logprobs needs logprobs";
  for (const auto& [id, bias] : s.logit_bias) {
    if (id < 0 || id >= vocab_size) {
      return fmt::format("logit_bias has id {}; expected 0 to {}", id, vocab_size - 1);
    }
    if (std::isnan(bias) || bias == std::numeric_limits<float>::infinity()) {
      return fmt::format("logit_bias of id {} is {}; expected a number or -inf", id, bias);
    }
  }
  return {};
}

}  // namespace marlin
