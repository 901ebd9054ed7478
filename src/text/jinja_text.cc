#include "text/jinja_text.h"

#include <algorithm>
#include <array>
#include <utility>

namespace marlin::jinja {

bool Text::any_data() const {
  return std::any_of(runs_.begin(), runs_.end(), [](const Run& run) { return !run.from_template; });
}

void Text::append(std::string_view bytes, bool from_template) {
  if (bytes.empty()) return;
  bytes_.append(bytes);
  if (!runs_.empty() && runs_.back().from_template == from_template) {
    runs_.back().end = bytes_.size();
  } else {
    runs_.push_back({bytes_.size(), from_template});
  }
}

void Text::append(const Text& other, size_t begin, size_t end) {
  auto run = std::upper_bound(other.runs_.begin(), other.runs_.end(), begin,
                              [](size_t position, const Run& candidate) { return position < candidate.end; });
  const std::string_view bytes = other.bytes_;
  for (; begin < end && run != other.runs_.end(); ++run) {
    const size_t stop = std::min(run->end, end);
    append(bytes.substr(begin, stop - begin), run->from_template);
    begin = stop;
  }
}

Text Text::slice(size_t begin, size_t end) const {
  Text out;
  out.append(*this, begin, end);
  return out;
}

Char decode_char(std::string_view text, size_t position) {
  const auto byte = [&](size_t offset) { return static_cast<unsigned char>(text[position + offset]); };
  const auto continues = [&](size_t offset) { return position + offset < text.size() && (byte(offset) >> 6) == 2; };
  const unsigned char lead = byte(0);
  if (lead >= 0xc2 && lead < 0xe0 && continues(1)) return {char32_t((lead & 0x1fU) << 6 | (byte(1) & 0x3fU)), 2};
  if ((lead >> 4) == 14 && continues(1) && continues(2)) {
    return {char32_t((lead & 0xfU) << 12 | (byte(1) & 0x3fU) << 6 | (byte(2) & 0x3fU)), 3};
  }
  if (lead >= 0xf0 && lead < 0xf5 && continues(1) && continues(2) && continues(3)) {
    return {char32_t((lead & 7U) << 18 | (byte(1) & 0x3fU) << 12 | (byte(2) & 0x3fU) << 6 | (byte(3) & 0x3fU)), 4};
  }
  return {lead, 1};
}

void append_utf8(std::string& out, char32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xc0 | code >> 6);
    out += static_cast<char>(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xe0 | code >> 12);
    out += static_cast<char>(0x80 | (code >> 6 & 0x3f));
    out += static_cast<char>(0x80 | (code & 0x3f));
  } else {
    out += static_cast<char>(0xf0 | code >> 18);
    out += static_cast<char>(0x80 | (code >> 12 & 0x3f));
    out += static_cast<char>(0x80 | (code >> 6 & 0x3f));
    out += static_cast<char>(0x80 | (code & 0x3f));
  }
}

size_t count_chars(std::string_view text) {
  size_t count = 0;
  for (size_t at = 0; at < text.size(); at += decode_char(text, at).size) ++count;
  return count;
}

std::vector<size_t> char_offsets(std::string_view text) {
  std::vector<size_t> offsets;
  offsets.reserve(text.size() + 1);
  for (size_t at = 0; at < text.size(); at += decode_char(text, at).size) offsets.push_back(at);
  offsets.push_back(text.size());
  return offsets;
}

bool is_space(char32_t code) {
  return (code >= 9 && code <= 13) || (code >= 0x1c && code <= 0x20) || code == 0x85 || code == 0xa0 ||
         code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 || code == 0x202f ||
         code == 0x205f || code == 0x3000;
}

bool is_printable(char32_t code) {
  static constexpr std::array<std::pair<char32_t, char32_t>, 18> kHidden = {{
      {0, 0x1f},
      {0x7f, 0xa0},
      {0xad, 0xad},
      {0x600, 0x605},
      {0x61c, 0x61c},
      {0x6dd, 0x6dd},
      {0x70f, 0x70f},
      {0x1680, 0x1680},
      {0x180e, 0x180e},
      {0x2000, 0x200f},
      {0x2028, 0x202f},
      {0x205f, 0x206f},
      {0x3000, 0x3000},
      {0xd800, 0xf8ff},
      {0xfeff, 0xfeff},
      {0xfff0, 0xfffb},
      {0xe0001, 0xe007f},
      {0xf0000, 0x10ffff},
  }};
  return std::none_of(kHidden.begin(), kHidden.end(),
                      [code](const auto& range) { return code >= range.first && code <= range.second; });
}

namespace {

bool cuts(char32_t code, std::string_view character, std::optional<std::string_view> chars) {
  return chars ? chars->find(character) != std::string_view::npos : is_space(code);
}

bool pairs_even_upper(char32_t code) {  // upper case on even code points, lower case right after
  return (code >= 0x100 && code <= 0x137) || (code >= 0x14a && code <= 0x177) || (code >= 0x460 && code <= 0x481) ||
         (code >= 0x48a && code <= 0x4bf) || (code >= 0x4d0 && code <= 0x52f);
}

bool pairs_odd_upper(char32_t code) {
  return (code >= 0x139 && code <= 0x148) || (code >= 0x179 && code <= 0x17e) || (code >= 0x4c1 && code <= 0x4ce);
}

char32_t to_lower(char32_t code) {
  if ((code >= 'A' && code <= 'Z') || (code >= 0xc0 && code <= 0xde && code != 0xd7) ||
      (code >= 0x391 && code <= 0x3ab && code != 0x3a2) || (code >= 0x410 && code <= 0x42f)) {
    return code + 32;
  }
  if (code >= 0x400 && code <= 0x40f) return code + 80;
  if (code == 0x130 || code == 0x131 || code == 0x138) return code;
  if (pairs_even_upper(code)) return code | 1;
  if (pairs_odd_upper(code)) return (code & 1) != 0 ? code + 1 : code;
  return code;
}

char32_t to_upper(char32_t code) {
  if ((code >= 'a' && code <= 'z') || (code >= 0xe0 && code <= 0xfe && code != 0xf7) ||
      (code >= 0x3b1 && code <= 0x3cb && code != 0x3c2) || (code >= 0x430 && code <= 0x44f)) {
    return code - 32;
  }
  if (code == 0x3c2) return 0x3a3;
  if (code == 0xff) return 0x178;
  if (code >= 0x450 && code <= 0x45f) return code - 80;
  if (code == 0x130 || code == 0x131 || code == 0x138) return code;
  if (pairs_even_upper(code)) return code & ~char32_t{1};
  if (pairs_odd_upper(code)) return (code & 1) != 0 ? code : code - 1;
  return code;
}

bool is_letter(char32_t code) {
  return code >= 0x80 ? is_printable(code) : to_upper(code) != to_lower(code);
}

bool opens_word(char32_t code) {
  return is_space(code) || code == '-' || code == '(' || code == '{' || code == '[' || code == '<';
}

}  // namespace

size_t leading_space(std::string_view text, std::optional<std::string_view> chars) {
  size_t at = 0;
  while (at < text.size()) {
    const Char c = decode_char(text, at);
    if (!cuts(c.code, text.substr(at, c.size), chars)) break;
    at += c.size;
  }
  return at;
}

size_t size_without_trailing_space(std::string_view text, std::optional<std::string_view> chars) {
  size_t end = text.size();
  while (end > 0) {
    size_t begin = end - 1;
    while (begin > 0 && end - begin < 4 && (static_cast<unsigned char>(text[begin]) >> 6) == 2) --begin;
    Char c = decode_char(text.substr(0, end), begin);
    if (begin + c.size != end) {  // not UTF-8: take the last byte alone
      begin = end - 1;
      c = {static_cast<unsigned char>(text[begin]), 1};
    }
    if (!cuts(c.code, text.substr(begin, c.size), chars)) break;
    end = begin;
  }
  return end;
}

Text change_case(const Text& text, Case mode) {
  Text out;
  const std::string_view bytes = text.str();
  size_t at = 0;
  bool starts = true;  // the next letter opens a word (title) or the text (capitalize)
  std::string piece;
  for (const Text::Run& run : text.runs()) {
    piece.clear();
    while (at < run.end) {
      const Char c = decode_char(bytes, at);
      const bool broken = c.size == 1 && c.code >= 0x80;
      const bool upper = mode == Case::kUpper || (mode != Case::kLower && starts);
      if (broken) {
        piece += bytes[at];
      } else {
        append_utf8(piece, upper ? to_upper(c.code) : to_lower(c.code));
      }
      starts = (mode == Case::kTitle && !is_letter(c.code)) || (mode == Case::kWords && opens_word(c.code));
      at += c.size;
    }
    out.append(piece, run.from_template);
  }
  return out;
}

Text strip(const Text& text, std::optional<std::string_view> chars, bool left, bool right) {
  const std::string_view bytes = text.str();
  const size_t end = right ? size_without_trailing_space(bytes, chars) : bytes.size();
  const size_t begin = left ? leading_space(bytes.substr(0, end), chars) : 0;
  return text.slice(begin, end);
}

std::vector<Text> split(const Text& text, std::optional<std::string_view> separator, int64_t limit) {
  std::vector<Text> parts;
  const std::string_view bytes = text.str();
  const auto may_cut = [&] { return limit < 0 || static_cast<int64_t>(parts.size()) < limit; };
  size_t begin = 0;
  if (separator) {
    for (size_t hit = bytes.find(*separator); hit != std::string_view::npos && may_cut();
         hit = bytes.find(*separator, begin)) {
      parts.push_back(text.slice(begin, hit));
      begin = hit + separator->size();
    }
    parts.push_back(text.slice(begin, bytes.size()));
    return parts;
  }
  for (begin = leading_space(bytes); begin < bytes.size(); begin += leading_space(bytes.substr(begin))) {
    if (!may_cut()) {
      parts.push_back(text.slice(begin, bytes.size()));
      return parts;
    }
    size_t end = begin;
    while (end < bytes.size() && !is_space(decode_char(bytes, end).code)) end += decode_char(bytes, end).size;
    parts.push_back(text.slice(begin, end));
    begin = end;
  }
  return parts;
}

std::vector<Text> split_lines(const Text& text) {
  std::vector<Text> lines;
  const std::string_view bytes = text.str();
  size_t begin = 0;
  for (size_t at = 0; at < bytes.size();) {
    const Char c = decode_char(bytes, at);
    const bool ends = (c.code >= 10 && c.code <= 13) || (c.code >= 0x1c && c.code <= 0x1e) || c.code == 0x85 ||
                      c.code == 0x2028 || c.code == 0x2029;
    const size_t line_end = at;
    at += c.size;
    if (!ends) continue;
    if (c.code == '\r' && at < bytes.size() && bytes[at] == '\n') ++at;
    lines.push_back(text.slice(begin, line_end));
    begin = at;
  }
  if (begin < bytes.size()) lines.push_back(text.slice(begin, bytes.size()));
  return lines;
}

size_t count_occurrences(std::string_view text, std::string_view needle, int64_t limit) {
  size_t count = 0;
  for (size_t hit = text.find(needle); hit != std::string_view::npos; hit = text.find(needle, hit + needle.size())) {
    if (limit >= 0 && static_cast<int64_t>(count) >= limit) break;
    ++count;
  }
  return count;
}

Text replace(const Text& text, std::string_view needle, const Text& replacement, int64_t limit) {
  const std::vector<Text> parts = split(text, needle, limit);
  Text out;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) out.append(replacement);
    out.append(parts[i]);
  }
  return out;
}

}  // namespace marlin::jinja
