#include "cli/input.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <optional>

#include "format/json.h"
#include "marlin/error.h"

namespace marlin::cli {
namespace {

constexpr int kDeepestJson = 200;

/// Bytes of the UTF-8 character at the start of `text`; 0 when there is none (Unicode 15, table 3-7).
size_t character_length(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  const auto trails = [&](size_t from, size_t to) {
    for (size_t i = from; i < to; ++i) {
      if ((byte(i) & 0xc0U) != 0x80U) return false;
    }
    return true;
  };
  const unsigned lead = byte(0);
  const unsigned second = byte(1);
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return trails(1, 2) ? 2 : 0;
  if (lead >= 0xe0 && lead <= 0xef) {
    const bool overlong = lead == 0xe0 && second < 0xa0;
    const bool surrogate = lead == 0xed && second > 0x9f;
    return !overlong && !surrogate && trails(1, 3) ? 3 : 0;
  }
  if (lead >= 0xf0 && lead <= 0xf4) {
    const bool overlong = lead == 0xf0 && second < 0x90;
    const bool too_large = lead == 0xf4 && second > 0x8f;
    return !overlong && !too_large && trails(1, 4) ? 4 : 0;
  }
  return 0;
}

std::optional<size_t> first_invalid_byte(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const size_t length = character_length(text.substr(i));
    if (length == 0) return i;
    i += length;
  }
  return std::nullopt;
}

[[noreturn]] void bad_field(const std::string& name, const char* field, const char* expected, const Json& found) {
  throw Error(ErrorCode::kBadFile, fmt::format("{}: \"{}\" is {}; expected {}", printable(name), field,
                                               found.is_null() ? "missing" : found.type_name(), expected));
}

void check_messages(const Json& messages, const std::string& name) {
  if (!messages.is_array()) bad_field(name, "messages", "an array", messages);
  if (messages.empty()) {
    throw Error(ErrorCode::kUsage, fmt::format("{}: \"messages\" is empty; expected at least one", printable(name)));
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const Json& message = messages[i];
    if (!message.is_object() || !message.contains("role") || !message["role"].is_string()) {
      throw Error(ErrorCode::kBadFile, fmt::format("{}: messages[{}] has no \"role\"; expected an object like "
                                                   "{{\"role\": \"user\", \"content\": \"…\"}}",
                                                   printable(name), i));
    }
    const Json content = message.value("content", Json());
    if (content.is_string() || content.is_array() || content.is_null()) continue;
    throw Error(ErrorCode::kBadFile, fmt::format("{}: the \"content\" of messages[{}] is {}; expected a text",
                                                 printable(name), i, content.type_name()));
  }
}

}  // namespace

void require_utf8(std::string_view text, std::string_view what) {
  const std::optional<size_t> offset = first_invalid_byte(text);
  if (!offset) return;
  throw Error(ErrorCode::kUsage, fmt::format("{}: byte 0x{:02x} at offset {} is not UTF-8; convert the text to UTF-8",
                                             printable(what), static_cast<unsigned char>(text[*offset]), *offset));
}

std::string read_input(const std::string& path) {
  if (path == "-") {
    std::string text((std::istreambuf_iterator<char>(std::cin)), std::istreambuf_iterator<char>());
    if (std::cin.bad()) throw Error(ErrorCode::kIo, "standard input cannot be read");
    return text;
  }
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    throw Error(ErrorCode::kUsage, fmt::format("{} is a directory; give a file", printable(path)));
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw Error(ErrorCode::kNotFound,
                fmt::format("{}: {}; give a file that can be read", printable(path), std::strerror(errno)));
  }
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (file.bad()) throw Error(ErrorCode::kIo, fmt::format("{}: {}", printable(path), std::strerror(errno)));
  return text;
}

Json parse_json(std::string_view text, const std::string& name) {
  require_utf8(text, name);
  const auto limit_depth = [&](int depth, Json::parse_event_t, Json&) {
    if (depth <= kDeepestJson) return true;
    throw Error(ErrorCode::kBadFile, fmt::format("{}: nested more than {} deep", printable(name), kDeepestJson));
  };
  try {
    return Json::parse(text, limit_depth);
  } catch (const Json::parse_error& error) {
    const size_t at = std::min(error.byte > 0 ? error.byte - 1 : 0, text.size());
    const std::string_view before = text.substr(0, at);
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    const size_t column = at - (before.rfind('\n') + 1) + 1;
    throw Error(ErrorCode::kBadFile, fmt::format("{}:{}:{}: not valid JSON", printable(name), line, column));
  }
}

Conversation read_conversation(const std::string& path) {
  const std::string name = path == "-" ? "standard input" : path;
  Json json = parse_json(read_input(path), name);
  Conversation conversation;
  if (json.is_array()) json = Json{{"messages", std::move(json)}};
  if (!json.is_object()) {
    throw Error(ErrorCode::kBadFile, fmt::format("{} is {}; expected an object with \"messages\", or an array of them",
                                                 printable(name), json.type_name()));
  }
  conversation.messages = nullptr;
  for (auto& [key, value] : json.items()) {
    if (key == "messages") {
      conversation.messages = std::move(value);
    } else if (key == "tools") {
      if (!value.is_array() && !value.is_null()) bad_field(name, "tools", "an array", value);
      if (value.is_array()) conversation.tools = std::move(value);
    } else if (key == "template_args") {
      if (!value.is_object()) bad_field(name, "template_args", "an object", value);
      if (value.contains("enable_thinking") && !value["enable_thinking"].is_boolean()) {
        bad_field(name, "enable_thinking", "true or false", value["enable_thinking"]);
      }
      conversation.template_args = std::move(value);
    } else {
      throw Error(ErrorCode::kBadFile,
                  fmt::format("{}: unknown field \"{}\"; expected messages, tools or template_args", printable(name),
                              printable(key)));
    }
  }
  check_messages(conversation.messages, name);
  return conversation;
}

std::string conversation_text(const Conversation& conversation) {
  const Json json = {{"messages", conversation.messages},
                     {"tools", conversation.tools},
                     {"template_args", conversation.template_args}};
  return json.dump(2) + "\n";
}

}  // namespace marlin::cli
