#include "engine/stop_matcher.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace marlin {
namespace {

struct Outcome {
  std::string text;
  std::string match;
  bool operator==(const Outcome&) const = default;
};

void PrintTo(const Outcome& outcome, std::ostream* os) {
  *os << '"' << outcome.text << "\" ended by \"" << outcome.match << '"';
}

Outcome feed(const std::vector<std::string>& stops, const std::vector<std::string>& pieces) {
  StopMatcher matcher(stops);
  Outcome outcome;
  for (const std::string& piece : pieces) outcome.text += matcher.feed(piece);
  if (!matcher.matched()) outcome.text += matcher.finish();
  outcome.match = matcher.match();
  return outcome;
}

/// The definition: the match that ends first, of those the longest.
Outcome expected(const std::vector<std::string>& stops, const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    Outcome best{text.substr(0, end), ""};
    for (const std::string& stop : stops) {
      if (text.substr(0, end).ends_with(stop) && stop.size() > best.match.size()) {
        best = {text.substr(0, end - stop.size()), stop};
      }
    }
    if (!best.match.empty()) return best;
  }
  return {text, ""};
}

TEST(StopMatcher, EveryPairOfSplitsGivesTheDefinition) {
  const std::vector<std::vector<std::string>> sets = {
      {"STOP"}, {"aab"}, {"aaab", "b"}, {"bc", "c"}, {"abcd", "b"}, {"\n\n", "\nUser:"}, {"abab"}, {"é!", "!"}, {}};
  const std::vector<std::string> texts = {"one STOP two", "aaaab",           "xaaaaab", "abcd",
                                          "a\n\nUser:",   "a\nUse\nUser: b", "ababab",  "né!",
                                          "SSTOP",        "STO STO",         "nothing", "abacabab"};
  for (const auto& stops : sets) {
    for (const std::string& text : texts) {
      const Outcome want = expected(stops, text);
      for (size_t i = 0; i <= text.size(); ++i) {
        for (size_t j = i; j <= text.size(); ++j) {
          EXPECT_EQ(feed(stops, {text.substr(0, i), text.substr(i, j - i), text.substr(j)}), want) << i << ' ' << j;
        }
      }
    }
  }
}

TEST(StopMatcher, HoldsBackOnlyWhatMayBecomeAStop) {
  StopMatcher matcher({"<end>", "..."});
  EXPECT_EQ(matcher.feed("a<e"), "a");
  EXPECT_EQ(matcher.feed("x"), "<ex");
  EXPECT_EQ(matcher.feed("y.."), "y");
  EXPECT_EQ(matcher.feed("z"), "..z");
  EXPECT_EQ(matcher.feed("<en"), "");
  EXPECT_EQ(matcher.finish(), "<en");
  EXPECT_FALSE(matcher.matched());
}

TEST(StopMatcher, GivesNothingAfterAMatch) {
  StopMatcher matcher({"stop"});
  EXPECT_EQ(matcher.feed("a stop b"), "a ");
  EXPECT_EQ(matcher.feed("c"), "");
  EXPECT_EQ(matcher.finish(), "");
  EXPECT_EQ(matcher.match(), "stop");
}

}  // namespace
}  // namespace marlin
