// UTF-8 with the error boundaries of the Unicode standard, whole and in pieces.
#include "text/utf8.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "text/tokenizer.h"

namespace marlin {
namespace {

const std::string kR(kReplacementCharacter);

/// Bytes and their text; the invalid ones are the standard's examples (chapter 3, tables 3-8 to 3-11), and Python's
/// bytes.decode("utf-8", "replace") agrees.
std::vector<std::pair<std::string, std::string>> examples() {
  return {
      {"", ""},
      {"plain ASCII, long enough for words", "plain ASCII, long enough for words"},
      {"é漢😀\U0010FFFF\uD7FB\uE000", "é漢😀\U0010FFFF\uD7FB\uE000"},
      {std::string("a\0b", 3), std::string("a\0b", 3)},
      {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", kR + kR + kR + kR + kR + kR + kR + kR + "A"},
      {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", kR + kR + kR + kR + kR + kR + kR + kR + "A"},
      {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", kR + kR + kR + kR + kR + "A" + kR + kR + "B"},
      {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", kR + kR + kR + kR + "A"},
      {"a\xF1\x80\x80\xE1\x80\xC2"
       "b\x80"
       "c\x80\xBF"
       "d",
       "a" + kR + kR + kR + "b" + kR + "c" + kR + kR + "d"},
      {"end \xE6\xBC", "end " + kR},
      {"end \xF0\x9F\x98", "end " + kR},
      {"\xC2", kR},
      {"\xC1\xBF\xF5\x80", kR + kR + kR + kR},
      {"漢字\xFF漢字", "漢字" + kR + "漢字"},
  };
}

TEST(Utf8, Whole) {
  for (const auto& [bytes, text] : examples()) EXPECT_EQ(to_valid_utf8(bytes), text) << bytes;
}

TEST(Utf8, CutAnywhereGivesTheSame) {
  for (const auto& [bytes, text] : examples()) {
    for (size_t a = 0; a <= bytes.size(); ++a) {
      for (size_t b = a; b <= bytes.size(); ++b) {
        Utf8Stream stream;
        std::string out = stream.feed(bytes.substr(0, a));
        out += stream.feed(bytes.substr(a, b - a));
        out += stream.feed(bytes.substr(b));
        out += stream.finish();
        ASSERT_EQ(out, text) << "cut at " << a << " and " << b;
      }
    }
  }
}

TEST(Utf8, StreamHoldsBackOnlyWhatIsUncertain) {
  Utf8Stream stream;
  EXPECT_EQ(stream.feed("a\xF0\x9F"), "a");
  EXPECT_EQ(stream.feed(""), "");
  EXPECT_EQ(stream.feed("\x98"), "");
  EXPECT_EQ(stream.feed("\x80"
                        "b"),
            "😀b");
  EXPECT_EQ(stream.feed("\xE6"), "");
  EXPECT_EQ(stream.feed("x"), kR + "x");        // certain as soon as the next byte does not continue it
  EXPECT_EQ(stream.feed("\xFF"), kR);           // can never start a character
  EXPECT_EQ(stream.feed("\xED\xA0"), kR + kR);  // a surrogate: the first byte is wrong as soon as the second is there
  EXPECT_EQ(stream.finish(), "");
  EXPECT_EQ(stream.feed("\xE6\xBC"), "");
  EXPECT_EQ(stream.finish(), kR);
  EXPECT_EQ(stream.finish(), "");  // and is empty again
  EXPECT_EQ(stream.feed("ok"), "ok");
}

TEST(Utf8, RandomBytesInRandomPieces) {
  std::mt19937 rng(5);
  for (int i = 0; i < 20'000; ++i) {
    std::string bytes(rng() % 20, '\0');
    for (char& c : bytes) c = static_cast<char>(rng() % 4 == 0 ? rng() % 256 : 0x80 + rng() % 0x80);
    const std::string whole = to_valid_utf8(bytes);
    EXPECT_EQ(valid_utf8_prefix(whole), whole.size());
    EXPECT_EQ(to_valid_utf8(whole), whole);
    Utf8Stream stream;
    std::string out;
    for (size_t pos = 0; pos < bytes.size();) {
      const size_t length = std::min<size_t>(1 + rng() % 4, bytes.size() - pos);
      const std::string piece = stream.feed(std::string_view(bytes).substr(pos, length));
      ASSERT_EQ(valid_utf8_prefix(piece), piece.size());
      out += piece;
      pos += length;
    }
    ASSERT_EQ(out + stream.finish(), whole);
  }
}

}  // namespace
}  // namespace marlin
