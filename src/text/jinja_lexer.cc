#include "text/jinja_lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

#include "marlin/error.h"
#include "text/jinja_text.h"

namespace marlin::jinja {
namespace {

// Carriage returns become line feeds, and one line feed at the end is dropped (keep_trailing_newline is off).
std::string normalize(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || static_cast<unsigned char>(c) >= 0x80;
}
bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

class Lexer {
 public:
  Lexer(std::string_view source, std::string_view name) : source_(normalize(source)), name_(name) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) {
      const size_t tag = find_tag();
      if (tag == std::string::npos) {
        add(TokenKind::kText, source_.substr(at_));
        at_ = source_.size();
        break;
      }
      lex_tag(tag);
    }
    advance(source_.size());
    add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(const std::string& message) const { fail_at(line_, message); }
  [[noreturn]] void fail_at(int line, const std::string& message) const {
    throw Error(ErrorCode::kBadFile, fmt::format("{}:{}: {}", name_, line, message));
  }
  std::string_view rest(size_t from) const { return std::string_view(source_).substr(from); }
  bool has(size_t at, std::string_view text) const { return rest(std::min(at, source_.size())).starts_with(text); }
  size_t skip_space(size_t at) const { return at + leading_space(rest(at)); }

  void add(TokenKind kind, std::string text) {
    if (kind == TokenKind::kText && text.empty()) return;
    tokens_.push_back({kind, line_, std::move(text)});
  }
  void advance(size_t to) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(to), '\n'));
    if (to > at_) line_starting_ = source_[to - 1] == '\n';
    at_ = to;
  }

  size_t find_tag() const {
    for (size_t at = source_.find('{', at_); at != std::string::npos; at = source_.find('{', at + 1)) {
      if (at + 1 < source_.size() && (source_[at + 1] == '%' || source_[at + 1] == '{' || source_[at + 1] == '#')) {
        return at;
      }
    }
    return std::string::npos;
  }

  // The text before a tag: "-" strips it, and lstrip_blocks drops the white space between a line's start and a block.
  void add_text_before(size_t tag, char sign, bool is_variable) {
    std::string text = source_.substr(at_, tag - at_);
    if (sign == '-') {
      text.resize(size_without_trailing_space(text));
    } else if (sign != '+' && !is_variable) {
      const size_t line_start = text.rfind('\n') + 1;  // npos + 1 is 0
      if ((line_start > 0 || line_starting_) &&
          leading_space(rest(at_ + line_start).substr(0, text.size() - line_start)) == text.size() - line_start) {
        text.resize(line_start);
      }
    }
    add(TokenKind::kText, std::move(text));
  }

  // Past the end of a block or comment: "-" strips what follows, "+" keeps it, else one line feed is dropped.
  std::optional<size_t> past_end(size_t at, std::string_view end, bool trims) const {
    if (has(at, "-") && has(at + 1, end)) return skip_space(at + 3);
    if (trims && has(at, "+") && has(at + 1, end)) return at + 3;
    if (!has(at, end)) return std::nullopt;
    return trims && has(at + 2, "\n") ? at + 3 : at + 2;
  }

  void lex_tag(size_t tag) {
    const bool is_variable = source_[tag + 1] == '{';
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    add_text_before(tag, sign, is_variable);
    advance(tag);
    const size_t inside = tag + 2 + (sign == '-' || sign == '+' ? 1 : 0);
    if (source_[tag + 1] == '#') return lex_comment(inside);
    if (!is_variable && lex_raw(inside)) return;
    add(is_variable ? TokenKind::kVariableBegin : TokenKind::kBlockBegin, "");
    advance(inside);
    lex_inside(is_variable);
  }

  void lex_comment(size_t inside) {
    for (size_t at = inside; at < source_.size(); ++at) {
      if (const auto end = past_end(at, "#}", true)) return advance(*end);
    }
    fail("a comment is not closed: expected '#}'");
  }

  // "raw", the text up to "endraw" and both tags.
  bool lex_raw(size_t inside) {
    const size_t word = skip_space(inside);
    if (!has(word, "raw")) return false;
    const size_t after = skip_space(word + 3);
    const bool strips = has(after, "-%}");
    if (!strips && !has(after, "%}")) return false;
    advance(strips ? skip_space(after + 3) : after + 2);
    for (size_t tag = source_.find("{%", at_); tag != std::string::npos; tag = source_.find("{%", tag + 2)) {
      const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
      const size_t end_word = skip_space(std::min(source_.size(), tag + 2 + (sign == '-' || sign == '+' ? 1 : 0)));
      if (!has(end_word, "endraw")) continue;
      const auto end = past_end(skip_space(end_word + 6), "%}", true);
      if (!end) continue;
      add_text_before(tag, sign, false);
      advance(*end);
      return true;
    }
    fail("a raw block is not closed: expected 'endraw'");
  }

  void lex_inside(bool is_variable) {
    const int opened = line_;
    const std::string_view end = is_variable ? "}}" : "%}";
    while (true) {
      advance(skip_space(at_));
      if (at_ >= source_.size()) fail_at(opened, fmt::format("a tag is not closed: expected '{}'", end));
      if (brackets_.empty()) {
        if (const auto past = past_end(at_, end, !is_variable)) {
          add(is_variable ? TokenKind::kVariableEnd : TokenKind::kBlockEnd, "");
          return advance(*past);
        }
      }
      const char c = source_[at_];
      if (c == '\'' || c == '"') {
        lex_string(c);
      } else if (is_digit(c)) {
        lex_number();
      } else if (is_name_start(c)) {
        size_t stop = at_;
        while (stop < source_.size() && (is_name_start(source_[stop]) || is_digit(source_[stop]))) ++stop;
        add(TokenKind::kName, source_.substr(at_, stop - at_));
        advance(stop);
      } else {
        lex_operator();
      }
    }
  }

  void lex_operator() {
    static constexpr std::array<std::string_view, 26> kOperators = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                                                    "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                                    ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    const auto found = std::find_if(kOperators.begin(), kOperators.end(), [&](auto text) { return has(at_, text); });
    if (found == kOperators.end()) fail(fmt::format("unexpected character '{}'", source_[at_]));
    const char c = source_[at_];
    if (c == '(' || c == '[' || c == '{') {
      brackets_ += c == '(' ? ')' : static_cast<char>(c + 2);  // in ASCII ] and } come two after [ and {
    } else if (c == ')' || c == ']' || c == '}') {
      if (brackets_.empty() || brackets_.back() != c) fail(fmt::format("unexpected '{}'", c));
      brackets_.pop_back();
    }
    add(TokenKind::kOperator, std::string(*found));
    advance(at_ + found->size());
  }

  std::string digits(size_t& at) const {
    std::string out;
    while (at < source_.size() &&
           (is_digit(source_[at]) || (source_[at] == '_' && at + 1 < source_.size() && is_digit(source_[at + 1])))) {
      if (source_[at] != '_') out += source_[at];
      ++at;
    }
    return out;
  }

  void lex_number() {
    size_t at = at_;
    std::string text = digits(at);
    bool is_float = false;
    // A digit must follow the point: `x.0.y` subscripts, and `1.real` is no number.
    const bool after_dot =
        !tokens_.empty() && tokens_.back().kind == TokenKind::kOperator && tokens_.back().text == ".";
    if (!after_dot && has(at, ".") && at + 1 < source_.size() && is_digit(source_[at + 1])) {
      is_float = true;
      ++at;
      text += '.' + digits(at);
    }
    if (!after_dot && (has(at, "e") || has(at, "E"))) {
      size_t exponent = at + 1;
      const bool sign = has(exponent, "+") || has(exponent, "-");
      if (sign) ++exponent;
      if (exponent < source_.size() && is_digit(source_[exponent])) {
        is_float = true;
        text += 'e';
        if (sign) text += source_[exponent - 1];
        text += digits(exponent);
        at = exponent;
      }
    }
    if (at < source_.size() && is_name_start(source_[at])) fail("a number runs into a name");
    add(is_float ? TokenKind::kFloat : TokenKind::kInteger, std::move(text));
    advance(at);
  }

  void lex_string(char quote) {
    std::string text;
    size_t at = at_ + 1;
    while (at < source_.size() && source_[at] != quote) {
      if (source_[at] == '\\' && at + 1 < source_.size()) {
        at = lex_escape(at + 1, text);
      } else {
        text += source_[at++];
      }
    }
    if (at >= source_.size()) fail(fmt::format("a string is not closed: expected {}", quote));
    add(TokenKind::kString, std::move(text));
    advance(at + 1);
  }

  // `at` is behind the backslash; returns the position after the escape.
  size_t lex_escape(size_t at, std::string& text) {
    static constexpr std::string_view kLetters = "nrtabfv\\'\"";
    static constexpr std::string_view kMeanings = "\n\r\t\a\b\f\v\\'\"";
    const char c = source_[at];
    if (const size_t simple = kLetters.find(c); simple != std::string_view::npos) {
      text += kMeanings[simple];
      return at + 1;
    }
    if (c == '\n') return at + 1;
    if (c == 'x' || c == 'u' || c == 'U') return lex_code_point(at + 1, c == 'x' ? 2 : (c == 'u' ? 4 : 8), text);
    if (c >= '0' && c <= '7') {
      char32_t code = 0;
      size_t stop = at;
      while (stop < source_.size() && stop < at + 3 && source_[stop] >= '0' && source_[stop] <= '7') {
        code = code * 8 + static_cast<char32_t>(source_[stop++] - '0');
      }
      append_utf8(text, code);
      return stop;
    }
    text += '\\';  // an unknown escape stands for itself
    return at;
  }

  size_t lex_code_point(size_t at, size_t count, std::string& text) {
    char32_t code = 0;
    for (size_t i = 0; i < count; ++i) {
      const char c = at + i < source_.size() ? source_[at + i] : '\0';
      const bool letter = (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
      if (!letter && !is_digit(c)) fail(fmt::format("a string escape needs {} hexadecimal digits", count));
      code = code * 16 + static_cast<char32_t>(letter ? (c & 7) + 9 : c - '0');
    }
    if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) fail("a string escape is not a Unicode character");
    append_utf8(text, code);
    return at + count;
  }

  std::string source_;
  std::string_view name_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::string brackets_;  // the closing brackets still expected
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source, std::string_view name) {
  return Lexer(source, name).run();
}

}  // namespace marlin::jinja
