// Any text as one of the JSON files of a checkpoint, and as tensor names: refused with an Error, or understood.
#include <cstdlib>

#include "format/checkpoint_index.h"
#include "format/checkpoint_names.h"
#include "format/json.h"
#include "marlin/error.h"

namespace {

void read_index(std::string_view text) {
  try {
    const marlin::ShardIndex index = marlin::parse_shard_index(text, "index");
    for (const std::string& shard : index.shards) {
      if (shard.find('/') != std::string::npos || shard == "..") std::abort();
    }
    for (const auto& [name, shard] : index.weight_map) {
      const std::string canonical = marlin::canonical_name(name);
      if (marlin::parse_tensor_name(canonical).base.size() > canonical.size()) std::abort();
      if (const auto expert = marlin::parse_expert_name(canonical); expert && expert->expert < 0) std::abort();
    }
  } catch (const marlin::Error&) {  // a refusal is a right answer
  }
}

void read_config(std::string_view text) {
  try {
    const nlohmann::json config = marlin::parse_json_object(text, "config");
    const auto claims = config.find("quantization_config");
    if (claims != config.end()) marlin::parse_quantization_claims(*claims, "config");
  } catch (const marlin::Error&) {  // a refusal is a right answer
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  read_index(text);
  read_config(text);
  return 0;
}
