#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/bpe_split.h"

#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include "marlin/error.h"
#include "text/utf8.h"

namespace marlin {

namespace {

// Unicode's White_Space, which is Oniguruma's \s. PCRE2's \s has 26 code points with UCP (U+180E too), 6 without.
constexpr std::string_view kSpaces =
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";
constexpr std::string_view kNotSpaces =
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}"
    "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{d7ff}\\x{e000}-\\x{10ffff}";

// A pattern that is linear needs a few steps for each byte. The limit stops exponential ones within a second.
constexpr uint32_t kMatchLimit = 10'000'000;
constexpr uint32_t kHeapLimitKib = 512 * 1024;

bool is_alphanumeric(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

class Translator {
 public:
  Translator(std::string_view pattern, std::string_view where) : pattern_(pattern), where_(where) {}

  std::string translate() {
    while (pos_ < pattern_.size()) {
      const char c = pattern_[pos_];
      if (c == '\\') {
        escape();
      } else if (in_class_) {
        inside_class(c);
      } else {
        outside_class(c);
      }
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(std::string_view construct) const {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: the regular expression has {} at byte {}, which this build does not translate; "
                            "use a tokenizer whose pattern has only classes, groups, look-ahead, *, +, ? and {{n,m}}",
                            where_, construct, pos_));
  }

  bool at(size_t pos, std::string_view text) const {
    return pos <= pattern_.size() && pattern_.substr(pos).starts_with(text);
  }

  void copy(size_t bytes) {
    out_.append(pattern_.substr(pos_, bytes));
    pos_ += bytes;
  }

  void escape() {
    if (pos_ + 1 == pattern_.size()) refuse("a lone backslash");
    const char c = pattern_[pos_ + 1];
    if (c == 's' || c == 'S') {
      if (in_class_) {
        out_.append(c == 's' ? kSpaces : kNotSpaces);
      } else {
        out_.append(c == 's' ? "[" : "[^").append(kSpaces).push_back(']');
      }
      pos_ += 2;
      // A range that begins at a class is literal in one engine and an error in the other.
      if (in_class_ && at(pos_, "-") && !at(pos_, "-]")) refuse("a range that starts with \\s or \\S");
      return;
    }
    // \w, \b, \h, \v, \R, \X, \u... mean something else, or other code points, in the two engines.
    const bool same = std::string_view("dDpPrntf").find(c) != std::string_view::npos;
    if (is_alphanumeric(c) && !same) refuse(fmt::format("\\{}", c));
    const bool braces = (c == 'p' || c == 'P') && at(pos_ + 2, "{");  // not a repetition
    const size_t end = braces ? pattern_.find('}', pos_) : std::string_view::npos;
    copy(end == std::string_view::npos ? 2 : end + 1 - pos_);
  }

  void inside_class(char c) {
    if (c == '[') refuse("a class inside of a class");
    if (at(pos_, "&&")) refuse("an intersection of classes");
    if (c == ']') in_class_ = false;
    copy(1);
  }

  void outside_class(char c) {
    if (c == '[') {
      in_class_ = true;
      copy(at(pos_, "[^") ? 2 : 1);
      if (at(pos_, "]")) refuse("a class that begins with ]");
      return;
    }
    if (c == '(' && at(pos_, "(?")) {
      constexpr std::array<std::string_view, 8> kGroups = {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:", "(?i)"};
      const auto group = std::find_if(kGroups.begin(), kGroups.end(), [&](std::string_view g) { return at(pos_, g); });
      if (group == kGroups.end()) refuse("a group of a kind other than ?: ?= ?! ?> ?<= ?<! ?i");
      copy(group->size());
      return;
    }
    if (at(pos_, "(*")) refuse("a verb");
    if (at(pos_, "{,")) refuse("a repetition without a lower bound");
    if (at(pos_, "}+") || at(pos_, "}?")) refuse("a suffix after {n,m}");
    copy(1);
  }

  std::string_view pattern_;
  std::string_view where_;
  size_t pos_ = 0;
  bool in_class_ = false;
  std::string out_;
};

std::string pcre2_message(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

struct MatchDataDeleter {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

}  // namespace

std::string translate_pattern(std::string_view pattern, std::string_view where) {
  return Translator(pattern, where).translate();
}

struct RegexSplitter::Compiled {
  Compiled() = default;
  ~Compiled() {
    pcre2_code_free(code);
    pcre2_match_context_free(context);
  }
  Compiled(const Compiled&) = delete;
  Compiled& operator=(const Compiled&) = delete;

  /// pcre2_match, again without the compiled code if that code's stack is too small for the text.
  int match(std::string_view text, size_t start, pcre2_match_data* data) const {
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    const int rc = pcre2_match(code, subject, text.size(), start, PCRE2_NO_UTF_CHECK, data, context);
    if (rc != PCRE2_ERROR_JIT_STACKLIMIT) return rc;
    return pcre2_match(code, subject, text.size(), start, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data, context);
  }

  std::string where;
  pcre2_code* code = nullptr;
  pcre2_match_context* context = nullptr;
};

RegexSplitter::RegexSplitter(std::string_view pattern, std::string_view where)
    : compiled_(std::make_unique<Compiled>()) {
  const std::string translated = translate_pattern(pattern, where);
  compiled_->where = where;
  int error = 0;
  PCRE2_SIZE offset = 0;
  const std::unique_ptr<pcre2_compile_context, void (*)(pcre2_compile_context*)> compile_context(
      pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
  // As in Oniguruma: a line ends with \n only, and ^ and $ match at every line.
  pcre2_set_newline(compile_context.get(), PCRE2_NEWLINE_LF);
  compiled_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset,
                                  compile_context.get());
  if (compiled_->code == nullptr) {
    throw Error(ErrorCode::kBadFile,
                fmt::format("{}: the regular expression does not compile: {}; expected a valid pattern, check the file",
                            where, pcre2_message(error)));
  }
  // Without JIT (a system that forbids executable memory) matching is slower and otherwise the same.
  pcre2_jit_compile(compiled_->code, PCRE2_JIT_COMPLETE);
  compiled_->context = pcre2_match_context_create(nullptr);
  pcre2_set_match_limit(compiled_->context, kMatchLimit);
  pcre2_set_heap_limit(compiled_->context, kHeapLimitKib);
}

RegexSplitter::~RegexSplitter() = default;
RegexSplitter::RegexSplitter(RegexSplitter&&) noexcept = default;
RegexSplitter& RegexSplitter::operator=(RegexSplitter&&) noexcept = default;

void RegexSplitter::split(std::string_view text, const Sink& sink) const {
  const std::unique_ptr<pcre2_match_data, MatchDataDeleter> data(
      pcre2_match_data_create_from_pattern(compiled_->code, nullptr));
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data.get());
  size_t done = 0;   // up to here pieces are given out
  size_t start = 0;  // the next match may begin here
  while (start < text.size()) {
    const int rc = compiled_->match(text, start, data.get());
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0) {
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{}: the regular expression gave up at byte {} of a text of {} bytes: {}; "
                              "use shorter text or a pattern that backtracks less",
                              compiled_->where, start, text.size(), pcre2_message(rc)));
    }
    if (range[0] > done) sink(text.substr(done, range[0] - done));
    if (range[1] > range[0]) sink(text.substr(range[0], range[1] - range[0]));
    done = std::max<size_t>(done, range[1]);
    // After an empty match the search goes on one character later; that character stays with what follows.
    start = range[1];
    if (range[1] == range[0] && start < text.size()) start += utf8_step(text.substr(start)).length;
  }
  if (done < text.size()) sink(text.substr(done));
}

}  // namespace marlin
