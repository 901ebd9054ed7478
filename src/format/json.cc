#include "format/json.h"

#include <fmt/format.h>

#include "marlin/error.h"

namespace marlin {

nlohmann::json parse_json_object(std::string_view text, std::string_view name) {
  nlohmann::json json;
  try {
    json = nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorCode::kBadFile, fmt::format("{} is not valid JSON: {}; repair the file or download it again", name,
                                                 printable(error.what())));
  }
  if (!json.is_object()) {
    throw Error(ErrorCode::kBadFile,
                fmt::format("{} holds a JSON {}, expected an object; download the file again", name, json.type_name()));
  }
  return json;
}

std::string printable(std::string_view text) {
  constexpr size_t kMaxLength = 120;
  std::string out(text.substr(0, kMaxLength));
  for (char& c : out) {
    if (c < ' ' || c > '~') c = '?';
  }
  if (text.size() > kMaxLength) out += "...";
  return out;
}

}  // namespace marlin
