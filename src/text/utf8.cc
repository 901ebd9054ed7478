#include "text/utf8.h"

#include <cstdint>
#include <cstring>
#include <string>

#include "text/tokenizer.h"

namespace marlin {

namespace {

struct LeadByte {
  size_t length;        // of the whole character; 0: no character starts with this byte
  uint8_t second_low;   // the second byte's range is narrower after E0, ED, F0 and F4: overlong forms, surrogates
  uint8_t second_high;  // and code points above U+10FFFF are excluded by it
};

LeadByte lead_byte(uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

/// The length of the ASCII prefix, rounded down to whole words.
size_t ascii_words(std::string_view text) {
  size_t i = 0;
  for (; i + 8 <= text.size(); i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, text.data() + i, 8);
    if ((word & 0x8080808080808080u) != 0) break;
  }
  return i;
}

/// Appends the valid text to `out`, U+FFFD for invalid parts, and returns the length of an incomplete end.
size_t append_valid(std::string_view bytes, std::string& out) {
  while (!bytes.empty()) {
    const size_t valid = valid_utf8_prefix(bytes);
    out.append(bytes.substr(0, valid));
    bytes.remove_prefix(valid);
    if (bytes.empty()) break;
    const Utf8Step step = utf8_step(bytes);
    if (step.kind == Utf8Kind::kIncomplete) return step.length;
    out.append(kReplacementCharacter);
    bytes.remove_prefix(step.length);
  }
  return 0;
}

}  // namespace

Utf8Step utf8_step(std::string_view text) {
  const LeadByte lead = lead_byte(static_cast<uint8_t>(text[0]));
  if (lead.length == 0) return {Utf8Kind::kInvalid, 1};
  for (size_t i = 1; i < lead.length; ++i) {
    if (i == text.size()) return {Utf8Kind::kIncomplete, i};
    const uint8_t byte = static_cast<uint8_t>(text[i]);
    const uint8_t low = i == 1 ? lead.second_low : 0x80;
    const uint8_t high = i == 1 ? lead.second_high : 0xBF;
    if (byte < low || byte > high) return {Utf8Kind::kInvalid, i};
  }
  return {Utf8Kind::kValid, lead.length};
}

size_t valid_utf8_prefix(std::string_view text) {
  size_t pos = 0;
  while (pos < text.size()) {
    if (static_cast<uint8_t>(text[pos]) < 0x80) {
      const size_t skipped = ascii_words(text.substr(pos));
      pos += skipped == 0 ? 1 : skipped;
      continue;
    }
    const Utf8Step step = utf8_step(text.substr(pos));
    if (step.kind != Utf8Kind::kValid) return pos;
    pos += step.length;
  }
  return pos;
}

std::string Utf8Stream::feed(std::string_view bytes) {
  std::string out;
  if (pending_.empty()) {
    const size_t held = append_valid(bytes, out);
    pending_.assign(bytes.substr(bytes.size() - held));
    return out;
  }
  pending_.append(bytes);
  const size_t held = append_valid(pending_, out);
  pending_.erase(0, pending_.size() - held);
  return out;
}

std::string Utf8Stream::finish() {
  // What is held back is the start of one character, hence one maximal part.
  std::string out(pending_.empty() ? std::string_view() : kReplacementCharacter);
  pending_.clear();
  return out;
}

std::string to_valid_utf8(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  if (append_valid(bytes, out) != 0) out.append(kReplacementCharacter);
  return out;
}

}  // namespace marlin
