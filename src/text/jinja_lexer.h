// Splits a template into text and the tokens of its tags, with trim_blocks and lstrip_blocks as Hugging Face sets them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace marlin::jinja {

enum class TokenKind : uint8_t {
  kText,
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  int line = 1;
  std::string text;  // strings without quotes and escapes, numbers without underscores
};

/// The last token is kEnd. Throws Error{kBadFile} "name:LINE: …".
std::vector<Token> tokenize(std::string_view source, std::string_view name);

}  // namespace marlin::jinja
