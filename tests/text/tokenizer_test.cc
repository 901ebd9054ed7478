// The tokenizer's rules one by one, on a small tokenizer.json.
#include "text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "marlin/error.h"
#include "text/bpe_split.h"
#include "tokenizer_fixture.h"

namespace marlin {
namespace {

using Ids = std::vector<int32_t>;
using Pieces = std::vector<std::string>;
using testing::HasSubstr;
using testing::StartsWith;

Pieces split(std::string_view pattern, std::string_view text) {
  Pieces pieces;
  RegexSplitter(pattern, "test").split(text, [&](std::string_view piece) { pieces.emplace_back(piece); });
  return pieces;
}

TEST(TokenizerSplit, GlmPattern) {
  EXPECT_EQ(split(kGlmPattern, "Hello world's 12345!\n"), (Pieces{"Hello", " world", "'s", " ", "123", "45", "!\n"}));
  EXPECT_EQ(split(kGlmPattern, "  a \n\n b"), (Pieces{" ", " a", " \n\n", " b"}));
  EXPECT_EQ(split(kGlmPattern, "x   "), (Pieces{"x", "   "}));
  EXPECT_EQ(split(kGlmPattern, "it'S we'LL I'm"), (Pieces{"it", "'S", " we", "'LL", " I", "'m"}));
}

TEST(TokenizerSplit, LongSIsAnSWithoutCase) {
  // U+017F folds to s: the contraction ends after it, where plain letters would go on.
  EXPECT_EQ(split(kGlmPattern, "a'\u017Fb"), (Pieces{"a", "'\u017F", "b"}));
  EXPECT_EQ(split("'s", "'\u017F"), (Pieces{"'\u017F"}));  // one piece between the matches, because case counts
}

TEST(TokenizerSplit, SpaceIsWhiteSpace) {
  const Pieces spaces = {"\t",     "\n",     "\v",     "\f",     "\r",     " ",      "\u0085", "\u00A0", "\u1680",
                         "\u2000", "\u2001", "\u2002", "\u2003", "\u2004", "\u2005", "\u2006", "\u2007", "\u2008",
                         "\u2009", "\u200A", "\u2028", "\u2029", "\u202F", "\u205F", "\u3000"};
  ASSERT_EQ(spaces.size(), 25u);
  for (const std::string& space : spaces) {
    const std::string both = space + space;
    EXPECT_EQ(split("\\s", "a" + both), (Pieces{"a", space, space}));
    EXPECT_EQ(split("[^\\s]", "ab" + both), (Pieces{"a", "b", both}));
    EXPECT_EQ(split("\\S", "ab" + both), (Pieces{"a", "b", both}));
    EXPECT_EQ(split("[\\S]", "ab" + both), (Pieces{"a", "b", both}));
    EXPECT_EQ(split("[x\\s]+", "a" + space + "x"), (Pieces{"a", space + "x"}));
  }
  for (const char* other : {"\u180E", "\u200B", "\uFEFF", "\x1C", "\x1F", "\u2060"}) {
    EXPECT_EQ(split("\\s", std::string(other) + other), (Pieces{std::string(other) + other}));
    EXPECT_EQ(split("\\S", std::string(other) + other), (Pieces{other, other}));
    EXPECT_EQ(split("[\\S]", std::string(other) + other), (Pieces{other, other}));
  }
}

TEST(TokenizerSplit, EmptyMatchesOnlyDivide) {
  EXPECT_EQ(split("x*", "aéxxb"), (Pieces{"a", "é", "xx", "b"}));
  EXPECT_EQ(split("(?=b)", "aabab"), (Pieces{"aa", "ba", "b"}));
  EXPECT_EQ(split("x", ""), Pieces{});
}

TEST(TokenizerSplit, ConstructsOfOtherMeaningAreRefused) {
  for (const char* pattern : {"\\w+",    "\\bx",        "\\h",    "\\R",     "\\X",   "\\v",     "\\K",
                              "\\Qa\\E", "[[:alpha:]]", "[a&&b]", "[a[bc]]", "[]a]",  "(?<n>a)", "(?m:.)",
                              "(?#c)",   "(*UCP)a",     "a{,3}",  "a{1,3}+", "a{2}?", "[\\s-x]", "a\\"}) {
    try {
      const RegexSplitter splitter(pattern, "file: field");
      ADD_FAILURE() << pattern;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported) << pattern;
      EXPECT_THAT(error.what(), StartsWith("file: field: the regular expression has "));
    }
  }
  for (const char* pattern : {"(a", "a)", "[a", "*", "\\p{Nonsense}", "[b-a]", "(?<=a+)b"}) {
    try {
      const RegexSplitter splitter(pattern, "file: field");
      ADD_FAILURE() << pattern;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadFile) << pattern;
      EXPECT_THAT(error.what(), StartsWith("file: field: the regular expression does not compile: "));
    }
  }
}

TEST(TokenizerSplit, EndlessBacktrackingIsAnError) {
  try {
    split("(?:a+)+[bc]", std::string(60, 'a'));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_THAT(error.what(), HasSubstr("gave up at byte 0 of a text of 60 bytes"));
  }
}

TEST(TokenizerSplit, LongRunsOfOneKind) {
  // None of these may meet a limit or take quadratic time.
  for (const char* unit : {" ", "a", "1", "!", "\n", "\r\n", " \n", "é", "\u3000", "'s", "! "}) {
    std::string text;
    while (text.size() < 4'000'000) text += unit;
    text += "x";
    std::string joined;
    for (const std::string& piece : split(kGlmPattern, text)) joined += piece;
    ASSERT_EQ(joined, text) << unit;
  }
}

TEST(TokenizerBpe, MergesInOrderOfRank) {
  const Tokenizer tokenizer = parse(small_tokenizer({{"b", "c"}, {"a", "b"}, {"a", "bc"}, {"abc", "abc"}}));
  EXPECT_EQ(tokenizer.encode("abcabc"), Ids{259});
  EXPECT_EQ(tokenizer.encode("abab"), (Ids{257, 257}));
  EXPECT_EQ(tokenizer.encode("bcab"), (Ids{256, 257}));
  EXPECT_EQ(tokenizer.token_bytes(259), "abcabc");
}

TEST(TokenizerBpe, BothSpellingsOfMerges) {
  Json json = small_tokenizer({{"a", "b"}, {"ab", "ab"}});
  const Ids ids = parse(json).encode("ababab x");
  json["model"]["merges"] = {"a b", "ab ab"};
  EXPECT_EQ(parse(json).encode("ababab x"), ids);
  json["model"]["merges"] = {"a b", Json::array({"ab", "ab"})};
  EXPECT_EQ(parse(json).encode("ababab x"), ids);
}

TEST(TokenizerBpe, IgnoreMergesTakesWholePieces) {
  Json json = small_tokenizer({{"a", "b"}, {"\u0120", "ab"}});
  json["model"]["vocab"]["\u0120abc"] = 258;
  EXPECT_EQ(parse(json).encode(" abc abcd"), (Ids{257, 'c', 257, 'c', 'd'}));
  json["model"]["ignore_merges"] = true;
  EXPECT_EQ(parse(json).encode(" abc abcd"), (Ids{258, 257, 'c', 'd'}));
  EXPECT_EQ(parse(json).decode(Ids{258}), " abc");
}

TEST(TokenizerBpe, ShortAndLongPiecesAsPlainBpe) {
  std::mt19937 rng(21);
  for (int round = 0; round < 40; ++round) {
    std::vector<std::string> symbols = {"a", "b", "c"};
    Rules merges;
    std::map<std::pair<std::string, std::string>, size_t> ranks;
    for (int i = 0; i < 40; ++i) {
      const std::pair<std::string, std::string> rule(symbols[rng() % symbols.size()], symbols[rng() % symbols.size()]);
      if ((rule.first + rule.second).size() > 12 || !ranks.emplace(rule, merges.size()).second) continue;
      merges.push_back(rule);
      symbols.push_back(rule.first + rule.second);
    }
    const Tokenizer tokenizer = parse(small_tokenizer(merges));
    for (int i = 0; i < 60; ++i) {
      std::string word(1 + rng() % 150, ' ');
      for (char& c : word) c = static_cast<char>('a' + rng() % 3);
      Pieces found;
      for (const int32_t id : tokenizer.encode(word)) found.emplace_back(tokenizer.token_bytes(id));
      ASSERT_EQ(found, plain_bpe(word, ranks)) << word;
    }
  }
}

TEST(TokenizerBpe, LongPiecesAreNotQuadratic) {
  Rules merges;
  for (std::string run = "a"; run.size() < 64; run += run) merges.emplace_back(run, run);
  const Tokenizer tokenizer = parse(small_tokenizer(merges));
  const auto seconds = [&](size_t letters) {
    const std::string text(letters, 'a');
    const auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(tokenizer.encode(text).size(), letters / 64);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  const double small = seconds(64 * 1'600);
  const double large = seconds(64 * 25'600);
  std::printf("102,400 letters in %.4f s, 1,638,400 in %.4f s\n", small, large);
  // Sixteen times the text: quadratic would be 256 times the time, and minutes.
  EXPECT_LT(large, 100 * small + 1);
}

TEST(TokenizerAdded, LeftmostThenLongest) {
  const Tokenizer tokenizer = parse(small_tokenizer({}, {"<a", "<a>", "a>b", "<a>bc", "é!"}));
  EXPECT_EQ(tokenizer.encode("<a>"), Ids{257});
  EXPECT_EQ(tokenizer.encode("<a>b"), (Ids{257, 'b'}));  // the leftmost wins over "a>b", and <a>bc is not there
  EXPECT_EQ(tokenizer.encode("<a>bc"), Ids{259});
  EXPECT_EQ(tokenizer.encode("x<a<a>a>b"), (Ids{'x', 256, 257, 258}));
  EXPECT_EQ(tokenizer.encode("é!"), Ids{260});
  EXPECT_EQ(tokenizer.decode(Ids{260, 259}), "é!<a>bc");
  EXPECT_EQ(tokenizer.encode("<a>", Tokenizer::AddedTokens::kIgnore), (Ids{'<', 'a', '>'}));
}

TEST(TokenizerAdded, NormalizedOnesComeSecond) {
  Json json = small_tokenizer({}, {"<ab", "b>"});
  json["added_tokens"][0]["normalized"] = true;
  EXPECT_EQ(parse(json).encode("<ab>"), (Ids{'<', 'a', 257}));
  EXPECT_EQ(parse(json).encode("<ab<ab>"), (Ids{256, '<', 'a', 257}));
  json["added_tokens"][0].erase("normalized");  // not special: normalized
  json["added_tokens"][0]["special"] = false;
  EXPECT_EQ(parse(json).encode("<ab>"), (Ids{'<', 'a', 257}));
}

TEST(TokenizerAdded, TextAroundATokenIsSplitAlone) {
  // The white space before a token is at the end of its text: no look-ahead past the token.
  const Tokenizer tokenizer = parse(small_tokenizer({{"\u0120", "\u0120"}}, {"<a>"}));
  EXPECT_EQ(tokenizer.encode("x  <a>  y"), (Ids{'x', 256, 257, ' ', ' ', 'y'}));
}

TEST(TokenizerParse, ByteLevelAloneHasItsOwnPattern) {
  Json json = small_tokenizer({{"\u0120", "1"}, {"1", "1"}});
  json["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}};
  EXPECT_EQ(parse(json).encode("a 111"), (Ids{'a', 256, 257}));
  json["pre_tokenizer"]["use_regex"] = false;
  EXPECT_EQ(parse(json).encode("a 111"), (Ids{'a', 256, 257}));
  json["model"]["merges"] = {"1 1"};
  EXPECT_EQ(parse(json).encode("1111"), (Ids{257, 257}));
}

TEST(TokenizerParse, SeveralSplitsInARow) {
  Json json = small_tokenizer({{"a", "b"}, {"1", "2"}});
  Json& steps = json["pre_tokenizer"]["pretokenizers"];
  steps[0]["pattern"]["Regex"] = "\\p{N}";
  EXPECT_EQ(parse(json).encode("ab12"), (Ids{256, '1', '2'}));
  Json second = steps[0];
  second["pattern"]["Regex"] = "b";
  steps.insert(steps.begin() + 1, second);
  EXPECT_EQ(parse(json).encode("ab12"), (Ids{'a', 'b', '1', '2'}));
}

TEST(TokenizerParse, TokensOutsideOfTheAlphabetAreText) {
  Json json = small_tokenizer({});
  json["model"]["vocab"]["a b"] = 256;
  EXPECT_EQ(parse(json).token_bytes(256), "a b");
  json["model"]["ignore_merges"] = true;
  EXPECT_EQ(parse(json).encode("a b"), (Ids{'a', ' ', 'b'}));
}

}  // namespace
}  // namespace marlin
