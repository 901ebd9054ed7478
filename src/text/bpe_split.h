// The regular expression of a Split pre-tokenizer, with the meaning that Hugging Face's tokenizers (Oniguruma) give it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace marlin {

/// The pattern that a ByteLevel pre-tokenizer with use_regex applies.
inline constexpr std::string_view kGpt2Pattern =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/// `pattern` for PCRE2. The two engines read some constructs differently; those are translated (\s is the 25 code
/// points of White_Space) or refused: throws Error{kUnsupported} that begins with `where`.
std::string translate_pattern(std::string_view pattern, std::string_view where);

class RegexSplitter {
 public:
  using Sink = std::function<void(std::string_view piece)>;

  /// Throws Error{kBadFile|kUnsupported} that begins with `where`, the field of the file.
  RegexSplitter(std::string_view pattern, std::string_view where);
  ~RegexSplitter();
  RegexSplitter(RegexSplitter&&) noexcept;
  RegexSplitter& operator=(RegexSplitter&&) noexcept;

  /// The matches and the text between them, in order, without empty pieces; together they are `text`, which is valid
  /// UTF-8. Throws Error{kUnsupported} when the pattern backtracks beyond all measure. Thread-safe.
  void split(std::string_view text, const Sink& sink) const;

 private:
  struct Compiled;
  std::unique_ptr<Compiled> compiled_;
};

}  // namespace marlin
