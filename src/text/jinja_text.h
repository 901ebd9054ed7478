// Strings of the template engine. Each remembers which of its bytes the template's author wrote and which came with the
// request, so that a user who types a control token never gets one. All operations keep that knowledge.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace marlin::jinja {

class Text {
 public:
  struct Run {
    size_t end = 0;  // the run covers the bytes from the previous run's end to here
    bool from_template = false;
  };

  Text() = default;
  Text(std::string_view bytes, bool from_template) { append(bytes, from_template); }

  const std::string& str() const { return bytes_; }
  const std::vector<Run>& runs() const { return runs_; }
  size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }
  bool any_data() const;

  void append(std::string_view bytes, bool from_template);
  void append(const Text& other) { append(other, 0, other.size()); }
  void append(const Text& other, size_t begin, size_t end);
  /// The bytes [begin, end).
  Text slice(size_t begin, size_t end) const;

 private:
  std::string bytes_;
  std::vector<Run> runs_;
};

/// A decoded code point and its length in bytes; a byte that is not UTF-8 counts as one character of that value.
struct Char {
  char32_t code = 0;
  size_t size = 1;
};
Char decode_char(std::string_view text, size_t position);
void append_utf8(std::string& out, char32_t code);
size_t count_chars(std::string_view text);
/// Byte offset of each character, and the total size at the end.
std::vector<size_t> char_offsets(std::string_view text);

/// Python's str.isspace for one code point.
bool is_space(char32_t code);
/// Python's str.isprintable for one code point, without the unassigned ones.
bool is_printable(char32_t code);
/// Bytes of white space (or of characters in `chars`) at the start, and the size left after those at the end are cut.
size_t leading_space(std::string_view text, std::optional<std::string_view> chars = std::nullopt);
size_t size_without_trailing_space(std::string_view text, std::optional<std::string_view> chars = std::nullopt);

enum class Case : uint8_t {
  kUpper,
  kLower,
  kTitle,  // Python's: a capital after everything that is no letter
  kWords,  // Jinja's filter "title": a capital after white space and opening brackets
  kCapitalize
};
/// Case mapping of ASCII, Latin-1, Latin Extended-A, Greek and Cyrillic; other characters stay.
Text change_case(const Text& text, Case mode);

Text strip(const Text& text, std::optional<std::string_view> chars, bool left, bool right);
/// Python's str.split: at `separator`, else at white space; at most `limit` cuts when it is not negative.
std::vector<Text> split(const Text& text, std::optional<std::string_view> separator, int64_t limit);
/// Python's str.splitlines.
std::vector<Text> split_lines(const Text& text);
/// How often `needle` (not empty) occurs without overlap, at most `limit` when it is not negative.
size_t count_occurrences(std::string_view text, std::string_view needle, int64_t limit);
Text replace(const Text& text, std::string_view needle, const Text& replacement, int64_t limit);

}  // namespace marlin::jinja
