// A tokenizer.json of GLM-4.7-Flash's size (154,820 tokens, 321,649 merges, 16 MB): what it loads to, and how fast.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tokenizer_fixture.h"

#if defined(__has_feature)
#define MARLIN_HAS_SANITIZER (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MARLIN_HAS_SANITIZER 1
#else
#define MARLIN_HAS_SANITIZER 0
#endif

namespace marlin {
namespace {

// Times mean something in optimised builds without sanitizers only.
#if defined(NDEBUG) && !MARLIN_HAS_SANITIZER
constexpr bool kTimed = true;
#else
constexpr bool kTimed = false;
#endif

constexpr size_t kVocabulary = 154'820;
constexpr size_t kMerges = 321'649;

struct FullSize {
  std::vector<std::string> tokens;  // by id
  Rules merges;
};

/// All words of two and three letters and as many of four as fit; the first merge of each word in the order of the
/// words, then the other ways to make it.
FullSize make_full_size() {
  FullSize made;
  for (int byte = 0; byte < 256; ++byte) {
    made.tokens.emplace_back();
    append_byte_level(std::string(1, static_cast<char>(byte)), made.tokens.back());
  }
  std::vector<std::string> shorter;
  for (char c = 'a'; c <= 'z'; ++c) shorter.emplace_back(1, c);
  Rules other;
  while (made.tokens.size() < kVocabulary) {
    std::vector<std::string> longer;
    for (const std::string& word : shorter) {
      for (char c = 'a'; c <= 'z' && made.tokens.size() < kVocabulary; ++c) {
        longer.push_back(word + c);
        made.tokens.push_back(longer.back());
        made.merges.emplace_back(word, std::string(1, c));
        for (size_t cut = 1; cut + 1 < longer.back().size(); ++cut) {
          other.emplace_back(longer.back().substr(0, cut), longer.back().substr(cut));
        }
      }
    }
    shorter = std::move(longer);
  }
  // Ranks as a training would leave them, mixed over the lengths; a fixed seed keeps them the same.
  std::mt19937 rng(3);
  for (size_t i = made.merges.size() - 1; i > 0; --i) std::swap(made.merges[i], made.merges[rng() % (i + 1)]);
  made.merges.insert(made.merges.end(), other.begin(), other.end());
  made.merges.resize(kMerges);
  return made;
}

/// Written as Hugging Face does, one string a line.
std::string to_json(const FullSize& made) {
  Json json = small_tokenizer({});
  json["model"]["vocab"].clear();
  std::string text = json.dump(2);
  std::string vocab = "\"vocab\": {\n";
  for (size_t id = 0; id < made.tokens.size(); ++id) {
    vocab += "      " + Json(made.tokens[id]).dump() + ": " + std::to_string(id) + ",\n";
  }
  vocab.replace(vocab.size() - 2, 2, "\n    }");
  std::string merges = "\"merges\": [\n";
  for (const auto& [left, right] : made.merges) {
    merges += "      [\n        " + Json(left).dump() + ",\n        " + Json(right).dump() + "\n      ],\n";
  }
  merges.replace(merges.size() - 2, 2, "\n    ]");
  const std::string empty_vocab = "\"vocab\": {}";
  const std::string empty_merges = "\"merges\": []";
  text.replace(text.find(empty_vocab), empty_vocab.size(), vocab);
  text.replace(text.find(empty_merges), empty_merges.size(), merges);
  return text;
}

TEST(TokenizerFullSize, LoadsInLessThanASecond) {
  const FullSize made = make_full_size();
  ASSERT_EQ(made.tokens.size(), kVocabulary);
  ASSERT_EQ(made.merges.size(), kMerges);
  const std::string json = to_json(made);
  std::vector<double> seconds;
  for (int i = 0; i < 3; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const Tokenizer tokenizer = Tokenizer::parse(json, "full.json");
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    EXPECT_EQ(tokenizer.size(), static_cast<int32_t>(kVocabulary));
  }
  std::sort(seconds.begin(), seconds.end());
  std::printf("%zu bytes, load times %.3f %.3f %.3f s\n", json.size(), seconds[0], seconds[1], seconds[2]);
  if (kTimed) {
    EXPECT_LT(seconds[1], 1.0);
  }
}

TEST(TokenizerFullSize, EncodesAsPlainBpeDoes) {
  const FullSize made = make_full_size();
  const Tokenizer tokenizer = Tokenizer::parse(to_json(made), "full.json");
  std::map<std::pair<std::string, std::string>, size_t> ranks;
  for (size_t rank = 0; rank < made.merges.size(); ++rank) ranks[made.merges[rank]] = rank;
  std::mt19937 rng(8);
  for (int i = 0; i < 500; ++i) {
    std::string word(1 + rng() % 90, ' ');
    for (char& c : word) c = static_cast<char>('a' + rng() % 26);
    std::vector<std::string> found;
    for (const int32_t id : tokenizer.encode(word)) found.push_back(made.tokens[static_cast<size_t>(id)]);
    ASSERT_EQ(found, plain_bpe(word, ranks)) << word;
  }
  for (size_t id = 0; id < kVocabulary; id += 997) {
    EXPECT_EQ(from_byte_level(made.tokens[id]), std::string(tokenizer.token_bytes(static_cast<int32_t>(id))));
  }
}

}  // namespace
}  // namespace marlin
