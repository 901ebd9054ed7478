// What the user gives to generate from: texts, files and conversations.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "marlin/text.h"

namespace marlin::cli {

/// Throws Error{kUsage} with the offset of the first byte that is not UTF-8; `what` says whose bytes they are.
void require_utf8(std::string_view text, std::string_view what);

/// A whole file, or standard input for "-". Throws Error{kNotFound|kIo}.
std::string read_input(const std::string& path);

/// A JSON value whose objects keep the order of their keys. Throws Error{kBadFile} with `name`, line and column, also
/// when it is nested so deeply that nobody can have meant it.
Json parse_json(std::string_view text, const std::string& name);

/// The file of --messages and /save: {"messages", "tools", "template_args"} or an array of messages. "-" is standard
/// input. Throws Error{kBadFile} that names the field.
Conversation read_conversation(const std::string& path);

/// The inverse of read_conversation.
std::string conversation_text(const Conversation& conversation);

}  // namespace marlin::cli
