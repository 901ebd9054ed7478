// Small JSON files and untrusted text in messages.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace marlin {

/// Parses `text`, which must be a JSON object; `name` is used in messages. Throws Error{kBadFile} with line and column.
nlohmann::json parse_json_object(std::string_view text, std::string_view name);

/// `text` on one line, at most 120 characters, other characters than printable ASCII replaced by '?'.
std::string printable(std::string_view text);

}  // namespace marlin
