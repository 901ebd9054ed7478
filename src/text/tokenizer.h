// Byte-level BPE as described by a Hugging Face tokenizer.json: added tokens first, then a regex split, then merges.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "marlin/text.h"

namespace marlin {

struct AddedToken {
  int32_t id = 0;
  std::string text;
  bool special = false;
};

class Tokenizer {
 public:
  /// Throws Error{kNotFound|kBadFile} that names the file and the field.
  static Tokenizer load(const std::filesystem::path& tokenizer_json);
  /// The same from the file's text (fuzzing, tests); `name` is used in messages.
  static Tokenizer parse(std::string_view json, std::string_view name);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  enum class AddedTokens { kMatch, kIgnore };
  /// Ids of `text`. With kIgnore the text of an added token is ordinary text. Any bytes are accepted: invalid UTF-8
  /// is encoded as U+FFFD. Thread-safe.
  std::vector<int32_t> encode(std::string_view text, AddedTokens added = AddedTokens::kMatch) const;
  /// Ids of rendered segments: added tokens are matched in template segments only. A run of segments of the same kind
  /// is encoded as one text, and so is ordinary text on both sides of a border between kinds when no added token
  /// separates them, so that the ids equal those of the flat text whenever no data segment contains an added token.
  std::vector<int32_t> encode(std::span<const Segment> segments) const;

  /// The bytes of one id (added tokens: their text). Empty for ids without a token.
  std::string_view token_bytes(int32_t id) const;
  /// Whole decode; invalid UTF-8 becomes U+FFFD. `skip_special` leaves out added tokens marked special.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;

  std::optional<int32_t> id_of(std::string_view added_token_text) const;
  const std::vector<AddedToken>& added_tokens() const;
  /// The highest id with a token, plus 1: ids from here on are padding and are never sampled.
  int32_t size() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Incremental UTF-8: bytes in, whole characters out. Bytes that can still become a character are held back; bytes that
/// cannot become U+FFFD, one for each maximal invalid part (as Unicode recommends and Python decodes).
class Utf8Stream {
 public:
  /// Returns the text that is now certain.
  std::string feed(std::string_view bytes);
  /// End of input: a held-back incomplete character becomes U+FFFD.
  std::string finish();

 private:
  std::string pending_;
};

/// `bytes` with every invalid part replaced by U+FFFD.
std::string to_valid_utf8(std::string_view bytes);

}  // namespace marlin
