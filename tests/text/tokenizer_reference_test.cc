// The tokenizer against transformers' ids, and properties that hold for any text.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace marlin {
namespace {

using Ids = std::vector<int32_t>;

const Tokenizer& demo() {
  static const Tokenizer tokenizer =
      Tokenizer::load(std::filesystem::path(MARLIN_SOURCE_DIR) / "models/GLM-4.7-Flash-Demo-MMFP4/tokenizer.json");
  return tokenizer;
}

/// Any code points, with those that the pre-tokenizer and the added tokens look at more often than others.
std::string random_text(std::mt19937& rng, size_t characters) {
  static const std::vector<std::string> kParts = {
      "a",    "e",       "The",    " the",   "'s",       "'S",      "'\u017F", "'ll", " ",        "  ",   "\n",
      "\r\n", "\t",      "\u00A0", "\u0085", "\u3000",   "\u180E",  "\uFEFF",  "1",   "23",       "4567", "٣",
      "é",    "e\u0301", "ß",      "漢字",   "한",       "ไทย",     "ع",       "😀",   "👩\u200D👩", "!",    "...",
      "{\"",  "<",       "<|",     "|>",     "<|user|>", "<think>", "[",       "/no", "\\",       "_",    "\x7F"};
  std::string text;
  for (size_t i = 0; i < characters; ++i) {
    if (rng() % 4 != 0) {
      text += kParts[rng() % kParts.size()];
      continue;
    }
    uint32_t code = rng() % (rng() % 2 == 0 ? 0x3000 : 0x110000);
    if (code >= 0xD800 && code < 0xE000) code -= 0x800;
    if (code < 0x80) {
      text += static_cast<char>(code);
    } else if (code < 0x800) {
      text += {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
    } else if (code < 0x10000) {
      text += {static_cast<char>(0xE0 | (code >> 12)), static_cast<char>(0x80 | ((code >> 6) & 0x3F)),
               static_cast<char>(0x80 | (code & 0x3F))};
    } else {
      text += {static_cast<char>(0xF0 | (code >> 18)), static_cast<char>(0x80 | ((code >> 12) & 0x3F)),
               static_cast<char>(0x80 | ((code >> 6) & 0x3F)), static_cast<char>(0x80 | (code & 0x3F))};
    }
  }
  return text;
}

TEST(TokenizerReference, PromptIdsOfTransformers) {
  std::ifstream file(std::filesystem::path(MARLIN_SOURCE_DIR) / "tests/golden/reference.json");
  const Json reference = Json::parse(file);
  ASSERT_FALSE(reference.at("generations").empty());
  for (const Json& generation : reference.at("generations")) {
    const std::string text = generation.at(generation.contains("raw") ? "raw" : "prompt_text").get<std::string>();
    const Ids ids = generation.at("prompt_ids").get<Ids>();
    EXPECT_EQ(demo().encode(text), ids) << text;
    EXPECT_EQ(demo().decode(ids), text);
    EXPECT_EQ(demo().decode(generation.at("greedy_ids").get<Ids>()), generation.at("greedy_text").get<std::string>());
  }
}

TEST(TokenizerReference, HeldOutTextComesBack) {
  const auto path = std::filesystem::path(MARLIN_SHARED_DIR) / "demo-model/reference/heldout.jsonl";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no held-out text: " << path.string() << " is absent";
  std::ifstream file(path);
  size_t bytes = 0;
  size_t tokens = 0;
  double seconds = 0;
  for (std::string line; std::getline(file, line);) {
    const std::string text = Json::parse(line).at("text").get<std::string>();
    const auto start = std::chrono::steady_clock::now();
    const Ids ids = demo().encode(text);
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    ASSERT_EQ(demo().decode(ids), text);
    bytes += text.size();
    tokens += ids.size();
  }
  // The reference perplexity is over 51,200 predictions; with <|endoftext|> after each of the 56 documents 640 ids are
  // left over.
  EXPECT_EQ(tokens + 56, 51'200u + 1 + 640);
  std::printf("encoded %zu bytes to %zu tokens at %.1f MB/s\n", bytes, tokens,
              static_cast<double>(bytes) / 1e6 / seconds);
}

TEST(TokenizerReference, RandomUnicodeComesBack) {
  std::mt19937 rng(4711);
  for (int i = 0; i < 10'000; ++i) {
    const std::string text = random_text(rng, rng() % 40);
    ASSERT_EQ(demo().decode(demo().encode(text)), text);
    ASSERT_EQ(demo().decode(demo().encode(text, Tokenizer::AddedTokens::kIgnore)), text);
  }
}

TEST(TokenizerReference, BrokenBytesBecomeReplacementCharacters) {
  std::mt19937 rng(99);
  for (int i = 0; i < 10'000; ++i) {
    std::string bytes(rng() % 24, ' ');
    for (char& c : bytes) c = static_cast<char>(rng() % 3 == 0 ? rng() % 256 : 0x80 + rng() % 0x80);
    ASSERT_EQ(demo().decode(demo().encode(bytes)), to_valid_utf8(bytes));
    ASSERT_EQ(demo().encode(bytes), demo().encode(to_valid_utf8(bytes)));
  }
}

TEST(TokenizerSegments, ControlTextInDataIsOnlyText) {
  const int32_t system = demo().id_of("<|system|>").value();
  for (const AddedToken& token : demo().added_tokens()) {
    const std::vector<Segment> segments = {{"<|user|>", true}, {token.text, false}, {"<|assistant|>", true}};
    const Ids ids = demo().encode(segments);
    EXPECT_EQ(std::count(ids.begin(), ids.end(), token.id), token.text == "<|user|>" || token.text == "<|assistant|>");
    EXPECT_EQ(demo().decode(ids), "<|user|>" + token.text + "<|assistant|>");
  }
  // Nor when template and data, or two pieces of data, only make up a token together.
  const std::vector<Segment> split = {{"<|sys", true}, {"tem|>", false}, {"<|", false}, {"system|>", true}};
  const Ids ids = demo().encode(split);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), system), 0);
  const std::vector<Segment> two_parts = {{"<|sys", false}, {"tem|>", false}};
  EXPECT_EQ(demo().encode(two_parts), demo().encode("<|system|>", Tokenizer::AddedTokens::kIgnore));
  const std::vector<Segment> template_parts = {{"<|sys", true}, {"", true}, {"tem|>", true}};
  EXPECT_EQ(demo().encode(template_parts), Ids{system});
}

TEST(TokenizerSegments, EqualFlatTextWhenDataHasNoAddedTokens) {
  std::mt19937 rng(17);
  for (int i = 0; i < 5'000; ++i) {
    std::vector<Segment> segments;
    std::string flat;
    const size_t count = rng() % 8;
    for (size_t s = 0; s < count; ++s) {
      const bool from_template = rng() % 2 == 0;
      std::string text = random_text(rng, rng() % 6);
      if (!from_template)
        std::replace_if(
            text.begin(), text.end(), [](char c) { return c == '<' || c == '[' || c == '/'; }, ' ');
      if (from_template && text.ends_with("<")) text += "think>";
      flat += text;
      segments.push_back({text, from_template});
    }
    ASSERT_EQ(demo().encode(segments), demo().encode(flat)) << flat;
  }
}

TEST(TokenizerSegments, CharactersSplitByABorder) {
  const std::string text = "Hello 漢字 😀 world";
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    const std::vector<Segment> segments = {{text.substr(0, cut), true}, {text.substr(cut), false}};
    EXPECT_EQ(demo().encode(segments), demo().encode(text));
  }
  const std::vector<Segment> broken = {{"a\xE6<think>", true}, {"\xFF", false}};
  EXPECT_EQ(demo().encode(broken), demo().encode("a\uFFFD<think>\uFFFD"));
}

TEST(TokenizerReference, IdsAndTheirBytes) {
  EXPECT_EQ(demo().size(), 8192);
  EXPECT_EQ(demo().added_tokens().size(), 32u);
  EXPECT_EQ(demo().id_of("<|user|>"), 8167);
  EXPECT_EQ(demo().id_of("the"), std::nullopt);
  EXPECT_EQ(demo().token_bytes(8182), "<think>");
  EXPECT_EQ(demo().token_bytes(8192), "");
  EXPECT_EQ(demo().token_bytes(-1), "");
  const Ids ids = {8167, 39, 8182, 8192, -5};
  EXPECT_EQ(demo().decode(ids), "<|user|>H<think>");
  EXPECT_EQ(demo().decode(ids, true), "H<think>");
  EXPECT_TRUE(demo().encode("").empty());
}

}  // namespace
}  // namespace marlin
