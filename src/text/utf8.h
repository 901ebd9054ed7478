// One step of UTF-8 decoding with the error boundaries of the Unicode standard (maximal subparts).
#pragma once

#include <cstddef>
#include <string_view>

namespace marlin {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

enum class Utf8Kind {
  kValid,       // a whole character
  kInvalid,     // the longest part that starts a character but cannot be continued by the next byte, at least one byte
  kIncomplete,  // the text ends inside of a character that could still become valid
};

struct Utf8Step {
  Utf8Kind kind;
  size_t length;
};

/// The first character or invalid part of `text`, which must not be empty.
Utf8Step utf8_step(std::string_view text);

/// The length of the longest prefix that is valid UTF-8.
size_t valid_utf8_prefix(std::string_view text);

}  // namespace marlin
